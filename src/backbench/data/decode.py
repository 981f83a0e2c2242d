"""Bytes of an image file -> upright 8-bit RGB pixels, or one BadImage that says in plain words what is wrong.

Whatever a file holds, nothing but BadImage leaves this module. A file is decoded wholly or refused: a truncated
one never comes back with a grey half (except where its own end marker was put back after the cut, which no
decoder can tell), and no file larger than `max_pixels` is decoded, which its header alone decides.
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
"""Goes into the key of everything made from pixels; raise it when the same bytes would give other pixels."""

MAX_FILE_BYTES = 1_000_000_000
MAX_JPEG_SCANS = 100  # an encoder writes about ten; each one costs a pass over all pixels
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,  # MPO, several JPEGs in one file, is opened by the same door
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
        *((AvifImagePlugin.AvifImageFile,) if features.check("avif") else ()),
    )
)
"""What Pillow reads for us; HEIC and HEIF come with the extra 'heif', see `open_image`."""

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


logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors reach stderr beside our own


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Width and height are of the upright image, as `decode_image` gives it; `mode` is Pillow's name for the kind of
    pixel; `has_exif` is whether there is an EXIF block. A PNG may hold one behind its pixels, where a header's
    reader does not see it. `remarks`: what of the image is not used, see `bands.find_remarks`.
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

    Raises BadImage as `decode_image` and `read_file` do, as far as a header can show.
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

    The first frame of an animation or of several pages; EXIF orientation applied; colours as `data/colour.py`
    says. The name and suffix do not matter, only the bytes.

    Args:
        data: the whole file.
        name: the file, for messages.
        max_pixels: larger images are refused from their header. Pillow itself refuses more than 178,956,970
            pixels, whatever this says.
        grey: the scale of the source for images with more than 8 bits; None: see `data/colour.py`.

    Returns:
        (h, w, 3) uint8 RGB, C-contiguous and writable.

    Raises:
        BadImage: for everything that is not a whole, usable image of an allowed format and size.

    Cost: threads wait for one another where their images are too large together, see `data/in_flight.py`.
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
    except Exception as error:  # the list of what Pillow raises on hostile bytes is long and not documented
        raise BadImage(name, _explain(error, io.BytesIO(data), max_pixels)) from error


def measure_values(data: bytes, name: str, *, max_pixels: int) -> Depth:
    """What the values of an image with more than 8 bits are; arguments and errors as of `decode_image`."""
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
            reason = f"has {format_bytes(num_bytes)}, more than the {format_bytes(max_bytes)} allowed"
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
        _check_regular(name, os.fstat(descriptor).st_mode)  # it may have been exchanged in between
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
    """An image of a format that is read, from its header alone; the caller closes it.

    Raises:
        UnidentifiedImageError: it is none. DecompressionBombError: more than `max_pixels`. UnusablePixels: see
            `bands.refuse_tiff`, or no pixels. Whatever else Pillow raises on hostile bytes.
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
    """What decides which files are images and what their pixels are, beside the bytes: for keys of caches."""
    return f"{DECODER_VERSION}/{'AVIF' in FORMATS}/{find_spec('pillow_heif') is not None}"


@lru_cache(maxsize=1)
def has_heif() -> bool:
    """Whether HEIC and HEIF are read: they take the extra 'heif', which is loaded for the first of them."""
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
    """What makes the image upright by its EXIF orientation; None for a TIFF, which Pillow turns itself."""
    if image.format == "TIFF" or not any(holder in image.info for holder in _EXIF_HOLDERS):
        return None
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # broken EXIF beside good pixels: the image is as it is stored
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _silence_pillow() -> None:
    """Pillow's warnings on odd files tell a user nothing, and would be errors under `python -W error`.

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
            return "is a damaged HEIC image, or of a kind that is not read; convert it to JPEG"
        is_tiff = start.startswith(TIFF_STARTS) and not find_unread_format(start)
        return (explain_tiff(file) if is_tiff else None) or name_content(start)
    if isinstance(error, Image.DecompressionBombError):
        return _explain_size(text, max_pixels)
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return f"the file ends too early ({text or 'nothing left to read'})"
    return f"damaged or not supported ({text or type(error).__name__})"


def _explain_size(text: str, max_pixels: int) -> str:
    """How large an image is and what is allowed, told once: Pillow has a limit and words of its own."""
    stated = re.search(r"\((\d+) pixels\)", text)
    size = text if stated is None else f"{int(stated[1]):,} pixels"
    pillow = 2 * (Image.MAX_IMAGE_PIXELS or max_pixels)
    limit = f"{max_pixels:,} pixels are allowed (max_pixels)"
    return f"too large: {size}; {limit if max_pixels <= pillow else f'{pillow:,} pixels are allowed'}"
