"""Accuracy against cost with its front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from backbench.report.figures.labels import Box, nearest_in, place_labels
from backbench.report.figures.style import (
    LINE,
    MARGIN,
    SMALL,
    Look,
    add_boxes,
    add_layer,
    add_marks,
    add_panel,
    canvas,
    find_look,
    fit_text,
    header_height,
    new_figure,
    scale_percent,
    text_width,
    write,
    write_header,
)
from backbench.report.rows import Row
from backbench.report.text import quantity
from backbench.wording import count

_WIDTH, _HEIGHT = 700.0, 400.0
_AXIS_ROOM = 50.0
_MAX_LABELLED = 25
_LABEL_LIMIT = 190.0
_DASH = (0, (5, 2))


def _milliseconds(row: Row) -> float | None:
    return 1000.0 / row.images_per_second if row.images_per_second else None


COSTS: Mapping[str, tuple[str, Callable[[Row], float | None]]] = MappingProxyType(
    {
        "milliseconds": ("milliseconds an image, measured", _milliseconds),
        "parameters": ("parameters", lambda row: float(row.parameters) if row.parameters else None),
        "flops": ("operations an image (multiply and add are two)", lambda row: row.flops),
    }
)


def draw_cost(
    rows: Sequence[Row],
    *,
    cost: str = "milliseconds",
    pinned: Sequence[str] = (),
    title: str = "Is it worth its price?",
    theme: str = "light",
) -> Figure:
    """Accuracy with its 95 % whisker against cost on a log scale; the front: the best to be had for that cost.

    Rows without that cost or without a figure are left out; the best control is a line.

    Args:
        rows: of one ranking, see `rows.make_rows`. cost: a key of `COSTS`.
        pinned: `Row.name` or model of rows to point out. title: '' for none.
    """
    look = find_look(theme)
    label, read_cost = COSTS[cost]
    priced = [(row, value) for row in rows if row.is_candidate and (value := read_cost(row))]
    controls = [row for row in rows if row.control and row.accuracy is not None]
    left_out = sum(row.is_candidate for row in rows) - len(priced)
    subtitle = f"{count(len(priced), 'row')} with 95 % intervals" + (
        f"; {left_out} without this cost left out" if left_out else ""
    )
    top = header_height(title, subtitle) + LINE + 4
    figure = new_figure(2 * MARGIN + _AXIS_ROOM + _WIDTH + 10, top + _HEIGHT + 56 + LINE, theme)
    write_header(figure, look, title, subtitle)
    left, page = MARGIN + _AXIS_ROOM, canvas(figure)
    write(page, MARGIN, top - 10, "Accuracy, %", look["text"], bold=True)
    write(page, left + _WIDTH, top + _HEIGHT + 38, label, look["muted"], align="right")
    axes = add_panel(figure, (left, top, _WIDTH, _HEIGHT), look)
    if not priced:
        axes.set_axis_off()
        write(page, left, top + 40, "No row has both a figure and this cost.", look["text"])
        return figure
    _scale(axes, priced)
    blocked = _add_control(axes, look, controls, left, top)
    _add_front(axes, look, priced)
    for row, value in priced:
        _add_row(axes, look, row, value, row.name in pinned or row.model in pinned)
    _add_labels(add_layer(figure), axes, look, priced, blocked, left, top)
    _add_legend(page, look, left, top + _HEIGHT + 38 + LINE, has_pinned=bool(pinned))
    return figure


def pareto_front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """The rows that no other beats: none is as cheap and more accurate; from the cheapest on."""
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -accuracies[index])):
        if not front or accuracies[index] > accuracies[front[-1]]:
            front.append(index)
    return front


def _scale(axes: Axes, priced: Sequence[tuple[Row, float]]) -> None:
    values = [value for _, value in priced]
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.15, (high - low) * 0.12)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - room), 10 ** (high + room))
    axes.xaxis.set_major_locator(FixedLocator(_nice_costs(low - room, high + room)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _cost_text(value)))
    lows = [row.low if row.low is not None else row.accuracy or 0.0 for row, _ in priced]
    highs = [row.high if row.high is not None else row.accuracy or 0.0 for row, _ in priced]
    margin = max(0.01, (max(highs) - min(lows)) * 0.06)
    scale_percent(axes, "y", max(0.0, min(lows) - margin), min(1 + margin / 2, max(highs) + margin), 6)


def _nice_costs(low: float, high: float) -> list[float]:
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        decades = range(math.floor(low), math.ceil(high) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if 10**low <= tick <= 10**high]
        if len(ticks) >= 3:
            return ticks
    return ticks


def _cost_text(value: float) -> str:
    return quantity(value) if value >= 1000 else f"{value:.3g}"


def _add_control(axes: Axes, look: Look, controls: Sequence[Row], left: float, top: float) -> list[Box]:
    """A line at the best control, where it is in sight; the box of its label."""
    best = max(controls, key=lambda row: row.accuracy or 0.0, default=None)
    if best is None or best.accuracy is None or best.accuracy <= axes.get_ylim()[0]:
        return []
    axes.axhline(best.accuracy, color=look["other"], linewidth=1, linestyle=(0, (1, 3)))
    text = fit_text(f"control: {best.model}", _LABEL_LIMIT)
    write(axes, axes.get_xlim()[1], best.accuracy, text, look["muted"], align="right", valign="bottom")
    y = top + _HEIGHT * (axes.get_ylim()[1] - best.accuracy) / (axes.get_ylim()[1] - axes.get_ylim()[0])
    return [(left + _WIDTH - text_width(text), y - LINE, left + _WIDTH, y)]


def _add_front(axes: Axes, look: Look, priced: Sequence[tuple[Row, float]]) -> None:
    front = pareto_front([value for _, value in priced], [row.accuracy or 0.0 for row, _ in priced])
    costs = [priced[index][1] for index in front] + [axes.get_xlim()[1]]
    heights = [priced[index][0].accuracy or 0.0 for index in front]
    axes.step(costs, [*heights, heights[-1]], where="post", color=look["other"], linewidth=1.5, linestyle=_DASH)


def _add_row(axes: Axes, look: Look, row: Row, value: float, is_pinned: bool) -> None:
    assert row.accuracy is not None  # rows without a figure were left out
    is_top = row.is_best or row.tied_with_best
    colour = look["attention"] if is_pinned else look["best"] if is_top else look["other"]
    fill = colour if is_pinned or is_top else look["page"]
    if row.low is not None and row.high is not None:
        axes.plot([value, value], [row.low, row.high], color=colour, linewidth=1.5, alpha=0.55, zorder=2)
    add_marks(axes, [(value, row.accuracy)], "D" if is_pinned else "o", fill, colour, size=9, edge_width=1.5)


def _add_labels(
    page: Axes,
    axes: Axes,
    look: Look,
    priced: Sequence[tuple[Row, float]],
    blocked: list[Box],
    left: float,
    top: float,
) -> None:
    """Names beside the dots, the front and the tied first; a thin line leads to those further away."""
    front = set(pareto_front([value for _, value in priced], [row.accuracy or 0.0 for row, _ in priced]))
    order = sorted(
        range(len(priced)),
        key=lambda index: (
            index not in front,
            not priced[index][0].tied_with_best,
            -(priced[index][0].accuracy or 0),
        ),
    )
    places = _on_page(axes, [(priced[index][1], priced[index][0].accuracy or 0.0) for index in order], left, top)
    texts = [fit_text(priced[index][0].name, _LABEL_LIMIT) for index in order][:_MAX_LABELLED]
    sizes = [(text_width(text), SMALL + 3.0) for text in texts]
    bounds = (left, top - 4, left + _WIDTH + 20, top + _HEIGHT - 2)
    num_needed = sum(index in front or priced[index][0].tied_with_best for index in order)
    lines = _lines(axes, priced, left, top)
    boxes = place_labels(places, sizes, bounds, blocked, lines, num_needed=num_needed)
    for number, (text, box) in enumerate(zip(texts, boxes, strict=True)):
        if box is None:
            continue
        row = priced[order[number]][0]
        x, y = places[number]
        near = nearest_in(box, x, y)
        if math.hypot(near[0] - x, near[1] - y) > 14:
            page.plot([x, near[0]], [y, near[1]], color=look["other"], linewidth=0.75)
        add_boxes(page, np.array([[box[0] - 2, box[1], box[2] - box[0] + 4, box[3] - box[1]]]), look["page"])
        write(page, box[0], box[3] - 4, text, look["text" if row.tied_with_best else "muted"])


def _lines(axes: Axes, priced: Sequence[tuple[Row, float]], left: float, top: float) -> list[Box]:
    """Boxes round the whiskers and the level parts of the front."""
    boxes: list[Box] = []
    for row, value in priced:
        ends = [
            (value, row.high if row.high is not None else 0.0),
            (value, row.low if row.low is not None else 0.0),
        ]
        (x, y0), (_, y1) = _on_page(axes, ends, left, top).tolist()
        boxes.append((x - 1, y0, x + 1, y1))
    front = pareto_front([value for _, value in priced], [row.accuracy or 0.0 for row, _ in priced])
    corners = _on_page(axes, [(priced[index][1], priced[index][0].accuracy or 0.0) for index in front], left, top)
    ends_x = [*corners[1:, 0].tolist(), left + _WIDTH]
    boxes += [(x, y - 1, end, y + 1) for (x, y), end in zip(corners.tolist(), ends_x, strict=True)]
    return boxes


def _on_page(axes: Axes, points: Sequence[tuple[float, float]], left: float, top: float) -> np.ndarray:
    """(n, 2) pixels of the page for points of the panel."""
    places = axes.transData.transform(np.array(points)) - np.array([axes.bbox.x0, axes.bbox.y0])
    return np.column_stack([left + places[:, 0], top + _HEIGHT - places[:, 1]])


def _add_legend(page: Axes, look: Look, left: float, y: float, *, has_pinned: bool) -> None:
    entries = [("o", "best", "best", "best and tied with it"), ("o", "page", "other", "others")]
    if has_pinned:
        entries.append(("D", "attention", "attention", "pinned"))
    x = left
    for marker, fill, edge, text in entries:
        add_marks(page, [(x + 5, y - 4)], marker, look[fill], look[edge], size=9, edge_width=1.5)
        write(page, x + 16, y, text, look["muted"])
        x += 16 + text_width(text) + 24
    page.plot([x, x + 24], [y - 4, y - 4], color=look["other"], linewidth=1.5, linestyle=_DASH)
    write(page, x + 32, y, "best to be had for the cost", look["muted"])
