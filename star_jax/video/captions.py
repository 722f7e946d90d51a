"""Closed captions (CEA-608 and 708), which are in the side data of frames and which encoders read from there."""

from fractions import Fraction
from pathlib import Path

import av
import av.plane

from star_jax.video.container import open_video
from star_jax.video.decoding import Damage, decode_frames


class CaptionCarrier:
    """Decodes the source in parallel with the output, and passes on the side data of each frame.

    PyAV cannot attach side data to a frame, but FFmpeg's filters keep it: the source's frame is scaled to the
    output's format, and its pixels are replaced.

    Args:
        path: path of the source.
        width, height, pixel_format: size and format of the output's frames.
        first_frame: number of the source's frame that belongs to the output's first.
    """

    def __init__(self, path: Path, width: int, height: int, pixel_format: str, first_frame: int = 0):
        self._opened = open_video(path)
        container, stream = self._opened.__enter__()
        frames = (frame for _, frame in decode_frames(container, stream, Damage()))
        self._frames = frames
        for _ in range(first_frame):
            next(frames, None)
        self._target = (width, height, pixel_format)
        self._graph: av.filter.Graph | None = None
        self._shape: tuple | None = None

    def dress(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Returns `frame` with the side data of the source's next frame."""
        carrier = next(self._frames, None)
        if carrier is None or "A53_CC" not in {data.type.name for data in carrier.side_data}:
            return frame
        shape = (carrier.width, carrier.height, carrier.format.name)
        if shape != self._shape:
            self._graph, self._shape = self._scaler(carrier), shape
        carrier.time_base = Fraction(1, 1000)
        self._graph.vpush(carrier)
        dressed = self._graph.vpull()
        for target, plane in zip(dressed.planes, frame.planes, strict=True):
            target.update(plane) if target.line_size == plane.line_size else _copy_rows(target, plane)
        return dressed

    def close(self) -> None:
        """Closes the source."""
        self._frames.close()
        self._opened.__exit__(None, None, None)

    def _scaler(self, frame: av.VideoFrame) -> av.filter.Graph:
        width, height, pixel_format = self._target
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        scale = graph.add("scale", f"{width}:{height}:flags=neighbor"), graph.add("format", pixel_format)
        graph.link_nodes(source, *scale, graph.add("buffersink")).configure()
        return graph


def _copy_rows(target: av.plane.Plane, plane: av.video.plane.VideoPlane) -> None:
    rows, width = bytes(plane), min(target.line_size, plane.line_size)
    padding = bytes(target.line_size - width)
    starts = range(0, plane.line_size * plane.height, plane.line_size)
    target.update(b"".join(rows[start : start + width] + padding for start in starts))
