"""Read splits from a table of paths, and apply given splits to the available samples."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

from backbench.data.part_names import parse_part
from backbench.data.tables import Table, find_column, read_table
from backbench.errors import DataError
from backbench.wording import count, list_some, quote

ID_COLUMNS = ("id", "path", "image", "file", "filename")
PART_COLUMNS = ("part", "split")


def read_split_table(path: Path) -> dict[str, str]:
    """Sample id -> split, from a table with a column id (or path, image, file, filename) and one split (or part).

    Raises:
        ConfigError: it lacks a column. DataError: it can't be read or used.
    """
    return _read_parts(read_table(path))


def apply_split(split: Mapping[str, str], ids: Sequence[str], path: str) -> tuple[list[str], list[str]]:
    """The split of each of `ids`, and warnings. `split`: sample id -> split; `path`: the source file.

    Raises:
        DataError: a sample has no split.
    """
    unmapped = [name for name in ids if name not in split]
    if unmapped:
        raise DataError(
            f"--split {path} gives no split for {len(unmapped):,} of {count(len(ids), 'image')}: "
            f"{list_some(map(quote, unmapped))}. Its entries are, for example, {list_some(map(quote, split), 2)}. "
            "Each image needs a split: add the missing ones, or leave out --split."
        )
    extra = sorted(set(split) - set(ids))
    warnings = []
    if extra:
        warnings.append(
            f"--split names {count(len(extra), 'image')} that are missing or unusable: "
            f"{list_some(map(quote, extra))}. Results are not comparable with those on the complete split"
        )
    return [split[name] for name in ids], warnings


def _read_parts(table: Table) -> dict[str, str]:
    id_column = find_column(table, None, ID_COLUMNS, "sample ids", "a header of that name")
    part_column = find_column(table, None, PART_COLUMNS, "part", "a header of that name")
    assert id_column is not None  # needed columns are found or refused
    assert part_column is not None
    parts: dict[str, str] = {}
    for name, text, number in zip(
        table.columns[id_column], table.columns[part_column], table.row_numbers, strict=True
    ):
        part = parse_part(text)
        if part is None:
            raise DataError(
                f"{table.path}, row {number}: {quote(text)} is not a split. Allowed: train, val, test."
            )
        sample_id = normalise_path(name)
        if parts.setdefault(sample_id, part) != part:
            raise DataError(f"{table.path}, row {number}: {quote(name)} has two different splits")
    return parts


def normalise_path(path: str) -> str:
    """A relative path in the form of ids: '/' between names, no './', no '..' inside."""
    return posixpath.normpath(path.replace("\\", "/")) if path else path
