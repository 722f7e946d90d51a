"""Reads one picture file: its header, and its pixels with transparency, profile and EXIF data."""

import contextlib
import io
import struct
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from star_jax.errors import InputError
from star_jax.video import heif
from star_jax.video.container import check_readable
from star_jax.video.jpeg import decode_jpeg
from star_jax.video.notes import note

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".avif"}
SUFFIXES |= heif.SUFFIXES if heif.IS_READ else set()
# Formats in which several pictures are an animation; a phone's JPEG may hold other pictures, such as depth.
ANIMATED_FORMATS = {"WEBP", "PNG", "AVIF", "TIFF", "GIF"}
MAX_PIXELS = 1 << 27  # 134 million: more than any camera's, and 400 MB as RGB
ORIENTATION = 0x0112  # EXIF
TIFF_LAYOUT = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 284, 297, 317, 320, 338, 339}
TIFF_LAYOUT |= set(range(321, 326))  # tiles

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are reported in one line instead


@dataclass(frozen=True)
class PictureFacts:
    """Properties from a picture's header.

    Attributes:
        width, height: size in pixels, upright.
        bit_depth: 8, or 16 if a sample has more than 8 bits.
        has_alpha: whether it has transparency.
        num_frames: number of frames; 1 unless it is an animation.
        profile: ICC profile of RGB pixels.
        exif: EXIF data, with the orientation set to upright.
    """

    width: int
    height: int
    bit_depth: int = 8
    has_alpha: bool = False
    num_frames: int = 1
    profile: bytes | None = None
    exif: bytes | None = None


