"""Cells of a row as text, the same in a terminal and on a page; '' where there is nothing to say."""

from __future__ import annotations

from backbench.progress import format_bytes
from backbench.report.rows import Row
from backbench.report.text import percent


def show_rank(row: Row) -> str:
    """'2', or '2–5'."""
    if row.rank_low is None or row.rank_high is None:
        return ""
    return str(row.rank_low) if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}"


def show_interval(low: float | None, high: float | None, n: int) -> str:
    """'90.5–95.0', in percent."""
    if low is None or high is None:
        return ""
    return f"{percent(low, n, unit=False)}–{percent(high, n, unit=False)}"


def show_size(row: Row) -> str:
    """'224', or '224x160' (height first)."""
    if isinstance(row.input_size, tuple):
        return "x".join(map(str, row.input_size))
    return str(row.input_size or "")


def show_memory(row: Row) -> str:
    """'1.2 GB'."""
    return "" if row.peak_memory_bytes is None else format_bytes(row.peak_memory_bytes)


def show_rate(row: Row) -> str:
    """Images a second: '1,240'."""
    return "" if row.images_per_second is None else f"{row.images_per_second:,.0f}"
