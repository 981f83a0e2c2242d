"""The ranking as text: for terminals and logs, in any width from 60 columns.

Columns are left out, least important first, until a line fits: resizing seconds, peak memory, parameters,
seconds of reading, decoding, head and forward, class mean, top-5, images/s, input size, whisker, total seconds,
mark, interval, method. Rank, model and accuracy always stay; long names are shortened in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backbench.progress import format_seconds
from backbench.report.record_text import render_record
from backbench.report.row_text import show_interval, show_memory, show_rank, show_rate, show_size
from backbench.report.rows import Row
from backbench.report.text import cell_width, duration, pad, percent, printable, quantity, shorten, wrap
from backbench.wording import join_names

__all__ = ["printable", "render_live_line", "render_record", "render_table"]

_MODEL_CELLS = (
    24  # a longer name is shortened to this (in a narrow terminal to a quarter of it) before a column is dropped
)
_WHISKER_CELLS = (12, 20, 32)  # minimum, before names get more room, maximum
_WIDEST_SCALE = 0.30  # the whiskers' scale reaches at most this far below the best row: gaps there matter
_NOTE_INDENT = 5  # with the bracket and the comma around a name
_UNTRAINED = " (untrained)"
_ASCII = str.maketrans({"├": "|", "┤": "|", "─": "-", "●": "*", "○": "o", "×": "x", "–": "-", "◂": "<", "…": "~"})

_BOLD, _DIM, _ACCENT, _BEST, _ATTENTION = "1", "2", "36", "1;36", "33"


@dataclass(frozen=True)
class _Column:
    """One column: `space` is the gap before it, `drop` its place in the order of dropping (0: never)."""

    key: str
    heading: str
    cell: Callable[[Row], str]
    drop: int
    align: str = ">"
    space: int = 2


def _stage(name: str) -> Callable[[Row], str]:
    return lambda row: duration(row.seconds.get(name))


_COLUMNS = (
    _Column("rank", "Rank", lambda row: show_rank(row) or "–", 0, ">", 0),
    _Column("model", "Model", lambda row: _model(row), 0, "<"),
    _Column("method", "Method", lambda row: printable(row.how), 17, "<"),
    _Column("accuracy", "Accuracy", lambda row: percent(row.accuracy, row.n) or row.status, 0),
    _Column("interval", "95 % int.", lambda row: show_interval(row.low, row.high, row.n), 16),
    _Column("whisker", "", lambda _: "", 13, "<"),
    _Column("mark", "", lambda row: _mark(row), 15, "<"),
    _Column("top5", "Top-5", lambda row: percent(row.top5, row.n, unit=False), 10),
    _Column("class_mean", "Class mean", lambda row: percent(row.per_class_mean, row.n, unit=False), 9, ">", 1),
    _Column("size", "px", show_size, 12),
    _Column("parameters", "Params", lambda row: quantity(row.parameters or None), 3, ">", 1),
    _Column("rate", "img/s", show_rate, 11, ">", 1),
    _Column("total", "Seconds", lambda row: duration(row.seconds.get("total")), 14),
    _Column("read", "read", _stage("read"), 4, ">", 1),
    _Column("decode", "decode", _stage("decode"), 5, ">", 1),
    _Column("resize", "resize", _stage("resize"), 1, ">", 1),
    _Column("forward", "forward", _stage("forward"), 7, ">", 1),
    _Column("head", "head", _stage("head"), 6, ">", 1),
    _Column("memory", "Memory", show_memory, 2),
)


def render_table(
    rows: Sequence[Row], *, width: int, colour: bool, num_expected: int | None = None, ascii_only: bool = False
) -> str:
    """The ranking as aligned text, without a final line break.

    Best first; controls, then failures under rules of their own; below, a legend and notes on rows.
    The best and the rows tied with it are marked by a word and a filled circle, and by colour where `colour`.

    Args:
        rows: as `make_rows` gives them.
        width: columns of the terminal; at least 40, better 80 or more.
        colour: add ANSI colours.
        num_expected: final number of rows, if this is a part of them.
        ascii_only: for terminals and encodings without line drawing.
    """
    if not rows:
        return "No run has finished yet."
    columns, widths = _fit(rows, max(width, 40))
    scale = _scale(rows)
    lines = [_paint(_heading(columns, widths, scale), _BOLD, colour)]
    full = sum(widths[column.key] + column.space for column in columns)
    lines.append(_paint("─" * full, _DIM, colour))
    section = ""
    for row in rows:
        wanted = _section(row)
        if wanted != section:
            lines.append(_paint(f"── {wanted} {'─' * max(0, full - len(wanted) - 4)}"[:full], _DIM, colour))
            section = wanted
        lines.append(_paint(_line(row, columns, widths, scale), _style(row), colour))
    lines.append(_paint("─" * full, _DIM, colour))
    lines += [_paint(line, _DIM, colour) for line in _legend(rows, max(width, 40), num_expected)]
    lines += [_paint(line, _ATTENTION, colour) for line in _notes(rows, max(width, 40))]
    text = "\n".join(lines)
    return text.translate(_ASCII) if ascii_only else text


def _section(row: Row) -> str:
    if row.has_failed:
        return "failed"
    return "baselines" if row.control else "not ranked: trained on test images" if row.num_test_seen else ""


def render_live_line(rows: Sequence[Row], remaining: int, seconds_left: float | None = None) -> str:
    """One line on a running ranking: the leader, rows tied with it, and the remaining work.

    Args:
        rows: so far, as `make_rows` gives them.
        remaining: models to go.
        seconds_left: of the budget; None without one.
    """
    best = next((row for row in rows if row.is_best and not row.control), None)
    controls = [row for row in rows if row.control and row.accuracy is not None]
    if best is not None:
        said = f"best so far: {printable(best.name)} {percent(best.accuracy, best.n)}"
        tied = [row.name for row in rows if row.tied_with_best and not row.is_best and not row.control]
        if tied:
            said += f", tied with {join_names(tied, limit=1 if len(tied) > 2 else 2)}"
    elif controls:
        top = controls[0]
        said = f"best baseline so far: {printable(top.model)} {percent(top.accuracy, top.n)}"
    else:
        said = "no run has finished yet"
    if remaining > 0:
        said += f"; {remaining} {'model' if remaining == 1 else 'models'} left"
        if seconds_left is not None and seconds_left > 0:
            said += f", {format_seconds(seconds_left)} of the budget left"
    return said


def _fit(rows: Sequence[Row], width: int) -> tuple[list[_Column], dict[str, int]]:
    """The columns that fit, with their widths; a column without a single entry is left out."""
    cells = {column.key: [column.cell(row) for row in rows] for column in _COLUMNS}
    natural = {
        column.key: max(cell_width(text) for text in [column.heading, *cells[column.key]]) for column in _COLUMNS
    }
    widths = natural | {
        "model": min(natural["model"], _MODEL_CELLS, max(12, width // 4)),
        "whisker": _WHISKER_CELLS[0],
    }
    columns = [column for column in _COLUMNS if column.key == "whisker" or any(cells[column.key])]
    if all(row.accuracy is None for row in rows):
        columns = [column for column in columns if column.key not in ("whisker", "interval")]

    def room() -> int:
        return width - sum(widths[column.key] + column.space for column in columns)

    for column in sorted((column for column in columns if column.drop), key=lambda column: column.drop):
        if room() >= 0:
            break
        columns.remove(column)
    kept = {column.key for column in columns}
    if room() < 0:
        widths["model"] = max(4, widths["model"] + room())
    for key, most in (("whisker", _WHISKER_CELLS[1]), ("model", natural["model"]), ("whisker", _WHISKER_CELLS[2])):
        if key in kept and room() > 0:
            widths[key] = max(widths[key], min(most, widths[key] + room()))
    return columns, {column.key: widths[column.key] for column in columns}


def _heading(columns: list[_Column], widths: dict[str, int], scale: tuple[float, float]) -> str:
    parts = []
    for column in columns:
        text = column.heading
        if column.key == "whisker":
            low, high = f"{scale[0] * 100:.0f}", f"{scale[1] * 100:.0f} %"
            text = pad(low, widths["whisker"] - len(high)) + high
        parts.append(" " * column.space + pad(text, widths[column.key], column.align))
    return "".join(parts)


def _line(row: Row, columns: list[_Column], widths: dict[str, int], scale: tuple[float, float]) -> str:
    parts = []
    for column in columns:
        cells = widths[column.key]
        text = _whisker(row, scale, cells) if column.key == "whisker" else column.cell(row)
        if column.key == "model" and text.endswith(_UNTRAINED):  # keep the mark when the name is shortened
            text = shorten(text.removesuffix(_UNTRAINED), cells - len(_UNTRAINED)) + _UNTRAINED
        text = shorten(text, cells)
        parts.append(" " * column.space + pad(text, widths[column.key], column.align))
    return "".join(parts)


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """(low, high) of the whiskers' common axis, around rows that are not baselines, with round ends."""
    shown = [row for row in rows if row.low is not None and not row.control] or [
        row for row in rows if row.low is not None
    ]
    if not shown:
        return 0.0, 1.0
    high = max(row.high or 0.0 for row in shown)
    low = max(min(row.low or 0.0 for row in shown), high - _WIDEST_SCALE)
    step = 0.01 if high - low <= 0.05 else 0.02 if high - low <= 0.15 else 0.05
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return max(0.0, low), min(1.0, max(high, low + step))


