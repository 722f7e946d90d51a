"""Search for the fastest blocks of flash attention on a TPU, at the numbers of tokens of a network."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from star_jax.benchmark.timing import time_program
from star_jax.ops.splash import splash_attention
from star_jax.ops.splash_blocks import LARGEST_PADDING, Blocks, blocks_of, candidates, padding_of

_FRAMES = 2  # frames in the batch; more take longer without telling more
_MARGIN = 0.03  # fraction of time that other blocks must save to replace those in use


@dataclass(frozen=True)
class BlockTiming:
    """One measurement.

    Attributes:
      length: number of tokens.
      direction: `forward`, or `backward` for both passes together.
      blocks: the blocks that were measured.
      seconds: median time of a call; infinite if the kernel does not fit.
    """

    length: int
    direction: str
    blocks: Blocks
    seconds: float


def search_blocks(
    lengths: dict[int, int],
    *,
    head_dim: int = 64,
    repeats: int = 3,
    on_timing: Callable[[BlockTiming], None] = lambda timing: None,
) -> dict[int, Blocks]:
    """Measures every block size: first of the forward pass, then of the backward pass with the best forward ones.

    Args:
      lengths: number of tokens -> number of heads.
      head_dim: channels of a head.
      repeats: timings per measurement, of which the median counts.
      on_timing: called after every measurement.

    Returns:
      Number of tokens -> fastest blocks. Blocks in use stay unless others are faster by more than the timings vary.
    """
    found = {}
    for length, heads in lengths.items():
        best = blocks_of(length)
        shape = (_FRAMES, length, heads, head_dim)
        q, k, v = (
            jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 3)
        )
        for direction in ("forward", "backward"):
            seconds: dict[Blocks, float] = {}
            for blocks in _choices(best, length, direction):
                seconds[blocks] = _seconds(q, k, v, blocks, direction, repeats)
                on_timing(BlockTiming(length, direction, blocks, seconds[blocks]))
            used = seconds[best] * (1 - _MARGIN)
            best = min(seconds, key=lambda blocks: used if blocks == best else seconds[blocks])
        found[length] = best
    return found


def _choices(best: Blocks, length: int, direction: str) -> Iterator[Blocks]:
    """The blocks in use, then all other candidates for one pass."""
    yield best
    for query, key in itertools.product(candidates(length), repeat=2):
        forward = (query, key) if direction == "forward" else (best.query, best.key)
        # The forward search does not run the backward pass, but its blocks must not add padding.
        choice = Blocks(*forward, query, key)
        if choice != best and max(padding_of(choice, length)) <= LARGEST_PADDING:
            yield choice


def _seconds(q: jax.Array, k: jax.Array, v: jax.Array, blocks: Blocks, direction: str, repeats: int) -> float:
    attend = functools.partial(splash_attention, blocks=blocks)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(q, k, v).astype(jnp.float32).sum()

    program = jax.jit(attend if direction == "forward" else jax.grad(loss, (0, 1, 2)))
    try:
        return time_program(program, (q, k, v), repeats=repeats)[0].median
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "vmem" in str(error).lower():
            return math.inf
        raise
