"""A part of a file: what the writer needs to know of it to keep its sound, subtitles and chapters in step."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

from star_jax.video.notes import note
from star_jax.video.probe import VideoInfo

CAPTIONS = "A53_CC"


def part_of(info: VideoInfo, times: Sequence[int], start: int, stop: int) -> VideoInfo:
    """Properties of frames [start, stop) of a file, whose frames have these times in `info.time_base`."""
    if (start, stop) == (0, info.num_frames):
        return info
    begin = times[start] * info.time_base
    is_end = stop == info.num_frames
    last = (
        (info.last_duration or 1 / info.frame_rate)
        if is_end
        else (times[stop] - times[stop - 1]) * info.time_base
    )
    end = times[stop - 1] * info.time_base + last
    if CAPTIONS in info.side_data:
        note(f"{info.path}: the captions within its pictures are left out of a part")
    return dataclasses.replace(
        info,
        num_frames=stop - start,
        start_time=begin,
        duration=float(end - begin),
        last_duration=Fraction(last),
        side_data={name: data for name, data in info.side_data.items() if name != CAPTIONS},
        part=(begin, end),
    )
