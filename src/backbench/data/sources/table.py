"""A CSV or Parquet table of images, labels and, where wanted, groups and parts; the images stay where they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbench.config import DataConfig
from backbench.data.listing import Ignored, Listing
from backbench.data.scanner import sort_key
from backbench.data.splitfile import PART_COLUMNS, normalise_path, parse_part
from backbench.data.tables import TABLE_SUFFIXES, Table, find_column, read_table
from backbench.data.wording import count, list_some, quote
from backbench.errors import DataError
from backbench.progress import Progress

IMAGE_COLUMNS = ("image", "file", "path", "filename")
LABEL_COLUMNS = ("label", "class", "species")
GROUP_COLUMNS = ("group",)


@dataclass(frozen=True)
class _Sample:
    image: str
    label: str
    group: str | None
    part: str | None
    row_number: int

    def is_like(self, other: _Sample) -> bool:
        return (self.label, self.group, self.part) == (other.label, other.group, other.part)


def accepts(path: Path) -> bool:
    """Whether this module can load the path."""
    return path.suffix.lower() in TABLE_SUFFIXES and path.is_file()


def load_path(config: DataConfig, path: Path, progress: Progress) -> Listing:
    """The images the table names; relative paths start at the table's folder.

    Columns not named in `config` are looked for under their usual names: image, file, path or filename; label,
    class or species; group; part or split. Only image and label must be there.

    Raises:
        ConfigError: a column is not there.
        DataError: the table can't be read; empty labels; unknown parts; images that are not there (all of them,
            or any with the policy 'fail'); an image with two labels.
    """
    table = read_table(path)
    samples, ignored = _drop_repeats(path, _read_samples(table, config))
    folder = path.absolute().parent
    files = {image: folder / image for image in samples}
    _check_files(path, files, must_be_whole=config.on_bad == "fail")
    ordered = [samples[image] for image in sorted(samples, key=sort_key)]
    return Listing(
        name=path.stem,
        ids=tuple(sample.image for sample in ordered),
        labels=tuple(sample.label for sample in ordered),
        groups=tuple(sample.group for sample in ordered),
        parts=tuple(sample.part for sample in ordered),
        files=tuple(files[sample.image] for sample in ordered),
        ignored=tuple(ignored),
    )


def _read_samples(table: Table, config: DataConfig) -> list[_Sample]:
    images = _column(table, config.image_column, IMAGE_COLUMNS, "images", "--image-column")
    labels = _column(table, config.label_column, LABEL_COLUMNS, "labels", "--label-column")
    group_name = find_column(table, config.group_column, GROUP_COLUMNS, "groups", "--group-column", needed=False)
    part_name = find_column(table, None, PART_COLUMNS, "parts", "", needed=False)
    nothing = [""] * len(table)
    groups = nothing if group_name is None else table.columns[group_name]
    parts = nothing if part_name is None else table.columns[part_name]
    for what, values in (("image", images), ("label", labels)):
        empty = [str(number) for value, number in zip(values, table.row_numbers, strict=True) if not value]
        if empty:
            raise DataError(
                f"{table.path}: {count(len(empty), 'row has', 'rows have')} no {what}: row {list_some(empty)}. "
                "Fill in or remove them."
            )
    unknown = [
        f"{quote(text)} in row {number}"
        for text, number in zip(parts, table.row_numbers, strict=True)
        if text and parse_part(text) is None
    ]
    if unknown:
        raise DataError(
            f"{table.path}: column {quote(str(part_name))} holds {list_some(unknown)}. Allowed: train, val, test, "
            "or nothing (then backbench decides). Rename the column if it means something else."
        )
    columns = zip(images, labels, groups, parts, table.row_numbers, strict=True)
    return [
        _Sample(normalise_path(image), label, group or None, parse_part(part), number)
        for image, label, group, part, number in columns
    ]


def _column(table: Table, asked: str | None, defaults: Sequence[str], purpose: str, option: str) -> list[str]:
    name = find_column(table, asked, defaults, purpose, option)
    assert name is not None  # a needed column is found or refused
    return table.columns[name]


def _drop_repeats(path: Path, samples: Sequence[_Sample]) -> tuple[dict[str, _Sample], list[Ignored]]:
    """Each image once. The same row again is left out and reported; the same image said otherwise is an error."""
    first: dict[str, _Sample] = {}
    ignored: list[Ignored] = []
    clashes: list[str] = []
    for sample in samples:
        known = first.setdefault(sample.image, sample)
        if known is sample:
            continue
        where = f"rows {known.row_number} and {sample.row_number}"
        if known.is_like(sample):
            ignored.append(Ignored(sample.image, f"listed twice ({where})"))
        else:
            what = (
                f"{quote(known.label)} and {quote(sample.label)}"
                if known.label != sample.label
                else "two groups or parts"
            )
            clashes.append(f"{quote(sample.image)} ({where}: {what})")
    if clashes:
        raise DataError(
            f"{path}: {count(len(clashes), 'row names', 'rows name')} an image again with another label, group or "
            f"part: {list_some(clashes)}. Keep one row for each image."
        )
    if not first:
        raise DataError(f"{path}: the table has a header and no rows")
    return first, ignored


def _check_files(path: Path, files: dict[str, Path], *, must_be_whole: bool) -> None:
    missing = [image for image, file in files.items() if not os.path.exists(file)]  # noqa: PTH110 - never raises
    if not missing or (len(missing) < len(files) and not must_be_whole):
        return
    shown = list_some(map(quote, missing))
    if len(missing) == len(files):
        raise DataError(
            f"{path}: none of its {count(len(files), 'image')} is there: {shown}. Relative paths start at the "
            f"table's folder, so the first was looked for at {quote(str(files[missing[0]]))}. Is this the right "
            "--image-column?"
        )
    raise DataError(
        f"{path}: {len(missing):,} of {count(len(files), 'image')} can't be found: "
        f"{shown}. Restore them, remove their rows, or leave them out with --on-bad skip."
    )
