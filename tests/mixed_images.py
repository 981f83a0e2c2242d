"""Images of every format and kind of pixel that is read, for tests that several ways of asking agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # of EXIF


def write_mixed_images(folder: Path, num: int = 50) -> list[Path]:
    """`num` images, each a smooth pattern of its own, of the kinds in turn; sizes and proportions differ."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    kinds = list(KINDS.items())
    paths = []
    for number in range(num):
        suffix, write = kinds[number % len(kinds)]
        width, height = (int(side) for side in rng.integers(20, 90, 2))
        path = folder / f"{number:02d}-{suffix}"
        write(_draw(rng, width, height), path)
        paths.append(path)
    return paths


def _draw(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _saver(mode: str, **options: object) -> Callable[[Image.Image, Path], None]:
    return lambda image, path: image.convert(mode).save(path, **options)


def _save_transparent(image: Image.Image, path: Path) -> None:
    image.putalpha(image.convert("L").point(lambda value: 255 - value))
    image.save(path)


def _save_deep(image: Image.Image, path: Path) -> None:
    """16 bits a pixel, of which the upper and the lower eight differ."""
    values = np.asarray(image.convert("L")).astype(np.uint16)
    Image.fromarray(values * 257 + (values % 7)).save(path)


def _rotated(orientation: int) -> Callable[[Image.Image, Path], None]:
    def save(image: Image.Image, path: Path) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.save(path, exif=exif, quality=90)

    return save


KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "colour.png": _saver("RGB"),
    "grey.png": _saver("L"),
    "transparent.png": _save_transparent,
    "palette.png": _saver("P"),
    "deep.png": _save_deep,
    "two-tone.png": _saver("1"),
    "colour.jpg": _saver("RGB", quality=85),
    "grey.jpg": _saver("L", quality=85),
    "ink.jpg": _saver("CMYK", quality=85),
    "upside-down.jpg": _rotated(3),
    "turned-right.jpg": _rotated(6),
    "turned-left.jpg": _rotated(8),
    "mirrored.jpg": _rotated(5),
    "colour.webp": _saver("RGB", quality=80),
    "transparent.webp": _save_transparent,
    "palette.gif": _saver("P"),
    "colour.bmp": _saver("RGB"),
    "colour.tiff": _saver("RGB"),
    "grey.tiff": _saver("L", compression="tiff_lzw"),
    "deep.tiff": _save_deep,
}
