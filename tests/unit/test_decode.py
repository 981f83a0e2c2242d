"""Images of every mode, orientation and degree of damage."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from backbench.data import decode as decode_module
from backbench.data.decode import FORMATS, decode_image, read_file, read_header
from backbench.data.file_kinds import IMAGE_SUFFIXES
from backbench.errors import BadImage

CAP = 100_000_000
HEIGHT, WIDTH = 24, 36
TIFF_TYPES = {"short": (3, "H"), "long": (4, "I")}


def decode(data: bytes, max_pixels: int = CAP) -> np.ndarray:
    return decode_image(data, "some.jpg", max_pixels=max_pixels)


def make_colours() -> np.ndarray:
    """(24, 36, 3) uint8 without any symmetry: smooth, 8..247 in each channel, so that JPEG need not clip."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    red, green, blue = x / (WIDTH - 1), y / (HEIGHT - 1), (x + 2 * y) / (WIDTH - 1 + 2 * HEIGHT - 2)
    return (8 + 239 * np.stack([red, green, blue], axis=-1)).round().astype(np.uint8)


COLOURS = make_colours()
GREYS = COLOURS[..., 2]
ALPHA = COLOURS[..., 0]


def grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, axis=-1)


def blend(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def turn(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What the EXIF standard says of where row 0 and column 0 of the stored image are in the picture."""
    return {
        1: lambda: stored,
        2: lambda: stored[:, ::-1],
        3: lambda: stored[::-1, ::-1],
        4: lambda: stored[::-1],
        5: lambda: stored.swapaxes(0, 1),
        6: lambda: np.rot90(stored, -1),
        7: lambda: stored[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(stored, 1),
    }[orientation]()


# Writers of files that Pillow can't save


def save(image: Image.Image, form: str, orientation: int = 1, **options: Any) -> bytes:
    out = io.BytesIO()
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(out, form, **options)
    return out.getvalue()


def make_tiff(pixels: np.ndarray, photometric: int, bits: int, orientation: int = 1, **tags: int) -> bytes:
    """A TIFF of one strip; `pixels` (h, w) or (h, w, c) in its own byte order; `tags` as t339=(value)."""
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    data = pixels.tobytes()
    entries = {256: ("long", width), 257: ("long", height), 259: ("short", 1), 262: ("short", photometric)}
    entries |= {274: ("short", orientation), 277: ("short", channels), 278: ("long", height)}
    entries |= {279: ("long", len(data))} | {int(tag[1:]): ("short", value) for tag, value in tags.items()}
    num_entries = len(entries) + 2
    after = 8 + 2 + 12 * num_entries + 4
    body = b""
    for tag in sorted([*entries, 258, 273]):
        if tag == 258 and channels > 2:
            body += struct.pack(order + "HHII", tag, 3, channels, after)
        elif tag == 258:
            body += struct.pack(order + "HHIHH", tag, 3, channels, bits, bits if channels == 2 else 0)
        elif tag == 273:
            body += struct.pack(order + "HHII", tag, 4, 1, after + 8)
        else:
            kind, code = TIFF_TYPES[entries[tag][0]]
            body += struct.pack(f"{order}HHI{code}", tag, kind, 1, entries[tag][1]).ljust(12, b"\0")
    start = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, num_entries)
    extra = struct.pack(order + "4H", *[bits] * 4)
    return start + body + b"\0\0\0\0" + extra + data


def make_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_png(pixels: np.ndarray, colour_type: int, depth: int, chunks: bytes = b"", level: int = 6) -> bytes:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2" if depth == 16 else np.uint8))
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    body = make_chunk(b"IDAT", zlib.compress(rows, level))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + body + make_chunk(b"IEND", b"")


def make_exif_chunk(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return make_chunk(b"eXIf", exif.tobytes()[6:])


def make_profile(
    primaries: list[list[float]], gamma: float, space: bytes = b"RGB ", table: np.ndarray | None = None
) -> bytes:
    """An ICC profile: columns of `primaries` are the XYZ (D50) of red, green and blue."""

    def xyz(values: list[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    if table is not None:
        curve = b"curv\0\0\0\0" + struct.pack(">I", len(table)) + (table * 65535).round().astype(">u2").tobytes()
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    tags = {b"wtpt": xyz([0.9642, 1.0, 0.8249]), b"cprt": b"text\0\0\0\0none", b"desc": text}
    if space == b"RGB ":
        columns = list(zip(*primaries, strict=True))
        for name, column in zip(b"rgb", columns, strict=True):
            tags[bytes([name]) + b"XYZ"] = xyz(list(column))
            tags[bytes([name]) + b"TRC"] = curve
    else:
        tags[b"kTRC"] = curve
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = 128 + len(table) + len(data)
    header = struct.pack(">I", size) + b"test\x02\x10\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


SRGB_TO_XYZ = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169]])
SRGB_TO_XYZ = np.vstack([SRGB_TO_XYZ, [0.0139322, 0.0971045, 0.7141733]])
ADOBE_TO_XYZ = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])


def xyz_to_srgb(xyz: np.ndarray) -> np.ndarray:
    linear = np.clip(xyz @ np.linalg.inv(SRGB_TO_XYZ).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    lightness, a, b = lab[..., 0] / 2.55, lab[..., 1].astype(float), lab[..., 2].astype(float)
    fy = (lightness + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1.0, 0.8249]
    return xyz_to_srgb(xyz)


# The golden matrix: name -> orientation -> (file, expected pixels as stored)

Maker = Callable[[int], tuple[bytes, np.ndarray]]


def via(form: str, image: Image.Image, expected: np.ndarray, **options: Any) -> Maker:
    return lambda orientation: (save(image, form, orientation, **options), expected)


def via_tiff(expected: np.ndarray, pixels: np.ndarray, photometric: int, bits: int, **tags: int) -> Maker:
    return lambda orientation: (make_tiff(pixels, photometric, bits, orientation, **tags), expected)


def via_png(expected: np.ndarray, pixels: np.ndarray, colour_type: int, depth: int, chunks: bytes = b"") -> Maker:
    return lambda orientation: (
        make_png(pixels, colour_type, depth, chunks + make_exif_chunk(orientation)),
        expected,
    )


def make_golden() -> dict[str, Maker]:
    rgb, grey = Image.fromarray(COLOURS), Image.fromarray(GREYS)
    rgba = Image.fromarray(np.dstack([COLOURS, ALPHA]))
    palette = rgb.quantize(200, dither=Image.Dither.NONE)
    table = np.array(palette.getpalette(), dtype=np.uint8).reshape(-1, 3)
    indices = np.asarray(palette)
    table_alpha = np.linspace(0, 255, len(table)).astype(np.uint8)
    with_alpha = palette.copy()
    with_alpha.info["transparency"] = table_alpha.tobytes()
    bits = grey.convert("1", dither=Image.Dither.NONE)
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    deep_rgb = grey_to_rgb(deep / 257)
    ink = np.dstack([255 - COLOURS, GREYS // 3])
    inked = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:].astype(float)) / 255
    keyed = np.where((COLOURS[3, 4] == COLOURS).all(-1, keepdims=True), 255, COLOURS)
    grey_keyed = grey_to_rgb(np.where(GREYS[3, 4] == GREYS, 255, GREYS))
    deep_keyed = np.where(deep[..., None] == deep[3, 4], 255, deep_rgb)
    key = b"".join(struct.pack(">H", value) for value in COLOURS[3, 4])
    ycc = np.dstack([COLOURS[..., 2], 96 + COLOURS[..., 0] // 4, 96 + COLOURS[..., 1] // 4])
    y, cb, cr = (ycc[..., i].astype(float) - (0, 128, 128)[i] for i in range(3))
    from_ycc = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    lab = np.dstack([60 + GREYS // 2, COLOURS[..., 0] // 8, COLOURS[..., 1] // 8])
    linear = (COLOURS / 255) ** (563 / 256)
    wide = {"icc_profile": make_profile(ADOBE_TO_XYZ.tolist(), 563 / 256)}
    ramp = ((GREYS.astype(np.float32) - 8) * np.float32(255 / 239)).round()  # 0..255
    return {
        "RGB png": via("PNG", rgb, COLOURS),
        "RGB jpeg": via("JPEG", rgb, COLOURS, quality=100, subsampling=0),
        "RGB progressive jpeg": via("JPEG", rgb, COLOURS, quality=100, subsampling=0, progressive=True),
        "RGB webp": via("WEBP", rgb, COLOURS, lossless=True),
        "RGB tiff": via("TIFF", rgb, COLOURS),
        "RGB tiff lzw": via("TIFF", rgb, COLOURS, compression="tiff_lzw"),
        "RGB 16-bit png": via_png(np.floor(COLOURS / 1.0), COLOURS.astype(np.uint16) * 257, 2, 16),
        "L png": via("PNG", grey, grey_to_rgb(GREYS)),
        "L jpeg": via("JPEG", grey, grey_to_rgb(GREYS), quality=100),
        "LA png": via_png(blend(grey_to_rgb(GREYS), ALPHA), np.dstack([GREYS, ALPHA]), 4, 8),
        "1 png": via("PNG", bits, grey_to_rgb(np.where(GREYS >= 128, 255, 0))),
        "1 tiff": via("TIFF", bits, grey_to_rgb(np.where(GREYS >= 128, 255, 0)), compression="group4"),
        "P png": via("PNG", palette, table[indices]),
        "P+tRNS png": via("PNG", with_alpha, blend(table[indices], table_alpha[indices])),
        "PA": via("TIFF", palette, table[indices]),
        "RGB+tRNS png": via_png(keyed, COLOURS, 2, 8, make_chunk(b"tRNS", key)),
        "L+tRNS png": via_png(grey_keyed, GREYS, 0, 8, make_chunk(b"tRNS", struct.pack(">H", GREYS[3, 4]))),
        "I;16+tRNS png": via_png(deep_keyed, deep, 0, 16, make_chunk(b"tRNS", struct.pack(">H", deep[3, 4]))),
        "RGBA png": via("PNG", rgba, blend(COLOURS, ALPHA)),
        "RGBA webp": via("WEBP", rgba, blend(COLOURS, ALPHA), lossless=True, exact=True),
        "CMYK tiff": via_tiff(inked, ink, 5, 8),
        "CMYK Adobe-inverted jpeg": via("JPEG", Image.fromarray(ink, "CMYK"), inked, quality=100),
        "YCbCr tiff": via_tiff(np.clip(from_ycc, 0, 255), ycc, 6, 8),
        "LAB tiff": via_tiff(lab_to_srgb(lab), lab, 8, 8),
        "I;16 png": via_png(deep_rgb, deep, 0, 16),
        "I;16 tiff": via_tiff(deep_rgb, deep, 1, 16),
        "I;16B tiff": via_tiff(deep_rgb, deep.astype(">u2"), 1, 16),
        "I;16 tiff, white is zero": via_tiff(255 - deep_rgb, deep, 0, 16),
        "I tiff, 16-bit values": via_tiff(deep_rgb, deep.astype(np.int32), 1, 32, t339=2),
        "I tiff, 8-bit values": via_tiff(grey_to_rgb(GREYS), GREYS.astype(np.int32), 1, 32, t339=2),
        "I tiff, unsigned": via_tiff(grey_to_rgb(ramp), ramp.astype(np.uint32) * 16843009, 1, 32, t339=1),
        "I tiff, signed 16-bit": via_tiff(deep_rgb, (deep.astype(int) - 32768).astype(np.int16), 1, 16, t339=2),
        "F tiff, 0..1": via_tiff(grey_to_rgb(ramp), ramp / 255, 1, 32, t339=3),
        "F tiff, 0..255": via_tiff(grey_to_rgb(ramp), ramp, 1, 32, t339=3),
        "F tiff, 0..65535": via_tiff(grey_to_rgb(ramp), ramp * 257, 1, 32, t339=3),
        "F tiff, -3..7": via_tiff(grey_to_rgb(ramp), ramp / 25.5 - 3, 1, 32, t339=3),
        "F tiff, big-endian": via_tiff(grey_to_rgb(ramp), (ramp / 255).astype(">f4"), 1, 32, t339=3),
        "RGB wide gamut": via("PNG", rgb, xyz_to_srgb(linear @ ADOBE_TO_XYZ.T), **wide),
        "L with a grey profile": via(
            "PNG",
            grey,
            grey_to_rgb(xyz_to_srgb((GREYS / 255)[..., None] ** 1.0 * [0.9642, 1.0, 0.8249])[..., 1]),
            icc_profile=make_profile([], 1.0, b"GRAY"),
        ),
        "P wide gamut": via(
            "PNG", palette, xyz_to_srgb((table[indices] / 255) ** (563 / 256) @ ADOBE_TO_XYZ.T), **wide
        ),
    }


GOLDEN = make_golden()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_matrix(name: str, orientation: int) -> None:
    data, stored = GOLDEN[name](orientation)
    found = decode(data)
    expected = turn(np.asarray(stored, dtype=float), orientation)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.shape == expected.shape
    loss = 3 if "jpeg" in name else 2  # the codec rounds in another colour space
    if name in ("I tiff, unsigned", "F tiff, -3..7"):
        loss = 5  # without a source's scale it is their own, less a pixel at each end, which may be a hot one
    assert np.abs(found - expected).max() <= loss


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN if name.startswith(("RGB png", "RGB webp", "L png", "P png"))]
)
def test_lossless_modes_are_exact(name: str) -> None:
    data, stored = GOLDEN[name](1)
    assert np.array_equal(decode(data), stored)


@pytest.mark.parametrize("name", ["I;16 png", "I;16 tiff", "I;16B tiff", "I tiff, 16-bit values", "F tiff, 0..1"])
def test_deep_greys_keep_their_levels(name: str) -> None:
    ramp = np.linspace(0, 65535, 4096).round().astype(np.uint16).reshape(64, 64)
    data = {
        "I;16 png": lambda: make_png(ramp, 0, 16),
        "I;16 tiff": lambda: make_tiff(ramp, 1, 16),
        "I;16B tiff": lambda: make_tiff(ramp.astype(">u2"), 1, 16),
        "I tiff, 16-bit values": lambda: make_tiff(ramp.astype(np.int32), 1, 32, t339=2),
        "F tiff, 0..1": lambda: make_tiff((ramp / 65535).astype(np.float32), 1, 32, t339=3),
    }[name]()
    found = decode(data)
    assert len(np.unique(found)) >= 250
    assert np.array_equal(found[..., 0], np.rint(ramp / 257))


def test_deep_pgm_and_pfm() -> None:
    deep = np.linspace(0, 1000, HEIGHT * WIDTH).astype(">u2").reshape(HEIGHT, WIDTH)
    size = f"{WIDTH} {HEIGHT}\n".encode()
    assert np.array_equal(decode(b"P5\n" + size + b"65535\n" + deep.tobytes())[..., 0], np.rint(deep / 257))
    dark = (deep // 5).astype(">u2")  # all below 256, and still 16-bit
    assert decode(b"P5\n" + size + b"65535\n" + dark.tobytes()).max() == 1
    found = decode(b"P5\n" + size + b"1000\n" + deep.tobytes())[..., 0]
    assert np.abs(found - deep * 0.255).max() <= 1
    floats = (GREYS[::-1] / 255).astype("<f4").tobytes()
    assert np.array_equal(decode(b"Pf\n" + size + b"-1.0\n" + floats)[..., 0], GREYS)


def test_twelve_bit_tiff() -> None:
    values = np.linspace(0, 4095, HEIGHT * WIDTH).astype(int).reshape(HEIGHT, WIDTH)
    first, second = values[:, 0::2], values[:, 1::2]
    packed = np.dstack([first >> 4, (first & 15) << 4 | second >> 8, second & 255]).astype(np.uint8)
    data = bytearray(make_tiff(packed.reshape(HEIGHT, -1), 1, 12))
    where = data.index(struct.pack("<HHII", 256, 4, 1, WIDTH * 3 // 2))
    data[where : where + 12] = struct.pack("<HHII", 256, 4, 1, WIDTH)
    assert np.abs(decode(bytes(data))[..., 0] - values / 4095 * 255).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite(value: float) -> None:
    pixels = np.ones((4, 4), dtype=np.float32)
    pixels[1, 2] = value
    with pytest.raises(BadImage, match="not finite"):
        decode(make_tiff(pixels, 1, 32, t339=3))


@pytest.mark.parametrize(("value", "level"), [(0, 0), (1, 255), (7, 7), (-4, 0), (1e9, 0)])
def test_constant_floats(value: float, level: int) -> None:
    assert np.unique(decode(make_tiff(np.full((3, 3), value, dtype=np.float32), 1, 32, t339=3))).tolist() == [
        level
    ]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_animations(form: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    data = save(frames[0], form, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() <= 2
    assert decode(data).shape == (6, 8, 3)


def test_first_picture_of_an_mpo() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = save(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(decode(data).astype(int) - [254, 0, 0]).max() <= 2


def test_gif_with_transparency() -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    found = decode(save(image, "GIF", transparency=1))
    assert found.tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]]


@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"x" * 200,
        make_profile(ADOBE_TO_XYZ.tolist(), 2.2)[:300],
        make_profile([], 1.0, b"GRAY"),
        make_profile(ADOBE_TO_XYZ.tolist(), 2.2, b"CMYK"),
        bytes(5_000_000),
    ],
)
def test_broken_or_foreign_profiles_are_ignored(profile: bytes) -> None:
    image = Image.fromarray(COLOURS)
    assert np.array_equal(decode(save(image, "TIFF", icc_profile=profile)), COLOURS)
    if len(profile) < 1_000_000:  # Pillow takes no more in a PNG
        assert np.array_equal(decode(save(image, "PNG", icc_profile=profile)), COLOURS)


def test_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(COLOURS)
    assert np.array_equal(decode(save(image, "PNG", icc_profile=profile)), COLOURS)
    plain, tagged = save(image, "JPEG"), save(image, "JPEG", icc_profile=profile)
    assert np.array_equal(decode(plain), decode(tagged))


def test_profile_as_good_as_srgb_changes_nothing() -> None:
    steps = np.linspace(0, 1, 1024)
    curve = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
    profile = make_profile(SRGB_TO_XYZ.tolist(), 0, table=curve**1.012)  # a level off here and there
    image = Image.fromarray(COLOURS)
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    assert not np.array_equal(ImageCms.profileToProfile(image, source, target), COLOURS)
    assert np.array_equal(decode(save(image, "PNG", icc_profile=profile)), COLOURS)


def test_plain_files_equal_pillow(shared: Path) -> None:
    paths = sorted((shared / "data").rglob("*.jpg"))[::7] + sorted((shared / "data").rglob("*.png"))[::50]
    for path in paths:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(decode_image(read_file(path), str(path), max_pixels=CAP), expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0garbage" * 9, b"\0" * 50]
)
def test_broken_exif_does_not_cost_the_image(exif: bytes) -> None:
    found = decode(save(Image.fromarray(COLOURS), "JPEG", exif=exif, quality=100, subsampling=0))
    assert np.abs(found.astype(int) - COLOURS).max() <= 3


def test_broken_exif_in_the_text_of_a_png() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n  4\nnot hex")
    assert np.array_equal(decode(save(Image.fromarray(COLOURS), "PNG", pnginfo=info)), COLOURS)


def test_tiff_with_xmp_is_turned_once(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(
        save(Image.fromarray(COLOURS), "TIFF", tiffinfo={274: 6, 700: b'<x tiff:Orientation="6"/>'})
    )
    assert np.array_equal(decode(read_file(tmp_path / "x")), turn(COLOURS, 6))
    assert read_header(tmp_path / "x", max_pixels=CAP).height == WIDTH


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_are_ignored(orientation: int) -> None:
    assert np.array_equal(decode(save(Image.fromarray(COLOURS), "PNG", orientation)), COLOURS)


def test_orientation_in_xmp() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    assert np.array_equal(decode(save(Image.fromarray(COLOURS), "PNG", pnginfo=info)), turn(COLOURS, 6))


def test_exif_behind_the_pixels_of_a_png() -> None:
    data = make_png(COLOURS, 2, 8)
    data = data[:-12] + make_exif_chunk(8) + data[-12:]
    assert np.array_equal(decode(data), turn(COLOURS, 8))


# Damage


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"hello, world\n", "is text"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n<html>", "web page"),
        (b"<svg xmlns=''/>", "SVG"),
        (bytes(4096), "nothing but zero bytes"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "HEIC"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(20), "AVIF"),
        (b"%PDF-1.7\n%\xff", "PDF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b"\x89PNG\r\n\x1a\n", "."),
        (b"\xff\xd8\xff", "."),
        (b"\xfe\xed\x00\x01" * 20, "not an image of a known format"),
    ],
)
def test_what_is_no_image(data: bytes, match: str) -> None:
    with pytest.raises(BadImage, match=match) as error:
        decode(data)
    assert error.value.path == "some.jpg"
    assert "\n" not in error.value.reason


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "EPS", "JPEG2000", "PDF"])
def test_other_formats_are_not_opened(form: str) -> None:
    with pytest.raises(BadImage):
        decode(save(Image.fromarray(COLOURS), form))


def make_examples() -> dict[str, bytes]:
    rgb, grey = Image.fromarray(COLOURS), Image.fromarray(GREYS)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    return {
        "JPEG": save(rgb, "JPEG", exif=exif, icc_profile=make_profile(ADOBE_TO_XYZ.tolist(), 2.2)),
        "progressive JPEG": save(rgb, "JPEG", progressive=True),
        "PNG": save(rgb, "PNG", exif=exif),
        "PNG P": save(rgb.quantize(64), "PNG", transparency=3),
        "PNG 16": make_png(GREYS.astype(np.uint16) * 257, 0, 16),
        "WEBP": save(rgb, "WEBP", exif=exif),
        "WEBP lossless": save(rgb, "WEBP", lossless=True),
        "GIF": save(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]),
        "BMP": save(rgb, "BMP"),
        "TIFF": save(rgb, "TIFF", exif=exif),
        "TIFF deflate": save(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF jpeg": save(rgb, "TIFF", compression="jpeg"),
        "TIFF F": make_tiff(GREYS.astype(np.float32), 1, 32, t339=3),
        "PPM": save(grey, "PPM"),
    }


EXAMPLES = make_examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_truncated_files_are_never_half_an_image(name: str) -> None:
    """What is cut is refused, or (where only an ornament was lost) gives the same pixels as before."""
    whole = decode(EXAMPLES[name])
    data = EXAMPLES[name]
    num_refused = 0
    for cut in {len(data) * i // 60 for i in range(60)} | {len(data) - 1, len(data) - 2, len(data) - 3}:
        try:
            found = decode(data[:cut])
        except BadImage:
            num_refused += 1
        else:
            same = {found.tobytes(), turn(found, 6).tobytes(), turn(found, 8).tobytes()}  # the EXIF may be gone
            assert whole.tobytes() in same, f"cut at {cut} of {len(data)}"
    assert num_refused >= 25


@pytest.mark.parametrize("name", EXAMPLES)
def test_mutations_give_pixels_or_bad_image(name: str, test_scale: float) -> None:
    rng = random.Random(9)
    for _ in range(int(100 * test_scale)):
        mutant = bytearray(EXAMPLES[name])
        kind = rng.randrange(4)
        for _ in range(rng.choice((1, 2, 8, 40))):
            where = rng.randrange(min(len(mutant), 200) if kind == 0 else len(mutant))
            if kind == 3:
                mutant[where : where + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
            else:
                mutant[where] = rng.choice((0, 255, 127, rng.randrange(256)))
        try:
            found = decode(bytes(mutant), max_pixels=1_000_000)
        except BadImage as error:
            assert error.reason  # noqa: PT017
        else:
            assert found.dtype == np.uint8
            assert found.shape[2:] == (3,)
            assert found.size > 0


def test_mutated_headers_are_read_or_refused(tmp_path: Path, test_scale: float) -> None:
    rng = random.Random(10)
    for data in EXAMPLES.values():
        for _ in range(int(20 * test_scale)):
            mutant = bytearray(data)
            for _ in range(rng.choice((1, 4))):
                mutant[rng.randrange(min(len(mutant), 300))] = rng.randrange(256)
            (tmp_path / "x").write_bytes(mutant)
            try:
                header = read_header(tmp_path / "x", max_pixels=CAP)
            except BadImage:
                continue
            assert header.width * header.height <= CAP


def test_every_exception_of_pillow_becomes_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (OSError, ValueError, TypeError, SyntaxError, struct.error, zlib.error, MemoryError, EOFError):
        for other in (kind, IndexError, KeyError, OverflowError, AssertionError, RecursionError, SystemError):

            def fail(*args: Any, other: type[Exception] = other) -> None:
                raise other("from inside")

            monkeypatch.setattr(Image.Image, "load", fail)
            monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
            with pytest.raises(BadImage):
                decode(EXAMPLES["PNG"])


def test_interrupts_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(KeyboardInterrupt):
        decode(EXAMPLES["PNG"])


# Sizes


def make_flat_png(width: int, height: int) -> bytes:
    """A palette-free grey PNG of one bit a pixel: some kB for any size."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + make_chunk(b"IDAT", body) + make_chunk(b"IEND", b"")


def test_cap_is_exact(tmp_path: Path) -> None:
    data = make_png(COLOURS, 2, 8)
    (tmp_path / "x.png").write_bytes(data)
    assert decode(data, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    assert read_header(tmp_path / "x.png", max_pixels=HEIGHT * WIDTH).width == WIDTH
    with pytest.raises(BadImage, match="36 x 24 pixels; 863 pixels are allowed"):
        decode(data, max_pixels=HEIGHT * WIDTH - 1)
    with pytest.raises(BadImage, match="too large"):
        read_header(tmp_path / "x.png", max_pixels=HEIGHT * WIDTH - 1)


def test_cap_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *args: pytest.fail("was decoded"))
    with pytest.raises(BadImage, match="too large"):
        decode(EXAMPLES["PNG"], max_pixels=100)


def test_large_images_within_the_cap_give_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above a size of its own, here lowered; what the user allows is the cap that counts."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in EXAMPLES.values():
            assert decode(data, max_pixels=HEIGHT * WIDTH).size == HEIGHT * WIDTH * 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(BadImage, match=r"too large: 864 pixels; 862 pixels are allowed$"):
        decode(EXAMPLES["PNG"])
    with pytest.raises(BadImage, match=r"too large: 864 pixels; 100 pixels are allowed \(max_pixels\)$"):
        decode(EXAMPLES["PNG"], max_pixels=100)


BOMBS = """
import io, resource, sys
sys.path.insert(0, {tests!r})
import test_decode as t
from PIL import Image
small = [Image.new("L", (40, 30), value) for value in range(250)]
bombs = [t.make_flat_png(9600, 9600), t.make_flat_png(30000, 1000), t.make_flat_png(20000, 20000)]
bombs += [t.save(small[0], "GIF").replace(b"(\\0\\x1e\\0", b"\\xff\\xff\\xff\\xff")]
bombs += [b"RIFF\\x20\\0\\0\\0WEBPVP8X\\x0a\\0\\0\\0\\x02\\0\\0\\0" + b"\\xf0\\x24\\0" * 2 + bytes(10)]
webp = bytearray(t.save(small[0], "WEBP", save_all=True, append_images=small[1:]))
bombs += [bytes(webp[:24] + b"\\xf0\\x24\\0\\xf0\\x24\\0" + webp[30:])]
bombs += [t.make_tiff(t.GREYS, 1, 8).replace(*[t.struct.pack("<HHII", 257, 4, 1, n) for n in (24, 10**7)])]
bombs += [b"P5 60000 60000 255\\n" + bytes(1000), b"BM" + bytes(8) + b"\\x36\\0\\0\\0\\x28\\0\\0\\0"
          + t.struct.pack("<iiHHI", 30000, 30000, 1, 24, 0) + bytes(20)]
jpeg = bytearray(t.save(small[0], "JPEG"))
where = jpeg.index(b"\\xff\\xc0") + 5
jpeg[where:where + 4] = b"\\xff\\xdc\\xff\\xdc"
bombs += [bytes(jpeg)]
frames = t.save(small[0], "GIF", save_all=True, append_images=small[1:])
pages = t.save(small[0], "TIFF", save_all=True, append_images=small[1:])
t.decode(t.EXAMPLES["PNG"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for _ in range(5):
    for bomb in bombs:
        try:
            t.decode(bomb, max_pixels=25_000_000)
        except t.BadImage:
            refused += 1
    for data in (frames, pages):
        assert t.decode(data, max_pixels=25_000_000).shape == (30, 40, 3)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(bombs) * 5 - refused, (after - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the resident set in kB")
def test_bombs_take_no_memory() -> None:
    script = BOMBS.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    num_accepted, grown_megabytes = map(int, done.stdout.split())
    assert num_accepted == 0
    assert grown_megabytes < 50
    assert done.stderr == ""


def test_jpeg_of_many_scans_is_refused() -> None:
    data = EXAMPLES["progressive JPEG"]
    where = data.rindex(b"\xff\xda")
    scan = data[where:-2]
    with pytest.raises(BadImage, match="scans"):
        decode(data[:-2] + scan * 200 + b"\xff\xd9")


# Files


def test_headers(tmp_path: Path) -> None:
    for name, data in EXAMPLES.items():
        path = tmp_path / name
        path.write_bytes(data)
        header = read_header(path, max_pixels=CAP)
        assert (header.height, header.width) == decode(data).shape[:2]
        assert header.format == name.split()[-1 if name == "progressive JPEG" else 0]
        assert header.num_bytes == len(data)
        assert header.has_exif == (name in ("JPEG", "PNG", "WEBP")), name
    (tmp_path / "cut").write_bytes(EXAMPLES["JPEG"][:-50])
    assert read_header(tmp_path / "cut", max_pixels=CAP).width == HEIGHT  # it is turned


def test_header_never_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *args: pytest.fail("was decoded"))
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        (tmp_path / name).write_bytes(EXAMPLES[name])
        read_header(tmp_path / name, max_pixels=CAP)


@pytest.mark.parametrize("read", [read_file, lambda path: read_header(path, max_pixels=CAP)])
def test_odd_files(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    cases = {"folder.jpg": "folder", "empty.jpg": "empty", "absent.jpg": "no such file", "circle.jpg": "can't be"}
    for name, match in (cases | {"nul\0.jpg": "can't be"}).items():
        with pytest.raises(BadImage, match=match) as error:
            read(tmp_path / name)
        assert name in error.value.path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("read", [read_file, lambda path: read_header(path, max_pixels=CAP)])
def test_pipes_are_not_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    found: list[BaseException] = []

    def run() -> None:
        with pytest.raises(BadImage, match="is a pipe"):
            read(path)
        found.append(BadImage("", ""))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert found
    with pytest.raises(BadImage, match="device"):
        read(Path("/dev/zero"))


def test_pipe_put_in_place_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looks hold alone: the one at the path, before anything is opened, and the one at what was opened."""
    path = tmp_path / "pipe.jpg"
    os.mkfifo(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *args: pytest.fail("was opened"))
        with pytest.raises(BadImage, match="is a pipe"):
            read_file(path)
    (tmp_path / "file").write_bytes(b"x")
    status = (tmp_path / "file").stat()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda self, **options: status)
        with pytest.raises(BadImage, match="is a pipe"):
            read_file(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / "x.jpg").chmod(0)
    with pytest.raises(BadImage, match="can't be opened: Permission denied"):
        read_file(tmp_path / "x.jpg")


def test_read_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path / "x") == b"12345"
    assert read_file(str(tmp_path / "x"), max_bytes=5) == b"12345"
    with pytest.raises(BadImage, match="5 B, more than the limit of 4 B"):
        read_file(tmp_path / "x", max_bytes=4)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "really_png.jpg").write_bytes(EXAMPLES["PNG"])
    assert read_header(tmp_path / "really_png.jpg", max_pixels=CAP).format == "PNG"
    assert np.array_equal(decode(EXAMPLES["PNG"]), turn(COLOURS, 6))


