"""Confusion matrices: numbers for few classes, clusters and the most common pairs for many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from backbench.report.charts.labels import nearest_in, place_labels
from backbench.report.charts.matrix import MAX_WITH_NAMES, MAX_WITH_NUMBERS, NUM_STEPS, error_steps
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.matrix import (
    KEY_HEIGHT,
    add_cells,
    add_key,
    column_names_height,
    on_step,
    write_column_names,
    write_row_names,
)
from backbench.report.figures.style import LINE, MARGIN, SMALL, fit_text, text_width, widest
from backbench.stats.confusion import ConfusedPair, cluster_order, most_confused
from backbench.wording import count

NUM_PAIRS = 12
_KEY = ("to 2 %", "5", "10", "20", "35", "50", "100")
_LARGE_KEY = ("to 10 %", "20", "35", "50", "100")  # in cells of a few pixels the palest steps are invisible
_NAME_LIMIT = 160.0
_PAIRS_WIDTH = 330.0
_LARGE_SIDE = 620.0
_RING, _FAR = 7.0, 14.0  # pixels: radius of a ring around a pair, and distance from which its number needs a line


def draw_confusion(
    counts: np.ndarray, classes: Sequence[str], *, title: str = "Confusion matrix", theme: str = "light"
) -> Figure:
    """A confusion matrix: rows are true classes, columns predicted classes, colour is error.

    Up to 15 classes each cell has its count and share of the row; up to 60 classes have their names, above
    only the matrix is drawn; from 16 on classes are clustered and the most confused pairs are listed beside it.

    Args:
        counts: (classes, classes) int, rows true, columns predicted. title: '' for none.
    """
    num, counts = len(classes), np.asarray(counts)
    pairs: list[ConfusedPair] = []
    if num > MAX_WITH_NUMBERS:
        order = cluster_order(counts)
        counts, classes = counts[np.ix_(order, order)], [classes[index] for index in order]
        pairs = most_confused(counts, classes, NUM_PAIRS)
    cell = _decide_cell(num)
    has_names = num <= MAX_WITH_NAMES
    left = MARGIN + (max(widest(classes, _NAME_LIMIT), 70.0) + 10 if has_names else 26)
    names = column_names_height(classes, cell, _NAME_LIMIT) if has_names else 0.0
    side, extra = cell * num, 70.0 if num <= MAX_WITH_NUMBERS else _PAIRS_WIDTH + 40
    body = max(side, (len(pairs) * 2 + 3) * LINE - names if pairs else 0.0)
    width, height = max(left + side + extra + MARGIN, 540), LINE + names + body + 16 + KEY_HEIGHT + 12
    canvas = Canvas(title, _describe(counts), width, height, theme)
    top = canvas.top + LINE + names
    canvas.write(left, top - names - 6, "answered →", "muted")
    if has_names:
        canvas.write(left - 10, top - 6, "true ↓", "muted", align="right")
        write_column_names(canvas, classes, left, top, cell, _NAME_LIMIT)
        write_row_names(canvas, classes, left - 10, top, cell, _NAME_LIMIT)
    else:
        canvas.write(left - 10, top, "← true", "muted", rotation=90, align="right")
    _fill(canvas, counts, left, top, cell)
    if pairs:
        _list_pairs(canvas, pairs, left + side + 40, top - names)
        _ring_pairs(canvas, pairs, classes, left, top, cell)
    elif num <= MAX_WITH_NUMBERS:
        _write_numbers(canvas, counts, left, top, cell)
    title_of_key = "share of the true class's images; blank: none"
    add_key(
        canvas, "error", _KEY if has_names else _LARGE_KEY, title_of_key, left, top + body + 16, neutral="right"
    )
    return canvas.figure


def _decide_cell(num: int) -> float:
    if num <= 6:
        return 72.0
    if num <= MAX_WITH_NUMBERS:
        return 54.0
    if num <= MAX_WITH_NAMES:
        return 20.0 if num <= 30 else 15.0
    return max(_LARGE_SIDE / num, 1.0)


def _describe(counts: np.ndarray) -> str:
    total, right = int(counts.sum()), int(np.trace(counts))
    empty = int((counts.sum(axis=1) == 0).sum())
    missing = f", {empty} of them without test images" if empty else ""
    return f"{right:,} of {total:,} test images correct, {count(len(counts), 'class', 'classes')}{missing}"


def _fill(canvas: Canvas, counts: np.ndarray, left: float, top: float, cell: float) -> None:
    side = cell * len(counts)
    canvas.boxes([(left - 1, top - 1, side + 1, side + 1)], "none", edge="rule")
    steps = error_steps(counts)
    steps[np.diag(counts.diagonal() > 0)] = NUM_STEPS + 1
    add_cells(canvas, "error", steps, left, top, cell, cell)


def _write_numbers(canvas: Canvas, counts: np.ndarray, left: float, top: float, cell: float) -> None:
    steps, sizes = error_steps(counts), counts.sum(axis=1)
    right = left + cell * len(counts)
    canvas.write(right + 56, top - 6, "images", "muted", align="right")
    for row, size in enumerate(sizes.tolist()):
        middle = top + (row + 0.5) * cell
        canvas.write(right + 56, middle, f"{size:,}", "muted", align="right", valign="center")
        for column in np.flatnonzero(counts[row]).tolist():
            count = int(counts[row, column])
            role = on_step(int(steps[row, column]))
            x = left + (column + 0.5) * cell - 0.5
            canvas.write(x, middle - 3, f"{count:,}", role, bold=row != column, align="center")
            canvas.write(x, middle + 14, _share(count, size), role, align="center")


def _share(count: int, size: int) -> str:
    percent = 100 * count / size
    if percent < 1:
        return "<1 %"
    return ">99 %" if 99.5 <= percent < 100 else f"{percent:.0f} %"


def _list_pairs(canvas: Canvas, pairs: Sequence[ConfusedPair], left: float, top: float) -> None:
    canvas.write(left, top + SMALL, "Most often confused", bold=True)
    canvas.write(left, top + SMALL + LINE, "both directions; images of each class", "muted")
    for number, pair in enumerate(pairs, start=1):
        y = top + SMALL + (2 * number + 0.4) * LINE
        canvas.write(left + 18, y, f"{number}", "muted", align="right")
        name_room = (_PAIRS_WIDTH - 56) / 2
        names = f"{fit_text(pair.first, name_room)} → {fit_text(pair.second, name_room)}"
        canvas.write(left + 28, y, names)
        there = f"{pair.num_first_as_second:,} of {pair.num_first:,}"
        back = f"back {pair.num_second_as_first:,} of {pair.num_second:,}"
        canvas.write(left + 28, y + LINE - 3, f"{there}, {back}", "muted")


def _ring_pairs(
    canvas: Canvas,
    pairs: Sequence[ConfusedPair],
    classes: Sequence[str],
    left: float,
    top: float,
    cell: float,
) -> None:
    """Rings at the listed pairs in a matrix too large for names."""
    if len(classes) <= MAX_WITH_NAMES:
        return
    place = {name: index for index, name in enumerate(classes)}
    corner, side = np.array([left, top]), cell * len(classes)
    points = corner + (np.array([[place[pair.second], place[pair.first]] for pair in pairs]) + 0.5) * cell
    canvas.marks(points, "o", "none", "text", size=11)
    sizes = [(text_width(f"{number}"), float(SMALL)) for number in range(1, len(pairs) + 1)]
    boxes = place_labels(points, sizes, (left, top, left + side, top + side))
    for number, (box, (x, y)) in enumerate(zip(boxes, points.tolist(), strict=True), start=1):
        if box is None:
            continue
        near = nearest_in(box, x, y)
        away = math.hypot(near[0] - x, near[1] - y)
        if away > _FAR:
            start = (x + (near[0] - x) * _RING / away, y + (near[1] - y) * _RING / away)
            canvas.line([start[0], near[0]], [start[1], near[1]], "text", 0.75, zorder=4)
        canvas.write(box[0], box[3] - 2, f"{number}")
