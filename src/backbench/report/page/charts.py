"""The page's charts as small SVGs: positions in percent, so that they fill any width while type keeps its size.

Curves and clouds are paths in a stretched box whose strokes do not stretch. Colours are the classes of the style
sheet, so one drawing serves light, dark and print. Every chart has its figures in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from backbench.report.figures.labels import Box, nearest_in, place_labels
from backbench.report.page.doubt import Bin
from backbench.report.page.marks import Axis, join_marks, make_axis, make_log_axis, tag

_BOX = 1000  # units of the stretched box of curves and clouds
_NARROW, _WIDE = (240.0, 264.0), (600.0, 352.0)  # pixels of the cost chart on the smallest and on a large screen
_MAP = (286.0, 214.0)  # pixels of a map on the smallest screen
_MAX_AVOIDED = 200  # wrong answers that names keep clear of where they can
_MAX_NUMBERED = 12  # points of the cost chart whose numbers are shown wherever there is a way to
_LINE_HEIGHT, _LETTER_WIDTH = 15.0, 7.0


@dataclass(frozen=True)
class Point:
    """One row of the cost scatter: accuracy with its ends, cost in seconds; `kind` as in the style sheet.

    `short` is its number, shown beside it; `is_named`: its label is shown too.
    """

    label: str
    short: str
    cost: float
    value: float
    low: float
    high: float
    kind: str
    is_named: bool = False


def draw_whisker(value: float, low: float | None, high: float | None, axis: Axis, kind: str) -> Markup:
    """One row of a dot plot: a dot with its interval, or a mark at the left end where it lies off the axis."""
    if value < axis.low:
        return tag('<svg class="whisker" aria-hidden="true"><text x="0" y="17" class="off">◂</text></svg>')
    parts = [
        tag('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>', axis.at(tick)) for tick in axis.ticks
    ]
    if low is not None and high is not None:
        ends = (axis.at(low), axis.at(high))
        parts.append(tag('<line class="range {2}" x1="{0}%" x2="{1}%" y1="50%" y2="50%"/>', *ends, kind))
        parts += [
            tag('<line class="range {1}" x1="{0}%" x2="{0}%" y1="32%" y2="68%"/>', end, kind) for end in ends
        ]
    parts.append(_dot(axis.at(value), 50, kind))
    return _svg("whisker", parts)


def draw_scale(axis: Axis) -> Markup:
    """The labels of a dot plot's axis, in percent."""
    parts = [
        tag('<text class="tick" x="{}%" y="14" text-anchor="{}">{}</text>', axis.at(tick), anchor, _percent(tick))
        for tick in axis.ticks
        for anchor in [_anchor(axis.at(tick))]
    ]
    return _svg("scale", parts)


def draw_pair(first: float, second: float | None, low: float, high: float, axis: Axis) -> Markup:
    """One class of two rows: the first as a dot with its interval, the second as a ring, joined by a line."""
    parts = [
        tag('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>', axis.at(tick)) for tick in axis.ticks
    ]
    parts.append(
        tag('<line class="range best" x1="{}%" x2="{}%" y1="50%" y2="50%"/>', axis.at(low), axis.at(high))
    )
    if second is not None:
        ends = (axis.at(first), axis.at(second))
        parts.append(tag('<line class="join" x1="{}%" x2="{}%" y1="50%" y2="50%"/>', *ends))
        parts.append(_dot(axis.at(second), 50, "pinned"))
    parts.append(_dot(axis.at(first), 50, "best"))
    return _svg("whisker", parts)


def draw_costs(points: Sequence[Point]) -> Markup:
    """Accuracy against seconds on a log scale, with the step of what nothing cheaper beats."""
    x_axis = make_log_axis([point.cost for point in points])
    y_axis = make_axis([end for point in points for end in (point.low, point.high)])
    parts = _frame(x_axis, y_axis, lambda tick: _seconds(10**tick), _percent)
    front = pareto_front(points)
    for place, point in enumerate(front):
        x, y = x_axis.at(math.log10(point.cost)), 100 - y_axis.at(point.value)
        until = x_axis.at(math.log10(front[place + 1].cost)) if place + 1 < len(front) else 100
        parts.append(tag('<line class="front" x1="{}%" x2="{}%" y1="{}%" y2="{}%"/>', x, until, y, y))
        if place + 1 < len(front):
            up = 100 - y_axis.at(front[place + 1].value)
            parts.append(tag('<line class="front" x1="{}%" x2="{}%" y1="{}%" y2="{}%"/>', until, until, y, up))
    for point in points:
        x, high = x_axis.at(math.log10(point.cost)), 100 - y_axis.at(point.high)
        ends = (x, high, 100 - y_axis.at(point.low), point.kind)
        parts.append(tag('<line class="range thin {3}" x1="{0}%" x2="{0}%" y1="{1}%" y2="{2}%"/>', *ends))
        parts.append(_dot(x, 100 - y_axis.at(point.value), point.kind))
    return _svg("plot tall", [*parts, *_labels(points, x_axis, y_axis)])


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no cheaper one reaches, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    return front


