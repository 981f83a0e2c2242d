"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backbench.report.text import printable


@dataclass(frozen=True)
class Table:
    """A table to print: heading, column names, rows of cells, and notes below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def render_tables(tables: Sequence[Table], heading: Callable[[str], str] = "## {}".format) -> str:
    """Tables as Markdown."""
    blocks = []
    for table in tables:
        lines = [heading(_cell(table.title)), "", _line(table.columns), _line(["---"] * len(table.columns))]
        lines += [_line(row) for row in table.rows]
        lines += [""] + [f"{_cell(note)}  " for note in table.notes] if table.notes else []
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
