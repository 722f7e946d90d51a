"""What there is to look at of a validation: a picture of the first clip, and a small video of each.

Both show the low resolution (enlarged), the output and the ground truth.
"""

import os
import tempfile
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from star_jax.files import write_bytes, write_png
from star_jax.video.writer import Quality, VideoWriter

_GAP = 4  # white pixels between pictures
_LARGEST_HEIGHT = 256  # of a video; a picture has all pixels
_FRAME_RATE = Fraction(8)  # slow enough to compare by eye


def shrink(clips: jax.Array) -> jax.Array:
    """Clips [B, F, H, W, C] at a fraction of their size, even sides, where they are higher than videos are."""
    height, width = clips.shape[2:4]
    factor = -(-height // _LARGEST_HEIGHT)
    if factor == 1:
        return clips
    size = tuple(2 * round(side / factor / 2) for side in (height, width))
    return jax.image.resize(clips, (*clips.shape[:2], *size, clips.shape[-1]), "linear")


def write_strip(path: Path, strip: np.ndarray) -> None:
    """Writes the rows low resolution, output, ground truth, uint8 [rows, columns, H, W, 3], as one picture."""
    sides = [(0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)]
    padded = np.pad(strip, sides, constant_values=255)
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in padded])[:-_GAP, :-_GAP]
    write_png(path, picture)


def write_sample(path: Path, views: np.ndarray) -> None:
    """Writes low resolution | output | ground truth, uint8 [3, F, H, W, 3], as a video, to a disk or a bucket.

    Raises:
      RunError: it cannot be written.
    """
    gaps = [(0, 0), (0, 0), (0, 0), (0, _GAP), (0, 0)]
    frames = rearrange(np.pad(views, gaps, constant_values=255), "v f h w c -> f h (v w) c")[:, :, :-_GAP]
    height, width = frames.shape[1:3]
    quality = Quality(crf=16, codec="h264", bit_depth=8)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sample.mp4"
        with VideoWriter(file, width=width, height=height, frame_rate=_FRAME_RATE, quality=quality) as writer:
            writer.write(frames)
        write_bytes(os.fspath(path), file.read_bytes())


def sample_path(picture: Path, clip: int) -> Path:
    """Where the video of a clip goes, beside the picture of its validation: 0000100_clip0.mp4."""
    return picture.with_name(f"{picture.stem}_clip{clip}.mp4")


def views_of(clips: list[jax.Array]) -> jax.Array:
    """Low resolution, output and ground truth, each [B, F, H, W, 3] of 0..255, as uint8 [B, 3, F, h, w, 3]."""
    return jnp.rint(jnp.stack([shrink(clip) for clip in clips], axis=1).clip(0, 255)).astype(jnp.uint8)
