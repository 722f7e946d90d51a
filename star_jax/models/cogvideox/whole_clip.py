"""Runs the encoder's layers on a whole clip, a stretch of frames at a time, in little more than one copy's memory.

Norms take their statistics over the clip, so each layer measures what it passes to the next norm, and a residual
block runs its first half twice: once to measure the second norm's input, and once to use it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from star_jax.models.cogvideox.stretches import in_stretches, stretch_frames
from star_jax.models.cogvideox.vae_layers import (
    Cache,
    CausalConv3d,
    Downsample3D,
    GroupNorm,
    ResnetBlock3D,
    Statistics,
)

Step = Callable[[Cache, jax.Array], tuple[Cache, jax.Array]]
Measured = tuple[Any, Statistics]  # activations, if they are kept, and their statistics


@dataclass(frozen=True)
class WholeClip:
    """Runs layers on whole clips.

    Attributes:
      groups: number of groups of channels in the norms.
      pixels: pixels, over all frames, that are worked on together.
    """

    groups: int
    pixels: int

    def first(self, conv: CausalConv3d, x: jax.Array) -> Measured:
        """Runs the first convolution."""
        return self._measured(lambda cache, part: conv(part, cache)[::-1], x)

    def block(self, block: ResnetBlock3D, x: jax.Array, statistics: Statistics) -> Measured:
        """Runs a residual block."""

        def first_half(cache, part):
            return block.first_half(part, statistics, cache)[::-1]

        def whole(cache, part):
            return block(part, (statistics, of_second), cache)[::-1]

        _, of_second = self._measured(first_half, x, keep=False)
        return self._measured(whole, x)

    def down(self, down: Downsample3D, x: jax.Array) -> Measured:
        """Runs the layer that leads to the next level."""
        return self._measured(lambda cache, part: (cache, down(part)), x)

    def last(self, norm: GroupNorm, conv: CausalConv3d, x: jax.Array, statistics: Statistics) -> jax.Array:
        """Runs the last norm and convolution."""

        def step(cache, part):
            return conv(jax.nn.silu(norm(part, statistics)), cache)[::-1]

        return in_stretches(step, x, None, self._length(x))[1]

    def _measured(self, step: Step, x: jax.Array, *, keep: bool = True) -> Measured:
        """Runs (cache, frames) -> (cache, frames) in stretches and measures the results; `keep` keeps them."""

        def one(carry, part):
            cache, out = step(carry[0], part)
            return (cache, carry[1].merge(Statistics.of(out, self.groups))), out if keep else None

        start = None, Statistics.empty(len(x), self.groups)
        (_, statistics), out = in_stretches(one, x, start, self._length(x))
        return out, statistics

    def _length(self, x: jax.Array) -> int:
        return stretch_frames(x.shape[2], x.shape[3], self.pixels)