def _whisker(row: Row, scale: tuple[float, float], cells: int) -> str:
    """The interval and the value on the common scale: '  ├──●─┤ '; '◂' if the row is left of the scale."""
    if row.accuracy is None or row.low is None or row.high is None:
        return ""

    def place(value: float) -> int:
        return round((value - scale[0]) / (scale[1] - scale[0]) * (cells - 1))

    low, middle, high = place(row.low), place(row.accuracy), place(row.high)
    drawn = [" "] * cells
    for cell in range(max(low, 0), min(high, cells - 1) + 1):
        drawn[cell] = "─"
    if 0 <= low < cells:
        drawn[low] = "├"
    if 0 <= high < cells:
        drawn[high] = "┤"
    if 0 <= middle < cells:
        drawn[middle] = "×" if row.control else "●" if row.tied_with_best or row.is_best else "○"
    else:
        drawn[0 if middle < 0 else -1] = "◂" if middle < 0 else "▸"
    return "".join(drawn)


def _model(row: Row) -> str:
    return printable(row.model) + (_UNTRAINED if row.is_untrained else "")


def _mark(row: Row) -> str:
    word = "" if row.has_failed else "best" if row.is_best else "tied" if row.tied_with_best else ""
    return f"{word} !".strip() if row.warnings else word


