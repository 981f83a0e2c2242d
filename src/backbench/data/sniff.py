"""Recognise the content of a file from its first bytes, without its name and without a decoder."""

from __future__ import annotations

import re

START_BYTES = 512
HEIF_ADVICE = "pip install 'backbench[heif]' reads it, or convert it to JPEG"
HEIF_BRANDS = (b"hei", b"hev", b"mif1", b"msf1", b"miaf")
_CONVERT = "an unsupported format; convert it to PNG or JPEG"
_RAW = f"a camera raw file, {_CONVERT}"
_READ = (  # (where, bytes, format), of supported formats
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (4, b"ftypavi", "AVIF"),
)
_FOREIGN = (  # (where, bytes, what it is), for other files; raw files can start like a TIFF
    (8, b"CR\x02\0", _RAW),
    (4, b"ftypcrx", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"IIU\0", _RAW),
    (0, b"8BPS", f"a Photoshop file, {_CONVERT}"),
    (0, b"\x00\x00\x00\x0cjP", f"a JPEG 2000 image, {_CONVERT}"),
    (0, b"\xff\x4f\xff\x51", f"a JPEG 2000 image, {_CONVERT}"),
    (0, b"\xff\x0a", f"a JPEG XL image, {_CONVERT}"),
    (0, b"\x00\x00\x00\x0cJXL ", f"a JPEG XL image, {_CONVERT}"),
    (0, b"v/1\x01", f"an OpenEXR image, {_CONVERT}"),
    (0, b"#?RADIANCE", f"a Radiance HDR image, {_CONVERT}"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x00\x05\x16\x07", "a macOS resource file (AppleDouble), not an image"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
    (4, b"ftyp", "a video"),
    (0, b"version https://git-lfs", "a Git LFS pointer: the image itself was not downloaded; run 'git lfs pull'"),
)
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes, of the header after the first fourteen
_NETPBM = re.compile(rb"P[1-6fF]\s+(#[^\n]*\s+)*-?\d")


def is_heif(start: bytes) -> bool:
    """Whether a file with this start is an HEIC or HEIF image (not a video in the same container)."""
    return start[4:8] == b"ftyp" and start[8:].startswith(HEIF_BRANDS)


def find_image_format(start: bytes) -> str | None:
    """'JPEG', 'PNG', ... for the start of an image in a supported format, else None."""
    if is_heif(start):
        return "HEIC"
    if any(start.startswith(magic, where) for where, magic, what in _FOREIGN if what == _RAW):
        return None
    for where, magic, name in _READ:
        if start.startswith(magic, where):
            return name
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BITMAP_HEADERS:
        return "BMP"
    return "PPM" if _NETPBM.match(start) else None


def find_unread_format(start: bytes) -> str | None:
    """'a JPEG XL image, an unsupported format; ...' for the start of such a picture, else None."""
    what = _find_foreign(start)
    return what if what is not None and what.endswith(_CONVERT) else None


def name_content(start: bytes) -> str:
    """Describe a file with this start that is not a readable image: 'is a PDF document', ..."""
    if is_heif(start):
        return f"is an HEIC image: {HEIF_ADVICE}"
    if start.startswith(b"ftypavi", 4):
        return "is a damaged AVIF image, or this Pillow can't read AVIF; convert it to PNG or JPEG"
    what = _find_foreign(start)
    if what is not None:
        return f"is {what}"
    lowered = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if lowered.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is a web page, not an image (a failed download?)"
    if lowered.startswith((b"<svg", b"<?xml")):
        return "is an SVG or XML text, not an image of pixels"
    if start and not start.strip(b"\0"):
        return "holds nothing but zero bytes"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "is text, not an image"
    return "is not an image of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, AVIF, HEIC), or damaged"


def _find_foreign(start: bytes) -> str | None:
    return next((what for where, magic, what in _FOREIGN if start.startswith(magic, where)), None)
