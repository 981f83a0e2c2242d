"""A split from a table of paths and parts, and how a given split meets the samples that are there."""

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
    """Sample id -> part, from a table with a column id (or path, image, file, filename) and one part (or split).

    Raises:
        ConfigError: it lacks a column. DataError: it can't be read or used.
    """
    return _read_parts(read_table(path))


def apply_split(split: Mapping[str, str], ids: Sequence[str], path: str) -> tuple[list[str], list[str]]:
    """The part of each of `ids`, and warnings. `split`: sample id -> part; `path`: the file it came from.

    Raises:
        DataError: a sample has no part in the split.
    """
    unmapped = [name for name in ids if name not in split]
    if unmapped:
        raise DataError(
            f"--split {path} gives no part to {len(unmapped):,} of {count(len(ids), 'image')}: "
            f"{list_some(map(quote, unmapped))}. It names, for example, {list_some(map(quote, split), 2)}. "
            "Each image needs a part: add the missing ones, or split without --split."
        )
    extra = sorted(set(split) - set(ids))
    warnings = []
    if extra:
        warnings.append(
            f"--split names {count(len(extra), 'image')} that can't be used here (any more): "
            f"{list_some(map(quote, extra))}. Results are not comparable with those on the whole split"
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
            raise DataError(f"{table.path}, row {number}: {quote(text)} is no part. Allowed: train, val, test.")
        sample_id = normalise_path(name)
        if parts.setdefault(sample_id, part) != part:
            raise DataError(f"{table.path}, row {number}: {quote(name)} was given another part before")
    return parts


def normalise_path(path: str) -> str:
    """A relative path as ids spell it: '/' between names, no './', no '..' inside."""
    return posixpath.normpath(path.replace("\\", "/")) if path else path
