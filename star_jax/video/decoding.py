"""Decodes the frames of a file one by one, each with the number of its packet.

The decoder never sees times: the times in a file may repeat, go back or be missing, while the number of its packet
identifies a frame reliably (see timeline.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import av

from star_jax.video.packets import is_empty


@dataclass
class Damage:
    """Errors while decoding.

    Attributes:
        errors: number of packets that the decoder rejected.
        shown: number of frames that were decoded with parts missing.
        first: the first error.
    """

    errors: int = 0
    shown: int = 0
    first: Exception | None = None


def decode_frames(
    container: av.container.InputContainer, stream: av.VideoStream, damage: Damage | None = None
) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """Yields (packet number, frame) in presentation order, from the container's current position.

    Packets without bytes repeat the previous picture and give no frame.

    Args:
        container, stream: an open file.
        damage: counts errors, after which decoding continues; None raises the first error.

    Raises:
        av.FFmpegError: a packet cannot be read or decoded, and `damage` is None.
    """
    packets = container.demux(stream)
    number = -1
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            _count(damage, error)
            packet = None
        if packet is not None and not _is_end(packet):
            number += 1
            if is_empty(packet):
                continue
            packet.pts = packet.dts = number
        try:
            frames = stream.decode(packet if packet is not None and not _is_end(packet) else None)
        except av.EOFError:  # there is nothing left to flush
            frames = []
        except av.FFmpegError as error:
            _count(damage, error)
            frames = []
        for frame in frames:
            if damage is not None and frame.is_corrupt:
                damage.shown += 1
            yield frame.pts, frame
        if packet is None or _is_end(packet):
            return


def _is_end(packet: av.Packet) -> bool:
    return packet.size == 0 and packet.pts is None and packet.dts is None


def _count(damage: Damage | None, error: av.FFmpegError) -> None:
    if damage is None:
        raise error
    damage.errors += 1
    damage.first = damage.first or error
