"""Converts text subtitles to a container's form: SubRip, ASS and WebVTT in Matroska, mov_text in MP4 and MOV."""

from collections.abc import Iterator
from fractions import Fraction

import av

TEXT_CODECS = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}
# Form of text in each container that does not support the original form.
TEXT_FORM = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip"}
ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


class TextConverter:
    """Converts packets of a text subtitle stream to another form.

    Args:
        source: stream of the packets.
        output: the output before its header is written.
        container: `mp4`, `mov` or `matroska`.
    """

    def __init__(self, source: av.stream.Stream, output: av.container.OutputContainer, container: str):
        self._decoder = source.codec_context
        self.target = output.add_stream(TEXT_FORM[container])
        self._encoder = self.target.codec_context
        self._encoder.subtitle_header = self._decoder.subtitle_header or ASS_HEADER
        self._encoder.time_base = self.target.time_base = Fraction(1, 1000)

    def convert(self, packet: av.Packet) -> Iterator[av.Packet]:
        """Yields the packet in its new form, with the same time; a text that cannot be decoded yields nothing."""
        try:
            text = self._decoder.decode2(packet)
            new = self._encoder.encode_subtitle(text) if text is not None else None
        except (av.FFmpegError, ValueError):
            return
        if new is not None and new.size:
            new.time_base = packet.time_base
            new.pts = new.dts = packet.pts if packet.pts is not None else packet.dts
            new.duration = packet.duration or 0
            yield new
