"""Properties of a video file: exact frame count, rate, times, orientation, colour and other data in its pictures.

One pass over the packets gives the times (see timeline.py); the decoded first frame gives the rest.
"""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from star_jax.errors import InputError
from star_jax.video import color
from star_jax.video.container import open_video
from star_jax.video.crop import Crop, container_crop
from star_jax.video.decoding import Damage, decode_frames
from star_jax.video.notes import note
from star_jax.video.orientation import Turn
from star_jax.video.packets import Clock
from star_jax.video.timeline import FrameTable, OnScan, frame_rate, list_frames


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a source of frames as the reader returns them (cropped, rotated, RGB).

    Attributes:
        path: the file or, for images, the folder.
        width, height: size in pixels after cropping and rotating as the metadata says.
        frame_rate: exact number of frames per second (such as 24000/1001); the mean if the rate is variable.
        time_base: seconds per unit of the timestamps that the reader returns.
        start_time: time of the first frame in seconds, on the clock that the file's audio shares.
        num_frames: exact number of frames.
        duration: seconds from the first frame to the end of the last.
        is_variable_rate: whether frames are off the grid of `frame_rate` by over 0.1 frame.
        last_duration: seconds for which the last frame is shown.
        is_images: whether the source is images or an animation, not a video.
        has_audio: whether the file has sound.
        codec: FFmpeg's name of the codec, or `image`.
        pix_fmt, bit_depth: pixel format and bit depth of the coded pictures.
        is_interlaced: whether the first picture is flagged as interlaced.
        has_alpha: whether pictures have transparency.
        rotation: counter-clockwise rotation of the coded pictures in degrees.
        crop: rows and columns that the container crops from the coded pictures.
        sample_aspect_ratio: width over height of a pixel, after rotation.
        color_primaries, color_trc, colorspace, color_range: code points of the file (ITU-T H.273; 2 = unspecified;
            range: 0 unspecified, 1 limited, 2 full).
        side_data: bytes of the first picture's side data, by FFmpeg's name (such as MASTERING_DISPLAY_METADATA,
            CONTENT_LIGHT_LEVEL, SPHERICAL); empty bytes if only later pictures have it.
        lost_frames: number of frames of the file that cannot be decoded.
        clock: corrections of the times of the file's streams.
        part: for a part, its start and end in seconds; see part.py.
        first_frame: for a part, the number of its first frame in the file.
        pictures: files of a sequence of images, one for each frame.
        has_profile: whether images have an ICC profile.
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
    last_duration: Fraction | None = None
    is_images: bool = False
    has_audio: bool = False
    codec: str = "image"
    pix_fmt: str = "rgb24"
    bit_depth: int = 8
    is_interlaced: bool = False
    has_alpha: bool = False
    rotation: int = 0
    crop: Crop = Crop()  # noqa: RUF009 (frozen)
    sample_aspect_ratio: Fraction = Fraction(1)
    color_primaries: int = 2
    color_trc: int = 2
    colorspace: int = 2
    color_range: int = 0
    side_data: dict[str, bytes] = dataclasses.field(default_factory=dict, compare=False)
    lost_frames: int = 0
    clock: Clock = dataclasses.field(default_factory=Clock, compare=False)
    part: tuple[Fraction, Fraction] | None = None
    first_frame: int = 0
    pictures: tuple[Path, ...] = ()
    has_profile: bool = False

    @property
    def matrix(self) -> int:
        """Code point of the file's colour matrix; see `color.matrix_of`."""
        return color.matrix_of(self.colorspace, self.width, self.height)


def probe_video(
    path: Path, *, scan: bool = False, strict: bool = True, on_scan: OnScan | None = None
) -> tuple[VideoInfo, FrameTable]:
    """Measures a video file from all its packets and its decoded first frame.

    Args:
        path: path of the file.
        scan, strict, on_scan: see `list_frames`.

    Raises:
        InputError: as in `open_video`, or the file has no frames or is cut off, its first frame cannot be decoded,
            or its colour matrix is not supported.
    """
    frame = _first_frame(path, strict)
    table = list_frames(path, frame, scan=scan, strict=strict, on_scan=on_scan)
    with open_video(path) as (container, stream):
        rate, is_variable = frame_rate(table, stream)
        turn, crop = Turn.of(frame), container_crop(stream)
        width, height = turn.size(*crop.size(frame.width, frame.height))
        aspect = stream.sample_aspect_ratio or Fraction(1)
        start, last = (int(stamp) * table.time_base for stamp in table.pts[[0, -1]])
        end = table.end * table.time_base
        context = stream.codec_context
        info = VideoInfo(
            path=path,
            width=width,
            height=height,
            frame_rate=rate,
            time_base=table.time_base,
            start_time=start,
            num_frames=len(table.pts),
            duration=float(end - start if is_variable else last - start + 1 / rate),
            is_variable_rate=is_variable,
            last_duration=end - last if is_variable else 1 / rate,
            has_audio=bool(container.streams.audio),
            codec=context.codec.canonical_name,
            pix_fmt=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            is_interlaced=frame.interlaced_frame,
            has_alpha=_has_alpha(frame, stream),
            rotation=turn.degrees,
            crop=crop,
            sample_aspect_ratio=1 / aspect if turn.transpose else aspect,
            color_primaries=int(context.color_primaries),
            color_trc=int(context.color_trc),
            colorspace=int(context.colorspace),
            color_range=int(context.color_range),
            side_data={name: b"" for name in table.side_data} | _side_data(frame),
            lost_frames=table.lost,
            clock=table.clock,
        )
    color.check_matrix(str(path), info.colorspace, frame.format.is_rgb)
    return info, table


def note_damage(info: VideoInfo, table: FrameTable) -> None:
    """Notes how many frames cannot be decoded or have parts missing, and whether sizes change."""
    if table.lost:
        note(
            f"{info.path}: {table.lost} frames cannot be decoded and are left out; the other {info.num_frames} "
            "keep their times (--strict stops instead)"
        )
    if len(table.sizes) > 1:
        sizes = ", ".join(f"{width}x{height}" for width, height in sorted(table.sizes))
        note(f"{info.path}: frames differ in size ({sizes}); all are resized to the size of the first")
    if table.damage is not None and table.damage.shown:
        note(f"{info.path}: {table.damage.shown} frames are damaged, and upscaled as players show them")


def _has_alpha(frame: av.VideoFrame, stream: av.VideoStream) -> bool:
    if stream.codec_context.name == "gif":  # a GIF is always decoded with an alpha channel
        return bool(frame.to_ndarray(format="bgra")[..., 3].min() < 255)
    # WebM stores transparency separately from the pictures, where the decoder does not read it.
    is_beside = "1" in [value for key, value in stream.metadata.items() if key.lower() == "alpha_mode"]
    return is_beside or any(component.is_alpha for component in frame.format.components)


def _side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    return {data.type.name: bytes(data) for data in frame.side_data}


def _first_frame(path: Path, strict: bool) -> av.VideoFrame:
    damage = Damage()
    with open_video(path) as (container, stream):
        try:
            return next(frame for _, frame in decode_frames(container, stream, None if strict else damage))
        except StopIteration:
            if damage.first is not None:
                raise InputError(
                    f"no frame of {path} can be decoded: it is damaged; copy it again"
                ) from damage.first
            raise InputError(f"{path} has no frames; give a video that plays") from None
        except av.FFmpegError as error:
            raise InputError(
                f"cannot decode the first frame of {path}: it is damaged or cut off; copy it again"
            ) from error
