"""Converts RGB arrays to an encoder's frames."""

from fractions import Fraction

import av
import numpy as np

from star_jax.video import color
from star_jax.video.encoders import Encoding

# H.264 players assume that chroma samples are on the left; by default swscale would centre them, and shift colours.
CONVERSION = (
    "out_color_matrix={matrix}:out_range=limited:out_chroma_loc=left:"
    "flags=bicubic+accurate_rnd+full_chroma_inp"
)
MATRIX_NAMES = {color.BT709: "bt709", color.BT2020: "bt2020"}


class FrameMaker:
    """Converts images uint8, uint16 or float [H, W, 3] to frames of an encoding."""

    def __init__(self, encoding: Encoding):
        self._encoding = encoding
        self._graph: av.filter.Graph | None = None

    def make(self, image: np.ndarray) -> av.VideoFrame:
        """Makes a frame without a time from an image [H, W, 3]."""
        encoding = self._encoding
        if encoding.bits == 8 and image.dtype == np.uint8:
            return self._by_swscale(image)
        planes = color.rgb_to_planes(
            color.to_float(image), encoding.bits, encoding.matrix, False, encoding.subsampling
        )
        return color.planes_to_frame(
            planes[: 1 if encoding.pixel_format.startswith("gray") else 3], encoding.pixel_format
        )

    def _by_swscale(self, image: np.ndarray) -> av.VideoFrame:
        if self._graph is None:
            height, width = image.shape[:2]
            self._graph = _converter(width, height, self._encoding)
        self._graph.vpush(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
        return self._graph.vpull()


def _converter(width: int, height: int, encoding: Encoding) -> av.filter.Graph:
    """Makes a filter that converts RGB frames to the encoder's pixel format."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, 90_000)
    )
    steps = (
        graph.add("scale", CONVERSION.format(matrix=MATRIX_NAMES[encoding.matrix])),
        graph.add("format", encoding.pixel_format),
        graph.add("buffersink"),
    )
    graph.link_nodes(source, *steps).configure()
    return graph
