"""Grouped bars: one figure of several models on several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from backbench.report.charts.chart import SHARES
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.style import GROUPS, LINE, MARGIN, fit_text, text_width, widest
from backbench.stats.metric import Metric
from backbench.wording import count

_BAR = 14.0
_BETWEEN = 12.0
_NAME_LIMIT = 320.0
_SCALE_WIDTH = 440.0
_FIGURE_WIDTH = 56.0


def draw_grouped_bars(
    figures: Mapping[str, Mapping[str, Metric]],
    data: Sequence[str],
    *,
    title: str = "Models on several data sets",
    theme: str = "light",
) -> Figure:
    """A bar for each model and data set, with the 95 % interval; sorted by average.

    Args:
        figures: model -> data set -> share in 0..1; a data set may be missing. data: names, in the order of the
            bars; at most five have a colour of their own. title: '' for none.
    """
    order = sorted(figures, key=lambda name: -float(np.mean([metric.value for metric in figures[name].values()])))
    subtitle = f"{count(len(order), 'model')}; accuracy on test images in %, with 95 % interval"
    left = MARGIN + widest(order, _NAME_LIMIT) + 14
    row = _BAR * len(data) + _BETWEEN
    height = 2 * LINE + row * len(order)
    canvas = Canvas(title, subtitle, left + _SCALE_WIDTH + _FIGURE_WIDTH + MARGIN, height + 44, theme)
    top = canvas.top + 2 * LINE
    _add_key(canvas, data, left, top - LINE)
    canvas.scale_across(SHARES, left, _SCALE_WIDTH, top, top + row * len(order))
    for place, name in enumerate(order):
        y = top + row * place + _BETWEEN / 2
        middle = y + _BAR * len(data) / 2
        canvas.write(left - 14, middle, fit_text(name, _NAME_LIMIT), align="right", valign="center")
        for index, source in enumerate(data):
            if source in figures[name]:
                _add_bar(canvas, figures[name][source], GROUPS[index % len(GROUPS)], left, y + _BAR * index)
    return canvas.figure


def _add_key(canvas: Canvas, data: Sequence[str], left: float, y: float) -> None:
    for index, name in enumerate(data):
        shown = fit_text(name, 160)
        canvas.boxes([(left, y - 10, 10, 10)], GROUPS[index % len(GROUPS)])
        canvas.write(left + 16, y, shown)
        left += 16 + text_width(shown) + 24


def _add_bar(canvas: Canvas, metric: Metric, role: str, left: float, y: float) -> None:
    end = left + metric.value * _SCALE_WIDTH
    canvas.boxes([(left, y, end - left, _BAR - 2)], role)
    middle = y + _BAR / 2 - 1
    if metric.low is not None and metric.high is not None:
        ends = [left + metric.low * _SCALE_WIDTH, left + metric.high * _SCALE_WIDTH]
        canvas.line(ends, [middle, middle], "text")
        end = max(end, ends[1])
    canvas.write(end + 6, middle, f"{100 * metric.value:.1f}", "muted", valign="center", size=11)
