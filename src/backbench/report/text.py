"""Names and figures as text that is safe and aligned in a terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from backbench.config import Augment
from backbench.errors import JOINERS, printable

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""A spreadsheet treats a cell with this start as a formula; some also accept the wide signs."""


def in_csv(value: object) -> str:
    """A cell of a table: '' for None; text by `printable`, after a quote if a spreadsheet would run it."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = printable(value)
    runs = value.lstrip(" ").startswith(_FORMULA_STARTS) or text.startswith(_FORMULA_STARTS)
    return f"'{text}" if runs else text


def cell_width(text: str) -> int:
    """The width of the text in terminal columns: two for wide characters, none for combining marks."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if char in JOINERS or unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` columns, with the middle left out, because starts and ends distinguish names."""
    if cell_width(text) <= width:
        return text
    if width < 1:
        return ""
    tail = _take(text[::-1], (width - 1) // 2)[::-1]
    return _take(text, width - 1 - cell_width(tail)) + "…" + tail


def _take(text: str, width: int) -> str:
    taken, used = [], 0
    for char in text:
        used += _char_width(char)
        if used > width:
            break
        taken.append(char)
    return "".join(taken)


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """`text` in lines of at most `width` columns, broken at spaces only; `indent` before all but the first.

    A wider word, such as a path, stays whole on its own line for copying. Only scripts without spaces are broken
    between characters.
    """
    lines, line, is_empty = [], "", True
    for word in text.split(" "):
        if not is_empty and cell_width(line) + 1 + cell_width(word) > width:
            lines.append(line)
            line, is_empty = indent, True
        line += word if is_empty else " " + word
        is_empty = False
        while cell_width(line) > width and any(_char_width(char) == 2 for char in word):
            piece = _take(line, width)
            lines.append(piece)
            line = indent + line[len(piece) :]
    return [*lines, line]


def pad(text: str, width: int, align: str = "<") -> str:
    """`text` filled with spaces to `width` columns: '<' to the left, '>' to the right."""
    space = " " * max(0, width - cell_width(text))
    return space + text if align == ">" else text + space


def num_decimals(n: int) -> int:
    """Decimals of a percentage on n test images: two above 10,000, one otherwise."""
    return 2 if n > 10_000 else 1


def percent(fraction: float | None, n: int, unit: bool = True) -> str:
    """'93.1 %' (or '93.1'): rounded, but a share below 1 never shows as 100; '' for None."""
    if fraction is None or not math.isfinite(fraction):
        return ""
    decimals = num_decimals(n)
    shown = round(fraction * 100, decimals)
    if shown >= 100 and fraction < 1:
        shown = 100 - 10**-decimals
    if shown <= 0 and fraction > 0:
        shown = 10**-decimals
    return f"{shown:.{decimals}f}" + (" %" if unit else "")


def quantity(number: float | None) -> str:
    """A count in at most five characters: '870', '5.3k', '28.6M', '1.2B'; '' for None."""
    if number is None:
        return ""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{number:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds in a table, in at most six characters: '0.03', '4.1', '312', '5,040'; '' for None."""
    if seconds is None:
        return ""
    if seconds < 0.995:
        return f"{seconds:.2f}"
    return f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:,.0f}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of all values, those of a group as 'recipe.epochs'; lists stay together."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def describe_augment(stated: Mapping[str, Any]) -> str:
    """'crop random-resized, scale 0.35 to 1.0, flip': effective settings that differ from defaults, else ''."""
    usual = Augment().model_dump(mode="json")
    of_crop = {"scale": "random-resized", "ratio": "random-resized", "padding": "pad"}
    idle = {key for key, crop in of_crop.items() if stated.get("crop") != crop}
    changed = {key: value for key, value in stated.items() if value != usual.get(key) and key not in idle}
    return ", ".join(_change(key, value) for key, value in changed.items())


def _change(key: str, value: Any) -> str:
    if isinstance(value, list):
        value = (" to " if key in ("scale", "ratio") else " x ").join(map(str, value))
    return key.replace("_", " ") + ("" if value is True else f" {value}")


def show_p(p_value: float) -> str:
    """'p = 0.03', or 'p < 0.001'."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}".rstrip("0").rstrip(".")
