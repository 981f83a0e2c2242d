"""Decode an image file to upright 8-bit RGB pixels, or raise BadImage with the reason in plain words.

This module raises only BadImage, for any content. A file is decoded completely or refused: a truncated file never
gives a half-grey image (unless an end marker was added after the truncation, which no decoder can detect). A file
with more than `max_pixels` is refused from its header.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from backbench.config import GreyScale
from backbench.data.bands import TIFF_STARTS, explain_tiff, find_remarks, refuse_tiff
from backbench.data.colour import UnusablePixels, read_deep, to_rgb
from backbench.data.grey import Depth, measure_depth
from backbench.data.in_flight import GATE
from backbench.data.sniff import START_BYTES, find_unread_format, is_heif, name_content
from backbench.errors import BadImage
from backbench.progress import format_bytes

DECODER_VERSION = 2
"""Part of the cache key of everything made from pixels; increase it when the same bytes give other pixels."""

MAX_FILE_BYTES = 1_000_000_000
MAX_JPEG_SCANS = 100  # encoders write about ten; each scan costs a pass over all pixels
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,  # MPO (several JPEGs in one file) is opened by the same plug-in
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
        *((AvifImagePlugin.AvifImageFile,) if features.check("avif") else ()),
    )
)
"""Formats that Pillow may read; HEIC and HEIF need the extra 'heif', see `open_image`."""

_ORIENTATION = 0x0112
_EXIF_SUBFOLDER = 0x8769
_EXIF_HOLDERS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = tuple(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
_PILLOW_MODULES = r"PIL\."
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)


logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise its errors would appear on stderr


@dataclass(frozen=True)
class Header:
    """The facts in the header of an image file.

    Width and height are of the upright image, as `decode_image` gives it; `mode` is Pillow's name for the kind of
    pixel; `has_exif`: there is an EXIF block. A PNG may have one after its pixels, which is not
    found from the header. `remarks`: unused content of the image, see `bands.find_remarks`.
    """

    width: int
    height: int
    mode: str
    format: str
    num_bytes: int
    has_exif: bool
    remarks: tuple[str, ...] = ()


def read_header(path: str | os.PathLike[str], *, max_pixels: int) -> Header:
    """The header of an image file, without decoding a pixel; about 0.1 ms.

    Raises BadImage as `decode_image` and `read_file` do, as far as the header shows it.
    """
    name = str(path)
    with _open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes == 0:
            raise BadImage(name, "the file is empty")
        try:
            _silence_pillow()
            with open_image(file, max_pixels) as image:
                has_exif = "exif" in image.info or _EXIF_SUBFOLDER in getattr(image, "tag_v2", ())
                width, height = image.size[::-1] if _find_turn(image) in _SIDEWAYS else image.size
                remarks = find_remarks(image)
                return Header(width, height, image.mode, image.format or "", num_bytes, has_exif, remarks)
        except Exception as error:
            raise BadImage(name, _explain(error, file, max_pixels)) from error


def decode_image(data: bytes, name: str, *, max_pixels: int, grey: GreyScale | None = None) -> np.ndarray:
    """The pixels of one image file, as people see them.

    Decodes the first frame or page, applies the EXIF orientation, and converts colours by the rules of
    `data/colour.py`. The name and suffix do not matter, only the bytes.

    Args:
        data: the whole file.
        name: the file, for messages.
        max_pixels: larger images are refused from their header. Pillow itself always refuses more than
            178,956,970 pixels.
        grey: the scale of the source for images with more than 8 bits; None: see `data/colour.py`.

    Returns:
        (h, w, 3) uint8 RGB, C-contiguous and writable.

    Raises:
        BadImage: the file is not a complete, usable image of an allowed format and size.

    Cost: threads with very large images wait for one another, see `data/in_flight.py`.
    """
    if not data:
        raise BadImage(name, "the file is empty")
    try:
        _silence_pillow()
        with open_image(io.BytesIO(data), max_pixels) as image:
            if "progressive" in image.info:
                _check_scans(data)
            with GATE.hold(image.width * image.height):
                image.load()
                rgb, turn = to_rgb(image, grey), _find_turn(image)
                return np.array(rgb if turn is None else rgb.transpose(turn))
    except Exception as error:  # Pillow's errors on hostile bytes are many and not documented
        raise BadImage(name, _explain(error, io.BytesIO(data), max_pixels)) from error


def measure_values(data: bytes, name: str, *, max_pixels: int) -> Depth:
    """The value range of an image with more than 8 bits; arguments and errors as for `decode_image`."""
    try:
        _silence_pillow()
        with open_image(io.BytesIO(data), max_pixels) as image, GATE.hold(image.width * image.height):
            image.load()
            return measure_depth(read_deep(image))
    except Exception as error:  # as in `decode_image`
        raise BadImage(name, _explain(error, io.BytesIO(data), max_pixels)) from error


def read_file(path: str | os.PathLike[str], *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """All bytes of a regular file.

    Raises BadImage for a folder, a pipe or device (without waiting on it), a file that can't be read, an empty
    one, and one of more than `max_bytes`.
    """
    with _open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > max_bytes:
            reason = f"has {format_bytes(num_bytes)}, more than the limit of {format_bytes(max_bytes)}"
            raise BadImage(str(path), reason)
        try:
            data = file.read(num_bytes)
        except OSError as error:
            raise BadImage(str(path), f"can't be read: {error.strerror or error}") from error
    if not data:
        raise BadImage(str(path), "the file is empty")
    return data


def _open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """The file opened for reading, once it is known to be a regular file: opening a pipe would wait for ever."""
    name = str(path)
    try:
        _check_regular(name, Path(path).stat().st_mode)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = open(descriptor, "rb")  # noqa: SIM115  the caller closes it
    except FileNotFoundError as error:
        raise BadImage(name, "there is no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadImage(name, f"can't be opened: {getattr(error, 'strerror', None) or error}") from error
    try:
        _check_regular(name, os.fstat(descriptor).st_mode)  # it may have been replaced in between
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise BadImage(name, "is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise BadImage(name, "is a pipe, socket or device, not a file")


def open_image(file: IO[bytes], max_pixels: int) -> Image.Image:
    """Open an image of an allowed format from its header; the caller closes it.

    Raises:
        UnidentifiedImageError: not an image. DecompressionBombError: more than `max_pixels`. UnusablePixels: see
            `bands.refuse_tiff`, or no pixels. Other errors of Pillow on hostile bytes.
    """
    start = _read_start(file)
    if is_heif(start) and has_heif():
        image = Image.open(file, formats=("HEIF",))
    else:
        file.seek(0)
        image = Image.open(file, formats=FORMATS)
    if image.format == "TIFF" and (reason := refuse_tiff(image, start)):
        raise UnusablePixels(reason)
    if image.width * image.height > max_pixels:
        raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,} pixels")
    if image.width < 1 or image.height < 1:
        raise UnusablePixels("has no pixels")
    return image


def decoder_key() -> str:
    """Everything besides the bytes that decides pixels and readable formats; part of cache keys."""
    return f"{DECODER_VERSION}/{'AVIF' in FORMATS}/{find_spec('pillow_heif') is not None}"


@lru_cache(maxsize=1)
def has_heif() -> bool:
    """Whether HEIC and HEIF can be read: they need the extra 'heif', loaded at first use."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _check_scans(data: bytes) -> None:
    num_scans = data.count(b"\xff\xda")
    if num_scans > MAX_JPEG_SCANS:
        raise UnusablePixels(f"is a JPEG of {num_scans} scans; more than {MAX_JPEG_SCANS} are refused")


