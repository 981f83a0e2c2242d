"""Find the column of a table that holds the split of each row: the requested one, or one that looks like it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from backbench.data.label_text import is_missing
from backbench.data.part_names import hints_at_part, parse_part
from backbench.data.splitfile import PART_COLUMNS
from backbench.data.tables import Table, find_column
from backbench.errors import DataError
from backbench.wording import list_some, quote, quote_word

OPTION = "--split-column"
NO_COLUMN = "none"
MAX_VALUES = 12
"""A column of splits has few distinct values."""
_YES, _NO = frozenset(("1", "1.0", "true", "yes", "t", "y")), frozenset(("0", "0.0", "false", "no", "f", "n"))
_SOUNDS_LIKE = re.compile(r"split|fold|partition|subset|(^|[_\W])part($|[_\W])", re.IGNORECASE)


def read_parts(
    table: Table, asked: str | None, taken: Sequence[str | None]
) -> tuple[str | None, list[str], list[str]]:
    """The column's name, the split of each row ('train', 'val', 'test', or '' if not given), and warnings.

    A column is used without request if all its values are names of splits, including training and another one, or
    if it is called split or part. Other candidates only give a warning. A column that seems to name a test split
    in unknown words raises an error.

    Args:
        asked: the value of `--split-column`; 'none': no column is used.
        taken: columns that hold something else.

    Raises:
        ConfigError: no such column. DataError: the column holds other words, or the choice of column is
            ambiguous.
    """
    nothing = [""] * len(table)
    if asked == NO_COLUMN and NO_COLUMN not in table.columns:
        return None, nothing, []
    if asked is not None:
        name = find_column(table, asked, (), "splits", OPTION)
        return name, _to_parts(table, str(name)), []
    rest = [name for name in table.columns if name not in taken]
    usable = [
        name
        for name in rest
        if _holds_parts(table.columns[name]) or (_says_is(name) and _is_flag(name, table.columns[name]))
    ]
    plain = find_column(table, None, PART_COLUMNS, "splits", OPTION, needed=False)
    if plain is not None and plain not in taken:
        usable = [plain]
    if len(usable) > 1:
        raise DataError(
            f"{table.path}: several columns look like splits: {list_some(map(quote, usable))}. Choose one with "
            f"{OPTION} NAME, or use {OPTION} {NO_COLUMN} to make a new split."
        )
    if not usable:
        _refuse_suspects(table, rest)
    name = usable[0] if usable else None
    unused = [other for other in rest if other != name and _SOUNDS_LIKE.search(other)]
    warnings = [
        f"column {quote(other)} may hold splits but was not used. It holds "
        f"{list_some(map(quote, dict.fromkeys(filter(None, table.columns[other]))), 3)}. To use it, write train, "
        f"val or test into it and name it with {OPTION} {quote_word(other)}"
        for other in unused
        if name is None
    ]
    return name, nothing if name is None else _to_parts(table, name), warnings


def _list_words(values: Sequence[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if not is_missing(value)]


def _holds_parts(values: Sequence[str]) -> bool:
    words = _list_words(values)
    parts = {parse_part(word) for word in words}
    return len(words) <= MAX_VALUES and None not in parts and "train" in parts and len(parts) > 1


def _refuse_suspects(table: Table, names: Sequence[str]) -> None:
    """Stop at a column such as Usage with Training and PublicTest, or at a column 'test' with yes and no."""
    for name in names:
        words = _list_words(table.columns[name])
        hints = {hints_at_part(word) for word in words[: MAX_VALUES + 1]}
        if len(words) <= MAX_VALUES and ("test" in hints and hints & {"train", "val"}):
            way = f"write train, val or test into it and name it with {OPTION} {quote_word(name)}"
        elif _is_flag(name, table.columns[name]):
            way = f"use it with {OPTION} {quote_word(name)}"
        else:
            continue
        raise DataError(
            f"{table.path}: column {quote(name)} looks like a split: it holds {list_some(map(quote, words))}. No "
            f"new split is made beside it. If it is one, {way}. If not: {OPTION} {NO_COLUMN}."
        )


def _is_flag(name: str, values: Sequence[str]) -> bool:
    """Whether it is a column such as is_test or test with yes and no."""
    words = {value.casefold() for value in _list_words(values)}
    return _flagged_part(name) is not None and words <= _YES | _NO and len(words) > 1


def _says_is(name: str) -> bool:
    return name.strip().casefold().startswith("is")


def _flagged_part(name: str) -> str | None:
    found = re.fullmatch(r"(?:is[_\s-]?)?(\w+)", name.strip(), re.IGNORECASE)
    return None if found is None else parse_part(found[1])


def _to_parts(table: Table, name: str) -> list[str]:
    values = ["" if is_missing(value) else value for value in table.columns[name]]
    if _is_flag(name, values):
        flagged = _flagged_part(name) or ""
        other = "test" if flagged == "train" else "train"
        return [value and (flagged if value.casefold() in _YES else other) for value in values]
    unknown: dict[str, int] = {}
    for text, number in zip(values, table.row_numbers, strict=True):
        if text and parse_part(text) is None:
            unknown.setdefault(text, number)
    if unknown:
        told = list_some(f"{quote(text)} in row {number}" for text, number in unknown.items())
        raise DataError(
            f"{table.path}: column {quote(name)} holds {told}. Allowed: train, val, test, or an empty cell "
            f"(backbench then decides). If the column means something else: {OPTION} {NO_COLUMN}."
        )
    return [parse_part(text) or "" for text in values]
