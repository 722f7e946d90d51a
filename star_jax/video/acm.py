"""Windows sound codecs in Matroska: tracks of kind A_MS/ACM, with a WAVEFORMATEX as private data.

FFmpeg writes them only in a lax mode that PyAV cannot set. The track is therefore declared as another codec whose
name has the same length and whose packets the muxer does not change, and the name in the header is corrected
afterwards.
"""

import io
import struct
from pathlib import Path

import av

from star_jax.video.matroska import element

STAND_IN, CODEC_ID = b"A_TRUEHD", b"A_MS/ACM"


class AcmTrack:
    """A sound track of kind A_MS/ACM in an output.

    Args:
        stream: stream of the source; see `takes_acm`.
        output: a Matroska output before its header is written.
    """

    def __init__(self, stream: av.AudioStream, output: av.container.OutputContainer):
        self.private = wave_format(stream)
        context = stream.codec_context
        with av.open(io.BytesIO(_header(self.private, context.sample_rate, context.channels))) as template:
            self.target = output.add_stream_from_template(template.streams.audio[0], opaque=True)


def takes_acm(stream: av.AudioStream) -> bool:
    """Whether WAVEFORMATEX has a name for a stream's codec."""
    return wave_format(stream) is not None


def name_codecs(path: Path, tracks: list[AcmTrack]) -> None:
    """Corrects the codecs' names in the header of a finished file."""
    with path.open("r+b") as file:
        head = file.read(1 << 20)
        for track in tracks:
            # The track's name is the one nearest to its private data.
            at = head.find(track.private)
            before, after = head.rfind(STAND_IN, 0, at), head.find(STAND_IN, at)
            name = before if after < 0 or 0 <= at - before < after - at else after
            file.seek(name)
            file.write(CODEC_ID)
            head = head[:name] + CODEC_ID + head[name + len(CODEC_ID) :]


def wave_format(stream: av.AudioStream) -> bytes | None:
    """The WAVEFORMATEX that FFmpeg writes into a WAV file of a stream; None if it cannot write one."""
    if stream.codec_context is None:
        return None
    with io.BytesIO() as memory:
        try:
            with av.open(memory, "w", format="wav") as trial:
                trial.add_stream_from_template(stream, opaque=True)
                trial.start_encoding()
        except (av.FFmpegError, ValueError):
            return None
        data = memory.getvalue()
    at = data.find(b"fmt ")
    return data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")] if at >= 0 else None


def _header(private: bytes, sample_rate: int, channels: int) -> bytes:
    """A Matroska file with one sound track and no packets."""
    audio = element(0xE1, element(0xB5, struct.pack(">d", sample_rate)), element(0x9F, bytes([channels])))
    track = element(
        0xAE,
        element(0xD7, b"\1"),  # number
        element(0x73C5, b"\1"),  # identifier
        element(0x83, b"\2"),  # kind: sound
        element(0x86, STAND_IN),
        element(0x63A2, private),
        audio,
    )
    cluster = element(0x1F43B675, element(0xE7, b"\0"))  # demuxers need a cluster
    return ebml_header() + element(0x18538067, element(0x1654AE6B, track), cluster)


def ebml_header() -> bytes:
    """The header at the start of every Matroska file."""
    return element(0x1A45DFA3, element(0x4282, b"matroska"), element(0x4287, b"\4"), element(0x4285, b"\2"))
