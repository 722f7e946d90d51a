"""Colour of videos: the matrix and range of a file, and conversion to and from RGB without an 8-bit step.

Code points follow ITU-T H.273. Transfer curve and primaries are never changed: RGB values are on the file's own
curve, and the output gets the same tags. Eight-bit pictures are converted by swscale, which is exact to half a
level; deeper pictures are converted here, in float32, because swscale loses up to four of 1024 levels.
"""

from collections.abc import Callable

import av
import av.plane
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from star_jax.errors import InputError

UNSPECIFIED, BT709, BT601, BT2020, YCGCO = 2, 1, 6, 9, 8
FULL = 2  # value of color_range; 1 is limited
PQ, HLG = 16, 18  # values of color_trc
# (Kr, Kb): weights of red and blue in luma.
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
REFUSED = {
    10: "BT.2020 constant luminance",
    11: "SMPTE ST 2085",
    12: "chromaticity-derived",
    13: "chromaticity-derived constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
# Untagged video with more lines than SD_LINES, or a width of at least HD_WIDTH, is treated as HD, as players do.
SD_LINES, HD_WIDTH = 576, 1280
# Interpolated chroma and exact rounding: swscale's fast path repeats chroma samples and darkens by 0.7 levels.
SWSCALE = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

ToRGB = Callable[[av.VideoFrame], np.ndarray]


def matrix_of(tag: int, width: int, height: int) -> int:
    """The matrix of a file: untagged HD is BT.709 and untagged SD is BT.601, as in players."""
    if tag in WEIGHTS or tag == YCGCO:
        return tag
    return BT709 if height > SD_LINES or width >= HD_WIDTH else BT601


def check_matrix(name: str, tag: int, is_rgb: bool) -> None:
    """Rejects matrices that are not linear functions of RGB values, or that would lose values.

    Raises:
        InputError: the matrix is in REFUSED; the message gives a command that converts the file.
    """
    if tag in REFUSED and not is_rgb:
        raise InputError(
            f"{name} has the colour matrix {REFUSED[tag]}, which is not supported; convert it first: "
            f"ffmpeg -i {name} -vf zscale=matrix=709 -crf 10 converted.mp4"
        )


def from_matrix(matrix: int) -> np.ndarray:
    """Matrix [3, 3] from (Y in 0..1, Cb and Cr in -0.5..0.5) to RGB in 0..1 (ITU-T H.273, equations 38 to 45)."""
    if matrix == YCGCO:
        return np.array([[1, -1, 1], [1, 1, 0], [1, -1, -1]], np.float64)  # columns: Y, Cg, Co
    red, blue = WEIGHTS[matrix]
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )


def planes_to_rgb(planes: list[np.ndarray], bits: int, matrix: int, is_full: bool) -> np.ndarray:
    """Converts planes (Y [H, W], Cb and Cr, which may be subsampled; or Y alone) to float32 [H, W, 3] in 0..1.

    Subsampled chroma is on the left, midway between lines, and is interpolated bicubically.
    """
    luma = _from_levels(planes[0], bits, is_full, is_chroma=False)
    if len(planes) == 1:
        return np.repeat(np.clip(luma, 0, 1)[..., None], 3, axis=-1)
    chroma = [
        _enlarge(_from_levels(plane, bits, is_full, is_chroma=True), luma.shape) for plane in planes[1:]
    ]
    rgb = cv2.transform(cv2.merge([luma, *chroma]), from_matrix(matrix))
    return np.clip(rgb, 0, 1, out=rgb)


def rgb_to_planes(
    rgb: np.ndarray, bits: int, matrix: int, is_full: bool, subsampling: tuple[int, int]
) -> list[np.ndarray]:
    """Converts float32 [H, W, 3] in 0..1 to planes uint16 (Y, Cb, Cr).

    A `subsampling` of (2, 2) is 4:2:0, and (1, 1) is 4:4:4.
    """
    luma, *chroma = cv2.split(cv2.transform(rgb, np.linalg.inv(from_matrix(matrix))))
    planes = [_to_levels(luma, bits, is_full, is_chroma=False)]
    for plane in chroma:
        planes.append(_to_levels(_shrink(plane, subsampling), bits, is_full, is_chroma=True))
    return planes


def to_float(frames: np.ndarray) -> np.ndarray:
    """Converts frames to float32 in 0..1: uint8 or uint16 with the full range, or floats, which are clipped."""
    if frames.dtype == np.uint8 or frames.dtype == np.uint16:
        return frames.astype(np.float32) / np.iinfo(frames.dtype).max
    return np.clip(frames.astype(np.float32), 0, 1)


