"""One-hot labels: a table with one column for each class, which holds 1 for that class and 0 for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backbench.data.tables import Table
from backbench.errors import DataError
from backbench.wording import count, list_some, quote

COLUMN = "class whose column holds 1"
"""Ours."""
_ONE, _ZERO = frozenset(("1", "1.0", "true")), frozenset(("0", "0.0", "false"))


def find_class_columns(table: Table, taken: Sequence[str | None]) -> list[str]:
    """At least two columns with only 0 and 1; if there are other columns, each row must have exactly one 1.

    Args:
        taken: columns used for something else.
    """
    rest = [name for name in table.columns if name not in taken]
    flags = [name for name in rest if {value.casefold() for value in table.columns[name]} <= _ONE | _ZERO]
    is_sure = flags == rest or all(len(names) == 1 for names in _list_ones(table, flags))
    return flags if len(flags) > 1 and len(table) and is_sure else []


def _list_ones(table: Table, flags: Sequence[str]) -> list[list[str]]:
    """The names of the columns that hold 1, for each row."""
    rows = zip(*(table.columns[name] for name in flags), strict=True)
    return [[name for name, value in zip(flags, row, strict=True) if value.casefold() in _ONE] for row in rows]


def add_labels(table: Table, classes: Sequence[str]) -> Table:
    """The table with a column `COLUMN` of class names.

    Raises:
        DataError: rows with no 1, or with several.
    """
    found = _list_ones(table, classes)
    wrong = [
        f"row {number} ({' and '.join(map(quote, names)) or 'none'})"
        for names, number in zip(found, table.row_numbers, strict=True)
        if len(names) != 1
    ]
    if wrong:
        raise DataError(
            f"{table.path}: {list_some(map(quote, classes), 3)} look like one column for each class, but "
            f"{count(len(wrong), 'row has', 'rows have')} not exactly one class: {list_some(wrong, 3)}. Each "
            "image needs one. If the labels are in one of the columns, name it with --label-column."
        )
    return replace(table, columns={**table.columns, COLUMN: [names[0] for names in found]})
