"""Padding of frames to sizes that the network takes, and cropping back."""

from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.errors import InputError
from star_jax.models.size_rule import SizeRule

Frames = TypeVar("Frames", np.ndarray, jax.Array)

ORIGINAL_MIN_HEIGHT, ORIGINAL_MIN_WIDTH = 720, 1280


@dataclass(frozen=True)
class Padding:
    """Pixels added on each side of a frame."""

    top: int
    bottom: int
    left: int
    right: int

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) with the padding."""
        return height + self.top + self.bottom, width + self.left + self.right

    def apply(self, frames: Frames, value: float | None = None) -> Frames:
        """Pads frames [..., H, W, C], a NumPy or JAX array.

        Args:
          frames: frames with any range of values.
          value: constant padding value (white is 1 for frames in [-1, 1], and 255 for uint8); None repeats the
            border pixels.
        """
        sides = [(0, 0)] * (frames.ndim - 3) + [(self.top, self.bottom), (self.left, self.right), (0, 0)]
        pad = jnp.pad if isinstance(frames, jax.Array) else np.pad
        if value is None:
            return pad(frames, sides, mode="edge")
        return pad(frames, sides, constant_values=value)

    def crop(self, frames: Frames) -> Frames:
        """Removes the padding from frames [..., H, W, C]."""
        height, width = frames.shape[-3:-1]
        return frames[..., self.top : height - self.bottom, self.left : width - self.right, :]


def fit_padding(rule: SizeRule, height: int, width: int) -> Padding:
    """The smallest padding to a size that the network takes, split evenly between opposite sides.

    Raises:
      InputError: the frame is empty.
    """
    _check_size(height, width)
    padded_height, padded_width = rule.padded_size(height, width)
    return Padding(*_split(padded_height - height), *_split(padded_width - width))


def pad_to_fit_original(rule: SizeRule, height: int, width: int) -> Padding:
    """The padding of the released script, which pads with white.

    A side of up to 720 (height) or 1280 (width) is centred in that length; a longer side is padded at its end to
    the next larger size that the network takes, even if it already has such a size.

    Raises:
      InputError: the frame is empty.
    """
    _check_size(height, width)
    next_height, next_width = rule.padded_size(height + 1, width + 1)
    return Padding(
        *_pad_side_original(height, ORIGINAL_MIN_HEIGHT, next_height),
        *_pad_side_original(width, ORIGINAL_MIN_WIDTH, next_width),
    )


def _pad_side_original(length: int, minimum: int, next_size: int) -> tuple[int, int]:
    if length <= minimum:
        return _split(minimum - length)
    return 0, next_size - length


def _split(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise InputError(f"frames are {width}x{height}; both sides need at least 1 pixel")
