"""A part of a file: the properties that the writer needs to keep sound, subtitles and chapters in sync."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

from star_jax.video.probe import VideoInfo


def part_of(info: VideoInfo, times: Sequence[int], start: int, stop: int) -> VideoInfo:
    """Properties of frames [start, stop) of a file whose frames have these times in `info.time_base`."""
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
    return dataclasses.replace(
        info,
        num_frames=stop - start,
        start_time=begin,
        duration=float(end - begin),
        last_duration=Fraction(last),
        part=(begin, end),
        first_frame=start,
        pictures=info.pictures[start:stop],
    )
