"""Grouped bars: one figure of several models on several data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backbench.report.figures.style import (
    GROUPS,
    LINE,
    MARGIN,
    Look,
    add_boxes,
    canvas,
    find_look,
    fit_text,
    header_height,
    new_figure,
    text_width,
    widest,
    write,
    write_header,
)
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
    """A bar for each model and data set, with the 95 % interval; the models best on average first.

    Args:
        figures: model -> data set -> share in 0..1; a data set may be missing. data: names, in the order of the
            bars; at most five have a colour of their own. title: '' for none.
    """
    look = find_look(theme)
    order = sorted(figures, key=lambda name: -float(np.mean([metric.value for metric in figures[name].values()])))
    subtitle = f"{count(len(order), 'model')}; share of test images recognised in %, with 95 % interval"
    left = MARGIN + widest(order, _NAME_LIMIT) + 14
    top = header_height(title, subtitle) + 2 * LINE
    row = _BAR * len(data) + _BETWEEN
    bottom = top + row * len(order)
    figure = new_figure(left + _SCALE_WIDTH + _FIGURE_WIDTH + MARGIN, bottom + 44, theme)
    axes = canvas(figure)
    write_header(figure, look, title, subtitle)
    _add_key(axes, look, data, left, top - LINE)
    for tick in (0, 25, 50, 75, 100):
        x = left + tick / 100 * _SCALE_WIDTH
        axes.plot([x, x], [top, bottom], color=look["rule"], linewidth=1, zorder=0)
        write(axes, x, bottom + 20, f"{tick}" if tick < 100 else "100 %", look["muted"], align="center")
    for place, name in enumerate(order):
        y = top + row * place + _BETWEEN / 2
        middle = y + _BAR * len(data) / 2
        write(axes, left - 14, middle, fit_text(name, _NAME_LIMIT), look["text"], align="right", valign="center")
        for index, source in enumerate(data):
            if source in figures[name]:
                _add_bar(axes, look, figures[name][source], GROUPS[index % len(GROUPS)], left, y + _BAR * index)
    return figure


def _add_key(axes: Axes, look: Look, data: Sequence[str], left: float, y: float) -> None:
    for index, name in enumerate(data):
        shown = fit_text(name, 160)
        add_boxes(axes, np.array([[left, y - 10, 10, 10]]), look[GROUPS[index % len(GROUPS)]])
        write(axes, left + 16, y, shown, look["text"])
        left += 16 + text_width(shown) + 24


def _add_bar(axes: Axes, look: Look, metric: Metric, role: str, left: float, y: float) -> None:
    width = metric.value * _SCALE_WIDTH
    add_boxes(axes, np.array([[left, y, width, _BAR - 2]]), look[role])
    end = left + width
    if metric.low is not None and metric.high is not None:
        ends = [left + metric.low * _SCALE_WIDTH, left + metric.high * _SCALE_WIDTH]
        axes.plot(ends, [y + _BAR / 2 - 1] * 2, color=look["text"], linewidth=1)
        end = max(end, ends[1])
    middle = y + _BAR / 2 - 1
    write(axes, end + 6, middle, f"{100 * metric.value:.1f}", look["muted"], valign="center", size=11)
