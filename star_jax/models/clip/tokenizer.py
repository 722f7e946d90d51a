"""Prompts to token IDs with transformers' CLIPTokenizer, from files on disk only."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from star_jax.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
PAD_ID = 0  # OpenCLIP pads with 0; transformers would repeat the end token, which gives other embeddings
BYTE_LEVEL_VOCABULARY = 514  # size of the vocabulary of `write_byte_level_tokenizer`
_REMEDY = "copy vocab.json and merges.txt of a CLIP tokenizer there, or convert the checkpoint again"


def load_tokenizer(directory: str | os.PathLike) -> "CLIPTokenizer":
    """Loads a CLIP tokenizer from a directory with vocab.json and merges.txt, or tokenizer.json; no downloads.

    Raises:
      InputError: a file is missing or damaged.
    """
    place = os.fspath(directory)
    if not os.path.isfile(os.path.join(place, "tokenizer.json")):  # transformers 5 saves this file
        for name in ("vocab.json", "merges.txt"):
            if not os.path.isfile(os.path.join(place, name)):
                raise InputError(f"tokenizer in {place} has no {name}; {_REMEDY}")
    # Otherwise transformers warns on every start that PyTorch is missing, which tokenizers do not need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer  # a slow import, and only needed here

    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the tokenizers library raises a bare Exception
        raise InputError(f"tokenizer in {place} cannot be read ({first_line(error)}); {_REMEDY}") from error
    if max(tokenizer.bos_token_id, tokenizer.eos_token_id) >= tokenizer.vocab_size:  # added with a new ID
        raise InputError(f"tokenizer in {place} has no {START_TOKEN} or {END_TOKEN}; {_REMEDY}")
    return tokenizer


def tokenize(
    tokenizer: "CLIPTokenizer", prompts: Sequence[str], max_length: int = 77
) -> Int[np.ndarray, "N L"]:
    """Token IDs as OpenCLIP lays them out: start, the prompt (cut to fit), end, zeros.

    Args:
      tokenizer: a tokenizer from `load_tokenizer`.
      prompts: B texts, which may be empty.
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
    """Writes a tokenizer without merges, which makes one token per byte, for small networks with random weights.

    The vocabulary is CLIP's first 512 entries (256 byte symbols, then the same symbols at the end of a word), start
    and end. The directory is created if it does not exist.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    symbols = sorted(ByteLevel.alphabet())  # by code point, as in CLIP's vocabulary
    entries = [*symbols, *(symbol + "</w>" for symbol in symbols), START_TOKEN, END_TOKEN]
    vocab = {symbol: index for index, symbol in enumerate(entries)}
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "vocab.json"), "w", encoding="utf-8") as file:
        json.dump(vocab, file, ensure_ascii=False)
    with open(os.path.join(directory, "merges.txt"), "w", encoding="utf-8") as file:
        file.write("#version: 0.2\n")
