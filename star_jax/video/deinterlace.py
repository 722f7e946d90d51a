"""Deinterlaces frames: each output frame has the lines of one field, and the other lines are interpolated."""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av

CHOICES = ("auto", "on", "off")
# Motion-adaptive filter after yadif and the BBC's w3fdif; it makes one output frame for each input frame.
FILTER = "bwdif"
TIME_BASE = Fraction(1, 1000)

NumberedFrames = Iterable[tuple[int | None, av.VideoFrame]]


def deinterlaced(frames: NumberedFrames, choice: str) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """Passes numbered frames through the filter, which keeps their count and their numbers.

    Args:
        frames: frames in presentation order.
        choice: `auto` filters frames that the file flags as interlaced, `on` filters all.
    """
    which = "interlaced" if choice == "auto" else "all"
    graph, shape = None, None
    waiting: deque[tuple[int | None, dict]] = deque()
    for count, (number, frame) in enumerate(frames):
        if (frame.width, frame.height, frame.format.name) != shape:
            if graph is not None:
                yield from _drain(graph, waiting)
            shape = (frame.width, frame.height, frame.format.name)
            graph = _graph(frame, which)
        tags = {name: getattr(frame, name) for name in ("colorspace", "color_range")}
        frame.pts, frame.time_base = count, TIME_BASE
        waiting.append((number, tags))
        graph.vpush(frame)
        yield from _pull(graph, waiting)
    if graph is not None:
        yield from _drain(graph, waiting)


def _graph(frame: av.VideoFrame, which: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=TIME_BASE
    )
    steps = graph.add(FILTER, f"mode=send_frame:deint={which}"), graph.add("buffersink")
    graph.link_nodes(source, *steps).configure()
    return graph


def _pull(graph: av.filter.Graph, waiting: deque) -> Iterator[tuple[int | None, av.VideoFrame]]:
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        number, tags = waiting.popleft()
        for name, value in tags.items():
            setattr(frame, name, value)
        yield number, frame


def _drain(graph: av.filter.Graph, waiting: deque) -> Iterator[tuple[int | None, av.VideoFrame]]:
    graph.vpush(None)
    yield from _pull(graph, waiting)
