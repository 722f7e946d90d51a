"""The autoencoder's layers on all frames of a call, a stretch of frames at a time: the same numbers in less memory.

Norms take their statistics over all frames of a call, so each layer measures what it hands to the next norm. The
encoder, whose clips are long, runs the first half of a block twice and keeps one copy of the activations; the
decoder, whose groups are short, keeps what the first half gave.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from star_jax.models.cogvideox.stretches import Step, in_stretches, stretch_frames
from star_jax.models.cogvideox.vae_layers import (
    Cache,
    CausalConv3d,
    Downsample3D,
    Guide,
    ResnetBlock3D,
    Statistics,
    Upsample3D,
)

Measured = tuple[Any, Statistics, Cache]  # activations, their statistics, what the next call takes over


@dataclass(frozen=True)
class WholeClip:
    """Runs layers on whole clips.

    Attributes:
      groups: groups of channels of the norms.
      pixels: pixels of the frames that are worked on together.
    """

    groups: int
    pixels: int

    def convolution(self, conv: CausalConv3d, x: jax.Array, cache: Cache = None) -> Measured:
        """The first convolution."""

        def step(cache, start, part):
            del start
            out, cache = conv(part, cache)
            return cache, out, out

        return self._measured(step, x, cache)

    def encoder_block(self, block: ResnetBlock3D, x: jax.Array, statistics: Statistics) -> Measured:
        """A residual block: its first half to measure the second norm's input, then the whole block."""

        def measure(cache, start, part):
            del start
            hidden, cache = block.first_half(part, statistics, cache)
            return cache, hidden, None

        def apply(cache, start, part):
            del start
            out, cache = block(part, (statistics, of_second), cache)
            return cache, out, out

        _, of_second, _ = self._measured(measure, x, None)
        return self._measured(apply, x, None)

    def decoder_block(
        self,
        block: ResnetBlock3D,
        x: jax.Array,
        statistics: Statistics,
        latents: jax.Array,
        cache: Cache,
    ) -> Measured:
        """A residual block: its first half, whose results give way to the second half's."""
        guide = partial(Guide, latents, x.shape[1])

        def first_half(cache, start, part):
            hidden, cache = block.first_half(part, guide(start, statistics), cache)
            return cache, hidden, hidden

        def second_half(cache, start, hidden, part):
            out, cache = block.second_half(part, hidden, guide(start, of_second), cache)
            return cache, out, out

        hidden, of_second, first = self._measured(first_half, x, cache and cache[0])
        out, statistics, second = self._measured(second_half, hidden, cache and cache[1], beside=(x,))
        return out, statistics, (first, second)

    def resample(self, layer: Downsample3D | Upsample3D, x: jax.Array) -> Measured:
        """A layer between two levels; one that enlarges is given as much less at once."""
        growth = (8 if layer.in_time else 4) if isinstance(layer, Upsample3D) else 1

        def step(cache, start, part):
            del start
            out = layer(part)
            return cache, out, out

        return self._measured(step, x, None, growth=growth)

    def last(self, step: Step, x: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """The last norm and convolution, whose result no norm sees: (cache, start, frames) -> (cache, frames)."""

        def one(carry, part):
            cache, out = step(*carry, part)
            return (cache, carry[1] + part.shape[1]), out

        (cache, _), out = in_stretches(one, x, (cache, jnp.int32(0)), self._length(x))
        return out, cache

    def _measured(
        self, step: Step, x: jax.Array, cache: Cache, *, beside: tuple = (), growth: int = 1
    ) -> Measured:
        """`in_stretches` of (cache, first frame, frames) -> (cache, frames to measure, frames)."""

        def one(carry, *parts):
            cache, statistics, start = carry
            cache, measured, result = step(cache, start, *parts)
            statistics = statistics.merge(Statistics.of(measured, self.groups))
            return (cache, statistics, start + parts[0].shape[1]), result

        carry = cache, Statistics.empty(len(x), self.groups), jnp.int32(0)
        (cache, statistics, _), out = in_stretches(one, x, carry, self._length(x, growth), beside)
        return out, statistics, cache

    def _length(self, x: jax.Array, growth: int = 1) -> int:
        return stretch_frames(x.shape[2], x.shape[3], self.pixels // growth)
