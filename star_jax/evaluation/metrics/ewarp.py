"""E*warp, the warping error of EvalCrafter (Liu et al. 2024), which STAR's tables report times 1000.

For each pair of neighbouring frames: halve both, compute the flow both ways with RAFT, warp the second frame back
to the first, and take the squared error over the pixels that are not occluded (occlusion test of Lai et al. 2018).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from star_jax.evaluation.metrics.metric import Metric, Networks
from star_jax.evaluation.networks.layers import Params
from star_jax.evaluation.networks.raft import Encoded, encode, flow

_SCALE = 1000
_PAD = 8


@functools.partial(jax.jit, static_argnums=2)
def prepare(params: Params, frame: jax.Array, corrected: bool) -> tuple[jax.Array, Encoded]:
    """Halves a frame, pads it to multiples of 8 and encodes it.

    Args:
      params: weights of network `raft`.
      frame: uint8 [H, W, 3].
      corrected: whether RAFT gets values between 0 and 255, as it expects; the published script gives it values
        between 0 and 1, which it divides by 255 again.

    Returns:
      The halved frame, [1, h, w, 3] between 0 and 1, and its encoding.
    """
    height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
    pixels = frame[:height, :width].astype(jnp.float32) / 255
    half = rearrange(pixels, "(h i) (w j) c -> h w (i j) c", i=2, j=2).mean(axis=2)
    sides = [(-side % _PAD // 2, -side % _PAD - -side % _PAD // 2) for side in half.shape[:2]]
    half = jnp.pad(half, (*sides, (0, 0)), mode="edge")[None]
    return half, encode(params, half * 255 if corrected else half)


@jax.jit
def warping_error(
    params: Params, first: tuple[jax.Array, Encoded], second: tuple[jax.Array, Encoded]
) -> jax.Array:
    """The error of a pair of prepared frames, a scalar, not yet times 1000."""
    forward = flow(params, first[1], second[1])[0]
    backward = flow(params, second[1], first[1])[0]
    return error_of_flows(first[0][0], second[0][0], forward, backward)


def error_of_flows(first: jax.Array, second: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Squared error of the second frame warped to the first, summed over channels, mean over visible pixels.

    Args:
      first, second: [H, W, 3], between 0 and 1.
      forward: flow from first to second, [H, W, 2], x and y in pixels.
      backward: flow from second to first, in the same form.
    """
    visible = ~occluded(forward, backward)
    squares = jnp.sum((warp(second, forward) - first) ** 2, axis=-1)
    return jnp.sum(squares * visible) / jnp.maximum(jnp.sum(visible), 1)


def occluded(forward: jax.Array, backward: jax.Array) -> jax.Array:
    """Pixels of the first frame at which the flows contradict each other or the flow has an edge: bool [H, W]."""
    returned = warp(backward, forward)
    contradiction = _squares(returned + forward) > 0.01 * (_squares(returned) + _squares(forward)) + 0.5
    # Differences to the next pixel, 0 at the last one.
    right = jnp.pad(jnp.diff(forward, axis=1), ((0, 0), (0, 1), (0, 0)))
    below = jnp.pad(jnp.diff(forward, axis=0), ((0, 1), (0, 0), (0, 0)))
    edge = _squares(right) + _squares(below) > 0.01 * _squares(forward) + 0.002
    return contradiction | edge


def warp(image: jax.Array, motion: jax.Array) -> jax.Array:
    """Samples an image at each pixel's position plus its motion, bilinearly; beyond the border it is repeated.

    Args:
      image: [H, W, C].
      motion: [H, W, 2], x and y in pixels.

    Returns:
      [H, W, C].
    """
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    x, y = x + motion[..., 0], y + motion[..., 1]
    left, top = jnp.floor(x), jnp.floor(y)
    across, down = (x - left)[..., None], (y - top)[..., None]

    def at(dy: int, dx: int) -> jax.Array:
        row = jnp.clip(top.astype(jnp.int32) + dy, 0, height - 1)
        column = jnp.clip(left.astype(jnp.int32) + dx, 0, width - 1)
        return image[row, column]

    upper = at(0, 0) * (1 - across) + at(0, 1) * across
    lower = at(1, 0) * (1 - across) + at(1, 1) * across
    return upper * (1 - down) + lower * down


def _squares(vectors: jax.Array) -> jax.Array:
    return jnp.sum(vectors**2, axis=-1)


class WarpScorer:
    """The warping error from frame to frame, times 1000; memory holds one encoded frame."""

    def __init__(self, corrected: bool, networks: Networks, _num_frames: int):
        self._params = networks["raft"]
        self._corrected = corrected
        self._previous: tuple[jax.Array, Encoded] | None = None

    def add(self, frames: np.ndarray, truths: np.ndarray | None) -> list[float]:
        errors = []
        for frame in frames:
            current = prepare(self._params, frame, self._corrected)
            if self._previous is not None:
                errors.append(_SCALE * float(warping_error(self._params, self._previous, current)))
            self._previous = current
        return errors

    def finish(self) -> list[float]:
        return []


def _metric(title: str, corrected: bool, rule: str) -> Metric:
    return Metric(
        title,
        3,
        False,
        functools.partial(WarpScorer, corrected),
        rule,
        values="pair",
        needs_truth=False,
        networks=("raft",),
        smallest_side=128,
    )


EWARP = _metric(
    "E*warp x1e-3",
    False,
    "EvalCrafter's script as published: raft-things, 20 updates, half size, frames between 0 and 1 into RAFT",
)
EWARP_CORRECTED = _metric(
    "E*warp-c x1e-3", True, "the same with frames between 0 and 255 into RAFT, as in its training"
)
