"""Prompts to token numbers, through transformers' CLIPTokenizer and files on disk only."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from star_jax.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
PAD_ID = 0  # OpenCLIP pads with 0; transformers would repeat the end token, which gives other embeddings
BYTE_LEVEL_VOCABULARY = 514  # of `write_byte_level_tokenizer`
_REMEDY = "copy vocab.json and merges.txt of a CLIP tokenizer there, or convert the checkpoint again"


def load_tokenizer(directory: str | os.PathLike) -> "CLIPTokenizer":
    """Loads a CLIP tokenizer from a directory with vocab.json and merges.txt, or tokenizer.json; no downloads.

    Raises:
      InputError: a file is missing or damaged.
    """
    _check_files(directory)
    # Else transformers warns on every start that it misses PyTorch, which tokenizers do without.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer  # a slow import, and only needed here

    return CLIPTokenizer.from_pretrained(os.fspath(directory), local_files_only=True)


def _check_files(directory: str | os.PathLike) -> None:
    """Finds beforehand what CLIPTokenizer.from_pretrained would report in words of its own, or try to download."""
    if os.path.isfile(os.path.join(directory, "tokenizer.json")):  # what transformers 5 itself saves
        model = _read_json(os.path.join(directory, "tokenizer.json")).get("model")
        vocab, merges = model.get("vocab", {}) if isinstance(model, dict) else {}, []
    else:
        vocab = _read_json(os.path.join(directory, "vocab.json"))
        merges = _read_merges(os.path.join(directory, "merges.txt"))
    if START_TOKEN not in vocab or END_TOKEN not in vocab:
        raise InputError(
            f"tokenizer in {os.fspath(directory)} has no {START_TOKEN} or {END_TOKEN}; {_REMEDY}"
        )
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            raise InputError(
                f"merges.txt in {os.fspath(directory)}: {' '.join(merge)!r} does not join two entries of "
                f"vocab.json; {_REMEDY}"
            )


def _read_json(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"tokenizer file {path} cannot be read ({_reason(error)}); {_REMEDY}") from error
    if not isinstance(content, dict):
        raise InputError(
            f"tokenizer file {path} holds a {type(content).__name__}, expected an object; {_REMEDY}"
        )
    return content


def _read_merges(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8") as file:
            return [line.split() for line in file if line.strip() and not line.startswith("#version")]
    except (OSError, ValueError) as error:
        raise InputError(f"tokenizer file {path} cannot be read ({_reason(error)}); {_REMEDY}") from error


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) else str(error)


def tokenize(tokenizer: "CLIPTokenizer", prompts: Sequence[str], max_length: int = 77) -> np.ndarray:
    """Token numbers as OpenCLIP lays them out: start, the prompt (cut to fit), end, zeros.

    Args:
      tokenizer: from `load_tokenizer`.
      prompts: B texts; '' is fine.
      max_length: length of every row, start and end included.

    Returns:
      [B, max_length] int32.
    """
    ids = np.full((len(prompts), max_length), PAD_ID, np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        tokens = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"][: max_length - 2]
        row[: len(tokens) + 2] = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
    return ids


def write_byte_level_tokenizer(directory: str | os.PathLike) -> None:
    """Writes a tokenizer without merges: one token per byte, 514 in all, for small networks with random weights.

    The vocabulary is CLIP's first 512 entries (256 byte symbols, then the same ending a word), start and end. The
    directory is made if need be.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    symbols = sorted(ByteLevel.alphabet())  # in order of code points, which is CLIP's own order
    entries = [*symbols, *(symbol + "</w>" for symbol in symbols), START_TOKEN, END_TOKEN]
    vocab = {symbol: index for index, symbol in enumerate(entries)}
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "vocab.json"), "w", encoding="utf-8") as file:
        json.dump(vocab, file, ensure_ascii=False)
    with open(os.path.join(directory, "merges.txt"), "w", encoding="utf-8") as file:
        file.write("#version: 0.2\n")