def to_depth(frames: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Converts frames of any dtype to uint8 or uint16 with the full range."""
    if frames.dtype == dtype:
        return frames
    return np.round(to_float(frames) * np.iinfo(dtype).max).astype(dtype)


def is_deep(pixel_format: av.VideoFormat) -> bool:
    """Whether a pixel format has more than 8 bits per sample."""
    return max(component.bits for component in pixel_format.components) > 8


def read_rgb(frame: av.VideoFrame, matrix: int, is_full: bool, reformatter: VideoReformatter) -> np.ndarray:
    """Converts a decoded frame to RGB [H, W, 3]: uint8, or uint16 if it has more than 8 bits."""
    if not is_deep(frame.format) and matrix != YCGCO:
        if not frame.format.is_rgb:
            frame.colorspace = matrix
        return reformatter.reformat(frame, format="rgb24", interpolation=SWSCALE, threads=1).to_ndarray()
    name = frame.format.name
    dtype = np.uint16 if is_deep(frame.format) else np.uint8
    if frame.format.is_rgb:
        return _read_deep_rgb(frame, reformatter) if dtype == np.uint16 else frame.to_ndarray(format="rgb24")
    planar = _planar_name(frame.format)
    if name != planar:
        frame = reformatter.reformat(frame, format=planar, interpolation=SWSCALE, threads=1)
    bits = frame.format.components[0].bits
    planes = [_plane(plane, bits) for plane in frame.planes[:3]]
    return to_depth(planes_to_rgb(planes, bits, matrix, is_full), dtype)


def planes_to_frame(planes: list[np.ndarray], pixel_format: str) -> av.VideoFrame:
    """Makes a frame of a planar pixel format from planes."""
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], pixel_format)
    itemsize = 2 if is_deep(frame.format) else 1
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.zeros(
            (target.height, target.line_size // itemsize), np.uint16 if itemsize == 2 else np.uint8
        )
        rows[:, : target.width] = plane
        target.update(rows)
    return frame


def _read_deep_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    bits = frame.format.components[0].bits
    if frame.format.name.startswith(("gbrp", "gbrap")) and frame.format.name.endswith("le") and bits <= 16:
        green, blue, red = (_plane(plane, bits) for plane in frame.planes[:3])
        rgb = np.stack([red, green, blue], axis=-1)
        return rgb if bits == 16 else to_depth(rgb / np.float32(2**bits - 1), np.uint16)
    return reformatter.reformat(frame, format="rgb48le", interpolation=SWSCALE, threads=1).to_ndarray()


def _planar_name(pixel_format: av.VideoFormat) -> str:
    """The planar pixel format with the same depth and subsampling."""
    bits = pixel_format.components[0].bits
    if len(pixel_format.components) < 3:
        return "gray" if bits == 8 else f"gray{bits}le"
    # The size of chroma for 8x8 pixels gives the subsampling.
    across, down = 8 // pixel_format.chroma_width(8), 8 // pixel_format.chroma_height(8)
    layout = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411", (4, 4): "410"}[
        across, down
    ]
    if bits == 8:
        return f"yuv{layout}p"
    return f"yuv{layout}p{bits}le"


def _plane(plane: av.plane.Plane, bits: int) -> np.ndarray:
    rows = np.frombuffer(plane, np.uint16 if bits > 8 else np.uint8)
    return rows.reshape(plane.height, -1)[:, : plane.width]


def _scale_and_offset(bits: int, is_full: bool, is_chroma: bool) -> tuple[float, float]:
    unit = 2 ** (bits - 8)
    if is_full:
        return 2**bits - 1, 128 * unit if is_chroma else 0
    return (224 * unit, 128 * unit) if is_chroma else (219 * unit, 16 * unit)


def _from_levels(plane: np.ndarray, bits: int, is_full: bool, *, is_chroma: bool) -> np.ndarray:
    scale, offset = _scale_and_offset(bits, is_full, is_chroma)
    return (plane.astype(np.float32) - np.float32(offset)) / np.float32(scale)


def _to_levels(plane: np.ndarray, bits: int, is_full: bool, *, is_chroma: bool) -> np.ndarray:
    scale, offset = _scale_and_offset(bits, is_full, is_chroma)
    return np.clip(np.round(plane * np.float32(scale) + np.float32(offset)), 0, 2**bits - 1).astype(np.uint16)


def _enlarge(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolates chroma at the positions of luma; a chroma sample is on the left, midway between lines."""
    if plane.shape == size:
        return plane
    across, down = -(-size[1] // plane.shape[1]), -(-size[0] // plane.shape[0])
    # cv2 needs the source position of each target pixel.
    inverse = np.array([[1 / across, 0, 0], [0, 1 / down, (1 / down - 1) / 2]])
    return cv2.warpAffine(
        plane,
        inverse,
        size[::-1],
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _shrink(plane: np.ndarray, subsampling: tuple[int, int]) -> np.ndarray:
    across, down = subsampling
    if down == 2:
        plane = (plane[::2] + plane[1::2]) / 2
    if across == 2:
        left = np.concatenate([plane[:, :1], plane[:, 1:-1:2]], axis=1)
        plane = (left + 2 * plane[:, ::2] + plane[:, 1::2]) / 4
    return plane
