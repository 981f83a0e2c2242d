"""Draws a `Chart` onto a canvas."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backbench.report.charts.chart import Chart, place_names
from backbench.report.charts.labels import Box, nearest_in
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.style import LINE, SMALL, fit_text, text_width

AXIS_ROOM = 50.0  # at the left of a chart, for the labels of its axis
BELOW = 56.0  # below a chart, for the labels and name of its axis
_MAX_MARKED = 40  # points up to which each point of a line has its mark
_MAX_NAMED = 25
_NAME_LIMIT = 190.0
_LINES = {  # role, width, dashes, mark
    "front": ("best", 1.5, (0, (6, 3)), None),
    "equal": ("muted", 1.0, (0, (4, 3)), None),
    "best": ("best", 2.0, "solid", "o"),
    "pinned": ("attention", 2.0, (0, (7, 3)), "D"),
    "other": ("other", 2.0, "solid", "o"),
    "other dashed": ("other", 2.0, (0, (4, 2)), "s"),
}
_DOTS = {  # shape, fill, edge
    "best": ("o", "best", "best"),
    "tied": ("o", "best", "best"),
    "other": ("o", "page", "other"),
    "pinned": ("D", "attention", "attention"),
    "control": ("x", "other", "other"),
}


def draw_chart(canvas: Canvas, chart: Chart, box: Box, *, across: str = "", up: str = "") -> None:
    """The chart in (left, top, width, height), without its names; `across`, `up`: titles of its axes."""
    left, top, width, height = box
    bottom = top + height
    canvas.scale_up(chart.y, left, width, top, bottom)
    canvas.scale_across(chart.x, left, width, top, bottom)
    canvas.line([left, left + width], [bottom, bottom], "other")
    canvas.write(left - AXIS_ROOM, top - 12, up, bold=True)
    canvas.write(left + width, bottom + 38, across, "muted", align="right")
    if chart.band:
        canvas.axes.fill(*_pixels(chart, chart.band, box), color=canvas.look["share-2"], linewidth=0, zorder=1)
    for line in chart.lines:
        role, thick, dashes, shape = _LINES[line.kind]
        marker = shape if len(line.points) <= _MAX_MARKED else None
        fill = canvas.look["page" if "dashed" in line.kind else role]
        xs, ys = _pixels(chart, line.points, box)
        canvas.line(xs, ys, role, thick, linestyle=dashes, marker=marker, markersize=5, markerfacecolor=fill)
    for dot in chart.dots:
        shape, fill, edge = _DOTS[dot.kind]
        (x,), (y,) = _pixels(chart, [(dot.x, dot.y)], box)
        if dot.low is not None and dot.high is not None:
            _, ends = _pixels(chart, [(dot.x, dot.low), (dot.x, dot.high)], box)
            canvas.line([x, x], ends, edge, 1.5, alpha=0.55, zorder=2)
        canvas.marks([(x, y)], shape, fill, edge, size=9, edge_width=1.5, zorder=4)


def draw_names(canvas: Canvas, chart: Chart, box: Box, blocked: Sequence[Box] = ()) -> None:
    """Write names beside the dots, important ones first, with a thin line to distant ones.

    Args:
        blocked: boxes that names avoid, in pixels from the upper left corner of the chart.
    """
    left, top, width, height = box
    texts = [fit_text(name.text, _NAME_LIMIT) for name in chart.names][:_MAX_NAMED]
    boxes = place_names(
        chart,
        [text_width(text) for text in texts],
        (width, height),
        height=SMALL + 3.0,
        num_needed=sum(name.is_important for name in chart.names),
        bounds=(0, -4, width + 20, height - 2),
        blocked=blocked,
    )
    for name, text, found in zip(chart.names, texts, boxes, strict=False):
        if found is None:
            continue
        place = (left + found[0], top + found[1], left + found[2], top + found[3])
        (x,), (y,) = _pixels(chart, [(name.x, name.y)], box)
        near = nearest_in(place, x, y)
        if math.hypot(near[0] - x, near[1] - y) > 14:
            canvas.line([x, near[0]], [y, near[1]], "other", 0.75, zorder=4.1)
        canvas.boxes([(place[0] - 2, place[1], place[2] - place[0] + 4, place[3] - place[1])], "page", zorder=4.2)
        canvas.write(place[0], place[3] - 4, text, "text" if name.is_important else "muted")


def _pixels(chart: Chart, points: Sequence[tuple[float, float]], box: Box) -> tuple[list[float], list[float]]:
    """x and y on the canvas."""
    left, top, width, height = box
    places = [chart.at(*point) for point in points]
    return [left + x * width / 100 for x, _ in places], [top + y * height / 100 for _, y in places]


def draw_key(canvas: Canvas, kinds: Sequence[tuple[str, str]], left: float, y: float) -> None:
    """A legend of dots and lines, (kind, words), in one row."""
    for kind, words in kinds:
        if kind in _DOTS:
            shape, fill, edge = _DOTS[kind]
            canvas.marks([(left + 12, y - 4)], shape, fill, edge, size=9, edge_width=1.5)
        else:
            role, thick, dashes, _ = _LINES[kind]
            canvas.line([left, left + 24], [y - 4, y - 4], role, thick, linestyle=dashes)
        canvas.write(left + 32, y, words, "muted")
        left += 32 + text_width(words) + LINE
