"""One pass over the packets of a file, without decoding: their times, and where times start again."""

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av

from star_jax.errors import InputError
from star_jax.video.notes import note
from star_jax.video.repair import odd_times

# Containers whose header has the duration; for others it is a guess.
KNOW_DURATION = ("mov", "matroska", "avi", "flv")
# Seconds by which such a file may end early, and the smallest number of missing seconds that is reported.
DURATION_TOLERANCE, MISSING = 1.0, 0.1
# If recordings were joined byte by byte, times go back by at least this many seconds, and stay there.
BACKWARD_JUMP = Fraction(1, 10)
# Containers of broadcasts, in which times may also jump ahead, and the seconds from which on that is not a pause.
JUMPING_FORMATS = {"mpegts", "mpeg"}
FORWARD_JUMP = Fraction(10)
# Seconds by which the sound of a recording may reach into the next one.
OVERLAP = Fraction(1, 10)
# Longest sound in seconds that only primes a decoder (Opus: 0.08); a longer discarded start was cut off.
LONGEST_PRIMING = Fraction(1, 10)
# Number of packets after a jump that must agree with it: a single odd time is not a new recording.
LASTING = 3


@dataclass
class PacketList:
    """Packets of one stream in the order of the file; times are in units of `time_base`."""

    time_base: Fraction
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_discarded: list[bool] = field(default_factory=list)
    is_empty: list[bool] = field(default_factory=list)

    def append(self, packet: av.Packet) -> None:
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.durations.append(packet.duration or 0)
        self.is_key.append(packet.is_keyframe)
        self.is_discarded.append(packet.is_discard)
        self.is_empty.append(packet.size == 0)

    def time(self, number: int) -> int | None:
        """Time at which a packet is shown, else its decoding time, else None."""
        return self.pts[number] if self.pts[number] is not None else self.dts[number]


@dataclass(frozen=True)
class Clock:
    """Corrections of packet times, such as those of joined recordings, in which times start again.

    Attributes:
        starts: stream -> numbers of the packets at which the second, third, ... recording begins.
        shifts: seconds to add in each recording, including the first.
        repaired: stream -> number of a sound packet -> time that replaces one that goes back or jumps ahead.
        cut: stream -> number of sound packets that MP4's edit list cuts off at the start.
    """

    starts: dict[int, list[int]] = field(default_factory=dict)
    shifts: tuple[Fraction, ...] = (Fraction(0),)
    repaired: dict[int, dict[int, int]] = field(default_factory=dict)
    cut: dict[int, int] = field(default_factory=dict)

    def recording(self, stream_index: int, number: int) -> int:
        """Number of the recording that a packet belongs to."""
        return sum(number >= start for start in self.starts.get(stream_index, ()))

    def shift(self, stream_index: int, number: int) -> Fraction:
        """Seconds to add to a packet's times."""
        return self.shifts[self.recording(stream_index, number)]


def is_empty(packet: av.Packet) -> bool:
    """Whether a packet has a time but no bytes; one without a time is the demuxer's end marker."""
    return packet.size == 0 and (packet.pts is not None or packet.dts is not None)


