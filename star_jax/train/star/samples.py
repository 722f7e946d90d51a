"""Pictures and videos of a validation: a picture of the first clip, and a small video of each clip.

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
_LARGEST_HEIGHT = 256  # of a video; pictures have the full size
_FRAME_RATE = Fraction(8)  # slow enough to compare by eye


def shrink(clips: jax.Array) -> jax.Array:
    """Reduces clips [B, F, H, W, C] that are higher than a video may be by a whole factor, to even sizes."""
    height, width = clips.shape[2:4]
    factor = -(-height // _LARGEST_HEIGHT)
    if factor == 1:
        return clips
    size = tuple(2 * round(side / factor / 2) for side in (height, width))
    return jax.image.resize(clips, (*clips.shape[:2], *size, clips.shape[-1]), "linear")


def write_strip(path: Path, strip: np.ndarray) -> None:
    """Writes rows of low resolution, output and ground truth, uint8 [rows, columns, H, W, 3], as one picture."""
    sides = [(0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)]
    padded = np.pad(strip, sides, constant_values=255)
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in padded])[:-_GAP, :-_GAP]
    write_png(path, picture)


def write_sample(path: Path, views: np.ndarray) -> None:
    """Writes low resolution | output | ground truth, uint8 [3, F, H, W, 3], as a video to a disk or a bucket.

    Raises:
      RunError: the video cannot be written.
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
    """Path of a clip's video, beside the picture of the validation: 0000100_clip0.mp4."""
    return picture.with_name(f"{picture.stem}_clip{clip}.mp4")


def views_of(clips: list[jax.Array]) -> jax.Array:
    """Stacks low resolution, output and ground truth [B, F, H, W, 3] in 0..255 to uint8 [B, 3, F, h, w, 3]."""
    return jnp.rint(jnp.stack([shrink(clip) for clip in clips], axis=1).clip(0, 255)).astype(jnp.uint8)
