"""Images without labels: files, all images below a folder, or pixels in memory, each with a way to read it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from backbench.config import GreyScale
from backbench.data.colour import UnusablePixels, is_deep, to_rgb
from backbench.data.decode import decode_image, read_file, read_header
from backbench.data.grey import UNSCALED
from backbench.data.left_out import find_lost, summarise, warn_of_lost
from backbench.data.listing import Ignored
from backbench.data.scanner import scan_pictures
from backbench.errors import BadImage, ConfigError, DataError
from backbench.progress import SILENT, Progress
from backbench.wording import count, list_some, quote

MAX_PIXELS = 100_000_000
_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")


@dataclass(frozen=True)
class Picture:
    """One image: its name, and `read()` -> (height, width, 3) uint8, which may raise BadImage.

    `file`: its path, if it is a file.
    """

    name: str
    read: Callable[[], np.ndarray]
    file: Path | None = None


def gather_pictures(
    items: Any, *, max_pixels: int = MAX_PIXELS, grey: GreyScale | None = None, progress: Progress = SILENT
) -> list[Picture]:
    """The images of `items`: one item, or several in a sequence.

    Args:
        items: a path of a file of any name (a missing file is an unreadable picture), or of a folder. A folder
            stands for all image files below it in order of their names, followed by unreadable pictures (links out
            of it, folders that can't be opened, unsupported formats, pictures without a suffix); an array (height,
            width, 3) uint8, or (n, height, width, 3); a PIL image.
        grey: the scale of images with more than 8 bits, see `data.grey`.

    Raises:
        ConfigError: an item of another kind.
        DataError: a folder that can't be read, or without images.
    """
    several = items if isinstance(items, Iterable) and not isinstance(items, _SINGLE) else [items]
    found: list[Picture] = []
    for item in several:
        found += _pictures_of(item, len(found), max_pixels, grey, progress)
    return found


_SINGLE = (str, os.PathLike, np.ndarray, Image.Image)


def _pictures_below(folder: Path, max_pixels: int, grey: GreyScale | None, progress: Progress) -> list[Picture]:
    """All pictures below a folder; a lost one raises an error with the reason when it is read."""
    files, left_out = scan_pictures(folder)
    lost = find_lost(left_out)
    if not files and not lost:
        seen = f" Left out: {summarise(left_out)}." if left_out else ""
        raise DataError(
            f"{quote(str(folder))} holds no images: no file below it ends in .jpg, .png, .webp, .gif, .bmp, .tif "
            f"or the like.{seen}"
        )
    for warning in warn_of_lost(left_out):
        progress.warn(f"{quote(str(folder))}: {warning}")
    found = [Picture(str(file), partial(_read_path, file, max_pixels, grey), file) for file in files]
    return found + [Picture(str(folder / entry.path), partial(_refuse, folder, entry)) for entry in lost]


def warn_of_pictures(
    pictures: Sequence[Picture], grey: GreyScale | None, *, max_pixels: int = MAX_PIXELS, progress: Progress
) -> None:
    """Warn of files that are not used completely (more bands, bits or frames), and of deep ones without a scale.

    Args:
        grey: of the images that the model was trained on.

    Cost: reads the headers of all files except JPEGs; about 0.1 ms each.
    """
    of_remark: defaultdict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        if picture.file is None or picture.file.suffix.lower() in _JPEG_SUFFIXES:
            continue
        try:
            header = read_header(picture.file, max_pixels=max_pixels)
        except BadImage:  # its prediction reports the reason
            continue
        for remark in header.remarks:
            of_remark[remark].append(picture.name)
        if is_deep(header.mode) and (
            grey is None or (grey.floats if header.mode == "F" else grey.integers) is None
        ):
            of_remark[UNSCALED].append(picture.name)
    for remark, names in sorted(of_remark.items()):
        progress.warn(f"{count(len(names), 'image')} {remark}: {list_some(map(quote, names), 3)}")


def _refuse(folder: Path, entry: Ignored) -> np.ndarray:
    raise BadImage(str(folder / entry.path), entry.reason)


def _pictures_of(
    item: Any, number: int, max_pixels: int, grey: GreyScale | None, progress: Progress
) -> list[Picture]:
    """The images of one item; `number` names images in memory."""
    if isinstance(item, str | os.PathLike):
        path = Path(os.fspath(item))
        if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it never raises
            return _pictures_below(path, max_pixels, grey, progress)
        return [Picture(str(path), partial(_read_path, path, max_pixels, grey), path)]
    if isinstance(item, np.ndarray):
        stack = item if item.ndim == 4 else item[None]
        if item.dtype != np.uint8 or stack.ndim != 4 or stack.shape[3] != 3 or 0 in stack.shape[1:]:
            raise ConfigError(
                f"an array of {item.dtype} and shape {item.shape} is not an image. Give uint8 RGB in 0..255 of "
                "shape (height, width, 3) or (n, height, width, 3)."
            )
        return [Picture(f"[{number + row}]", partial(np.asarray, image)) for row, image in enumerate(stack)]
    if isinstance(item, Image.Image):
        return [Picture(f"[{number}]", partial(_read_pillow, item, f"[{number}]", grey))]
    raise ConfigError(
        f"a {type(item).__name__} is not an image. Give paths, folders, arrays (height, width, 3) uint8 or PIL "
        "images."
    )


def _read_path(path: Path, max_pixels: int, grey: GreyScale | None) -> np.ndarray:
    return decode_image(read_file(path), str(path), max_pixels=max_pixels, grey=grey)


def _read_pillow(image: Image.Image, name: str, grey: GreyScale | None) -> np.ndarray:
    try:
        return np.array(to_rgb(ImageOps.exif_transpose(image), grey))
    except UnusablePixels as error:
        raise BadImage(name, str(error)) from error
    except Exception as error:  # a lazily loaded file raises here whatever decoders raise
        raise BadImage(name, f"can't be decoded ({str(error)[:200]})") from error
