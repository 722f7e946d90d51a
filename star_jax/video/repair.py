"""Repairs irregular times: the longest increasing subsequence is kept, and the other times are replaced."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

# Smallest distance in seconds between two frames whose times are repaired.
TICK = Fraction(1, 1000)
_LASTING = 3  # more packets in a row than this are not considered odd


def repair_times(times: Sequence[int | None], time_base: Fraction, step: int) -> tuple[list[int], int]:
    """Makes times strictly increasing, and changes as few of them as possible.

    The longest increasing subsequence is kept. A time that repeats the one before it becomes a tick later, and
    times that go back, jump ahead or are missing are spread evenly between their neighbours.

    Args:
        times: times in presentation order, in units of `time_base`; None for missing times.
        time_base: seconds per unit.
        step: usual time between two frames, in units.

    Returns:
        The times in units of `time_base` / factor, and the factor, which is 1 unless units are too long for frames
        to fit in between.
    """
    kept = _increasing(times)
    if len(kept) == len(times):
        return list(times), 1
    if not kept:
        return [number * step for number in range(len(times))], 1
    gaps = [(second - first, times[second] - times[first]) for first, second in pairwise(kept)]
    finest = max((Fraction(2 * frames, span) for frames, span in gaps), default=Fraction(1))
    factor = max(1, math.ceil(time_base / TICK), math.ceil(finest))
    fixed = {index: times[index] * factor for index in kept}
    first, last = kept[0], kept[-1]
    fixed |= {index: fixed[first] - (first - index) * step * factor for index in range(first)}
    tick = max(1, round(TICK / time_base * factor))
    for left, right in pairwise(kept):
        begin, span, count = fixed[left], fixed[right] - fixed[left], right - left
        repeats = all(times[index] in (times[left], times[right]) for index in range(left + 1, right))
        distance: Any = min(tick, span // count) if repeats else Fraction(span, count)
        for index in range(left + 1, right):
            ahead = repeats and times[index] == times[right]  # the later of two equal times was kept
            fixed[index] = (
                fixed[right] - (right - index) * distance if ahead else begin + int((index - left) * distance)
            )
    for index in range(last + 1, len(times)):
        repeats = times[index] is not None and times[index] == times[index - 1]
        fixed[index] = fixed[index - 1] + (tick if repeats else step * factor)
    return [fixed[index] for index in range(len(times))], factor


def odd_times(times: Sequence[int | None], step: int, limit: int) -> dict[int, int]:
    """Replacements, by position, for times of sound that go back or jump ahead; times that repeat are kept.

    Args:
        times: decoding times in the order of the file.
        step: usual time between two packets.
        limit: longest pause after the first or before the last few packets; packets beyond a longer pause are odd.
    """
    kept = _increasing(times, strictly=False)
    few = range(1, min(_LASTING, (len(kept) - 1) // 2) + 1)
    for count in few:
        if times[kept[-count]] - times[kept[-count - 1]] > limit:
            kept = kept[:-count]
            break
    for count in few:
        if count < len(kept) and times[kept[count]] - times[kept[count - 1]] > limit:
            kept = kept[count:]
            break
    if not kept or len(kept) == len(times):
        return {}
    fixed = {index: times[kept[0]] - (kept[0] - index) * step for index in range(kept[0])}
    for left, right in pairwise(kept):
        span, count = times[right] - times[left], right - left
        fixed |= {left + i: times[left] + span * i // count for i in range(1, count)}
    fixed |= {index: times[kept[-1]] + (index - kept[-1]) * step for index in range(kept[-1] + 1, len(times))}
    return {index: time for index, time in fixed.items() if times[index] is not None}


def _increasing(times: Sequence[int | None], *, strictly: bool = True) -> list[int]:
    """Positions of the longest increasing subsequence; if `strictly`, it has only the first of equal times."""
    lows: list[int] = []  # smallest last time of a subsequence of each length
    at: list[int] = []
    before: dict[int, int | None] = {}
    for index, time in enumerate(times):
        if time is None:
            continue
        length = bisect_left(lows, time) if strictly else bisect_right(lows, time)
        if strictly and length < len(lows) and lows[length] == time:
            continue
        before[index] = at[length - 1] if length else None
        lows[length : length + 1], at[length : length + 1] = [time], [index]
    run: list[int] = []
    index = at[-1] if at else None
    while index is not None:
        run.append(index)
        index = before[index]
    return run[::-1]
