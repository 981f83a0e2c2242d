"""Images with more than three colours of 8 bits: the bands that are read, and refusals of others with a reason."""

from __future__ import annotations

from contextlib import suppress
from typing import IO

from PIL import Image, ImageFile, TiffImagePlugin

from backbench.wording import count

DEEP_COLOURS = "with 16 bits for each colour: the upper 8 bits are used"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TO_BYTES = "-scale LOW HIGH 0 255 -ot Byte IN.tif OUT.tif, with the same LOW and HIGH for all files"
_PLANES, _SEPARATE = 284, 2
_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _SUB_FOLDERS, _SAMPLE_FORMAT, _DNG = 254, 258, 262, 277, 330, 339, 50706
_RGB = 2
_NUMBERS = {1: "whole", 2: "signed", 3: "floating-point"}


def find_remarks(image: Image.Image) -> tuple[str, ...]:
    """Describe the unused content of an image, in words that follow a number of images; () for a plain one."""
    remarks = []
    tags = getattr(image, "tag_v2", {})
    num_bands = tags.get(_SAMPLES, 1)
    if num_bands > 3 and tags.get(_PHOTOMETRIC) == _RGB:
        rest = "the others are not used" if num_bands > 4 else "the fourth is not used"
        if image.mode == "RGBA":
            rest = "the fourth as transparency" + (", the others are not used" if num_bands > 4 else "")
        remarks.append(f"with {num_bands} bands: the first three are read as red, green and blue, {rest}")
    if has_deep_colours(image):
        remarks.append(DEEP_COLOURS)
    if image.format in ("TIFF", "GIF", "WEBP", "PNG", "AVIF"):
        with suppress(Exception):  # faults of content that is not read do not matter
            if getattr(image, "is_animated", False):
                remarks.append("with several pages or frames: the first is used")
    return tuple(remarks)


def has_deep_colours(image: Image.Image) -> bool:
    """Whether Pillow keeps the upper 8 of the 16 bits of each colour."""
    if image.format not in ("PNG", "TIFF") or image.mode.startswith(("I", "F")):
        return False
    bits = getattr(image, "tag_v2", {}).get(_BITS, ())
    tile = image.tile[:1] if isinstance(image, ImageFile.ImageFile) else []
    return any(";16" in str(part[3]) for part in tile) or max(bits, default=8) == 16


def refuse_tiff(image: Image.Image, start: bytes) -> str | None:
    """Why a file that opens as a TIFF can't be used; None for a usable one.

    A camera raw file would open as a small preview, and deep bands stored one after another as noise.
    """
    tags = getattr(image, "tag_v2", {})
    if start[8:10] == b"CR" or _DNG in tags or (tags.get(_SUBFILE) == 1 and _SUB_FOLDERS in tags):
        return "is a camera raw file (not supported); convert it to PNG or JPEG"
    num_bands, bits = tags.get(_SAMPLES, 1), max(tags.get(_BITS, (1,)))
    if tags.get(_PLANES) == _SEPARATE and num_bands > 1 and bits > 8:
        return (
            f"is a TIFF of {num_bands} bands of {bits} bits that are stored one after another (not supported). "
            f"Write 8-bit files: gdal_translate -co INTERLEAVE=PIXEL {_TO_BYTES}"
        )
    return None


def explain_tiff(file: IO[bytes]) -> str | None:
    """Why Pillow can't read a TIFF with these bands; None if unknown."""
    try:
        file.seek(0)
        header = file.read(8)
        header += file.read(8) if header[2] == 43 else b""
        folder = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(folder.next)
        folder.load(file)
        num_bands, bits = int(folder.get(_SAMPLES, 1)), max(folder.get(_BITS, (1,)))
        numbers = _NUMBERS.get(max(folder.get(_SAMPLE_FORMAT, (1,))), "complex")
    except Exception:  # the list of what Pillow raises on hostile bytes is long and not documented
        return None
    return (
        f"is a TIFF of {count(num_bands, 'band')} of {bits}-bit {numbers} numbers (not supported). Write one "
        f"band, or three as red, green and blue, to 8-bit files: gdal_translate -b 4 -b 3 -b 2 {_TO_BYTES}"
    )
