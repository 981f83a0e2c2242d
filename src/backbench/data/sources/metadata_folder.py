"""A folder of images with `metadata.csv`, `.jsonl` or `.parquet` beside them, as on data set hubs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from backbench.config import DataConfig
from backbench.data.file_kinds import IMAGE_SUFFIXES, find_suffix
from backbench.data.layout import empty_part
from backbench.data.left_out import warn_of_lost
from backbench.data.listing import Ignored, Listing
from backbench.data.part_names import is_filler, parse_part
from backbench.data.scanner import scan_pictures
from backbench.data.sources.table import LABEL_COLUMNS, load_table
from backbench.data.splitfile import PART_COLUMNS, normalise_path
from backbench.data.tables import Table, find_column, read_table
from backbench.data.walk import LEFT_OUT, list_visible
from backbench.errors import BackbenchError, DataError
from backbench.progress import Progress
from backbench.wording import count, list_some, quote

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
IMAGE_COLUMN = "file_name"
FOLDER_COLUMN = "folder of the image"
"""Name of our own column for splits given by folders."""


def accepts(path: Path) -> bool:
    """Whether a metadata file names images and labels, or names images that are not in class folders."""
    if not path.is_dir():
        return False
    for file in _find_metadata(path):
        try:
            table = read_table(file)
            if find_column(table, None, (IMAGE_COLUMN,), "images", "", needed=False) is None:
                continue
            is_labelled = find_column(table, None, LABEL_COLUMNS, "labels", "", needed=False) is not None
        except BackbenchError:  # a file of that name beside class folders may be anything
            is_labelled = False
        if is_labelled or _holds_images(file.parent):
            return True
    return False


def load_path(config: DataConfig, path: Path, progress: Progress) -> Listing:
    """The images that the metadata files name; folders train/, val/ and test/ give the splits, if they exist.

    `--split-column` and `--ignore` work as for other tables and folders.

    Raises:
        ConfigError, DataError: see `table.load_table`; or no file names the images of a split.
    """
    files = _find_metadata(path)
    tables = [_below(path, read_table(file)) for file in files]
    table = _leave_out(tables[0] if len(tables) == 1 else _join(path, tables), config.ignore)
    parts = [_folder_part(image) for image in table.columns[IMAGE_COLUMN]]
    has_folders = "train" in parts
    if has_folders:
        table = replace(table, columns={**table.columns, FOLDER_COLUMN: [part or "" for part in parts]})
        if config.split_column is None:
            _refuse_other_splits(table, parts)
            config = config.model_copy(update={"split_column": FOLDER_COLUMN})
    listing = load_table(config, table, name=path.resolve().name or "images", folder=path)
    refuses = config.split is None and config.split_column == FOLDER_COLUMN
    unnamed = _find_unnamed(path, listing, config.ignore, refuses=refuses)
    notes = tuple(
        note.replace(f"column {quote(FOLDER_COLUMN)}", "the folders") + f"; read from {_name_files(path, files)}"
        for note in listing.facts["notes"]
    )
    warnings = (*listing.facts.get("warnings", ()), *warn_of_lost(unnamed))
    facts = listing.facts | {"notes": notes} | ({"warnings": warnings} if warnings else {})
    return replace(listing, ignored=(*listing.ignored, *unnamed), facts=facts)


def _refuse_other_splits(table: Table, parts: Sequence[str | None]) -> None:
    """Raise DataError if a column of splits contradicts the folders of the images."""
    column = find_column(table, None, PART_COLUMNS, "splits", "", needed=False)
    said = [] if column is None else [parse_part(text) for text in table.columns[column]]
    other = [row for row, part in enumerate(said) if part is not None and part != parts[row]]
    if other:
        image, text = (table.columns[name][other[0]] for name in (IMAGE_COLUMN, str(column)))
        raise DataError(
            f"{table.path}: for {count(len(other), 'image')} the folder and column {quote(str(column))} give "
            f"different splits: {quote(image)} is {quote(text)} in the column. Choose one: --split-column "
            f"{column}, or --split-column {quote(FOLDER_COLUMN)}."
        )


def _find_metadata(root: Path) -> list[Path]:
    """The metadata files in the folder, in its sub-folders, and below folders such as data/ and train/."""
    return sorted(folder / name for folder in _list_folders(root) for name in NAMES if (folder / name).is_file())


def _list_folders(root: Path) -> Iterator[Path]:
    yield root
    for entry in list_visible(str(root)):
        if entry.is_dir():
            yield Path(entry.path)
            if is_filler(entry.name) or parse_part(entry.name):
                yield from (Path(below.path) for below in list_visible(entry.path) if below.is_dir())


def _holds_images(folder: Path) -> bool:
    return any(find_suffix(entry.name) in IMAGE_SUFFIXES for entry in list_visible(str(folder)))


def _below(root: Path, table: Table) -> Table:
    """The table with its images as paths below the root."""
    name = find_column(table, None, (IMAGE_COLUMN,), "images", f"a header {IMAGE_COLUMN}")
    prefix = os.path.relpath(table.path.parent, root)
    images = [normalise_path(f"{prefix}/{image}") if image else "" for image in table.columns[str(name)]]
    return replace(table, columns={IMAGE_COLUMN: images, **{k: v for k, v in table.columns.items() if k != name}})


def _join(root: Path, tables: Sequence[Table]) -> Table:
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns = {
        name: [value for table in tables for value in table.columns.get(name, [""] * len(table))] for name in names
    }
    numbers = [number for table in tables for number in table.row_numbers]
    return Table(root, columns, numbers, tuple(warning for table in tables for warning in table.warnings))


def _leave_out(table: Table, ignore: Sequence[str]) -> Table:
    kept = [row for row, image in enumerate(table.columns[IMAGE_COLUMN]) if not _is_below(image, ignore)]
    columns = {name: [values[row] for row in kept] for name, values in table.columns.items()}
    return replace(table, columns=columns, row_numbers=[table.row_numbers[row] for row in kept])


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(f"{path}/".startswith(f"{normalise_path(folder)}/") for folder in folders)


def _folder_part(image: str) -> str | None:
    """The split in the folder names of an image."""
    return next(filter(None, map(parse_part, image.split("/")[:-1])), None)


def _find_unnamed(root: Path, listing: Listing, ignore: Sequence[str], *, refuses: bool) -> tuple[Ignored, ...]:
    """Images below the root that no metadata file names; DataError if a split has no others."""
    pictures, ignored = scan_pictures(root)
    known = {os.path.realpath(file) for file in listing.files or ()}
    unnamed = [os.path.relpath(picture, root) for picture in pictures if os.path.realpath(picture) not in known]
    paths = [path.replace(os.sep, "/") for path in unnamed]
    ignored = (*ignored, *(Ignored(path, LEFT_OUT) for path in paths if _is_below(path, ignore)))
    wanted = [path for path in paths if not _is_below(path, ignore)]
    rest = tuple(Ignored(path, "not named in a metadata file", "picture") for path in wanted)
    used = {_folder_part(name) for name in listing.ids}
    for entry in rest:
        part = _folder_part(entry.path)
        if refuses and part is not None and part not in used:
            folder = next(name for name in entry.path.split("/") if parse_part(name) == part)
            raise empty_part(
                str(root), folder, part, [other.reason for other in rest if _folder_part(other.path) == part]
            )
    return (*rest, *(entry for entry in ignored if Path(entry.path).name not in NAMES))


def _name_files(root: Path, files: Sequence[Path]) -> str:
    return list_some((quote(os.path.relpath(file, root)) for file in files), 3)
