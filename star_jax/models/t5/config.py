"""Sizes of T5's encoder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class T5Config:
    """T5 v1.1; the defaults are the XXL encoder's, whose vocabulary is padded to 32128.

    Attributes:
      num_buckets, max_distance: of the relative positions; larger distances share the last bucket.
      max_length: tokens of every prompt, padding included.
    """

    vocab_size: int = 32128
    hidden_size: int = 4096
    head_dim: int = 64
    intermediate_size: int = 10240
    num_hidden_layers: int = 24
    num_attention_heads: int = 64
    num_buckets: int = 32
    max_distance: int = 128
    max_length: int = 226
