"""Prompts to token numbers, through transformers' T5Tokenizer and files on disk only."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from star_jax.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD_ID, END_ID = 0, 1
BYTE_LEVEL_VOCABULARY = 259  # of `write_byte_level_tokenizer`
SENTENCEPIECE_FILE, JSON_FILE = "spiece.model", "tokenizer.json"
_REMEDY = f"copy {SENTENCEPIECE_FILE} or {JSON_FILE} of a T5 tokenizer there, or convert the checkpoint again"


def load_tokenizer(directory: str | os.PathLike) -> "PreTrainedTokenizerFast":
    """Loads a T5 tokenizer from a directory with tokenizer.json or spiece.model; no downloads.

    Raises:
      InputError: both files are missing, or the one that is there is damaged.
    """
    # Else transformers warns on every start that it misses PyTorch, which tokenizers do without.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import PreTrainedTokenizerFast, T5Tokenizer  # a slow import, and only needed here

    path = os.path.join(directory, JSON_FILE)
    try:
        if os.path.isfile(path):
            return PreTrainedTokenizerFast(tokenizer_file=path)
        if os.path.isfile(os.path.join(directory, SENTENCEPIECE_FILE)):
            return T5Tokenizer.from_pretrained(os.fspath(directory), local_files_only=True)
    except Exception as error:  # what transformers raises for damaged files is of no common kind
        raise InputError(
            f"tokenizer in {os.fspath(directory)} cannot be read ({first_line(error)}); {_REMEDY}"
        ) from error
    raise InputError(f"{os.fspath(directory)} has no tokenizer; {_REMEDY}")


def tokenize(tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str], max_length: int) -> np.ndarray:
    """Token numbers: the prompt, cut to fit, an end token, and padding.

    Args:
      tokenizer: from `load_tokenizer`.
      prompts: B texts; '' is fine.
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

    The directory is made if need be.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    symbols = ["<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    os.makedirs(directory, exist_ok=True)
    content = json.loads(tokenizer.to_str())
    with open(os.path.join(directory, JSON_FILE), "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False)
