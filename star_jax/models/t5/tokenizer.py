"""Prompts to token IDs with a T5 tokenizer of transformers, from files on disk only."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from star_jax.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD_ID, END_ID = 0, 1
BYTE_LEVEL_VOCABULARY = 259  # size of the vocabulary of `write_byte_level_tokenizer`
JSON_FILE = "tokenizer.json"
_EXTRA_IDS = 100  # tokens of T5's vocabulary that are not in its SentencePiece file
_REMEDY = f"copy {JSON_FILE} of a T5 tokenizer there, or convert the checkpoint again"


def load_tokenizer(directory: str | os.PathLike) -> "PreTrainedTokenizerFast":
    """Loads a T5 tokenizer from a directory with tokenizer.json; no downloads.

    Raises:
      InputError: the file is missing or damaged.
    """
    # Otherwise transformers warns on every start that PyTorch is missing, which tokenizers do not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import PreTrainedTokenizerFast  # a slow import, and only needed here

    path = os.path.join(directory, JSON_FILE)
    if not os.path.isfile(path):
        raise InputError(f"{os.fspath(directory)} has no {JSON_FILE}; {_REMEDY}")
    try:
        return PreTrainedTokenizerFast(tokenizer_file=path)
    except Exception as error:  # the tokenizers library raises a bare Exception for damaged files
        raise InputError(f"tokenizer file {path} cannot be read ({first_line(error)}); {_REMEDY}") from error


def convert_sentencepiece(source: str | os.PathLike, directory: str | os.PathLike) -> None:
    """Converts T5's spiece.model to tokenizer.json with transformers' converter.

    Raises:
      InputError: the file is damaged.
    """
    from types import SimpleNamespace

    from transformers.convert_slow_tokenizer import T5Converter

    # The converter expects a slow tokenizer, but uses only these attributes of it.
    tokenizer = SimpleNamespace(
        vocab_file=os.fspath(source), _extra_ids=_EXTRA_IDS, convert_tokens_to_ids=lambda token: END_ID
    )
    try:
        T5Converter(tokenizer).converted().save(os.path.join(directory, JSON_FILE))
    except Exception as error:  # protobuf and the tokenizers library share no exception class
        raise InputError(
            f"{os.fspath(source)} is not a SentencePiece vocabulary ({first_line(error)}); download it again"
        ) from error


def tokenize(
    tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str], max_length: int
) -> Int[np.ndarray, "N L"]:
    """Token IDs of prompts: the prompt (cut to fit), an end token, and padding.

    Args:
      tokenizer: a tokenizer from `load_tokenizer`.
      prompts: B texts, which may be empty.
      max_length: length of every row, the end token included.

    Returns:
      [B, max_length] int32.
    """
    ids = np.full((len(prompts), max_length), PAD_ID, np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        tokens = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"][: max_length - 1]
        row[: len(tokens) + 1] = [*tokens, END_ID]
    return ids


def write_byte_level_tokenizer(directory: str | os.PathLike) -> None:
    """Writes a tokenizer of single bytes, for small networks with random weights: padding, end, unknown, 256 bytes.

    The directory is created if it does not exist.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    symbols = ["<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    os.makedirs(directory, exist_ok=True)
    content = json.loads(tokenizer.to_str())
    with open(os.path.join(directory, JSON_FILE), "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False)
