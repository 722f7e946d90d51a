"""Clips of flat patches whose coded levels follow from the definitions, for tests of colours."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from sample_videos import _write_tone

WIDTH, HEIGHT, PATCH = 96, 64, 16
# (Kr, Kb) of ITU-T H.273.
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
CENTRES = (slice(PATCH // 2, None, PATCH), slice(PATCH // 2, None, PATCH))


def patches(frames: int = 6, seed: int = 0) -> np.ndarray:
    """RGB in 0..1, [F, 4, 6, 3]: the colours of flat patches."""
    return np.random.default_rng(seed).uniform(0.05, 0.95, (frames, HEIGHT // PATCH, WIDTH // PATCH, 3))


def levels(rgb: np.ndarray, matrix: int, is_full: bool, bits: int) -> np.ndarray:
    """Y, Cb, Cr levels of colours, by the definitions (limited: 219 and 224 steps; full: all)."""
    red, blue = WEIGHTS[matrix]
    luma = red * rgb[..., 0] + (1 - red - blue) * rgb[..., 1] + blue * rgb[..., 2]
    chroma = (rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)
    unit, top = 2 ** (bits - 8), 2**bits - 1
    scale, low = (top, 0) if is_full else (219 * unit, 16 * unit)
    scale_c = top if is_full else 224 * unit
    planes = [luma * scale + low, *(c * scale_c + 128 * unit for c in chroma)]
    return np.clip(np.round(np.stack(planes)), 0, top)


def coded(frame: av.VideoFrame) -> np.ndarray:
    """Levels at the centres of the patches, [3, 4, 6], straight from the planes."""
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    found = []
    for plane in frame.planes[:3]:
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        down, across = frame.height // plane.height, frame.width // plane.width
        found.append(rows[PATCH // 2 // down :: PATCH // down, PATCH // 2 // across :: PATCH // across])
    return np.stack(found).astype(float)


def write(
    path: Path,
    rgb: np.ndarray,
    *,
    encoder,
    pix_fmt,
    matrix,
    tag=None,
    is_full=False,
    rate=Fraction(25),
    audio=None,
    **tags,
) -> Path:
    """Patches as a lossless or nearly lossless file; `tag` is the matrix that it names."""
    bits = av.VideoFormat(pix_fmt).components[0].bits
    options = {
        "libx264": {"crf": "0", "preset": "ultrafast"},
        "libx265": {"preset": "ultrafast", "x265-params": "lossless=1:log-level=error"},
        "libvpx-vp9": {"lossless": "1", "cpu-used": "8"},
    }.get(encoder, {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        context = stream.codec_context
        context.colorspace, context.color_range = matrix if tag is None else tag, 2 if is_full else 1
        for name, value in tags.items():
            setattr(context, name, value)
        sound = container.add_stream(audio, rate=44100) if audio else None
        for i, image in enumerate(levels(rgb, matrix, is_full, bits).swapaxes(0, 1)):
            frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
            frame.colorspace, frame.color_range = context.colorspace, context.color_range
            for plane, values in zip(frame.planes, image, strict=True):
                size = (PATCH * plane.height // HEIGHT, PATCH * plane.width // WIDTH)
                dtype = np.uint8 if bits == 8 else np.uint16
                rows = np.zeros((plane.height, plane.line_size // dtype().itemsize), dtype)
                rows[:, : plane.width] = values.repeat(size[0], 0).repeat(size[1], 1)
                plane.update(rows)
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_tone(container, sound, float(len(rgb) / rate), 0)
    return path
