"""What tables of coloured cells share: names along two sides, cells in steps of one ramp, the key below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from backbench.report.figures.style import (
    LINE,
    NUM_STEPS,
    SMALL,
    Look,
    add_boxes,
    fit_text,
    text_width,
    widest,
    write,
)

_SWATCH = 44.0
KEY_HEIGHT = 64.0


def decide_steps(shares: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    """The step of the ramp for each share, 1..7; 0 for nothing. limits: the upper ends of the steps, rising."""
    steps = np.searchsorted(np.asarray(limits), shares, side="left") + 1
    return np.where(shares > 0, np.minimum(steps, len(limits)), 0)


def on_step(look: Look, step: int) -> str:
    """The colour of text that reads on a step of a ramp: ramps start near the page and end far from it."""
    return look["page"] if step > NUM_STEPS - 3 else look["text"]


def add_cells(
    axes: Axes, colours: Sequence[str], steps: np.ndarray, left: float, top: float, width: float, height: float
) -> None:
    """The cells of a (rows, columns) table of steps, one shape for each step; step 0 stays blank.

    Args:
        colours: of the steps 1, 2, ... width, height: of a cell, in pixels.
    """
    wide, high = (max(side, 2.5) - (1.0 if side >= 8 else 0.0) for side in (width, height))
    for step, colour in enumerate(colours, start=1):
        rows, columns = np.nonzero(steps == step)
        sizes = np.full((len(rows), 2), (wide, high))
        add_boxes(axes, np.column_stack([left + columns * width, top + rows * height, sizes]), colour)


def ramp(look: Look, name: str) -> list[str]:
    """The colours of a ramp, 'error' or 'share', from the page's end on."""
    return [look[f"{name}-{step}"] for step in range(1, NUM_STEPS + 1)]


def column_names_height(names: Sequence[str], cell: float, limit: float) -> float:
    """Pixels above the table for the names of its columns, which are turned where they are wider than a cell."""
    return LINE if _fit_flat(names, cell) else widest(names, limit) + 6


def write_column_names(
    axes: Axes, look: Look, names: Sequence[str], left: float, bottom: float, cell: float, limit: float
) -> None:
    """Names of columns above a table whose upper edge is `bottom`."""
    is_flat = _fit_flat(names, cell)
    for index, name in enumerate(names):
        middle = left + (index + 0.5) * cell
        if is_flat:
            write(axes, middle, bottom - 6, fit_text(name, cell), look["text"], align="center")
        else:
            write(axes, middle + SMALL / 3, bottom - 6, fit_text(name, limit), look["text"], rotation=90)


def write_row_names(
    axes: Axes, look: Look, names: Sequence[str], right: float, top: float, cell: float, limit: float
) -> None:
    """Names of rows, ending at `right`."""
    for index, name in enumerate(names):
        middle = top + (index + 0.5) * cell
        write(axes, right, middle, fit_text(name, limit), look["text"], align="right", valign="center")


def add_key(
    axes: Axes,
    look: Look,
    name: str,
    labels: Sequence[str],
    title: str,
    left: float,
    top: float,
    neutral: str = "",
) -> None:
    """Steps of a ramp and what they stand for, `KEY_HEIGHT` high; `neutral`: what that colour means.

    Fewer labels than steps are those of the last steps.
    """
    write(axes, left, top + SMALL, title, look["muted"])
    colours = ramp(look, name)[NUM_STEPS - len(labels) :]
    for index, (label, colour) in enumerate(zip(labels, colours, strict=True)):
        x = left + index * (_SWATCH + 2)
        add_boxes(axes, np.array([[x, top + 22, _SWATCH, 12]]), colour)
        write(axes, x + _SWATCH / 2, top + 50, label, look["muted"], align="center")
    if neutral:
        x = left + len(labels) * (_SWATCH + 2) + 16
        add_boxes(axes, np.array([[x, top + 22, _SWATCH, 12]]), look["neutral"])
        write(axes, x + _SWATCH / 2, top + 50, neutral, look["muted"], align="center")


def _fit_flat(names: Sequence[str], cell: float) -> bool:
    return cell >= SMALL * 1.5 and all(len(name) < 40 and text_width(name) <= cell - 6 for name in names)
