"""Find the image files that a table names: beside it or below another folder; never at a URL."""

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
"""Suffixes to try for names without one, as in tables of image ids."""
MAX_CUT = 8
MAX_FOLDERS = 40
"""Maximum number of folders beside the table to search."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a text is a URL: of the web, of an object store, or a data URL."""
    return _ADDRESS.match(text) is not None


def refuse_addresses(path: Path, images: Sequence[str], row_numbers: Sequence[int]) -> None:
    """Raise DataError if images are URLs: nothing is downloaded."""
    found = [
        f"{quote(image[:80])} in row {number}"
        for image, number in zip(images, row_numbers, strict=True)
        if is_address(image)
    ]
    if found:
        raise DataError(
            f"{path}: {count(len(found), 'image is a URL', 'images are URLs')}: {list_some(found, 2)}. Images are "
            "read from disk only: download them first, and put the file names into the table."
        )


def find_files(
    path: Path, images: Sequence[str], *, folder: Path, root: str | None, must_be_whole: bool
) -> tuple[list[Path], list[str]]:
    """The file of each image, and warnings. Relative paths start at `folder`, that of the table, or at `root`.

    If no image is found, the folders around the table are searched, also without the first folders of the paths
    and with image suffixes. If one place has all images, it is used with a warning.

    Args:
        path: the table; for messages.
        root: the folder that the user named, see --image-root.
        must_be_whole: a missing image is an error.

    Raises:
        DataError: no image is found, or some are missing and `must_be_whole`.
    """
    folder = (folder if root is None else Path(root)).absolute()
    if root is not None and not folder.is_dir():
        raise DataError(f"--image-root {root}: no such folder.")
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
        return found, [f"images were not found as {quote(images[0])} below {folder}; using {quote(first)} instead"]
    several = ""
    if places:
        several = f" They are in several places, as {' and '.join(quote(str(place[0])) for place in places)}."
    raise DataError(
        f"{path}: none of its {count(len(files), 'image')} was found: {shown}. Relative paths start at the "
        "table's folder, so the first was expected at "
        f"{quote(str(files[0]))}.{several}{_describe_first(images[0])}{_describe_twin(files[0])} Name their "
        "folder with --image-root FOLDER. Is this the right --image-column?"
    )


def _describe_first(image: str) -> str:
    if re.match(r"[A-Za-z]:/", image):
        return " It is an absolute path of a Windows machine."
    return " It is an absolute path, perhaps of another machine." if image.startswith("/") else ""


def _describe_twin(file: Path) -> str:
    """Describe a file in its place whose name differs in case or suffix."""
    try:
        beside = sorted(entry.name for entry in os.scandir(file.parent))
    except OSError:
        return ""
    same = [name for name in beside if name.casefold() == file.name.casefold()]
    if same:
        return f" {quote(same[0])} exists: the case of the names differs. Write them as the files are called."
    stems = [name for name in beside if Path(name).stem == file.stem and find_suffix(name) in IMAGE_SUFFIXES]
    if stems:
        return f" {quote(stems[0])} exists: the suffixes differ. Write them as the files are called."
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
    """The path without its first `cut` folders, below `base`; None if it has fewer."""
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
