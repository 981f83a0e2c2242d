"""Pictures by class: how often each is recognised, and where models differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backbench.report.figures.matrix import (
    KEY_HEIGHT,
    add_cells,
    add_key,
    column_names_height,
    on_step,
    ramp,
    write_column_names,
    write_row_names,
)
from backbench.report.figures.style import (
    LINE,
    MARGIN,
    Look,
    add_marks,
    canvas,
    find_look,
    fit_text,
    header_height,
    new_figure,
    widest,
    write,
    write_header,
)
from backbench.stats.metric import Metric
from backbench.wording import count

MAX_CLASSES = 40
LIMITS = (0.3, 0.5, 0.65, 0.8, 0.9, 0.97, 1.0)
_KEY = ("to 30 %", "50", "65", "80", "90", "97", "100")
_ROW = 24.0
_NAME_LIMIT = 200.0
_SCALE_WIDTH = 440.0
_FEW = 10  # images below which a class's figure is drawn faint


def draw_per_class(
    recalls: Mapping[str, Metric], *, title: str = "Which classes it recognises", theme: str = "light"
) -> Figure:
    """A dot with its 95 % whisker for each class, the weakest first; above 40 classes the 40 weakest.

    Args:
        recalls: class name -> share of its test images recognised; see `stats.metrics.per_class_recall`.
            Classes with fewer than ten images are faint. title: '' for none.
    """
    look = find_look(theme)
    rows = sorted(recalls.items(), key=lambda item: (item[1].value, -item[1].n, item[0]))
    shown = rows[:MAX_CLASSES]
    mean = sum(metric.value for _, metric in rows) / len(rows) if rows else None
    subtitle = _describe(rows, mean)
    left = MARGIN + widest([name for name, _ in shown], _NAME_LIMIT) + 14
    top = header_height(title, subtitle) + LINE
    height = top + len(shown) * _ROW + 56
    figure = new_figure(max(left + _SCALE_WIDTH + 136 + MARGIN, 540), height, theme)
    axes = canvas(figure)
    write_header(figure, look, title, subtitle)
    bottom = top + len(shown) * _ROW
    _add_scale(axes, look, left, top, bottom)
    if mean is not None:
        x = left + mean * _SCALE_WIDTH
        axes.plot([x, x], [top, bottom], color=look["muted"], linewidth=1, linestyle=(0, (4, 3)))
        write(axes, x, top - 6, f"mean {100 * mean:.1f}", look["muted"], align="right" if mean > 0.8 else "center")
    write(axes, left + _SCALE_WIDTH + 76, top - 6, "right, %", look["muted"], align="right")
    write(axes, left + _SCALE_WIDTH + 136, top - 6, "images", look["muted"], align="right")
    for index, (name, metric) in enumerate(shown):
        _add_class(axes, look, name, metric, left, top + (index + 0.5) * _ROW)
    return figure


def draw_class_heat_map(
    recalls: np.ndarray,
    classes: Sequence[str],
    models: Sequence[str],
    *,
    title: str = "Which classes each model recognises",
    theme: str = "light",
) -> Figure:
    """A cell for each class and model, darker where more is recognised; the hardest classes first, at most 60.

    Args:
        recalls: (classes, models) float in 0..1; not a number where a class has no test images: the cell is blank.
            title: '' for none.
    """
    look, values = find_look(theme), np.asarray(recalls, dtype=np.float64)
    known = np.isfinite(values)
    means = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    means = np.where(known.any(axis=1), means, 2.0)  # classes without images last
    order = np.argsort(means, kind="stable")[: MAX_CLASSES + 20]
    values, names = values[order], [classes[index] for index in order]
    subtitle = f"{len(classes):,} classes, {count(len(models), 'model')}; "
    subtitle += "share of each class's test images recognised, in %"
    if len(order) < len(classes):
        subtitle += f"; the {len(order)} hardest shown"
    cell_width, cell_height = 58.0, 24.0
    left = MARGIN + widest(names, _NAME_LIMIT) + 10
    label_height = column_names_height(models, cell_width, _NAME_LIMIT)
    top = header_height(title, subtitle) + label_height
    width = max(left + cell_width * len(models) + MARGIN, left + 360, 540)
    figure = new_figure(width, top + cell_height * len(names) + 16 + KEY_HEIGHT + 12, theme)
    axes = canvas(figure)
    write_header(figure, look, title, subtitle)
    write_column_names(axes, look, models, left, top, cell_width, _NAME_LIMIT)
    write_row_names(axes, look, names, left - 10, top, cell_height, _NAME_LIMIT)
    steps = np.where(np.isfinite(values), np.searchsorted(LIMITS, np.nan_to_num(values), side="left") + 1, 0)
    add_cells(axes, ramp(look, "share"), steps, left, top, cell_width, cell_height)
    for row, column in np.argwhere(steps > 0).tolist():
        x, y = left + (column + 0.5) * cell_width, top + (row + 0.5) * cell_height
        text = _whole(values[row, column])
        write(axes, x, y, text, on_step(look, int(steps[row, column])), align="center", valign="center")
    add_key(axes, look, "share", _KEY, "recognised", left, top + cell_height * len(names) + 16)
    return figure


def _describe(rows: Sequence[tuple[str, Metric]], mean: float | None) -> str:
    if mean is None:
        return "no class has test images"
    total = sum(metric.n for _, metric in rows)
    text = f"{count(len(rows), 'class', 'classes')}, {count(total, 'test image')}"
    text += "; share recognised in %, with 95 % interval"
    return text if len(rows) <= MAX_CLASSES else f"{text}; the {MAX_CLASSES} weakest shown"


def _add_scale(axes: Axes, look: Look, left: float, top: float, bottom: float) -> None:
    for tick in (0, 25, 50, 75, 100):
        x = left + tick / 100 * _SCALE_WIDTH
        axes.plot([x, x], [top, bottom], color=look["rule"], linewidth=1)
        write(axes, x, bottom + 20, f"{tick}" if tick < 100 else "100 %", look["muted"], align="center")


def _add_class(axes: Axes, look: Look, name: str, metric: Metric, left: float, y: float) -> None:
    colour = look["best"] if metric.n >= _FEW else look["other"]
    fill = colour if metric.n >= _FEW else look["page"]
    write(axes, left - 14, y, fit_text(name, _NAME_LIMIT), look["text"], align="right", valign="center")
    low = metric.low if metric.low is not None else metric.value
    high = metric.high if metric.high is not None else metric.value
    ends = [left + low * _SCALE_WIDTH, left + high * _SCALE_WIDTH]
    axes.plot(ends, [y, y], color=colour, linewidth=2 if metric.n >= _FEW else 1, solid_capstyle="round")
    x = left + metric.value * _SCALE_WIDTH
    add_marks(axes, [(x, y)], "o", fill, colour)
    write(
        axes,
        left + _SCALE_WIDTH + 76,
        y,
        f"{100 * metric.value:.1f}",
        look["text"],
        align="right",
        valign="center",
    )
    write(axes, left + _SCALE_WIDTH + 136, y, f"{metric.n:,}", look["muted"], align="right", valign="center")


def _whole(share: float) -> str:
    if 0.995 <= share < 1:
        return "99"
    return f"{100 * share:.0f}"