@dataclass(frozen=True)
class Picture:
    """Pixels: `rgb` uint8 or uint16 [H, W, 3], and `alpha` of the same dtype [H, W] or None."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None


def inspect_picture(file: Path) -> PictureFacts:
    """Reads a picture's header.

    Raises:
        InputError: the file is missing or unreadable, is not a supported picture, or has too many pixels.
    """
    with open_picture(file) as image:
        profile = image.info.get("icc_profile")
        exif = image.getexif()
        turned = exif.get(ORIENTATION, 1) >= 5 and image.format != "TIFF"  # a TIFF's size is upright
        exif[ORIENTATION] = 1
        if image.format == "TIFF":  # its tags also describe how the pixels are stored
            for tag in TIFF_LAYOUT & exif.keys():
                del exif[tag]
        width, height = image.size[::-1] if turned else image.size
        facts = PictureFacts(
            width=width,
            height=height,
            bit_depth=_bit_depth(file, image),
            has_alpha=("A" in image.getbands() and image.mode != "LAB") or "transparency" in image.info,
            num_frames=getattr(image, "n_frames", 1) if image.format in ANIMATED_FORMATS else 1,
            profile=profile if profile and profile[16:20] == b"RGB " and image.mode != "CMYK" else None,
            exif=exif.tobytes() if len(exif) > 1 else None,
        )
        _note_unread_parts(file, image)
        if image.format == "TIFF" and facts.num_frames > 1 and not _pages_of_one_size(image):
            return replace(facts, num_frames=1)  # a picture with smaller copies
        return facts


def read_picture(file: Path, *, depth: int | None = 8, strict: bool = False) -> Picture:
    """Reads a picture, upright; fully transparent pixels get the colours around them.

    Args:
        file: path of the picture.
        depth: 8, or None for 16 bits if it has more than 8.
        strict: whether to reject a JPEG whose data are damaged; otherwise a note reports it.

    Raises:
        InputError: as in `inspect_picture`, or the pixels cannot be decoded.
    """
    facts = inspect_picture(file)
    deep = depth is None and facts.bit_depth > 8
    with open_picture(file) as image:
        if image.format == "HEIF" and deep:
            return _with_alpha(heif.read_deep(file, image.info["bit_depth"]))
        is_jpeg = image.format in ("JPEG", "MPO")
        by_cv2 = is_jpeg or image.format in ("BMP", "TIFF", "WEBP") or facts.bit_depth > 8
        bits = _avif_bits(file) if image.format == "AVIF" else 16
        # OpenCV always turns a TIFF upright.
        orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
        if not by_cv2 or image.mode == "CMYK" or (image.mode == "P" and image.format != "TIFF"):
            return from_pillow(ImageOps.exif_transpose(image))
    if is_jpeg:
        return Picture(_upright(_read_jpeg(file, strict), orientation))
    data = np.fromfile(file, np.uint8)
    if not facts.has_alpha and not deep and bits == 16:
        pixels = _decode(file, data, cv2.IMREAD_COLOR)
        return Picture(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    pixels = _decode(file, data, cv2.IMREAD_UNCHANGED)
    if pixels.dtype.kind == "f" and np.nanmax(pixels) > 1:
        note(f"{file} has values up to {np.nanmax(pixels):.3g}; 1 is white, and larger values are clipped")
    return _of_levels(_upright(pixels, orientation), deep, bits)


def read_page(file: Path, number: int, *, deep: bool, has_alpha: bool) -> Picture:
    """Reads one page of a TIFF, counted from 0, upright; `deep` keeps 16 bits.

    Raises:
        InputError: the page cannot be decoded.
    """
    flags = cv2.IMREAD_UNCHANGED if deep or has_alpha else cv2.IMREAD_COLOR
    try:
        _, pages = cv2.imreadmulti(str(file), number, 1, flags=flags)
    except cv2.error:
        pages = ()
    if not pages:
        raise InputError(f"cannot read page {number} of {file}; it is damaged: replace or remove it")
    return _of_levels(pages[0], deep)


def _of_levels(pixels: np.ndarray, deep: bool, bits: int = 16) -> Picture:
    """Converts pixels with `bits` bits from OpenCV to a picture; `deep` keeps 16 bits."""
    if pixels.dtype not in (np.uint8, np.uint16):  # float: 1 is white
        pixels = np.round(np.clip(np.nan_to_num(pixels.astype(np.float32)), 0, 1) * 65535).astype(np.uint16)
    if pixels.dtype == np.uint16:
        pixels = _from_bits(pixels, bits) if bits < 16 else pixels
        pixels = pixels if deep else np.round(pixels / 257).astype(np.uint8)
    if pixels.ndim == 2:
        return Picture(np.repeat(pixels[..., None], 3, axis=-1))
    if pixels.shape[-1] == 4:
        rgb, alpha = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), pixels[..., 3]
        return Picture(fill_transparent(rgb, alpha), alpha)
    return Picture(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def from_pillow(image: Image.Image) -> Picture:
    """Converts an image that Pillow has decoded to a picture with 8 bits."""
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            image = ImageCms.profileToProfile(
                image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
    if "A" in image.getbands() or "transparency" in image.info:
        return _with_alpha(np.asarray(image.convert("RGBA")))
    return Picture(np.asarray(image.convert("RGB")))


def _with_alpha(pixels: np.ndarray) -> Picture:
    """Converts RGB or RGBA pixels to a picture."""
    if pixels.shape[-1] == 3:
        return Picture(pixels)
    rgb, alpha = np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
    return Picture(fill_transparent(rgb, alpha), alpha)


def fill_transparent(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Gives fully transparent pixels the colours of the visible pixels around them.

    The colours that a file stores there are never seen, but would bleed into the picture when it is enlarged.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    weight = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    filled = rgb.astype(np.float32)
    sigma = 1.0
    while hidden.any():
        blurred = cv2.GaussianBlur(weight, (0, 0), sigma)
        known = hidden & (blurred > 1e-4)
        colors = cv2.GaussianBlur(rgb * weight[..., None], (0, 0), sigma)
        filled[known] = colors[known] / blurred[known][..., None]
        hidden &= ~known
        sigma *= 4
    return np.round(filled).astype(rgb.dtype)


@contextlib.contextmanager
def open_picture(file: Path) -> Any:
    """Opens a picture with Pillow, which reads its header only.

    Raises:
        InputError: see `inspect_picture`.
    """
    check_readable(file)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the check below has a better message
    warnings.filterwarnings("ignore", module="PIL")  # about damaged tags, which are not used
    try:
        image = Image.open(file)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError, OverflowError) as error:
        if file.suffix.lower() in heif.SUFFIXES:
            raise InputError(
                f"{file} is a HEIC picture; run pip install pillow-heif, or convert it to PNG"
            ) from error
        with file.open("rb") as data:
            is_tiff = data.read(4) in (b"II*\0", b"MM\0*")
        if is_tiff:
            raise InputError(
                f"cannot read {file}: it is damaged, or a kind of TIFF that is not supported (such as RGB in "
                "floating point); convert it to a TIFF or PNG with 16 bits per sample"
            ) from error
        raise InputError(
            f"cannot read {file} as an image: it is damaged or not an image; replace or remove it"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{file} has {image.width}x{image.height} pixels, but at most {MAX_PIXELS // 10**6} million are "
                "supported; cut it into parts, or make it smaller"
            )
        try:
            yield image
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            struct.error,
            KeyError,
            IndexError,
            TypeError,
        ) as error:
            raise InputError(
                f"cannot read {file} as an image: it is damaged or not an image; replace or remove it"
            ) from error


def _decode(file: Path, data: np.ndarray, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(data, flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(
            f"cannot read {file} as an image: it is damaged or not an image; replace or remove it"
        )
    return pixels


def _read_jpeg(file: Path, strict: bool) -> np.ndarray:
    pixels, is_damaged = decode_jpeg(file.read_bytes())
    if pixels is None or (strict and is_damaged):
        raise InputError(
            f"cannot read {file} as an image: it is damaged or not an image; replace or remove it"
        )
    if is_damaged:
        note(f"{file} has damaged data, and is upscaled as viewers show it (--strict stops instead)")
    return pixels


def _from_bits(levels: np.ndarray, bits: int) -> np.ndarray:
    """Converts levels with `bits` bits to uint16 with the full range."""
    return np.round(levels * (65535 / (2**bits - 1))).astype(np.uint16)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels upright according to the EXIF orientation (1 to 8)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _bit_depth(file: Path, image: Image.Image) -> int:
    if image.format == "PNG":  # Pillow does not report it
        with file.open("rb") as png:
            return 16 if png.read(25)[24:] == b"\x10" else 8
    if image.format == "HEIF":
        return 16 if image.info.get("bit_depth", 8) > 8 else 8
    if image.format == "AVIF":
        return 16 if _avif_bits(file) > 8 and cv2.haveImageReader(str(file)) else 8
    if image.format == "TIFF":
        if image.mode == "I":
            raise InputError(
                f"{file} has 32-bit integers, for which white is not defined; convert it to 16 bits"
            )
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        bits = image.tag_v2.get(258, (8,))
        return 16 if max(bits if isinstance(bits, tuple) else (bits,)) > 8 else 8
    return 8


def _note_unread_parts(file: Path, image: Image.Image) -> None:
    """Notes the other pictures of a HEIC file, and the bits of an AVIF file that OpenCV cannot read."""
    num_pictures = getattr(image, "n_frames", 1)
    if image.format == "HEIF" and num_pictures > 1:
        note(f"{file} has {num_pictures} pictures; only the first is read")
    if image.format == "AVIF" and _avif_bits(file) > 8 and not cv2.haveImageReader(str(file)):
        note(f"{file} has over 8 bits per sample; it is read with 8 bits (newer versions of OpenCV read all)")


def _avif_bits(file: Path) -> int:
    """Bits per sample of an AVIF picture, from its decoder settings (av1C)."""
    with file.open("rb") as data:
        _, _, settings = data.read(1 << 16).partition(b"av1C")
    if len(settings) < 3 or not settings[2] & 0x40:
        return 8
    return 12 if settings[2] & 0x20 else 10


def _pages_of_one_size(image: Image.Image) -> bool:
    size = image.size
    try:
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            if image.size != size:
                return False
        return True
    finally:
        image.seek(0)
