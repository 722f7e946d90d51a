"""Rows and columns that a container crops from the coded pictures before they are shown."""

from dataclasses import dataclass

import av
import numpy as np

from star_jax.video.marks import TRACK, VIDEO, video_header
from star_jax.video.matroska import find_elements

SIDES = {"top": 0x54BB, "bottom": 0x54AA, "left": 0x54CC, "right": 0x54DD}


@dataclass(frozen=True)
class Crop:
    """Pixels to crop from each side of a coded picture."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after cropping."""
        return width - self.left - self.right, height - self.top - self.bottom

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Crops an image [H, W, C]; returns a view, not a copy."""
        height, width = image.shape[:2]
        return image[self.top : height - self.bottom, self.left : width - self.right]


def container_crop(stream: av.VideoStream) -> Crop:
    """Reads the crop of a stream; a crop that would leave no pixels is treated as damage and ignored.

    FFmpeg knows the crop of Matroska tracks and of MP4's `clap` boxes. It is read from the Matroska header that
    FFmpeg writes for the stream.
    """
    header = video_header(stream)
    found = {
        name: int.from_bytes(value)
        for name, identifier in SIDES.items()
        for value in find_elements(header, (*TRACK, VIDEO, identifier))[:1]
    }
    crop = Crop(**found)
    width, height = crop.size(stream.codec_context.width, stream.codec_context.height)
    return crop if width > 0 and height > 0 else Crop()
