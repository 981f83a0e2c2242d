"""Reads CSV, Parquet and JSON lines as tables of text, and finds a column by its name."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.data.table_text import cut_separator_line, read_table_text
from backbench.documents import parse_json
from backbench.errors import ConfigError, DataError, MissingExtra
from backbench.wording import count, did_you_mean, list_some, quote

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
DELIMITERS = (",", ";", "\t", "|")
NUM_LOOKED_AT = 20
"""Rows used to detect the separator."""
IMAGE_NAME = re.compile(
    r"[^|;,\t]*\.(jpe?g|jpe|jfif|mpo|a?png|webp|gif|bmp|dib|tiff?|p[pgbnf]m|avif|hei[cf])", re.IGNORECASE
)
_LIST_LINE = re.compile(rf"({IMAGE_NAME.pattern})[ \t]+(\S.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """Columns of text. `row_numbers` count from 1 in the file: the header is row 1.

    A file without a header has a column 'image' and, if that leaves one, a column 'label'.
    """

    path: Path
    columns: dict[str, list[str]]
    row_numbers: list[int]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.row_numbers)


def read_table(path: Path) -> Table:
    """Read a text table (.csv, .tsv, .txt), JSON lines (.jsonl) or a .parquet file.

    A text table may be separated by comma, semicolon, tab or bar, or be a list of lines 'path label'; see
    `table_text` for encodings. Names of columns and values are stripped of spaces at both ends.

    Raises:
        DataError: the file can't be read, is not such a table, or its rows don't fit its header.
        MissingExtra: a Parquet file without pyarrow installed.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    text, warnings = read_table_text(path)
    if path.suffix.lower() == ".jsonl":
        return _parse_json_lines(path, text, warnings)
    try:
        return _parse_csv(path, text, warnings)
    except csv.Error as error:
        raise DataError(f"{path}: not a valid CSV: {error}. Check for a stray quotation mark.") from error


def find_column(
    table: Table, asked: str | None, defaults: Sequence[str], purpose: str, option: str, *, needed: bool = True
) -> str | None:
    """The name of a column: the requested one, else the first default that exists, compared by `fold_name`.

    Returns None if it is optional and missing.

    Raises:
        ConfigError: the column is missing; the message gives the nearest names and all columns.
    """
    names = list(table.columns)
    if asked is None:
        by_folded = {fold_name(name): name for name in reversed(names)}
        for default in defaults:
            if fold_name(default) in by_folded:
                return by_folded[fold_name(default)]
        if not needed:
            return None
        raise ConfigError(
            f"{table.path}: found no column for the {purpose}. Usual names: {', '.join(defaults)}. Columns: "
            f"{list_some(map(quote, names), 20)}. Name it with {option}."
        )
    if asked in table.columns:
        return asked
    raise ConfigError(
        f"{table.path} has no column {quote(asked)} ({option}).{did_you_mean(asked, names)} "
        f"Columns: {list_some(map(quote, names), 20)}."
    )


def fold_name(name: str) -> str:
    """A column's name without case, spaces, '_' and '-': 'File Name' is 'file_name'."""
    return re.sub(r"[\s_-]", "", name.casefold())


def _parse_csv(path: Path, text: str, warnings: tuple[str, ...]) -> Table:
    named, text = cut_separator_line(text)
    delimiter = named or _guess_delimiter(text)
    if delimiter is None:
        return _parse_list(path, text, warnings)
    # strict: otherwise one stray quotation mark silently swallows all rows until the next one
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    numbers: list[int] = []
    wrong: list[str] = []
    for number, fields in enumerate(reader, start=1):
        if not any(field.strip() for field in fields):
            continue
        stripped = [field.strip() for field in fields]
        if header is None:
            header = _name_columns(stripped)
            if header == stripped:
                continue
        if len(stripped) == len(header) + 1 and not stripped[-1]:
            stripped.pop()  # a separator at the end of the line
        if len(stripped) != len(header):
            wrong.append(f"row {number} has {count(len(fields), 'field')}")
        else:
            rows.append(stripped)
            numbers.append(number)
    if header is None:
        raise DataError(f"{path}: the table is empty")
    if wrong:
        raise DataError(
            f"{path}: the header has {count(len(header), 'field')}, but {list_some(wrong)}. Put values that "
            "contain the separator in quotation marks."
        )
    _check_header(path, header)
    columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
    return Table(path, columns, numbers, warnings)


def _name_columns(first: Sequence[str]) -> list[str]:
    """The header; if the first row names an image, there is no header and the columns get default names."""
    images = [index for index, field in enumerate(first) if IMAGE_NAME.fullmatch(field)]
    if not images:
        return list(first)
    names = [f"column {number}" for number in range(1, len(first) + 1)]
    names[images[0]] = "image"
    if len(first) == 2:
        names[1 - images[0]] = "label"
    return names


def _guess_delimiter(text: str) -> str | None:
    """The separator that gives the most fields, the same number in each of the first rows; None for a list of
    lines 'path label'."""

    def judge(mark: str) -> tuple[bool, bool, int]:
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True, skipinitialspace=True)
            rows = [row for row in itertools.islice(reader, NUM_LOOKED_AT) if any(map(str.strip, row))]
        except csv.Error:
            rows = [next(csv.reader([text.lstrip().partition("\n")[0]], delimiter=mark), [])]
        num_fields = {len(row) for row in rows}
        has_image = any(IMAGE_NAME.fullmatch(field.strip()) for row in rows for field in row)
        most = len(rows[0]) if rows else 0
        return len(num_fields) == 1 and most > 1, has_image, most

    best = max(DELIMITERS, key=judge)
    first = text.lstrip().partition("\n")[0].strip()
    if judge(best)[0] or not _LIST_LINE.fullmatch(first):
        return best
    return None


def _parse_list(path: Path, text: str, warnings: tuple[str, ...]) -> Table:
    """Lines 'path label', as lists of ImageNet and Caffe have them; the path may hold spaces."""
    images: list[str] = []
    labels: list[str] = []
    numbers: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        found = _LIST_LINE.fullmatch(line.strip())
        if found is not None:
            images.append(found[1])
            labels.append(found[3].strip())
            numbers.append(number)
        elif line.strip():
            raise DataError(
                f"{path}, line {number}: {quote(line.strip()[:80])} is not an image and label like the first "
                "line. Write each line as 'path label', or give a table with the columns 'file' and 'label'."
            )
    return Table(path, {"image": images, "label": labels}, numbers, warnings)


def _parse_json_lines(path: Path, text: str, warnings: tuple[str, ...]) -> Table:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {number}: expected an object such as {{"file_name": ...}}')
        rows.append(row)
        numbers.append(number)
    if not rows:
        raise DataError(f"{path}: the table is empty")
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    columns = {name: [_as_text(row.get(name)) for row in rows] for name in names}
    return Table(path, columns, numbers, warnings)


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
            # columns of bytes or lists (embedded pictures, vectors) hold no names and may be large
            flat = [c.name for c in file.schema_arrow if not (arrow.types.is_nested(c.type) or _is_bytes(c.type))]
            found = file.read(columns=flat)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
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
    """A cell as text; None and NaN (the two ways to write nothing) give ''; a list as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None or value != value else str(value).strip()
