"""Reads CSV and Parquet tables as text, and finds a column by its name."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.data.wording import count, list_some, quote
from backbench.errors import ConfigError, DataError, MissingExtra, nearest

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Table:
    """Columns of text. `row_numbers` are those of the file as people count them: the header is row 1."""

    path: Path
    columns: dict[str, list[str]]
    row_numbers: list[int]

    def __len__(self) -> int:
        return len(self.row_numbers)


def read_table(path: Path) -> Table:
    """Read a .csv or .tsv (UTF-8, separated by comma, semicolon or tab) or a .parquet file.

    Names of columns and values are stripped of spaces at both ends.

    Raises:
        DataError: the file can't be read, is no such table, or its rows don't fit its header.
        MissingExtra: a Parquet file, and pyarrow is not installed.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: the table can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start:,} is not UTF-8 text. Save the table as CSV in UTF-8 and try again."
        ) from error
    try:
        return _parse_csv(path, text)
    except csv.Error as error:
        raise DataError(f"{path}: this is no proper CSV: {error}. Is there a stray quotation mark?") from error


def find_column(
    table: Table, asked: str | None, defaults: Sequence[str], purpose: str, option: str, *, needed: bool = True
) -> str | None:
    """The name of a column: the one asked for, else the first default that is there (whatever its case).

    Returns None if it is not needed and not there.

    Raises:
        ConfigError: it is not there; names the nearest columns and all of them.
    """
    names = list(table.columns)
    if asked is None:
        by_folded = {name.casefold(): name for name in reversed(names)}
        for default in defaults:
            if default in by_folded:
                return by_folded[default]
        if not needed:
            return None
        raise ConfigError(
            f"{table.path}: no column for the {purpose} was found. Looked for: {', '.join(defaults)}. "
            f"Columns: {list_some(map(quote, names), 20)}. Name it with {option}."
        )
    if asked in table.columns:
        return asked
    close = nearest(asked, names)
    hint = f"Did you mean {' or '.join(map(quote, close))}? " if close else ""
    raise ConfigError(
        f"{table.path} has no column {quote(asked)} ({option}). {hint}Columns: {list_some(map(quote, names), 20)}."
    )


def _parse_csv(path: Path, text: str) -> Table:
    delimiter = _guess_delimiter(text)
    # strict: otherwise one stray quotation mark silently swallows all rows up to the next
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    numbers: list[int] = []
    wrong: list[str] = []
    for number, fields in enumerate(reader, start=1):
        if not any(field.strip() for field in fields):
            continue
        if header is None:
            header = [field.strip() for field in fields]
        elif len(fields) != len(header):
            wrong.append(f"row {number} has {count(len(fields), 'field')}")
        else:
            rows.append([field.strip() for field in fields])
            numbers.append(number)
    if header is None:
        raise DataError(f"{path}: the table is empty")
    if wrong:
        raise DataError(
            f"{path}: the header has {count(len(header), 'field')}, but {list_some(wrong)}. "
            "Put values that hold the separator in quotation marks."
        )
    _check_header(path, header)
    columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    return Table(path, columns, numbers)


def _guess_delimiter(text: str) -> str:
    """The one that splits the first line with something on it into most fields; a comma if none does."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))


def _check_header(path: Path, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {list_some(map(quote, twice))} more than once")


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet", f"Reading {path.name}") from error
    try:
        with parquet.ParquetFile(path) as file:
            # columns of bytes or lists (embedded pictures, vectors) are no names, and may be large
            flat = [c.name for c in file.schema_arrow if not (arrow.types.is_nested(c.type) or _is_bytes(c.type))]
            found = file.read(columns=flat)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: this is no Parquet file that can be read: {error}") from error
    header = [str(name).strip() for name in found.column_names]
    _check_header(path, header)
    columns = {name: [_as_text(value) for value in found.column(i).to_pylist()] for i, name in enumerate(header)}
    return Table(path, columns, list(range(2, found.num_rows + 2)))


def _is_bytes(kind: Any) -> bool:
    import pyarrow as arrow

    return (
        arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind) or arrow.types.is_fixed_size_binary(kind)
    )


def _as_text(value: object) -> str:
    """A cell as text; None and NaN (the two ways to write nothing) give ''."""
    return "" if value is None or value != value else str(value).strip()
