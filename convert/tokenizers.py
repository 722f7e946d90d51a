"""Tokenizer files of a checkpoint directory, which are copied, or made from OpenCLIP's or T5's vocabulary."""

import gzip
import json
import shutil
from pathlib import Path

from star_jax.config import ArchitectureConfig
from star_jax.config.cogvideox import CogVideoXConfig
from star_jax.convert.folders import SENTENCEPIECE_FILE, tokenizer_files
from star_jax.errors import InputError
from star_jax.models.clip.tokenizer import END_TOKEN, START_TOKEN
from star_jax.models.t5.tokenizer import convert_sentencepiece

_OPEN_CLIP_MERGES = 49408 - 512 - 2


def write_tokenizer(source: Path, directory: Path, config: ArchitectureConfig) -> None:
    """Writes the tokenizer files found at `source` into `directory`.

    Args:
      source: a folder with vocab.json and merges.txt, tokenizer.json or T5's spiece.model, or OpenCLIP's vocabulary
        (.txt.gz).
      directory: directory that is created.
      config: configuration with the size of the vocabulary, which is checked.

    Raises:
      InputError: a file is damaged, or its vocabulary has another size than the text tower's.
    """
    directory.mkdir()
    if source.is_dir():
        for name in tokenizer_files([entry.name for entry in source.iterdir()]):
            if name == SENTENCEPIECE_FILE:
                convert_sentencepiece(source / name, directory)
            else:
                shutil.copyfile(source / name, directory / name)
    else:
        _write_open_clip(source, directory)
    size = _vocabulary_size(directory, source)
    text = getattr(config, "text_encoder", None)
    wanted = size if text is None else text.vocab_size
    # T5 has a few more embeddings than tokens.
    fits = size <= wanted if isinstance(config, CogVideoXConfig) else size == wanted
    if not fits:
        raise InputError(
            f"{source} has {size} tokens, but the text tower has {wanted}; give the tokenizer that belongs to it"
        )


def _vocabulary_size(directory: Path, source: Path) -> int:
    try:
        if (directory / "vocab.json").is_file():
            return len(json.loads((directory / "vocab.json").read_text(encoding="utf-8")))
        return len(json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the vocabulary in {source} is damaged; download it again") from error


def _write_open_clip(source: Path, directory: Path) -> None:
    """Writes vocabulary and merges: 256 byte symbols, the same at the end of a word, merges, start and end."""
    from tokenizers.pre_tokenizers import ByteLevel

    try:
        lines = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{source} is not OpenCLIP's vocabulary; download it again") from error
    merges = lines[1 : 1 + _OPEN_CLIP_MERGES]
    symbols = sorted(ByteLevel.alphabet())  # by code point, as in CLIP's vocabulary
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += ["".join(merge.split()) for merge in merges] + [START_TOKEN, END_TOKEN]
    vocabulary = json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False)
    (directory / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
