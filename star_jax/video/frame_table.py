"""Timestamps and key frames of a whole video, from its packets (no decoding) wherever these tell."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from star_jax.errors import InputError
from star_jax.video.container import open_video

# One packet of these is one shown frame; for other codecs, and for fields, frames are counted by decoding.
PACKET_IS_FRAME = {"h264", "hevc", "av1", "libdav1d", "vp9", "mjpeg", "ffv1", "png", "prores", "dnxhd", "gif"}
# Containers without showing times: what libavformat makes up for them changes after a seek.
NO_TIMESTAMPS = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
# Containers whose header holds the duration; others leave it to be guessed.
KNOW_DURATION = ("mov", "matroska")
# Seconds by which such a file may end early.
DURATION_TOLERANCE = 1.0


@dataclass(frozen=True)
class FrameTable:
    """Timestamps of all frames in the order of showing, in units of the stream's time base.

    Attributes:
        pts: int64 [F], strictly increasing.
        is_key: bool [F], frames at which decoding can start.
        can_seek: False where the file has no usable timestamps (`pts` is then the frame number).
    """

    pts: np.ndarray
    is_key: np.ndarray
    can_seek: bool


def list_frames(path: Path, first: av.VideoFrame) -> FrameTable:
    """Lists the frames of a video whose first frame was decoded as `first`.

    Raises:
        InputError: the file is damaged or cut off, or has no frames.
    """
    with open_video(path) as (container, stream):
        table = _list_packets(path, container, stream)
        codec = stream.codec_context.codec.canonical_name
    # Frames before the first key frame are not shown; fields and hidden pictures are packets, but no frames.
    if codec not in PACKET_IS_FRAME or first.interlaced_frame or not table.is_key[:1].all():
        with open_video(path, num_threads=0) as (container, stream):
            table = _list_decoded(path, container, stream)
    if not len(table.pts):
        raise InputError(f"{path} has no frames; give a video that plays")
    return table


def frame_rate(table: FrameTable, stream: av.VideoStream) -> tuple[Fraction, bool]:
    """Exact rate: what the file says where the timestamps agree with it; and whether they leave its grid."""
    said = [rate for rate in (stream.guessed_rate, stream.base_rate, stream.average_rate) if rate]
    steps = len(table.pts) - 1
    if not table.can_seek or not steps:
        return (said[0] if said else Fraction(24)), False
    span = int(table.pts[-1] - table.pts[0]) * stream.time_base
    mean = steps / span
    rate = next(
        (r for r in said if abs(span - steps / r) <= 2 * stream.time_base), mean.limit_denominator(1001)
    )
    ticks = float(1 / (mean * stream.time_base))
    grid = table.pts[0] + np.arange(steps + 1) * ticks
    # Matroska rounds to milliseconds: two units are no variable rate unless they are much of a frame.
    tolerance = max(0.1 * ticks, min(2.0, 0.5 * ticks))
    return rate, bool(np.abs(table.pts - grid).max() > tolerance)


def _list_packets(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> FrameTable:
    stamps, keys, end, is_cut = [], [], 0.0, False
    try:
        for packet in container.demux():
            if packet.size == 0:
                continue
            last = packet.pts if packet.pts is not None else packet.dts
            if last is not None:
                end = max(end, float((last + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                is_cut = packet.is_corrupt
                if not packet.is_discard:
                    stamps.append(packet.pts)
                    keys.append(packet.is_keyframe)
    except av.FFmpegError as error:
        raise InputError(f"{path} is damaged after {len(stamps)} frames; copy it again") from error
    if container.format.name.startswith(KNOW_DURATION) and container.duration:
        # Matroska's duration is the time of the end, whatever the start.
        start = 0 if "matroska" in container.format.name else container.start_time or 0
        is_cut |= end < (start + container.duration) / av.time_base - DURATION_TOLERANCE
    if is_cut:
        raise InputError(
            f"{path} is cut off after {len(stamps)} frames; copy it again, or keep what is there with: "
            f"ffmpeg -i {path.name} -c copy repaired.mkv"
        )
    return _table(container, stamps, keys)


def _list_decoded(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> FrameTable:
    stamps, keys = [], []
    try:
        for frame in container.decode(stream):
            stamps.append(frame.pts)
            keys.append(frame.key_frame)
    except av.FFmpegError as error:
        raise InputError(f"{path} is damaged near frame {len(stamps)}; copy it again") from error
    return _table(container, stamps, keys)


def _table(container: av.container.InputContainer, stamps: list[int | None], keys: list[bool]) -> FrameTable:
    is_key = np.array(keys, bool)
    if container.format.name in NO_TIMESTAMPS or None in stamps or len(set(stamps)) < len(stamps):
        return FrameTable(np.arange(len(stamps)), is_key, can_seek=False)
    pts = np.array(stamps, np.int64)
    order = np.argsort(pts)
    return FrameTable(pts[order], is_key[order], can_seek=True)
