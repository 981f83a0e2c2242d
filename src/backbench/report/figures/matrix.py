"""Shared by tables of coloured cells: names on two sides, cells in steps of a colour ramp, the key below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbench.report.charts.matrix import NUM_STEPS
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.style import LINE, SMALL, fit_text, text_width, widest

_SWATCH = 44.0
KEY_HEIGHT = 64.0


def on_step(step: int) -> str:
    """The role of readable text on a step of a ramp, which starts near the colour of the page."""
    return "page" if step > NUM_STEPS - 3 else "text"


def add_cells(
    canvas: Canvas, ramp: str, steps: np.ndarray, left: float, top: float, width: float, height: float
) -> None:
    """The cells of a (rows, columns) table of steps, one shape for each step; step 0 stays blank.

    Args:
        ramp: 'error' or 'share'; a step beyond its last is neutral. width, height: of a cell, in pixels.
    """
    wide, high = (max(side, 2.5) - (1.0 if side >= 8 else 0.0) for side in (width, height))
    for step in np.unique(steps[steps > 0]).tolist():
        rows, columns = np.nonzero(steps == step)
        sizes = np.full((len(rows), 2), (wide, high))
        role = f"{ramp}-{step}" if step <= NUM_STEPS else "neutral"
        canvas.boxes(np.column_stack([left + columns * width, top + rows * height, sizes]), role)


def column_names_height(names: Sequence[str], cell: float, limit: float) -> float:
    """Pixels above the table for the names of its columns, which are rotated if they are wider than a cell."""
    return LINE if _fit_flat(names, cell) else widest(names, limit) + 6


def write_column_names(
    canvas: Canvas, names: Sequence[str], left: float, bottom: float, cell: float, limit: float
) -> None:
    """Names of columns above a table whose upper edge is `bottom`."""
    is_flat = _fit_flat(names, cell)
    for index, name in enumerate(names):
        middle = left + (index + 0.5) * cell
        if is_flat:
            canvas.write(middle, bottom - 6, fit_text(name, cell), align="center")
        else:
            canvas.write(middle + SMALL / 3, bottom - 6, fit_text(name, limit), rotation=90)


def write_row_names(
    canvas: Canvas, names: Sequence[str], right: float, top: float, cell: float, limit: float
) -> None:
    """Names of rows, ending at `right`."""
    for index, name in enumerate(names):
        middle = top + (index + 0.5) * cell
        canvas.write(right, middle, fit_text(name, limit), align="right", valign="center")


def add_key(
    canvas: Canvas, ramp: str, labels: Sequence[str], title: str, left: float, top: float, neutral: str = ""
) -> None:
    """The legend of a ramp, `KEY_HEIGHT` high; `neutral`: meaning of the neutral colour.

    With fewer labels than steps, labels are those of the last steps.
    """
    canvas.write(left, top + SMALL, title, "muted")
    swatches = [(f"{ramp}-{step}", label) for step, label in enumerate(labels, start=NUM_STEPS - len(labels) + 1)]
    for role, label in [*swatches, *([("neutral", neutral)] if neutral else [])]:
        left += 14 if role == "neutral" else 0
        canvas.boxes([(left, top + 22, _SWATCH, 12)], role)
        canvas.write(left + _SWATCH / 2, top + 50, label, "muted", align="center")
        left += _SWATCH + 2


def _fit_flat(names: Sequence[str], cell: float) -> bool:
    return cell >= SMALL * 1.5 and all(len(name) < 40 and text_width(name) <= cell - 6 for name in names)