def _style(row: Row) -> str:
    if row.control or row.num_test_seen or row.has_failed:
        return _DIM
    return _BEST if row.is_best else _ACCENT if row.tied_with_best else ""


def _paint(line: str, style: str, colour: bool) -> str:
    line = line.rstrip()
    return f"\x1b[{style}m{line}\x1b[0m" if colour and style and line else line


def _legend(rows: Sequence[Row], width: int, num_expected: int | None) -> list[str]:
    """The legend, in the longest wording that fits one line, and the number of rows so far."""
    n = max(row.n for row in rows)
    images = f"{n:,} test {'image' if n == 1 else 'images'}"
    variants = (
        f"Rank: places a row may take. tied (●): may be the truly best (95 % confidence, all rows together). "
        f"○ is not, × baseline. {images}.",
        f"Rank: places a row may take. tied: may be the truly best (95 % confidence). {images}.",
        f"tied: may be the truly best (95 % confidence). {images}.",
        f"tied: may be the best (95 %). {images}.",
        f"{images}.",
    )
    lines = [next((text for text in variants if cell_width(text) <= width), variants[-1])] if n else []
    if num_expected is not None and num_expected > len(rows):
        lines.insert(0, f"{len(rows)} of {num_expected} rows so far.")
    if any(row.features_from_cache for row in rows):
        cached = "features came from the cache: their seconds are those of the original extraction."
        lines += wrap(f"Cached {cached}", width)
    return lines


def _notes(rows: Sequence[Row], width: int) -> list[str]:
    """Notes marked with '!', each once with its rows; and reasons of failed rows."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            about.setdefault(f"! {printable(warning)}", []).append(row.model if row.control else row.name)
        if row.has_failed:
            reason = " ".join((row.error or "no reason recorded").split())  # messages may span several lines
            about.setdefault(f"{row.status}: {printable(reason)}", []).append(row.name)
    lines = []
    for text, names in about.items():
        short = [shorten(printable(name), width - _NOTE_INDENT) for name in names]
        lines += wrap(f"{text} ({join_names(short)})", width, indent="  ")
    return lines
