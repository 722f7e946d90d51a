"""What a video file holds: exact frame count, rate, timestamps, orientation and colour tags.

One pass over the packets (no decoding) gives every timestamp; the first frame, decoded, gives the rest.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from star_jax.errors import InputError
from star_jax.video.container import open_video
from star_jax.video.frame_table import FrameTable, frame_rate, list_frames
from star_jax.video.orientation import Turn


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a source of frames, as they come out of the reader (rotation applied, RGB, 8 bit).

    Attributes:
        path: the file or, for images, the folder.
        width, height: size in pixels after the rotation of the metadata.
        frame_rate: frames per second, exact (24000/1001); the mean where the rate is variable.
        time_base: seconds per unit of the timestamps that the reader returns.
        start_time: time of the first frame in seconds, on the clock that the file's audio shares.
        num_frames: exact number of frames.
        duration: seconds from the first frame to the end of the last.
        is_variable_rate: whether the frames leave the grid of `frame_rate` by over 0.1 frame.
        rotation: degrees counter-clockwise by which the coded pictures are turned.
        sample_aspect_ratio: width over height of a pixel, after rotation.
        color_primaries, color_trc, colorspace, color_range: code points of the file (ITU-T H.273; 2 = unspecified;
            range: 0 unspecified, 1 limited, 2 full).
    """

    path: Path
    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    start_time: Fraction
    num_frames: int
    duration: float
    is_variable_rate: bool = False
    is_images: bool = False
    has_audio: bool = False
    codec: str = "image"
    pix_fmt: str = "rgb24"
    bit_depth: int = 8
    rotation: int = 0
    sample_aspect_ratio: Fraction = Fraction(1)
    color_primaries: int = 2
    color_trc: int = 2
    colorspace: int = 2
    color_range: int = 0


def probe_video(path: Path) -> tuple[VideoInfo, FrameTable]:
    """Measures a video file: a pass over its packets, then one decoded frame.

    Raises:
        InputError: see `open_video`; also for zero frames, for a file that is cut off and for one whose first
            frame cannot be decoded.
    """
    frame = _first_frame(path)
    table = list_frames(path, frame)
    with open_video(path) as (container, stream):
        rate, is_variable = frame_rate(table, stream)
        turn = Turn.of(frame)
        width, height = turn.size(frame.width, frame.height)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        time_base = stream.time_base if table.can_seek else 1 / rate
        start, end = (int(stamp) * time_base for stamp in table.pts[[0, -1]])
        context = stream.codec_context
        info = VideoInfo(
            path=path,
            width=width,
            height=height,
            frame_rate=rate,
            time_base=time_base,
            start_time=start,
            num_frames=len(table.pts),
            duration=float(end - start + 1 / rate),
            is_variable_rate=is_variable,
            has_audio=bool(container.streams.audio),
            codec=context.codec.canonical_name,
            pix_fmt=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            rotation=turn.degrees,
            sample_aspect_ratio=1 / aspect if turn.transpose else aspect,
            color_primaries=int(context.color_primaries),
            color_trc=int(context.color_trc),
            colorspace=int(context.colorspace),
            color_range=int(context.color_range),
        )
    return info, table


def _first_frame(path: Path) -> av.VideoFrame:
    with open_video(path) as (container, stream):
        try:
            return next(container.decode(stream))
        except (StopIteration, EOFError):
            raise InputError(f"{path} has no frames; give a video that plays") from None
        except av.FFmpegError as error:
            raise InputError(
                f"cannot decode the first frame of {path}: it is damaged or cut off; copy it again"
            ) from error
