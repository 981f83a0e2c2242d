"""Learning curves: loss and accuracy by epoch, phase by phase, and the epochs that were kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from backbench.report.charts.chart import Axis, Chart, Dot, Line, Points, make_axis, make_log_axis, round_step

Quantity = Literal["loss", "accuracy"]
_LOG_RATIO = 30.0  # a larger ratio of losses uses a log scale
_NUM_EPOCH_TICKS = 6
_PARTS = ("train", "val")


@dataclass(frozen=True)
class Phase:
    """A phase of training, after `start` epochs of others. `best`: the epoch kept, 0 for the initial state.

    curves: 'train_loss', 'val_accuracy', ... -> (epoch, value) where there is a value, epochs from 1.
    best_values: 'loss' and 'accuracy' on validation of the epoch kept, if known.
    """

    name: str
    start: int
    num_epochs: int
    best: int
    ended: str
    curves: Mapping[str, Points] = field(default_factory=dict)
    best_values: Mapping[str, float] = field(default_factory=dict)


def read_phases(history: Mapping[str, Mapping[str, Any]]) -> list[Phase]:
    """The phases of a training, one after the other.

    Args:
        history: as in history.json: phase -> its 'history' (a list of epochs), 'best_epoch', 'ended', and in some
            files 'best_accuracy' and 'best_loss'.
    """
    phases, start = [], 0
    for name, result in history.items():
        epochs, best = result.get("history") or [], int(result.get("best_epoch") or 0)
        curves = {
            f"{part}_{key}": _curve(epochs, f"{part}_{key}") for part in _PARTS for key in ("loss", "accuracy")
        }
        values = {}
        for key in ("loss", "accuracy"):
            found = _number(result.get(f"best_{key}"))
            found = dict(curves[f"val_{key}"]).get(best, math.nan) if math.isnan(found) else found
            if math.isfinite(found) and (curves["val_loss"] or not epochs):  # otherwise there was no data
                values[key] = found
        phases.append(Phase(str(name), start, len(epochs), best, str(result.get("ended")), curves, values))
        start += max(len(epochs), best)
    return phases


def _curve(epochs: Sequence[Mapping[str, Any]], key: str) -> Points:
    values = [(float(place), _number(epoch.get(key))) for place, epoch in enumerate(epochs, start=1)]
    return tuple(point for point in values if math.isfinite(point[1]))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def kept_phases(phases: Sequence[Phase]) -> list[Phase]:
    """The phases that improved on their start; the first always counts: its start is the initial state."""
    return [phase for phase in phases if phase.best or phase is phases[0]]


def epoch_axis(num_epochs: int, *, has_beginning: bool) -> Axis:
    """Whole epochs up to the last; from 0 if the initial state is shown."""
    first, last = (0 if has_beginning else 1), max(num_epochs, 2)
    step = max(1, round(round_step((last - first) / _NUM_EPOCH_TICKS)))
    ticks = [epoch for epoch in range(first, last + 1) if epoch % step == 0]
    margin = 0.03 * (last - first)
    return Axis(first - margin, last + margin, tuple(map(float, ticks)), tuple(map(str, ticks)))


def value_axis(phases: Sequence[Phase], key: Quantity) -> Axis:
    """A scale for all of these phases: accuracies in percent, losses from 0, or by logarithm."""
    values = [value for phase in phases for part in _PARTS for _, value in phase.curves[f"{part}_{key}"]]
    values += [phase.best_values[key] for phase in phases if key in phase.best_values]
    if key == "accuracy":
        return make_axis(values)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low > 0 and high / low > _LOG_RATIO:
        return make_log_axis(values, lambda value: f"{value:.3g}")
    return make_axis(
        [*values, 0.0], least=min(0.0, low), most=max(1e-3, high) * 2, show=lambda value: f"{value:g}"
    )


def training_chart(phases: Sequence[Phase], key: Quantity, x: Axis, y: Axis) -> Chart:
    """Training dashed, validation full, a diamond at each epoch that was kept."""
    lines = [
        Line(tuple((phase.start + epoch, value) for epoch, value in phase.curves[f"{part}_{key}"]), kind)
        for part, kind in (("train", "other dashed"), ("val", "best"))
        for phase in phases
        if phase.curves[f"{part}_{key}"]
    ]
    kept = [phase for phase in kept_phases(phases) if key in phase.best_values]
    dots = [Dot(phase.start + phase.best, phase.best_values[key], "pinned") for phase in kept]
    return Chart(x, y, lines=tuple(lines), dots=tuple(dots))
