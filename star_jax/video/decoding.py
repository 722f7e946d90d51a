"""Decodes the pictures of a file one by one, each with the number of the packet that it came from.

Times are kept out of the decoder: the times in a file may repeat, go back or be missing, while the number
of its packet says for certain which picture a frame is (see timeline.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import av

from star_jax.video.packets import is_empty


@dataclass
class Damage:
    """Errors while decoding.

    Attributes:
        errors: packets that the decoder refused.
        shown: frames that came out although parts of them were missing.
        first: the first error.
    """

    errors: int = 0
    shown: int = 0
    first: Exception | None = None


def decode_frames(
    container: av.container.InputContainer, stream: av.VideoStream, damage: Damage | None = None
) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """Yields (number of its packet, frame) in the order of showing, from where the container stands.

    Packets of no bytes repeat the picture before them and give no frame.

    Args:
        container, stream: an open file.
        damage: counts what cannot be decoded, and goes on after it; None raises at the first error.

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
        except av.EOFError:  # nothing is left to flush
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