def list_packets(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    *,
    strict: bool = True,
    thorough: bool = False,
) -> tuple[PacketList, Clock]:
    """Lists the packets of the video stream, and places the recordings in the file one after another.

    Args:
        path, container, stream: an open file.
        strict: whether to reject a file that is damaged or cut off; otherwise a note reports it, and the existing
            packets are listed.
        thorough: whether to report incomplete packets, too, and to be exact about where the file ends.

    Raises:
        InputError: `strict` is set, and the file is damaged or cut off.
    """
    lists: dict[int, PacketList] = {}
    end, is_cut, partial = 0.0, False, 0
    try:
        for packet in container.demux():
            if packet.size == 0 and not is_empty(packet):
                continue
            packets = lists.setdefault(packet.stream_index, PacketList(packet.time_base))
            packets.append(packet)
            last = packets.time(-1)
            if last is not None:
                end = max(end, float((last + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index:
                is_cut = packet.is_corrupt
                partial += is_cut
    except av.FFmpegError as error:
        if strict:
            raise InputError(
                f"{path} is damaged after {_count(lists, stream)} frames; copy it again"
            ) from error
        is_cut = True
    missing = _announced(container) - end
    if is_cut or missing > (MISSING if strict and thorough else DURATION_TOLERANCE):
        after = f"{path} is cut off after {_count(lists, stream)} frames"
        if strict:
            raise InputError(
                f"{after}; copy it again, or keep these with: ffmpeg -i {path.name} -c copy repaired.mkv"
            )
        note(f"{after}, which are kept (--strict stops instead)")
    elif not strict and missing > MISSING:
        note(f"{path} ends {missing:.2f} s before the end in its header; all its frames are kept")
    if thorough and (partial := partial - is_cut):
        number = "one video packet is" if partial == 1 else f"{partial} video packets are"
        damage = f"{path}: {number} incomplete, as after a bad transmission"
        if strict:
            raise InputError(f"{damage}; copy it again")
        note(f"{damage}; their data is decoded as far as possible (--strict stops instead)")
    kinds = {s.index: s.type for s in container.streams}
    timed = {index: packets for index, packets in lists.items() if kinds.get(index) in ("video", "audio")}
    clock = join_recordings(timed, stream.index, container.format.name in JUMPING_FORMATS)
    for index, packets in timed.items():
        if kinds[index] != "audio":
            continue
        if repaired := _odd_sound(packets, clock, index):
            clock.repaired[index] = repaired
        if cut := _cut_off(packets):
            clock.cut[index] = cut
    return lists.get(stream.index, PacketList(stream.time_base)), clock


def join_recordings(lists: dict[int, PacketList], film: int, may_jump: bool) -> Clock:
    """Shifts every recording after the first so that its picture begins where that of the previous one ends.

    Picture and sound of a recording move together. Sound may reach a little into the next recording (a codec's
    packets do not end with the picture); if it reaches further, the picture waits for it.

    Args:
        lists: packets of the video and audio streams, by stream.
        film: index of the video stream that is shown.
        may_jump: whether times may also jump ahead.
    """
    starts = {index: _restarts(packets, may_jump) for index, packets in lists.items()}
    count = max((len(found) for found in starts.values()), default=0)
    shifts = [Fraction(0)]
    ends: defaultdict[int, Fraction] = defaultdict(Fraction)
    for recording in range(count + 1):
        spans = {index: _span(lists[index], starts[index], recording) for index in lists}
        spans = {index: span for index, span in spans.items() if span is not None}
        if recording:
            needed = {index: ends[index] - first for index, (first, _) in spans.items()}
            longest = max(needed.values(), default=shifts[-1])
            picture = needed.get(film, longest)
            shifts.append(picture if longest - picture <= OVERLAP else longest)
        ends.update({index: last + shifts[-1] for index, (_, last) in spans.items()})
    return Clock({index: found for index, found in starts.items() if found}, tuple(shifts))


def _odd_sound(packets: PacketList, clock: Clock, index: int) -> dict[int, int]:
    """Times that replace odd ones; see `odd_times`."""
    shifts = [round(shift / packets.time_base) for shift in clock.shifts]
    if len(shifts) == 1:
        moves = shifts * len(packets.pts)
    else:
        moves = [shifts[clock.recording(index, number)] for number in range(len(packets.pts))]
    own = [pts if dts is None else dts for pts, dts in zip(packets.pts, packets.dts, strict=True)]
    times = [None if time is None else time + move for time, move in zip(own, moves, strict=True)]
    step = sorted(packets.durations)[len(packets.durations) // 2]
    odd = odd_times(times, step, round(FORWARD_JUMP / packets.time_base))
    return {number: time - moves[number] for number, time in odd.items()}


def _cut_off(packets: PacketList) -> int:
    """Number of packets at the start that must not be heard; 0 if they only prime the decoder."""
    count = next((n for n, is_cut in enumerate(packets.is_discarded) if not is_cut), 0)
    return count if sum(packets.durations[:count]) * packets.time_base > LONGEST_PRIMING else 0


def _restarts(packets: PacketList, may_jump: bool) -> list[int]:
    """Numbers of the packets at which times start again."""
    known = [(number, dts * packets.time_base) for number, dts in enumerate(packets.dts) if dts is not None]
    found: list[int] = []
    highest: Fraction | None = None
    for position, (number, time) in enumerate(known):
        following = [later for _, later in known[position + 1 : position + 1 + LASTING]]
        if highest is not None and following:
            back = time < highest - BACKWARD_JUMP and max(following) < highest
            ahead = may_jump and min(time, *following) > highest + FORWARD_JUMP
            if back or ahead:
                found.append(number)
                highest = time
        highest = time if highest is None else max(highest, time)
    return found


def _span(packets: PacketList, starts: list[int], recording: int) -> tuple[Fraction, Fraction] | None:
    """First and last time in seconds of one recording in one stream."""
    borders = [0, *starts, len(packets.pts)]
    if recording >= len(borders) - 1:
        return None
    numbers = range(borders[recording], borders[recording + 1])
    times = [(packets.time(n), packets.durations[n]) for n in numbers if packets.time(n) is not None]
    if not times:
        return None
    first, last = min(time for time, _ in times), max(time + duration for time, duration in times)
    return first * packets.time_base, last * packets.time_base


def _announced(container: av.container.InputContainer) -> float:
    """End of the file in seconds according to its header; 0 if the header has none."""
    name, duration = container.format.name, container.duration
    if not name.startswith(KNOW_DURATION) or not duration:
        return 0.0
    # Matroska's duration is the time of the end, whatever the start is.
    return ((0 if "matroska" in name else container.start_time or 0) + duration) / av.time_base


def _count(lists: dict[int, PacketList], stream: av.VideoStream) -> int:
    return len(lists[stream.index].pts) if stream.index in lists else 0
