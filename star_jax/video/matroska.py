"""Reads and writes elements of a Matroska header (EBML, RFC 8794 and 9559)."""

from collections.abc import Iterator


def find_elements(data: bytes, path: tuple[int, ...]) -> list[bytes]:
    """Returns the contents of all elements at a path of identifiers, such as (Segment, Tracks, TrackEntry)."""
    if not path:
        return [data]
    found = []
    for identifier, content in _elements(data):
        if identifier == path[0]:
            found += find_elements(content, path[1:])
    return found


def element(identifier: int, *content: bytes) -> bytes:
    """Makes an element: identifier, size, content."""
    body = b"".join(content)
    size = (1 << 56 | len(body)).to_bytes(8)  # eight bytes are enough for any size
    return identifier.to_bytes((identifier.bit_length() + 7) // 8) + size + body


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        if length > 4 or at + length >= len(data):
            return
        identifier = int.from_bytes(data[at : at + length])
        at += length
        length = 9 - data[at].bit_length()
        if length > 8 or at + length > len(data):
            return
        size = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
        at += length
        if size == (1 << 7 * length) - 1:  # an unknown size: the element reaches to the end
            size = len(data) - at
        yield identifier, data[at : at + size]
        at += size