def _find_turn(image: Image.Image) -> Image.Transpose | None:
    """The rotation that makes the image upright by its EXIF orientation; None for a TIFF (Pillow rotates it)."""
    if image.format == "TIFF" or not any(holder in image.info for holder in _EXIF_HOLDERS):
        return None
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF beside good pixels: keep the stored orientation
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _silence_pillow() -> None:
    """Silence Pillow's warnings on odd files: they don't help a user and are errors under `python -W error`.

    `warnings.catch_warnings` is not for threads, so the filter is set once and stays.
    """
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _read_start(file: IO[bytes]) -> bytes:
    try:
        file.seek(0)
        return file.read(START_BYTES)
    except (OSError, ValueError):
        return b""


def _explain(error: Exception, file: IO[bytes], max_pixels: int) -> str:
    text = " ".join(str(error).split())[:200]
    if isinstance(error, UnusablePixels):
        return text
    if isinstance(error, UnidentifiedImageError):
        start = _read_start(file)
        if is_heif(start) and has_heif():
            return "is a damaged or unsupported HEIC image; convert it to JPEG"
        is_tiff = start.startswith(TIFF_STARTS) and not find_unread_format(start)
        return (explain_tiff(file) if is_tiff else None) or name_content(start)
    if isinstance(error, Image.DecompressionBombError):
        return _explain_size(text, max_pixels)
    if isinstance(error, MemoryError):
        return "needs more memory than is free"
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return f"the file ends too early ({text or 'nothing left to read'})"
    return f"damaged or not supported ({text or type(error).__name__})"


def _explain_size(text: str, max_pixels: int) -> str:
    """Describe the size of an image and the limit, which may be Pillow's."""
    stated = re.search(r"\((\d+) pixels\)", text)
    size = text if stated is None else f"{int(stated[1]):,} pixels"
    pillow = 2 * (Image.MAX_IMAGE_PIXELS or max_pixels)
    limit = f"{max_pixels:,} pixels are allowed (max_pixels)"
    return f"too large: {size}; {limit if max_pixels <= pillow else f'{pillow:,} pixels are allowed'}"
