"""The content of a chart before drawing: scales with ticks, lines, dots, and names with their places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from backbench.report.charts.labels import Box, place_labels

_MIN_TICKS = 3
_LOG_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))

Points = tuple[tuple[float, float], ...]


def show_percent(value: float) -> str:
    """'25', or '2.5' if it is not whole."""
    return f"{100 * value:.0f}" if abs(100 * value - round(100 * value)) < 1e-6 else f"{100 * value:.1f}"


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`, linear or by logarithm, and its ticks with their texts."""

    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...]
    is_log: bool = False

    def at(self, value: float) -> float:
        """Position of a value: 0 (low) to 100 (high); values outside the axis at its ends."""
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log10(max(value, 1e-300)), math.log10(low), math.log10(high)
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


SHARES = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), ("0", "25", "50", "75", "100"))
"""An axis for shares, in percent."""


def make_axis(
    values: Sequence[float],
    *,
    least: float = 0.0,
    most: float = 1.0,
    steps: int = 4,
    show: Callable[[float], str] = show_percent,
) -> Axis:
    """A scale with round ends around `values`, within least..most, and about `steps` ticks."""
    low, high = (min(values), max(values)) if len(values) else (least, most)
    span = max(high - low, (most - least) * 0.02)
    step = round_step(span * 1.1 / steps)
    low = max(least, math.floor(low / step) * step)
    high = min(most, math.ceil(high / step) * step)
    if high - low < step:
        low = max(least, high - step)
        high = min(most, low + step)
    num = int((high - low) / step + 1e-6)
    ticks = tuple(round(low + step * index, 10) for index in range(num + 1))
    return Axis(low, max(high, low + 1e-9), ticks, tuple(map(show, ticks)))


def make_log_axis(values: Sequence[float], show: Callable[[float], str]) -> Axis:
    """A scale by logarithm for positive values.

    Ticks are powers of ten; with few of them, also steps between, more for a smaller range.
    """
    logs = [math.log10(max(value, 1e-9)) for value in values] or [0.0, 1.0]
    low, high = 10 ** (min(logs) - 0.15), 10 ** (max(logs) + 0.15)
    found: list[float] = []
    for steps in _LOG_STEPS:
        marks = [step * 10.0**power for power in range(-10, 13) for step in steps]
        found = [mark for mark in marks if low <= mark <= high]
        if len(found) >= _MIN_TICKS:
            break
    return Axis(low, high, tuple(found), tuple(map(show, found)), is_log=True)


def round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next((power * step for step in (1, 2, 5) if power * step >= rough * 0.999), power * 10)


@dataclass(frozen=True)
class Line:
    """A line through (x, y). `kind`: front, equal, best, pinned, other, other dashed."""

    points: Points
    kind: str


@dataclass(frozen=True)
class Dot:
    """A mark with its interval, if it has one. `kind`: best, tied, other, pinned or control."""

    x: float
    y: float
    kind: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Name:
    """The name and number of a dot; `is_important`: its name has priority."""

    x: float
    y: float
    text: str
    number: str
    kind: str
    is_important: bool


@dataclass(frozen=True)
class Chart:
    """The content of a chart, in the units of its axes. `band`: the outline of an area; `names`: best first."""

    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    names: tuple[Name, ...] = ()
    band: Points = ()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point in percent of the width and of the height, from the upper left corner."""
        return self.x.at(x), round(100 - self.y.at(y), 2)


def place_names(
    chart: Chart,
    widths: Sequence[float],
    size: tuple[float, float],
    *,
    height: float,
    num_needed: int,
    bounds: Box,
    blocked: Sequence[Box] = (),
) -> list[Box | None]:
    """A box for each of the first names, in pixels of a chart of that size; see `labels.place_labels`.

    Names avoid dots, and if possible whiskers and the front.

    Args:
        widths: of the names, in pixels; names beyond them have no box. height: of each.
    """

    def pixel(x: float, y: float) -> tuple[float, float]:
        across, down = chart.at(x, y)
        return across * size[0] / 100, down * size[1] / 100

    drawn: list[Box] = []
    for dot in chart.dots:
        if dot.low is not None and dot.high is not None:
            (x, top), (_, bottom) = pixel(dot.x, dot.high), pixel(dot.x, dot.low)
            drawn.append((x - 1, top, x + 1, bottom))
    for line in chart.lines:
        corners = [pixel(*point) for point in line.points]
        for (x0, y0), (x1, y1) in pairwise(corners):
            drawn.append((min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    points = np.array([pixel(name.x, name.y) for name in chart.names]).reshape(-1, 2)
    sizes = [(width, height) for width in widths]
    return place_labels(points, sizes, bounds, blocked, drawn, num_needed=num_needed)
