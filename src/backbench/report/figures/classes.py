"""Figures by class: recall of each, and differences between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from backbench.report.charts.chart import SHARES
from backbench.report.charts.confidence import FEW
from backbench.report.charts.matrix import MAX_CLASS_ROWS
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
from backbench.report.figures.style import LINE, MARGIN, fit_text, widest
from backbench.stats.metric import Metric
from backbench.stats.metrics import weakest_first
from backbench.wording import count

LIMITS = (0.3, 0.5, 0.65, 0.8, 0.9, 0.97, 1.0)
_KEY = ("to 30 %", "50", "65", "80", "90", "97", "100")
_ROW = 24.0
_NAME_LIMIT = 200.0
_SCALE_WIDTH = 440.0


def draw_per_class(
    recalls: Mapping[str, Metric], *, title: str = "Recall of each class", theme: str = "light"
) -> Figure:
    """A dot with its 95 % whisker for each class, the weakest first; above 40 classes the 40 weakest.

    Args:
        recalls: class name -> recall on test images; see `stats.metrics.per_class_recall`.
            Classes with fewer than ten images are faint. title: '' for none.
    """
    rows = weakest_first(recalls)
    shown = rows[:MAX_CLASS_ROWS]
    mean = sum(metric.value for _, metric in rows) / len(rows) if rows else None
    left = MARGIN + widest([name for name, _ in shown], _NAME_LIMIT) + 14
    height = LINE + len(shown) * _ROW + 56
    width = max(left + _SCALE_WIDTH + 136 + MARGIN, 540)
    canvas = Canvas(title, _describe(rows, mean), width, height, theme)
    top = canvas.top + LINE
    bottom = top + len(shown) * _ROW
    canvas.scale_across(SHARES, left, _SCALE_WIDTH, top, bottom)
    if mean is not None:
        x = left + mean * _SCALE_WIDTH
        canvas.line([x, x], [top, bottom], "muted", linestyle=(0, (4, 3)))
        canvas.write(x, top - 6, f"mean {100 * mean:.1f}", "muted", align="right" if mean > 0.8 else "center")
    canvas.write(left + _SCALE_WIDTH + 76, top - 6, "right, %", "muted", align="right")
    canvas.write(left + _SCALE_WIDTH + 136, top - 6, "images", "muted", align="right")
    for index, (name, metric) in enumerate(shown):
        _add_class(canvas, name, metric, left, top + (index + 0.5) * _ROW)
    return canvas.figure


def draw_class_heat_map(
    recalls: np.ndarray,
    classes: Sequence[str],
    models: Sequence[str],
    *,
    title: str = "Recall of each class by model",
    theme: str = "light",
) -> Figure:
    """A cell for each class and model, darker for a higher recall; hardest classes first, at most 60.

    Args:
        recalls: (classes, models) float in 0..1; NaN for a class without test images: the cell is blank.
            title: '' for none.
    """
    values = np.asarray(recalls, dtype=np.float64)
    known = np.isfinite(values)
    means = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    means = np.where(known.any(axis=1), means, 2.0)  # classes without images last
    order = np.argsort(means, kind="stable")[: MAX_CLASS_ROWS + 20]
    values, names = values[order], [classes[index] for index in order]
    subtitle = f"{len(classes):,} classes, {count(len(models), 'model')}; "
    subtitle += "recall of each class on test images, in %"
    if len(order) < len(classes):
        subtitle += f"; the {len(order)} hardest shown"
    cell_width, cell_height = 58.0, 24.0
    left = MARGIN + widest(names, _NAME_LIMIT) + 10
    label_height = column_names_height(models, cell_width, _NAME_LIMIT)
    width = max(left + cell_width * len(models) + MARGIN, left + 360, 540)
    body = cell_height * len(names) + 16
    canvas = Canvas(title, subtitle, width, label_height + body + KEY_HEIGHT + 12, theme)
    top = canvas.top + label_height
    write_column_names(canvas, models, left, top, cell_width, _NAME_LIMIT)
    write_row_names(canvas, names, left - 10, top, cell_height, _NAME_LIMIT)
    steps = np.where(np.isfinite(values), np.searchsorted(LIMITS, np.nan_to_num(values), side="left") + 1, 0)
    add_cells(canvas, "share", steps, left, top, cell_width, cell_height)
    for row, column in np.argwhere(steps > 0).tolist():
        x, y = left + (column + 0.5) * cell_width, top + (row + 0.5) * cell_height
        role = on_step(int(steps[row, column]))
        canvas.write(x, y, _whole(values[row, column]), role, align="center", valign="center")
    add_key(canvas, "share", _KEY, "recognised", left, top + body)
    return canvas.figure


def _describe(rows: Sequence[tuple[str, Metric]], mean: float | None) -> str:
    if mean is None:
        return "no class has test images"
    total = sum(metric.n for _, metric in rows)
    text = f"{count(len(rows), 'class', 'classes')}, {count(total, 'test image')}"
    text += "; recall in %, with 95 % interval"
    return text if len(rows) <= MAX_CLASS_ROWS else f"{text}; the {MAX_CLASS_ROWS} weakest shown"


def _add_class(canvas: Canvas, name: str, metric: Metric, left: float, y: float) -> None:
    is_sure = metric.n >= FEW
    role = "best" if is_sure else "other"
    canvas.write(left - 14, y, fit_text(name, _NAME_LIMIT), align="right", valign="center")
    ends = [metric.value if end is None else end for end in (metric.low, metric.high)]
    xs = [left + end * _SCALE_WIDTH for end in ends]
    canvas.line(xs, [y, y], role, 2 if is_sure else 1, solid_capstyle="round")
    canvas.marks([(left + metric.value * _SCALE_WIDTH, y)], "o", role if is_sure else "page", role)
    right = left + _SCALE_WIDTH
    canvas.write(right + 76, y, f"{100 * metric.value:.1f}", align="right", valign="center")
    canvas.write(right + 136, y, f"{metric.n:,}", "muted", align="right", valign="center")


def _whole(share: float) -> str:
    if 0.995 <= share < 1:
        return "99"
    return f"{100 * share:.0f}"
