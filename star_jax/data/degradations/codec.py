"""Video compression of whole clips in memory, so that the artefacts follow the motion."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:  # imported by the functions that use it: a benchmark of the training step needs no codecs
    import av

# The vector code of x264's macroblock tree reads uninitialised memory unless the width is a multiple of 128, so the
# same frames may give different streams. Without the macroblock tree they always give the same one.
X264_REPEATABLE = {"x264-params": "mbtree=0"}
# x264 counts whole kilobits a second, which are kilobits a frame at this clock, and refuses to encode at zero.
LOWEST_BITS_PER_FRAME = 1000


def _rate_options(rate: float, buffer: int) -> dict[str, str]:
    """Options with a buffer of a few frames, so that short clips meet their rate.

    Rate control starts far from its target on noisy clips.
    """
    return {"maxrate": str(int(rate)), "bufsize": str(buffer), "bt": str(int(rate) // 10)}


def _x264_options(bits_per_frame: int, preset: str) -> dict[str, str]:
    return _rate_options(1.25 * bits_per_frame, 8 * bits_per_frame) | {"preset": preset} | X264_REPEATABLE


def _mpeg_options(bits_per_frame: int, preset: str) -> dict[str, str]:
    return _rate_options(bits_per_frame, 4 * bits_per_frame)


def _vpx_options(bits_per_frame: int, preset: str) -> dict[str, str]:
    constant = _rate_options(bits_per_frame, 2 * bits_per_frame) | {"minrate": str(bits_per_frame)}
    return constant | {"deadline": "realtime", "cpu-used": "8"}


@dataclasses.dataclass(frozen=True)
class Codec:
    """An encoder in PyAV's wheels: the decoder for its stream, and its options by (bits per frame, preset)."""

    decoder: str
    options: Callable[[int, str], dict[str, str]]


CODECS = {
    "libx264": Codec("h264", _x264_options),
    "mpeg4": Codec("mpeg4", _mpeg_options),
    "mpeg2video": Codec("mpeg2video", _mpeg_options),
    "h263p": Codec("h263", _mpeg_options),
    "wmv2": Codec("wmv2", _mpeg_options),
    "libvpx": Codec("vp8", _vpx_options),
    "libvpx-vp9": Codec("vp9", _vpx_options),
}


def compress(frames: list[np.ndarray], codec: str, bits_per_frame: int, preset: str) -> list[np.ndarray]:
    """Encodes a clip and decodes it again.

    Args:
      frames: uint8 [H, W, 3] each, all of one size. They are padded for the encoder to multiples of 4, at least 32.
      codec: a key of CODECS.
      bits_per_frame: the bit rate over the frame rate; less than LOWEST_BITS_PER_FRAME is raised to that. The
        MPEG encoders cannot go below their coarsest quantiser (about 0.1 bit a pixel).
      preset: x264's preset; the other encoders ignore it.

    Returns:
      the same number of frames, of the same size.

    Raises:
      ValueError: the codec is not in CODECS.
      RuntimeError: the decoder does not return every frame.
    """
    import av

    packets, header = encode(frames, codec, bits_per_frame, preset)
    height, width = frames[0].shape[:2]
    coded_height, coded_width = _coded_size(height), _coded_size(width)
    decoder = av.CodecContext.create(CODECS[codec].decoder, "r")
    decoder.thread_count = 1
    decoder.width, decoder.height = coded_width, coded_height  # some streams do not carry them
    if header:
        decoder.extradata = header
    pictures = [picture for packet in packets for picture in decoder.decode(packet)] + decoder.decode(None)
    if len(pictures) != len(frames):
        raise RuntimeError(f"the decoder of {codec} returned {len(pictures)} of {len(frames)} frames")
    return [_to_rgb(picture)[:height, :width] for picture in pictures]


def encode(
    frames: list[np.ndarray], codec: str, bits_per_frame: int, preset: str
) -> tuple[list["av.Packet"], bytes | None]:
    """Encodes frames as in `compress`; returns the packets and the stream's header.

    The clock runs at one frame a second, so that the rate control of x264 averages over two frames instead of
    two seconds of frames, and a clip of 32 frames meets its rate.
    """
    import av

    if codec not in CODECS:
        raise ValueError(f"no codec {codec!r}; choose one of {', '.join(CODECS)}")
    height, width = (_coded_size(size) for size in frames[0].shape[:2])
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(1), Fraction(1)
    encoder.bit_rate = bits_per_frame = max(int(bits_per_frame), LOWEST_BITS_PER_FRAME)
    encoder.thread_count = 1  # the stream depends on the number of threads
    encoder.options = CODECS[codec].options(bits_per_frame, preset)
    packets = []
    for index, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(_to_yuv(frame, height, width), format="yuv420p")
        picture.pts = index
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    return packets, encoder.extradata


def _coded_size(size: int) -> int:
    """Rounds up: encoders need even sizes, h263p needs multiples of four, and some encoders at least 32."""
    return max(32, size + -size % 4)


def _to_yuv(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    bottom, right = height - frame.shape[0], width - frame.shape[1]
    if bottom or right:
        frame = cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)


def _to_rgb(picture: "av.VideoFrame") -> np.ndarray:
    # OpenCV's conversion is the inverse of the one in _to_yuv; the stream's colour tags play no part.
    return cv2.cvtColor(picture.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2RGB_I420)
