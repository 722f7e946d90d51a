"""Orientation of coded pictures: the display matrix that phones write."""

from dataclasses import dataclass

import av
import numpy as np


@dataclass(frozen=True)
class Turn:
    """Orientation of coded pictures: transposed or not, then mirrored along either axis."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Turn":
        """Reads the display matrix of a decoded frame (multiples of 90 degrees and mirrorings)."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        # x' = a x + c y, y' = b x + d y, stored as [a b u; c d v; x y w]
        a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, c < 0, b < 0)
        return cls(False, a < 0, d < 0)

    @property
    def degrees(self) -> int:
        """Counter-clockwise rotation in degrees: 0, 90, 180 or 270 (without the mirroring)."""
        if self.transpose:
            return 90 if self.flip_y else 270
        return 180 if self.flip_y else 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after turning."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Turns an image [H, W, 3]; returns a view, not a copy."""
        image = image.swapaxes(0, 1) if self.transpose else image
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
