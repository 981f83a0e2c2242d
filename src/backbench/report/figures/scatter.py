"""Accuracy against cost with its front."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from backbench.report.charts.chart import Chart
from backbench.report.charts.cost import COSTS, cost_chart, cost_points, pareto_front
from backbench.report.charts.labels import Box
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.chart import AXIS_ROOM, BELOW, draw_chart, draw_key, draw_names
from backbench.report.figures.style import LINE, MARGIN, fit_text, text_width
from backbench.report.rows import Row
from backbench.wording import count

_WIDTH, _HEIGHT = 700.0, 400.0
_CONTROL_LIMIT = 190.0


def draw_cost(
    rows: Sequence[Row],
    *,
    cost: str = "milliseconds",
    pinned: Sequence[str] = (),
    title: str = "Accuracy against cost",
    theme: str = "light",
) -> Figure:
    """Accuracy with its 95 % whisker against cost on a log scale; with the Pareto front.

    Rows without that cost or accuracy are left out; the best baseline is a line.

    Args:
        rows: of one ranking, see `rows.make_rows`. cost: a key of `COSTS`.
        pinned: `Row.name` or model of rows to highlight. title: '' for none.
    """
    chosen = COSTS[cost]
    priced = cost_points(rows, chosen)
    front = {point.number for point in pareto_front(priced)}
    important = [
        rows[point.number - 1].run_id for point in priced if point.number in front or point.kind == "tied"
    ]
    points = cost_points(rows, chosen, important=important, pinned=pinned)
    left_out = sum(row.is_candidate for row in rows) - len(points)
    subtitle = f"{count(len(points), 'row')} with 95 % intervals"
    subtitle += f"; {left_out} without this cost left out" if left_out else ""
    above = LINE + 4
    width = 2 * MARGIN + AXIS_ROOM + _WIDTH + 10
    canvas = Canvas(title, subtitle, width, above + _HEIGHT + BELOW + LINE, theme)
    box = (MARGIN + AXIS_ROOM, canvas.top + above, _WIDTH, _HEIGHT)
    if not points:
        canvas.write(MARGIN, box[1] + 40, "No row has both accuracy and this cost.")
        return canvas.figure
    chart = cost_chart(points, chosen)
    draw_chart(canvas, chart, box, across=chosen.label, up="Accuracy, %")
    draw_names(canvas, chart, box, _draw_control(canvas, chart, rows, box))
    kinds = [("best", "best and tied with it"), ("other", "others"), *([("pinned", "pinned")] if pinned else [])]
    draw_key(canvas, [*kinds, ("front", "best for the cost")], box[0], box[1] + _HEIGHT + BELOW + 2)
    return canvas.figure


def _draw_control(canvas: Canvas, chart: Chart, rows: Sequence[Row], box: Box) -> list[Box]:
    """A line at the best baseline, if it is in range; returns the box of its label in the chart."""
    controls = [row for row in rows if row.control and row.accuracy is not None]
    best = max(controls, key=lambda row: row.accuracy or 0.0, default=None)
    if best is None or best.accuracy is None or not chart.y.low < best.accuracy <= chart.y.high:
        return []
    left, top, width, height = box
    y = height - chart.y.at(best.accuracy) * height / 100
    canvas.line([left, left + width], [top + y, top + y], "other", linestyle=(0, (1, 3)))
    text = fit_text(f"baseline: {best.model}", _CONTROL_LIMIT)
    canvas.write(left + width, top + y - 4, text, "muted", align="right")
    return [(width - text_width(text), y - LINE, width, y)]