def draw_reliability(bins: Sequence[Bin]) -> Markup:
    """Share right against mean confidence of each bin, 0 to 100 %, with the line where they are equal."""
    axis = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    parts = _frame(axis, axis, _percent, _percent)
    parts.append(tag('<line class="equal" x1="0%" x2="100%" y1="100%" y2="0%"/>'))
    for found in bins:
        x = axis.at(found.confidence)
        ends = (x, 100 - axis.at(found.high), 100 - axis.at(found.low))
        parts.append(tag('<line class="range thin best" x1="{0}%" x2="{0}%" y1="{1}%" y2="{2}%"/>', *ends))
        parts.append(_dot(x, 100 - axis.at(found.accuracy), "best"))
    return _svg("plot square", parts)


def draw_curves(
    curves: Sequence[tuple[Sequence[tuple[float, float]], str]],
    x_axis: Axis,
    y_axis: Axis,
    *,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    mark: tuple[float, float] | None = None,
) -> Markup:
    """Lines (points, class) on common axes; `mark` is one point of note."""
    parts = _frame(x_axis, y_axis, x_text, y_text)
    lines = []
    for found, kind in curves:
        if not found:
            continue
        steps = " ".join(f"{x_axis.at(x) * 10:.1f} {_BOX - y_axis.at(y) * 10:.1f}" for x, y in found)
        lines.append(tag('<path class="curve {}" d="M{}"/>', kind, steps))
    parts.append(_stretched(lines))
    if mark is not None:
        parts.append(_dot(x_axis.at(mark[0]), 100 - y_axis.at(mark[1]), "best"))
    return _svg("plot", parts)


def draw_cloud(
    groups: Sequence[tuple[Sequence[tuple[float, float]], str]],
    wrong: Sequence[tuple[float, float]] = (),
    names: Sequence[tuple[str, float, float]] = (),
) -> Markup:
    """Points in 0..1 as one path for each group (points, class): thousands of marks in a few elements.

    wrong: points that are crossed. names: (text, x, y), the most important first; written where they fit on the
    narrowest screen.
    """
    paths = []
    for found, kind in groups:
        dots = "".join(f"M{x * 960 + 20:.0f} {980 - y * 960:.0f}h0" for x, y in found)
        if dots:
            paths.append(tag('<path class="cloud {}" d="{}"/>', kind, dots))
    crosses = "".join(f"M{x * 960 + 13:.0f} {973 - y * 960:.0f}l14 14m0-14l-14 14" for x, y in wrong)
    if crosses:
        paths.append(tag('<path class="cloud wrong" d="{}"/>', crosses))
    spots = [(x * 96 + 2, 98 - y * 96) for _, x, y in names]
    pixels = [_on_map(x, y) for x, y in spots]
    sizes = [(_LETTER_WIDTH * len(text), _LINE_HEIGHT) for text, _, _ in names]
    boxes: list[Box | None] = []
    if names:
        marks = [_on_map(x * 96 + 2, 98 - y * 96) for x, y in wrong[:_MAX_AVOIDED]]
        lines = [(x - 4, y - 4, x + 4, y + 4) for x, y in marks]
        boxes = place_labels(np.array(pixels), sizes, (0, 0, *_MAP), lines=lines, num_needed=0, at_point=True)
    labels = [
        _label(text, "", spot, at, box)
        for (text, _, _), spot, at, box in zip(names, spots, pixels, boxes, strict=True)
    ]
    return _svg("map", [_stretched(paths), *labels])


def _on_map(x: float, y: float) -> tuple[float, float]:
    """Percent -> pixels of a map on the smallest screen."""
    return x * _MAP[0] / 100, y * _MAP[1] / 100


def _stretched(lines: Sequence[Markup]) -> Markup:
    inner = join_marks(lines)
    head = '<svg viewBox="0 0 {0} {0}" preserveAspectRatio="none" width="100%" height="100%">{1}</svg>'
    return tag(head, _BOX, inner)


