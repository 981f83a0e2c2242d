"""Learning curves: loss and accuracy, training and validation, with the best epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from backbench.report.charts.chart import Chart
from backbench.report.charts.labels import spread_labels
from backbench.report.charts.training import (
    Phase,
    Quantity,
    epoch_axis,
    kept_phases,
    read_phases,
    training_chart,
    value_axis,
)
from backbench.report.figures.canvas import Box, Canvas
from backbench.report.figures.chart import AXIS_ROOM, BELOW, draw_chart
from backbench.report.figures.style import LINE, MARGIN, fit_text, text_width
from backbench.wording import count

_WIDTH, _HEIGHT = 360.0, 250.0
_LABEL_ROOM = 90.0
_PANELS: tuple[tuple[str, Quantity], ...] = (("Loss", "loss"), ("Accuracy, %", "accuracy"))


def draw_learning_curves(
    history: Mapping[str, Mapping[str, Any]], *, title: str = "Learning curves", theme: str = "light"
) -> Figure:
    """Loss and accuracy by epoch, phases one after the other on the same axes; a diamond at the best.

    Args:
        history: see `charts.training.read_phases`. title: '' for none.
    """
    phases = read_phases(history)
    above = 2 * LINE + 4
    column = AXIS_ROOM + _WIDTH + _LABEL_ROOM
    canvas = Canvas(title, _describe(phases), 2 * MARGIN + 2 * column, above + _HEIGHT + BELOW, theme)
    num_epochs = max((phase.start + phase.num_epochs for phase in phases), default=1)
    x = epoch_axis(num_epochs, has_beginning=bool(phases) and not phases[0].best)
    for number, (name, key) in enumerate(_PANELS):
        box = (MARGIN + number * column + AXIS_ROOM, canvas.top + above, _WIDTH, _HEIGHT)
        chart = training_chart(phases, key, x, value_axis(phases, key))
        canvas.write(box[0] - AXIS_ROOM, box[1] - LINE - 12, name, bold=True)
        draw_chart(canvas, chart, box, across="epoch")
        _name_lines(canvas, chart, box)
        if len(phases) > 1:
            _name_phases(canvas, chart, phases, box)
    return canvas.figure


def _describe(phases: Sequence[Phase]) -> str:
    text = count(sum(phase.num_epochs for phase in phases), "epoch")
    if len(phases) > 1:
        text += f" in {len(phases)} phases"
    last = kept_phases(phases)[-1:]
    for phase in last:
        if "accuracy" in phase.best_values:
            epoch = phase.start + phase.best
            when = f"epoch {epoch}" if epoch else "the initial state"
            text += f"; ◆ kept: {when}, {100 * phase.best_values['accuracy']:.1f} % validation accuracy"
    return text + ("; ended by the time limit" if any(phase.ended == "budget" for phase in phases) else "")


def _name_lines(canvas: Canvas, chart: Chart, box: Box) -> None:
    """The lines' names at their right ends, moved apart where they would meet."""
    left, top, width, height = box
    last = {line.kind: line.points[-1] for line in chart.lines}  # of the last phase
    named = [
        (kind, words) for kind, words in (("best", "validation"), ("other dashed", "training")) if kind in last
    ]
    ends = [chart.at(*last[kind])[1] * height / 100 for kind, _ in named]
    for (kind, words), y in zip(named, spread_labels(ends, 17.0, height), strict=True):
        canvas.write(left + width + 10, top + y, words, "best" if kind == "best" else "muted", valign="center")


def _name_phases(canvas: Canvas, chart: Chart, phases: Sequence[Phase], box: Box) -> None:
    left, top, width, height = box
    for phase in phases:
        begin = left + chart.x.at(phase.start + 0.5) * width / 100
        end = left + chart.x.at(phase.start + phase.num_epochs + 0.5) * width / 100
        if phase.start:
            canvas.line([begin, begin], [top - 16, top + height], "other")
        room = end - begin - 8
        name = phase.name if text_width(phase.name) <= room else f"…{phase.name.rsplit('-', 1)[-1]}"
        canvas.write(begin + 4, top - 6, fit_text(name, room), "muted")
