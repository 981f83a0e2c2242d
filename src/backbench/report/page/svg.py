"""Charts as small SVGs of the page: positions in percent, so that they fill any width with a constant font size.

Lines and clouds are paths in a stretched box whose strokes do not stretch. Colours are the classes of the style
sheet, so one drawing serves light, dark and print. Every chart has its numbers in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from backbench.report.charts.chart import Axis, Chart, place_names
from backbench.report.charts.labels import Box, nearest_in, place_labels
from backbench.report.page.marks import join_marks, tag

_BOX = 1000  # units of the stretched box of lines and clouds
_NARROW, _WIDE = (240.0, 264.0), (600.0, 352.0)  # pixels of the cost chart on the smallest and on a large screen
_MAP = (286.0, 214.0)  # pixels of a map on the smallest screen
_MAX_AVOIDED = 200  # wrong predictions that names avoid if possible
_MAX_NUMBERED = 12  # points of the cost chart whose numbers are always shown
_LINE_HEIGHT, _LETTER_WIDTH = 15.0, 7.0


def draw_whisker(value: float, low: float | None, high: float | None, axis: Axis, kind: str) -> Markup:
    """One row of a dot plot: a dot with its interval, or a mark at the left end if it is off the axis."""
    if value < axis.low:
        return tag('<svg class="whisker" aria-hidden="true"><text x="0" y="17" class="off">◂</text></svg>')
    parts = _level_grid(axis)
    if low is not None and high is not None:
        ends = (axis.at(low), axis.at(high))
        parts.append(tag('<line class="range {2}" x1="{0}%" x2="{1}%" y1="50%" y2="50%"/>', *ends, kind))
        parts += [
            tag('<line class="range {1}" x1="{0}%" x2="{0}%" y1="32%" y2="68%"/>', end, kind) for end in ends
        ]
    return _svg("whisker", [*parts, _dot(axis.at(value), 50, kind)])


def draw_pair(first: float, second: float | None, low: float, high: float, axis: Axis) -> Markup:
    """One class of two rows: the first as a dot with its interval, the second as a ring, joined by a line."""
    parts = _level_grid(axis)
    parts.append(
        tag('<line class="range best" x1="{}%" x2="{}%" y1="50%" y2="50%"/>', axis.at(low), axis.at(high))
    )
    if second is not None:
        ends = (axis.at(first), axis.at(second))
        parts.append(tag('<line class="join" x1="{}%" x2="{}%" y1="50%" y2="50%"/>', *ends))
        parts.append(_dot(axis.at(second), 50, "pinned"))
    return _svg("whisker", [*parts, _dot(axis.at(first), 50, "best")])


def draw_scale(axis: Axis) -> Markup:
    """The labels of a dot plot's axis."""
    parts = []
    for tick, text in zip(axis.ticks, axis.texts, strict=True):
        place = axis.at(tick)
        anchor = "start" if place < 4 else "end" if place > 96 else "middle"
        parts.append(tag('<text class="tick" x="{}%" y="14" text-anchor="{}">{}</text>', place, anchor, text))
    return _svg("scale", parts)


def draw_chart(chart: Chart, kind: str = "") -> Markup:
    """A chart with its axes. `kind`: '', tall or square."""
    parts = _frame(chart)
    paths = [tag('<path class="band" d="M{}Z"/>', _steps(chart, chart.band))] if chart.band else []
    paths += [
        tag('<path class="curve {}" d="M{}"/>', line.kind, _steps(chart, line.points)) for line in chart.lines
    ]
    parts.append(_stretched(paths))
    for dot in chart.dots:
        x, y = chart.at(dot.x, dot.y)
        if dot.low is not None and dot.high is not None:
            ends = (chart.at(dot.x, dot.high)[1], chart.at(dot.x, dot.low)[1])
            parts.append(
                tag('<line class="range thin {3}" x1="{0}%" x2="{0}%" y1="{1}%" y2="{2}%"/>', x, *ends, dot.kind)
            )
        parts.append(_dot(x, y, dot.kind))
    return _svg(f"plot {kind}".strip(), [*parts, *_names(chart)])


def draw_cloud(
    groups: Sequence[tuple[Sequence[tuple[float, float]], str]],
    wrong: Sequence[tuple[float, float]] = (),
    names: Sequence[tuple[str, float, float]] = (),
) -> Markup:
    """Points in 0..1 as one path for each group (points, class): thousands of marks in a few elements.

    wrong: points drawn as crosses. names: (text, x, y), most important first; written if they fit on the narrowest
    screen.
    """
    paths = []
    for found, kind in groups:
        dots = "".join(f"M{x * 960 + 20:.0f} {980 - y * 960:.0f}h0" for x, y in found)
        if dots:
            paths.append(tag('<path class="cloud {}" d="{}"/>', kind, dots))
    crosses = "".join(f"M{x * 960 + 13:.0f} {973 - y * 960:.0f}l14 14m0-14l-14 14" for x, y in wrong)
    if crosses:
        paths.append(tag('<path class="cloud wrong" d="{}"/>', crosses))
    return _svg("map", [_stretched(paths), *_names_on_map(names, wrong)])


