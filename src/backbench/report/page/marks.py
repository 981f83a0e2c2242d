"""Small pieces that the charts and the template share: axes, names and figures fit for a page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from backbench.report.text import printable, shorten

__all__ = [
    "Axis", "breakable", "join_marks", "make_axis", "make_log_axis", "name", "points", "sentence", "tag"
]  # fmt: skip

LONGEST_NAME = 60
_MIN_TICKS = 3


@dataclass(frozen=True)
class Axis:
    """A linear scale: where a value lies between `low` and `high`, as a share of the width in percent."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """0..100, values outside the axis at its ends."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)


def make_axis(values: Sequence[float], *, least: float = 0.0, most: float = 1.0, steps: int = 4) -> Axis:
    """A scale with round ends around `values`, within least..most, and about `steps` ticks."""
    low, high = (min(values), max(values)) if len(values) else (least, most)
    span = max(high - low, (most - least) * 0.02)
    step = _round_step(span * 1.1 / steps)
    low = max(least, math.floor(low / step) * step)
    high = min(most, math.ceil(high / step) * step)
    if high - low < step:
        low = max(least, high - step)
        high = min(most, low + step)
    num = int((high - low) / step + 1e-6)
    ticks = tuple(round(low + step * index, 10) for index in range(num + 1))
    return Axis(low, max(high, low + 1e-9), ticks)


def make_log_axis(values: Sequence[float]) -> Axis:
    """A scale for the logarithms (base 10) of positive values.

    Ticks are powers of ten; where those are few, steps between them too, the more the closer the values lie.
    """
    logs = [math.log10(max(value, 1e-9)) for value in values] or [0.0, 1.0]
    low, high = min(logs) - 0.15, max(logs) + 0.15
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        marks = [math.log10(step * 10.0**power) for power in range(-10, 13) for step in steps]
        found = [mark for mark in marks if low <= mark <= high]
        if len(found) >= _MIN_TICKS:
            break
    return Axis(low, high, tuple(found))


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((power * step for step in (1, 2, 5) if power * step >= rough * 0.999), power * 10)


def name(text: str, limit: int = LONGEST_NAME) -> str:
    """A name from outside: nothing unprintable, nothing endless. The template escapes it."""
    return shorten(printable(text[: 4 * limit + 400]), limit)


def sentence(text: str) -> str:
    """With a capital letter first, as it stands alone."""
    return text[:1].upper() + text[1:]


def breakable(text: str) -> Markup:
    """A name that may go on in the next line after `_`, `.`, `-` and `/`, and needs no break within a word."""
    return Markup("<wbr>").join(re.findall(r"[^_./-]*[_./-]+|[^_./-]+", text))


def tag(markup: str, *values: object) -> Markup:
    """`markup` with its `{}` filled in; every value is escaped."""
    return Markup(markup).format(*values)


def join_marks(parts: Sequence[Markup]) -> Markup:
    """Pieces of markup one after the other."""
    return Markup("").join(parts)


def points(gap: float) -> str:
    """A difference of shares in points, with its sign: '+1.2', '−0.4', '0.0'."""
    shown = f"{abs(100 * gap):.1f}"
    return shown if shown == "0.0" else ("+" if gap > 0 else "−") + shown
