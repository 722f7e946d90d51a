"""Encodes PNG files with the colour profile and EXIF data, which OpenCV leaves out."""

import struct
import zlib

import cv2
import numpy as np

from star_jax.video.pictures import Picture, PictureFacts


def encode_png(picture: Picture, facts: PictureFacts | None = None) -> bytes:
    """Encodes a picture as a PNG file, with the colour profile and the EXIF data in `facts`."""
    channels = picture.rgb[..., ::-1]
    if picture.alpha is not None:
        channels = np.concatenate([channels, picture.alpha[..., None]], axis=-1)
    _, data = cv2.imencode(".png", np.ascontiguousarray(channels))
    chunks = b""
    if facts is not None and facts.profile:
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(facts.profile))
    if facts is not None and facts.exif:
        chunks += _chunk(b"eXIf", facts.exif.removeprefix(b"Exif\0\0"))
    png, header = data.tobytes(), 8 + 25  # the signature and the first chunk
    return png[:header] + chunks + png[header:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
