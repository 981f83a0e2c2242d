"""The column of a table that says which split each row is in: the one named, or one that is seen to be that."""

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
"""A column of splits holds few words."""
_YES, _NO = frozenset(("1", "1.0", "true", "yes", "t", "y")), frozenset(("0", "0.0", "false", "no", "f", "n"))
_SOUNDS_LIKE = re.compile(r"split|fold|partition|subset|(^|[_\W])part($|[_\W])", re.IGNORECASE)


def read_parts(
    table: Table, asked: str | None, taken: Sequence[str | None]
) -> tuple[str | None, list[str], list[str]]:
    """The column's name, the text of each row ('train', 'val', 'test', or '': not said), and warnings.

    A column counts without being asked for if its values are all names of splits, that of training and another
    among them, or if it is called split or part. No other column is used in silence: warnings name it. One that
    seems to name a test split, in words that can't be read, stops the work.

    Args:
        asked: what `--split-column` names; 'none': no column is used.
        taken: columns that hold something else.

    Raises:
        ConfigError: there is no column of that name. DataError: it holds other words; several may be meant; or one
            seems to be meant.
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
            f"{table.path}: several columns look like splits: {list_some(map(quote, usable))}. Name one with "
            f"{OPTION} NAME, or none with {OPTION} {NO_COLUMN}: then a new split is made."
        )
    if not usable:
        _refuse_suspects(table, rest)
    name = usable[0] if usable else None
    unused = [other for other in rest if other != name and _SOUNDS_LIKE.search(other)]
    warnings = [
        f"column {quote(other)} may say how to split, and was not used: it holds "
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
            f"other split is made beside it. If it is one, {way}. If not: {OPTION} {NO_COLUMN}."
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
            f"{table.path}: column {quote(name)} holds {told}. Allowed: train, val, test, "
            f"or nothing (then backbench decides). If it means something else: {OPTION} {NO_COLUMN}."
        )
    return [parse_part(text) or "" for text in values]