def _names_on_map(names: Sequence[tuple[str, float, float]], wrong: Sequence[tuple[float, float]]) -> list[Markup]:
    spots = [(x * 96 + 2, 98 - y * 96) for _, x, y in names]
    crosses = [_in_pixels(x * 96 + 2, 98 - y * 96, _MAP) for x, y in wrong[:_MAX_AVOIDED]]
    boxes = place_labels(
        np.array([_in_pixels(*spot, _MAP) for spot in spots]).reshape(-1, 2),
        [(_LETTER_WIDTH * len(text), _LINE_HEIGHT) for text, _, _ in names],
        (0, 0, *_MAP),
        lines=[(x - 4, y - 4, x + 4, y + 4) for x, y in crosses],
        num_needed=0,
        at_point=True,
    )
    return [_label(text, "", spot, _MAP, box) for (text, _, _), spot, box in zip(names, spots, boxes, strict=True)]


def _in_pixels(x: float, y: float, size: tuple[float, float]) -> tuple[float, float]:
    """Percent -> pixels of a drawing of that size."""
    return x * size[0] / 100, y * size[1] / 100


def _steps(chart: Chart, points: Sequence[tuple[float, float]]) -> str:
    places = [chart.at(*point) for point in points]
    return " ".join(f"{x * _BOX / 100:.1f} {y * _BOX / 100:.1f}" for x, y in places)


def _stretched(paths: Sequence[Markup]) -> Markup:
    head = '<svg viewBox="0 0 {0} {0}" preserveAspectRatio="none" width="100%" height="100%">{1}</svg>'
    return tag(head, _BOX, join_marks(paths))


def _level_grid(axis: Axis) -> list[Markup]:
    return [tag('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>', axis.at(tick)) for tick in axis.ticks]


def _frame(chart: Chart) -> list[Markup]:
    parts = []
    for tick, text in zip(chart.y.ticks, chart.y.texts, strict=True):
        y = round(100 - chart.y.at(tick), 2)
        parts.append(tag('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>', y))
        parts.append(tag('<text class="tick" x="-8" y="{}%" dy="4" text-anchor="end">{}</text>', y, text))
    for tick, text in zip(chart.x.ticks, chart.x.texts, strict=True):
        x = chart.x.at(tick)
        parts.append(tag('<text class="tick" x="{}%" y="100%" dy="18" text-anchor="middle">{}</text>', x, text))
    return [*_level_grid(chart.x), *parts]


def _names(chart: Chart) -> list[Markup]:
    """The number beside each point, on wide screens also some names, if there is room.

    A label has a fixed distance to its point while other positions scale with the width, so each is placed once
    for the narrowest and once for a wide screen; the style sheet shows one of them. With few points, each has its
    number, with a line if they are crowded; the table has all.
    """
    num_needed = max(_MAX_NUMBERED, sum(name.is_important for name in chart.names))
    found = []
    for kind, size, room_above in (("short", _NARROW, 0.0), ("long", _WIDE, 20.0)):
        texts = [
            f"{name.number}. {name.text}" if name.is_important and kind == "long" else name.number
            for name in chart.names
        ]
        widths = [_LETTER_WIDTH * len(text) + 1 for text in texts]
        bounds = (0, -room_above, *size)
        boxes = place_names(chart, widths, size, height=_LINE_HEIGHT, num_needed=num_needed, bounds=bounds)
        for name, text, box in zip(chart.names, texts, boxes, strict=True):
            found.append(_label(text, f"{name.kind} {kind}", chart.at(name.x, name.y), size, box))
    return found


def _label(text: str, kind: str, spot: tuple[float, float], size: tuple[float, float], box: Box | None) -> Markup:
    """Text at a point given in percent, as far from it as `box` is in a drawing of that size."""
    if box is None:
        return Markup("")
    x, y = _in_pixels(*spot, size)
    near_x, near_y = nearest_in(box, x, y)
    words = tag('<text x="{:.0f}" y="{:.0f}">{}</text>', box[0] - x, box[3] - 3 - y, text)
    if math.hypot(near_x - x, near_y - y) > 14:
        words = tag('<line class="leader" x2="{:.0f}" y2="{:.0f}"/>{}', near_x - x, near_y - y, words)
    return tag('<svg class="label {}" x="{}%" y="{}%">{}</svg>', kind, *spot, words)


def _dot(x: float, y: float, kind: str) -> Markup:
    """Shape as well as colour: filled for the best and its ties, a ring for others, a diamond for the pinned."""
    if kind == "pinned":
        return tag('<svg class="spot" x="{}%" y="{}%"><path class="pinned" d="M0-6L6 0L0 6L-6 0Z"/></svg>', x, y)
    if kind == "control":
        return tag('<svg class="spot" x="{}%" y="{}%"><path class="control" d="M-4-4L4 4M4-4L-4 4"/></svg>', x, y)
    return tag('<circle class="dot {2}" cx="{0}%" cy="{1}%" r="5"/>', x, y, kind)


def _svg(kind: str, parts: Sequence[Markup]) -> Markup:
    return tag('<svg class="{}" aria-hidden="true" focusable="false">{}</svg>', kind, join_marks(parts))
