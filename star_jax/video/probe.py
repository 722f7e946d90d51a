"""What a video file holds: exact frame count, rate, timestamps, orientation and colour tags.

One pass over the packets (no decoding) gives every timestamp; the first frame, decoded, gives the rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from star_jax.errors import InputError

# One packet of these is one shown frame; for other codecs, and for fields, frames are counted by decoding.
PACKET_IS_FRAME = {"h264", "hevc", "av1", "libdav1d", "vp9", "mjpeg", "ffv1", "png", "prores", "dnxhd", "gif"}
# Containers without showing times: what libavformat makes up for them changes after a seek.
NO_TIMESTAMPS = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
# Seconds by which a file may end before the duration in its header.
DURATION_TOLERANCE = 1.0


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


@contextmanager
def open_video(
    path: Path, num_threads: int = 1
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file and its video stream; cover pictures of audio files do not count as video.

    Raises:
        InputError: no such file, a folder, unreadable, not a video, or without a video stream.
    """
    check_readable(path)
    try:
        container = av.open(str(path))
    except (av.FFmpegError, UnicodeError) as error:
        raise InputError(
            f"cannot open {path} as a video: it is damaged, cut off, or no video; give a video file that plays"
        ) from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
            raise InputError(f"{path} has no video stream (it has {kinds}); give a file with pictures")
        stream = streams[0]
        if stream.codec_context is None:
            raise InputError(f"{path} is in a format that cannot be decoded here; convert it to H.264 first")
        stream.codec_context.thread_count = num_threads
        stream.thread_type = "SLICE" if num_threads == 1 else "AUTO"
        yield container, stream


def check_readable(path: Path) -> None:
    """Raises InputError unless `path` is a file that can be opened and has content."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a video file, or a folder of .png or .jpg images")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}; check the path") from error
    except PermissionError as error:
        raise InputError(f"no permission to read {path}; change its permissions (chmod +r)") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path and the disk") from error
    if not first:
        raise InputError(f"{path} is empty (0 bytes); copy or download it again")


def probe_video(path: Path) -> tuple[VideoInfo, FrameTable]:
    """Measures a video file: a pass over its packets, then one decoded frame.

    Raises:
        InputError: see `open_video`; also for zero frames, for a file that is cut off and for one whose first
            frame cannot be decoded.
    """
    frame = _first_frame(path)
    with open_video(path) as (container, stream):
        name = stream.codec_context.codec.canonical_name
        by_packet = name in PACKET_IS_FRAME and not frame.interlaced_frame
        table = (
            _table_of_packets(path, container, stream) if by_packet else _table_of_frames(container, stream)
        )
        if not len(table.pts):
            raise InputError(f"{path} has no frames; give a video that plays")
        rate, is_variable = _frame_rate(table, stream)
        turn = Turn.of(frame)
        width, height = turn.size(frame.width, frame.height)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        span = (
            int(table.pts[-1] - table.pts[0]) * stream.time_base
            if table.can_seek
            else (len(table.pts) - 1) / rate
        )
        context = stream.codec_context
        info = VideoInfo(
            path=path,
            width=width,
            height=height,
            frame_rate=rate,
            time_base=stream.time_base if table.can_seek else 1 / rate,
            start_time=int(table.pts[0]) * stream.time_base if table.can_seek else Fraction(0),
            num_frames=len(table.pts),
            duration=float(span + 1 / rate),
            is_variable_rate=is_variable,
            has_audio=bool(container.streams.audio),
            codec=name,
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
        """Rotation counter-clockwise in degrees: 0, 90, 180 or 270 (mirroring left out)."""
        if self.transpose:
            return 90 if self.flip_y else 270
        return 180 if self.flip_y else 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after turning."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Turns an image [H, W, 3]; a view, not a copy."""
        image = image.swapaxes(0, 1) if self.transpose else image
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


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


def _table_of_packets(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> FrameTable:
    stamps, keys, end, is_cut = [], [], 0.0, False
    try:
        for packet in container.demux():
            if packet.size == 0:
                continue
            last = packet.pts if packet.pts is not None else packet.dts
            if last is not None:
                end = max(end, float((last + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                is_cut |= packet.is_corrupt
                if not packet.is_discard:
                    stamps.append(packet.pts)
                    keys.append(packet.is_keyframe)
    except av.FFmpegError as error:
        raise InputError(
            f"{path} is damaged: it breaks off after {len(stamps)} frames; copy it again"
        ) from error
    start = (container.start_time or 0) / av.time_base
    promised = start + (container.duration or 0) / av.time_base
    if is_cut or end < promised - DURATION_TOLERANCE:
        raise InputError(
            f"{path} is cut off after {len(stamps)} frames; copy it again, or keep what is there with: "
            f"ffmpeg -i {path.name} -c copy repaired.mkv"
        )
    return _table(container, stamps, keys)


def _table_of_frames(container: av.container.InputContainer, stream: av.VideoStream) -> FrameTable:
    stamps, keys = [], []
    try:
        for frame in container.decode(stream):
            stamps.append(frame.pts)
            keys.append(frame.key_frame)
    except av.FFmpegError as error:
        raise InputError(
            f"{container.name} is damaged near frame {len(stamps)}; copy it again, or repair it with ffmpeg"
        ) from error
    return _table(container, stamps, keys)


def _table(container: av.container.InputContainer, stamps: list[int | None], keys: list[bool]) -> FrameTable:
    is_key = np.array(keys, bool)
    if container.format.name in NO_TIMESTAMPS or None in stamps or len(set(stamps)) < len(stamps):
        return FrameTable(np.arange(len(stamps)), is_key, can_seek=False)
    pts = np.array(stamps, np.int64)
    order = np.argsort(pts)
    return FrameTable(pts[order], is_key[order], can_seek=True)


def _frame_rate(table: FrameTable, stream: av.VideoStream) -> tuple[Fraction, bool]:
    """Exact rate and whether the frames leave its grid: what the file says, where the timestamps agree with it."""
    said = [rate for rate in (stream.guessed_rate, stream.base_rate, stream.average_rate) if rate]
    steps = len(table.pts) - 1
    if not table.can_seek or not steps:
        return (said[0] if said else Fraction(24)), False
    span = int(table.pts[-1] - table.pts[0]) * stream.time_base
    mean = Fraction(steps) / span
    rate = next(
        (r for r in said if abs(span - steps / r) <= 2 * stream.time_base), mean.limit_denominator(1001)
    )
    grid = table.pts[0] + np.arange(steps + 1) * float(1 / (mean * stream.time_base))
    # Containers such as Matroska round to milliseconds: up to two units are no variable rate.
    tolerance = max(2.0, float(Fraction(1, 10) / (mean * stream.time_base)))
    return rate, bool(np.abs(table.pts - grid).max() > tolerance)
