"""Times at which frames are shown: every frame keeps its time, and an irregular time does not change the others.

For most files, the packets give the times. If packets do not tell which frames are shown, or have irregular times
(repeated, going back or missing), the file is decoded once, which gives the true order of the frames. Each time
that does not fit between its neighbours is then replaced (`repair_times`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from star_jax.errors import InputError
from star_jax.video.container import open_video
from star_jax.video.decoding import Damage, decode_frames
from star_jax.video.packets import Clock, PacketList, list_packets
from star_jax.video.repair import repair_times

# Codecs with one shown frame per packet; for others, and for fields, frames are counted by decoding.
PACKET_IS_FRAME = {"h264", "hevc", "av1", "libdav1d", "vp9", "mjpeg", "ffv1", "png", "prores", "dnxhd", "gif"}
# Containers without presentation times, whose frames follow each other at the stream's rate.
NO_TIMESTAMPS = {"h264", "hevc", "m4v", "mpegvideo", "obu"}
# Containers for which libavformat gives other times after a seek.
NO_SEEK = {*NO_TIMESTAMPS, "avi"}
# Called with (number of frames decoded, total number of frames) while a file is decoded.
OnScan = Callable[[int, int], None]
USUAL_RATES = [Fraction(rate) for rate in (12, 15, 24, 25, 30, 48, 50, 60, 100, 120)]
USUAL_RATES += [Fraction(1000 * rate, 1001) for rate in (24, 30, 48, 60, 120)]
# Relative tolerance of a rate: above a nanosecond at 120 frames per second, and far below 24 to 23.976 (1e-3).
_NANOSECOND_OF_A_FRAME = 1e-6


@dataclass(frozen=True)
class FrameTable:
    """Times of all frames in presentation order, in units of `time_base`.

    Attributes:
        pts: times int64 [F], strictly increasing.
        end: end of the last frame.
        is_key: bool [F], whether decoding can start at a frame.
        time_base: seconds per unit.
        stamps: int64 [F], timestamps of the decoded frames; None if seeking is not reliable in the file.
        packets: numbers of the frames' packets; None if the file was not decoded.
        damage: errors while decoding; None if the file was not decoded.
        lost: number of frames of the file that cannot be decoded.
        side_data: kinds of side data in decoded frames.
        sizes: (width, height) of the decoded frames.
        clock: corrections of the times of the file's streams.
    """

    pts: np.ndarray
    end: int
    is_key: np.ndarray
    time_base: Fraction
    stamps: np.ndarray | None = None
    packets: tuple[int | None, ...] | None = None
    damage: Damage | None = None
    lost: int = 0
    side_data: frozenset[str] = frozenset()
    sizes: frozenset[tuple[int, int]] = frozenset()
    clock: Clock = field(default_factory=Clock)


def list_frames(
    path: Path,
    first: av.VideoFrame,
    *,
    scan: bool = False,
    strict: bool = True,
    on_scan: OnScan | None = None,
) -> FrameTable:
    """Lists the frames of a video whose first frame was decoded as `first`.

    Args:
        path: path of the file.
        first: the first frame, which shows whether the pictures are interlaced.
        scan: whether to decode the whole file, which finds damage; otherwise it is decoded only if packets do not
            give the times.
        strict: whether to reject a damaged file; otherwise the frames that can be decoded are listed.
        on_scan: called while the file is decoded.

    Raises:
        InputError: the file is damaged or cut off, or has no frames.
    """
    with open_video(path) as (container, stream):
        packets, clock = list_packets(path, container, stream, strict=strict, thorough=scan)
        codec = stream.codec_context.codec.canonical_name
        format_name, stream_index = container.format.name, stream.index
        step = 1 / (stream.guessed_rate or stream.average_rate or Fraction(24)) / stream.time_base
    shown = [
        number
        for number in range(len(packets.pts))
        if not packets.is_discarded[number] and not packets.is_empty[number]
    ]
    is_plain = codec in PACKET_IS_FRAME and not first.interlaced_frame and _is_plain(packets, shown)
    if scan or not is_plain:
        numbers, damage, side_data, sizes = _decode(path, strict, len(shown), on_scan)
        # If packets are not frames, the number of rejected packets is all that is known about lost frames.
        lost = (
            max(0, len(shown) - len(numbers))
            if codec in PACKET_IS_FRAME and not first.interlaced_frame
            else 0
        )
        lost = lost or damage.errors
    else:
        numbers, damage, lost = sorted(shown, key=packets.time), None, 0
        side_data, sizes = frozenset(), frozenset()
    if not numbers:
        raise InputError(f"{path} has no frames; give a video that plays")
    shifts = [Fraction(0) if number is None else clock.shift(stream_index, number) for number in numbers]
    table = _table(packets, numbers, shifts, format_name, max(1, round(step)))
    if damage is None:
        return dataclasses.replace(table, clock=clock)
    return dataclasses.replace(
        table, clock=clock, packets=tuple(numbers), damage=damage, lost=lost, side_data=side_data, sizes=sizes
    )


def _is_plain(packets: PacketList, shown: list[int]) -> bool:
    """Whether the packets alone determine which frames are shown, and when."""
    times = [packets.pts[number] for number in shown]
    if not shown or any(packets.is_empty) or not packets.is_key[shown[0]]:
        return False
    if None in times:  # without presentation times, decoding times in order are as good
        times = sorted(packets.dts[number] for number in shown if packets.dts[number] is not None)
        return len(times) == len(set(times)) == len(shown)
    # Frames before the first key frame refer to a part that was cut off.
    return len(set(times)) == len(times) and min(times) == times[0]


def _decode(
    path: Path, strict: bool, total: int, on_scan: OnScan | None
) -> tuple[list[int | None], Damage, frozenset[str], frozenset[tuple[int, int]]]:
    """Decodes a file; returns the packet number of each frame in presentation order, damage, side data, sizes."""
    damage = Damage()
    for num_threads in (0, 1):
        numbers, sizes, damage = [], set(), Damage()
        kinds: set[str] = set()
        with open_video(path, num_threads) as (container, stream):
            try:
                for number, frame in decode_frames(container, stream, None if strict else damage):
                    numbers.append(number)
                    sizes.add((frame.width, frame.height))
                    kinds.update(data.type.name for data in frame.side_data)
                    if on_scan is not None:
                        on_scan(len(numbers), total)
            except av.FFmpegError as error:
                raise InputError(f"{path} is damaged near frame {len(numbers)}; copy it again") from error
        if not damage.errors:  # otherwise the decoded frames may depend on how threads share the work
            break
    return numbers, damage, frozenset(kinds), frozenset(sizes)


def _table(
    packets: PacketList, numbers: Sequence[int | None], shifts: list[Fraction], format_name: str, step: int
) -> FrameTable:
    """Times of the frames from packets `numbers`, in presentation order; `shifts` are in seconds."""
    is_key = np.array([number is not None and packets.is_key[number] for number in numbers], bool)
    if format_name in NO_TIMESTAMPS:
        evenly = np.arange(len(numbers)) * step
        return FrameTable(evenly, len(numbers) * step, is_key, packets.time_base)
    stamps = [None if number is None else packets.pts[number] for number in numbers]
    if None in stamps and any(dts is not None for dts in packets.dts):
        known = [n for n in numbers if n is not None and packets.dts[n] is not None]
        if all(stamp is None for stamp in stamps) and len(known) == len(numbers):
            stamps = sorted(packets.dts[number] for number in known)
        else:
            stamps = [None if number is None else packets.time(number) for number in numbers]
    own = stamps
    if _are_decoding_times(numbers, stamps):
        stamps = sorted(stamps)
    times = [
        None if stamp is None else stamp + round(shift / packets.time_base)
        for stamp, shift in zip(stamps, shifts, strict=True)
    ]
    pts, factor = repair_times(times, packets.time_base, step)
    can_seek = format_name not in NO_SEEK and pts == own
    return FrameTable(
        pts=np.array(pts, np.int64),
        end=pts[-1] + _last_duration(packets, numbers, format_name, step) * factor,
        is_key=is_key,
        time_base=packets.time_base / factor,
        stamps=np.array(pts, np.int64) if can_seek else None,
    )


def _are_decoding_times(numbers: Sequence[int | None], stamps: Sequence[int | None]) -> bool:
    """Whether times increase from packet to packet although frames are shown in another order, as in AVI."""
    if None in numbers or None in stamps or list(numbers) == sorted(numbers):
        return False
    in_file = [stamp for _, stamp in sorted(zip(numbers, stamps, strict=True))]
    return all(first < second for first, second in pairwise(in_file))


def _last_duration(packets: PacketList, numbers: Sequence[int | None], format_name: str, step: int) -> int:
    """Duration of the last frame, including the repetitions that follow it."""
    last = numbers[-1]
    if last is None:
        return step
    # MP4 stores the time from one decoding to the next; the packet decoded last has the rest, for the last frame.
    own = packets.durations[len(packets.pts) - 1 if format_name.startswith("mov") else last] or step
    repeats = [number for number in range(last + 1, len(packets.pts)) if packets.is_empty[number]]
    if repeats and packets.time(repeats[-1]) is not None and packets.time(last) is not None:
        end = packets.time(repeats[-1]) + (packets.durations[repeats[-1]] or step)
        return max(own, end - packets.time(last))
    return own


def _usual(rate: Fraction) -> Fraction:
    """The usual rate that a rate stands for: Matroska rounds durations to nanoseconds, so 59.94 is 19001/317."""
    return next((usual for usual in USUAL_RATES if abs(rate / usual - 1) < _NANOSECOND_OF_A_FRAME), rate)


def frame_rate(table: FrameTable, stream: av.VideoStream) -> tuple[Fraction, bool]:
    """(exact rate, whether timestamps are off its grid); it is the file's own rate if the timestamps agree."""
    reported = [_usual(rate) for rate in (stream.guessed_rate, stream.base_rate, stream.average_rate) if rate]
    steps = len(table.pts) - 1
    if not steps:
        return (reported[0] if reported else Fraction(24)), False
    span = int(table.pts[-1] - table.pts[0]) * table.time_base
    mean = steps / span
    unit = max(table.time_base, stream.time_base)
    fitting = [rate for rate in reported if abs(span - steps / rate) <= 2 * unit]
    # If a container has no rate, FFmpeg estimates it, badly if there are few frames.
    usual = [rate for rate in USUAL_RATES if abs(span - steps / rate) <= unit]
    rate = next((rate for rate in fitting if rate in USUAL_RATES), None)
    if rate is None and usual:
        rate = min(usual, key=lambda rate: abs(rate - mean))
    rate = rate or next(iter(fitting), mean.limit_denominator(1001))
    ticks = float(1 / (mean * table.time_base))
    grid = table.pts[0] + np.arange(steps + 1) * ticks
    # Matroska rounds to milliseconds: two units do not make a rate variable unless they are much of a frame.
    tolerance = max(0.1 * ticks, min(2.0 * float(unit / table.time_base), 0.5 * ticks))
    return rate, bool(np.abs(table.pts - grid).max() > tolerance)
