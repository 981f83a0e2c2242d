"""Learning curves: loss beside accuracy, training and validation, where the best epoch was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from backbench.report.figures.labels import spread_labels
from backbench.report.figures.style import (
    LINE,
    MARGIN,
    Look,
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

_PANEL_WIDTH, _PANEL_HEIGHT = 360.0, 250.0
_LABEL_ROOM = 90.0
_AXIS_ROOM = 50.0
_LOG_RATIO = 30.0  # losses that span more than this are shown on a log scale
_MAX_MARKED = 40  # epochs up to which each has its dot


@dataclass(frozen=True)
class _Phase:
    """A phase of training: `start` epochs came before; `best` is its best epoch, 0 for the state it began with."""

    name: str
    start: int
    epochs: np.ndarray
    columns: Mapping[str, np.ndarray]
    best: int
    best_values: Mapping[str, float | None]


def draw_learning_curves(
    history: Mapping[str, Mapping[str, Any]], *, title: str = "How training went", theme: str = "light"
) -> Figure:
    """Loss and accuracy by epoch, phases one after the other on the same axes; a diamond at the best.

    Args:
        history: as in history.json: phase -> its 'history' (a list of epochs), 'best_epoch' (0: the state before
            the first epoch), 'best_accuracy', 'best_loss', 'ended'. title: '' for none.
    """
    look, phases = find_look(theme), _read_phases(history)
    subtitle = _describe(history, phases)
    top = header_height(title, subtitle) + LINE + (LINE if len(phases) > 1 else 4)
    column = _AXIS_ROOM + _PANEL_WIDTH + _LABEL_ROOM
    figure = new_figure(2 * MARGIN + 2 * column, top + _PANEL_HEIGHT + 56, theme)
    write_header(figure, look, title, subtitle)
    for number, (name, key) in enumerate((("Loss", "loss"), ("Accuracy, %", "accuracy"))):
        left = MARGIN + number * column + _AXIS_ROOM
        axes = add_panel(figure, (left, top, _PANEL_WIDTH, _PANEL_HEIGHT), look)
        write(
            canvas(figure),
            left - _AXIS_ROOM,
            top - (LINE + 12 if len(phases) > 1 else 12),
            name,
            look["text"],
            bold=True,
        )
        _draw_panel(axes, look, phases, key)
        _name_phases(canvas(figure), look, axes, phases, left, top)
        write(canvas(figure), left + _PANEL_WIDTH, top + _PANEL_HEIGHT + 38, "epoch", look["muted"], align="right")
    return figure


def _read_phases(history: Mapping[str, Mapping[str, Any]]) -> list[_Phase]:
    phases, start = [], 0
    for name, result in history.items():
        epochs = result.get("history") or []
        columns = {
            f"{part}_{key}": np.array([_number(epoch.get(f"{part}_{key}")) for epoch in epochs], dtype=np.float64)
            for part in ("train", "val")
            for key in ("loss", "accuracy")
        }
        best = int(result.get("best_epoch") or 0)
        values = {"loss": result.get("best_loss"), "accuracy": result.get("best_accuracy")}
        if len(epochs) and not np.isfinite(columns["val_loss"]).any():  # nothing was there to measure on
            values = {}
        phases.append(_Phase(name, start, start + 1 + np.arange(len(epochs)), columns, best, values))
        start += max(len(epochs), best)
    return phases


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _describe(history: Mapping[str, Mapping[str, Any]], phases: Sequence[_Phase]) -> str:
    num = sum(len(phase.epochs) for phase in phases)
    text = "1 epoch" if num == 1 else f"{num:,} epochs"
    if len(phases) > 1:
        text += f" in {len(phases)} phases"
    kept = _kept_phases(phases)
    accuracy = kept[-1].best_values.get("accuracy") if kept else None
    if accuracy is not None:
        epoch = kept[-1].start + kept[-1].best
        when = f"epoch {epoch}" if epoch else "the state it began with"
        text += f"; ◆ kept: {when}, {100 * accuracy:.1f} % right on validation"
    if any(result.get("ended") == "budget" for result in history.values()):
        text += "; cut by the time allowed"
    return text


def _kept_phases(phases: Sequence[_Phase]) -> list[_Phase]:
    """The phases that bettered what they began with; the first counts anyway: its beginning is the first state."""
    return [phase for phase in phases if phase.best or phase is phases[0]]


def _draw_panel(axes: Axes, look: Look, phases: Sequence[_Phase], key: str) -> None:
    last = max((int(phase.epochs[-1]) for phase in phases if len(phase.epochs)), default=1)
    first = 0 if phases and not phases[0].best else 1
    margin = max(0.5, (last - first) * 0.03)
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _scale_values(axes, phases, key)
    for part, colour, dash in (("train", look["other"], (0, (4, 2))), ("val", look["best"], "solid")):
        for phase in phases:
            values = phase.columns[f"{part}_{key}"]
            is_marked = last <= _MAX_MARKED
            axes.plot(
                phase.epochs,
                values,
                color=colour,
                linewidth=2,
                linestyle=dash,
                marker=("o" if part == "val" else "s") if is_marked else None,
                markersize=5,
                markerfacecolor=colour if part == "val" else look["page"],
                markeredgecolor=colour,
            )
    for phase in _kept_phases(phases):
        _mark_best(axes, look, phase, key)
    _name_lines(axes, look, phases, key)


def _scale_values(axes: Axes, phases: Sequence[_Phase], key: str) -> None:
    told = [phase.columns[f"{part}_{key}"] for phase in phases for part in ("train", "val")]
    told.append(np.array([_number(phase.best_values.get(key)) for phase in phases]))
    values = np.concatenate(told)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if key == "accuracy":
        room = max(0.02, (high - low) * 0.08)
        top = 1.0 + room / 4 if high > 0.85 else high + room
        scale_percent(axes, "y", max(0.0, low - room), top)
        return
    if low > 0 and high / low > _LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 3.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(min(0.0, low), high * 1.08 if high > 0 else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _mark_best(axes: Axes, look: Look, phase: _Phase, key: str) -> None:
    value = phase.best_values.get(key)
    if value is None or not np.isfinite(value):
        return
    x = phase.start + phase.best
    add_marks(axes, [(x, value)], "D", look["attention"], look["page"], size=9, edge_width=1.5, zorder=4)


def _name_lines(axes: Axes, look: Look, phases: Sequence[_Phase], key: str) -> None:
    """The lines' names at their right ends, moved apart where they would meet."""
    names = {"val": ("validation", look["best"]), "train": ("training", look["muted"])}
    ends: list[tuple[str, float]] = []
    for part in names:
        told = [phase.columns[f"{part}_{key}"] for phase in phases if len(phase.epochs)]
        if told and np.isfinite(told[-1][-1]):
            height = axes.transData.transform((0, told[-1][-1]))[1] - axes.bbox.y0
            ends.append((part, _PANEL_HEIGHT - height))
    places = spread_labels([y for _, y in ends], 17.0, _PANEL_HEIGHT)
    for (part, _), y in zip(ends, places, strict=True):
        text, colour = names[part]
        label = write(axes, 1.0, 1 - y / _PANEL_HEIGHT, text, colour, valign="center")
        label.set(transform=axes.transAxes, x=1 + 10 / _PANEL_WIDTH)


def _name_phases(page: Axes, look: Look, axes: Axes, phases: Sequence[_Phase], left: float, top: float) -> None:
    if len(phases) < 2:
        return
    low, high = axes.get_xlim()
    for phase in phases:
        begin = left + max(0.0, (phase.start + 0.5 - low) / (high - low)) * _PANEL_WIDTH
        end = left + (phase.start + len(phase.epochs) + 0.5 - low) / (high - low) * _PANEL_WIDTH
        if phase.start:
            page.plot([begin, begin], [top - 16, top + _PANEL_HEIGHT], color=look["other"], linewidth=1)
        room = min(end, left + _PANEL_WIDTH) - begin - 8
        name = phase.name if text_width(phase.name) <= room else f"…{phase.name.rsplit('-', 1)[-1]}"
        write(page, begin + 4, top - 6, fit_text(name, room), look["muted"])
