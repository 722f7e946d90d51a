"""Clips as bytes: small MP4 files in memory."""

import io

import av
import numpy as np

from star_jax.data.degradations.codec import X264_REPEATABLE
from star_jax.data.storage import temporary_file
from star_jax.video.reader import VideoReader

# Keys are `lossless`: ground truth has full chroma and no visible loss; low resolution keeps its artefacts exactly.
_ENCODERS = {
    False: ("libx264", "yuv444p", {"crf": "10", "preset": "fast"} | X264_REPEATABLE),
    True: ("libx264rgb", "rgb24", {"crf": "0", "preset": "fast"} | X264_REPEATABLE),
}


def encode_clip(frames: np.ndarray, *, lossless: bool) -> bytes:
    """Encodes a clip as H.264 in MP4.

    Args:
      frames: uint8 [F, H, W, 3].
      lossless: whether decoding is bit-exact (RGB), or within about a quarter of a level on average (4:4:4).
    """
    codec, pix_fmt, options = _ENCODERS[lossless]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_clip(data: bytes) -> np.ndarray:
    """Decodes the bytes of `encode_clip`, uint8 [F, H, W, 3].

    Raises:
      InputError, RunError: the bytes are damaged.
    """
    with temporary_file(data, suffix=".mp4") as path:
        return VideoReader(path, num_threads=1).read()