def _frame(
    x_axis: Axis, y_axis: Axis, x_text: Callable[[float], str], y_text: Callable[[float], str]
) -> list[Markup]:
    parts = []
    for tick in y_axis.ticks:
        y = 100 - y_axis.at(tick)
        parts.append(tag('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>', y))
        parts.append(tag('<text class="tick" x="-8" y="{}%" dy="4" text-anchor="end">{}</text>', y, y_text(tick)))
    for tick in x_axis.ticks:
        x = x_axis.at(tick)
        parts.append(tag('<line class="grid" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>', x))
        parts.append(
            tag('<text class="tick" x="{}%" y="100%" dy="18" text-anchor="middle">{}</text>', x, x_text(tick))
        )
    return parts


def _labels(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> list[Markup]:
    """The number beside each point, on wide screens of some the name too, where there is room.

    A label keeps its distance to its own point in pixels while all else moves with the width, so each is placed
    once for the narrowest screen and once for a wide one; the style sheet shows one of them. Of few
    points each has its number, at the end of a line where they are crowded; the table has all.
    """
    ordered = sorted(points, key=lambda point: (not point.is_named, -point.value))
    spots = [(x_axis.at(math.log10(point.cost)), 100 - y_axis.at(point.value)) for point in ordered]
    num_needed = max(_MAX_NUMBERED, sum(point.is_named for point in points))
    found = []
    for kind, size, room_above in (("short", _NARROW, 0.0), ("long", _WIDE, 20.0)):
        texts = [
            f"{point.short}. {point.label}" if point.is_named and kind == "long" else point.short
            for point in ordered
        ]
        pixels = [(x * size[0] / 100, y * size[1] / 100) for x, y in spots]
        boxes = place_labels(
            np.array(pixels),
            [(_LETTER_WIDTH * len(text) + 1, _LINE_HEIGHT) for text in texts],
            (0, -room_above, *size),
            lines=_drawn_boxes(points, x_axis, y_axis, size),
            num_needed=num_needed,
        )
        for point, text, spot, at, box in zip(ordered, texts, spots, pixels, boxes, strict=True):
            found.append(_label(text, f"{point.kind} {kind}", spot, at, box))
    return found


def _label(
    text: str, kind: str, spot: tuple[float, float], pixels: tuple[float, float], box: Box | None
) -> Markup:
    """Text at a point given in percent, as far from it as `box` is from its pixels."""
    if box is None:
        return Markup("")
    near_x, near_y = (near - at for near, at in zip(nearest_in(box, *pixels), pixels, strict=True))
    words = tag('<text x="{:.0f}" y="{:.0f}">{}</text>', box[0] - pixels[0], box[3] - 3 - pixels[1], text)
    if math.hypot(near_x, near_y) > 14:
        words = tag('<line class="leader" x2="{:.0f}" y2="{:.0f}"/>{}', near_x, near_y, words)
    return tag('<svg class="label {}" x="{}%" y="{}%">{}</svg>', kind, *spot, words)


def _drawn_boxes(points: Sequence[Point], x_axis: Axis, y_axis: Axis, size: tuple[float, float]) -> list[Box]:
    """Boxes round the whiskers and the steps of the front in a chart of `size` pixels."""

    def at(cost: float, value: float) -> tuple[float, float]:
        return x_axis.at(math.log10(cost)) * size[0] / 100, (100 - y_axis.at(value)) * size[1] / 100

    boxes = []
    for point in points:
        (x, top), (_, bottom) = at(point.cost, point.high), at(point.cost, point.low)
        boxes.append((x - 1, top, x + 1, bottom))
    corners = [at(point.cost, point.value) for point in pareto_front(points)]
    for (x, y), (end, above) in zip(corners, [*corners[1:], (size[0], corners[-1][1])], strict=True):
        boxes += [(x, y - 1, end, y + 1), (end - 1, above, end + 1, y)]
    return boxes


def _dot(x: float, y: float, kind: str) -> Markup:
    """Shape as well as colour: filled for the best and its ties, a ring for others, a diamond for the pinned."""
    if kind == "pinned":
        return tag('<svg class="spot" x="{}%" y="{}%"><path class="pinned" d="M0-6L6 0L0 6L-6 0Z"/></svg>', x, y)
    if kind == "control":
        return tag('<svg class="spot" x="{}%" y="{}%"><path class="control" d="M-4-4L4 4M4-4L-4 4"/></svg>', x, y)
    return tag('<circle class="dot {2}" cx="{0}%" cy="{1}%" r="5"/>', x, y, kind)


def _svg(kind: str, parts: Sequence[Markup]) -> Markup:
    return tag('<svg class="{}" aria-hidden="true" focusable="false">{}</svg>', kind, join_marks(parts))


def _anchor(place: float) -> str:
    return "start" if place < 4 else "end" if place > 96 else "middle"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}" if abs(100 * value - round(100 * value)) < 1e-6 else f"{100 * value:.1f}"


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 10 else f"{value:.3g} s"
