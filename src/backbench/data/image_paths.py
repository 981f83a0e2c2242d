"""Where the images are that a table names: beside it, or below another folder, and never at an address."""

# Strings, not Paths: a table may name a million files, and os.path.exists never raises.
# ruff: noqa: PTH110, PTH113, PTH118

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from backbench.data.file_kinds import IMAGE_SUFFIXES, find_suffix
from backbench.errors import DataError
from backbench.wording import count, list_some, quote

ENDINGS = ("", ".jpg", ".jpeg", ".png", ".JPG", ".tif", ".bmp", ".webp")
"""Tried behind names as they stand, as in tables of image ids."""
MAX_CUT = 8
MAX_FOLDERS = 40
"""Folders beside the table that are looked at."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a text is a URL: of the web, of a store of objects, or with the data in it."""
    return _ADDRESS.match(text) is not None


def refuse_addresses(path: Path, images: Sequence[str], row_numbers: Sequence[int]) -> None:
    """DataError if images are named by URLs: nothing is downloaded."""
    found = [
        f"{quote(image[:80])} in row {number}"
        for image, number in zip(images, row_numbers, strict=True)
        if is_address(image)
    ]
    if found:
        raise DataError(
            f"{path}: {count(len(found), 'image is a URL', 'images are URLs')}: {list_some(found, 2)}. Images are "
            "read from disk only: download them first, and name the files in the table."
        )


def find_files(
    path: Path, images: Sequence[str], *, folder: Path, root: str | None, must_be_whole: bool
) -> tuple[list[Path], list[str]]:
    """The file of each image, and warnings. Relative paths start at `folder`, that of the table, or at `root`.

    Where no image is there, they are looked for below the folders around the table, without the first folders of
    their paths, and with the suffix of an image: if one place has all of them, it is used and a warning says so.

    Args:
        path: the table; for messages.
        root: the folder that the user named, see --image-root.
        must_be_whole: a part of them that is missing is an error.

    Raises:
        DataError: none is there, or some are not and `must_be_whole`.
    """
    folder = (folder if root is None else Path(root)).absolute()
    if root is not None and not folder.is_dir():
        raise DataError(f"--image-root {root}: there is no such folder.")
    files = [folder / image for image in images]
    missing = [row for row, file in enumerate(files) if not os.path.exists(file)]
    if not missing or (len(missing) < len(files) and not must_be_whole):
        return files, []
    shown = list_some(quote(images[row]) for row in missing)
    if len(missing) < len(files):
        raise DataError(
            f"{path}: {len(missing):,} of {count(len(files), 'image')} can't be found: "
            f"{shown}. Restore them, remove their rows, or leave them out with --on-bad skip."
        )
    places = list(itertools.islice(_search(folder, images), 2))
    if len(places) == 1:
        found, first = places[0], os.path.relpath(places[0][0], folder)
        return found, [
            f"images were not found as {quote(images[0])} below {folder}, and taken from {quote(first)}"
        ]
    several = ""
    if places:
        several = f" They are in several places, as {' and '.join(quote(str(place[0])) for place in places)}."
    raise DataError(
        f"{path}: none of its {count(len(files), 'image')} is there: {shown}. Relative paths start at the "
        f"table's folder, so the first was looked for at {quote(str(files[0]))}."
        f"{several}{_describe_first(images[0])}{_describe_twin(files[0])} "
        "Name their folder with --image-root FOLDER. Is this the right --image-column?"
    )


def _describe_first(image: str) -> str:
    if re.match(r"[A-Za-z]:/", image):
        return " It is an absolute path of a Windows machine."
    return " It is an absolute path, perhaps of another machine." if image.startswith("/") else ""


def _describe_twin(file: Path) -> str:
    """What is there in its place under a name that differs in case, or in the suffix."""
    try:
        beside = sorted(entry.name for entry in os.scandir(file.parent))
    except OSError:
        return ""
    same = [name for name in beside if name.casefold() == file.name.casefold()]
    if same:
        return (
            f" {quote(same[0])} is there: names differ in upper and lower case. Write them as the files have it."
        )
    stems = [name for name in beside if Path(name).stem == file.stem and find_suffix(name) in IMAGE_SUFFIXES]
    if stems:
        return f" {quote(stems[0])} is there: the names differ in their suffix. Write them as the files have it."
    return ""


def _search(folder: Path, images: Sequence[str]) -> Iterator[list[Path]]:
    """All files for each place in which all of them are."""
    seen: set[str] = set()
    for cut, ending, base in itertools.product(range(MAX_CUT), ENDINGS, _list_bases(folder)):
        first = _place(base, images[0], cut, ending)
        if first is None or not os.path.isfile(first):
            continue
        files = [_place(base, image, cut, ending) for image in images]
        real = os.path.realpath(first)
        if real not in seen and all(file is not None and os.path.isfile(file) for file in files):
            seen.add(real)
            yield [Path(file) for file in files if file is not None]


def _place(base: str, image: str, cut: int, ending: str) -> str | None:
    """The path without its first `cut` folders, below `base`; None where it has not so many."""
    names = [name for name in image.split("/") if name]
    return os.path.join(base, *names[cut:]) + ending if cut < len(names) else None


def _list_bases(folder: Path) -> list[str]:
    """The table's folder, those below it, those beside and the two above."""
    above = [folder, *list(folder.parents)[:2]]
    found = list(map(str, above))
    for near in above[:2]:
        try:
            below = sorted(entry.path for entry in os.scandir(near) if entry.is_dir() and entry.name[:1] != ".")
        except OSError:
            continue
        found += below[:MAX_FOLDERS]
    return list(dict.fromkeys(found))