def test_formats_and_suffixes() -> None:
    assert set(FORMATS) == {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"}
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)


def test_threads_agree() -> None:
    expected = {name: decode(data) for name, data in EXAMPLES.items()}
    names = list(EXAMPLES) * 8
    with ThreadPoolExecutor(4) as pool:
        for name, found in zip(names, pool.map(lambda name: decode(EXAMPLES[name]), names), strict=True):
            assert np.array_equal(found, expected[name])


def test_odd_files_give_no_warning() -> None:
    """A user's `-W error` must not change which images are good."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "m" * 200
    data = save(Image.fromarray(COLOURS), "JPEG", exif=exif)
    where = data.index(b"m" * 200)
    data = data.replace(data[where - 60 : where], data[where - 60 : where].replace(b"\xc9\0\0\0", b"\xff\xff\0\0"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape[2] == 3


def test_pillow_logs_nothing_to_stderr() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_decode as t\n"
        "data = t.make_tiff(t.GREYS, 1, 8).replace(*[t.struct.pack('<HHIH', 277, 3, 1, n) for n in (1, 9999)])\n"
        "try: t.decode(data)\nexcept t.BadImage: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n"
    assert done.stderr == ""


def make_box(brand: bytes) -> bytes:
    return b"\x00\x00\x00\x18ftyp" + brand + bytes(20)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (make_box(b"avif"), "AVIF"),
        (make_box(b"qt  "), "a video"),
        (make_box(b"isom"), "a video"),
        (make_box(b"crx "), "raw file"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "raw file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\x05\x16\x07\0\2\0\0Mac OS X        ", "AppleDouble"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\x1aE\xdf\xa3" + bytes(20), "a video"),
    ],
)
def test_other_files_are_named(data: bytes, match: str) -> None:
    with pytest.raises(BadImage, match=match):
        decode(data)


@pytest.mark.parametrize("tags", [{"t50706": 1}, {"t254": 1, "t330": 8}])
def test_the_preview_in_a_raw_file_is_no_picture(tags: dict[str, int]) -> None:
    with pytest.raises(BadImage, match="camera raw file"):
        decode(make_tiff(COLOURS, 2, 8, **tags))


@pytest.mark.parametrize("orientation", [1, 6])
def test_avif(orientation: int, tmp_path: Path) -> None:
    data = save(Image.fromarray(COLOURS), "AVIF", orientation, quality=100, subsampling="4:4:4")
    assert np.abs(decode(data).astype(int) - turn(COLOURS, orientation)).max() <= 4
    (tmp_path / "x.avif").write_bytes(data)
    header = read_header(tmp_path / "x.avif", max_pixels=CAP)
    assert (header.format, header.height, header.width) == ("AVIF", *turn(COLOURS, orientation).shape[:2])


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic(orientation: int, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    assert decode_module.has_heif()
    image, exif = Image.fromarray(COLOURS), Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()  # what the writer turns into HEIF's own mark of orientation
    data = save(image, "HEIF", quality=-1, chroma=444)
    assert np.abs(decode(data).astype(int) - turn(COLOURS, orientation)).max() <= 4
    with pytest.raises(BadImage, match="HEIC"):
        decode(data[:300])
    with pytest.raises(BadImage, match=r"800 pixels are allowed"):
        decode(data, max_pixels=800)
    (tmp_path / "x.heic").write_bytes(data)
    header = read_header(tmp_path / "x.heic", max_pixels=CAP)
    assert (header.format, header.height, header.width) == ("HEIF", *turn(COLOURS, orientation).shape[:2])


def test_without_its_extra_heic_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "has_heif", lambda: False)
    with pytest.raises(BadImage, match=r"HEIC image: pip install 'backbench\[heif\]'"):
        decode(make_box(b"heic"))


@pytest.mark.parametrize(
    ("pixels", "photometric", "tags", "match"),
    [
        (np.zeros((4, 4, 13), np.uint16), 2, {"t338": 0}, r"TIFF of 13 bands of 16-bit whole numbers"),
        (np.zeros((4, 4, 2), np.uint16), 1, {"t338": 0}, r"TIFF of 2 bands of 16-bit whole"),
        (np.zeros((4, 4, 3), np.float32), 2, {"t339": 3}, r"TIFF of 3 bands of 32-bit floating-point"),
        (np.zeros((4, 4, 4), np.uint8), 1, {"t338": 0}, r"TIFF of 4 bands of 8-bit whole"),
    ],
)
def test_bands_that_are_not_read_are_named(
    pixels: np.ndarray, photometric: int, tags: dict[str, int], match: str
) -> None:
    data = make_tiff(pixels, photometric, 8 * pixels.itemsize, **tags)
    with pytest.raises(BadImage, match=match):
        decode(data)


FOUR = np.dstack([COLOURS, ALPHA])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (make_tiff(FOUR, 2, 8, t338=0), ["the fourth is not used"]),
        (make_tiff(FOUR, 2, 8, t338=2), ["the fourth as transparency"]),
        (make_tiff(FOUR, 2, 8), ["the fourth as transparency"]),
        (make_tiff(FOUR.astype(np.uint16) * 257, 2, 16, t338=0), ["the fourth is not used", "upper 8 bits"]),
        (make_tiff(COLOURS.astype(np.uint16) * 257, 2, 16), ["upper 8 bits"]),
        (make_png(COLOURS.astype(np.uint16) * 257, 2, 16), ["upper 8 bits"]),
        (make_tiff(FOUR, 5, 8), []),
        (make_tiff(GREYS, 1, 8), []),
        (make_tiff(GREYS.astype(np.uint16) * 257, 1, 16), []),
        (save(Image.fromarray(FOUR), "PNG"), []),
        (EXAMPLES["GIF"], ["several pages"]),
        (
            save(Image.fromarray(COLOURS), "TIFF", save_all=True, append_images=[Image.fromarray(GREYS)]),
            ["several pages"],
        ),
        (EXAMPLES["JPEG"], []),
        (EXAMPLES["TIFF"], []),
    ],
)
def test_what_is_not_used_of_an_image_is_remarked(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    (tmp_path / "x").write_bytes(data)
    remarks = read_header(tmp_path / "x", max_pixels=CAP).remarks
    assert len(remarks) == len(expected)
    assert all(words in remark for words, remark in zip(expected, remarks, strict=True))


def make_planar_tiff(pixels: np.ndarray) -> bytes:
    """A TIFF whose bands are stored one after another, a strip each."""
    height, width, num = pixels.shape
    planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    size = planes[0].nbytes
    tags = {256: width, 257: height, 259: 1, 262: 2, 277: num, 278: height, 284: 2}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
    after = 8 + 2 + 12 * (len(tags) + 3) + 4
    entries[258] = struct.pack("<HHII", 258, 3, num, after)
    entries[273] = struct.pack("<HHII", 273, 4, num, after + 2 * num)
    entries[279] = struct.pack("<HHII", 279, 4, num, after + 6 * num)
    start = after + 10 * num
    extra = struct.pack(f"<{num}H", *[8 * pixels.itemsize] * num)
    extra += struct.pack(f"<{2 * num}I", *(start + size * band for band in range(num)), *[size] * num)
    folder = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0\x08\0\0\0" + folder + extra + planes.tobytes()


def test_bands_one_after_another() -> None:
    assert np.array_equal(decode(make_planar_tiff(COLOURS)), COLOURS)
    with pytest.raises(BadImage, match=r"3 bands of 16 bits that are stored one after another.*INTERLEAVE=PIXEL"):
        decode(make_planar_tiff(COLOURS.astype(np.uint16) * 257))  # Pillow makes noise of them
