"""Classes on the page: recall of each class by row, and confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from backbench.report.charts.chart import make_axis
from backbench.report.charts.matrix import MAX_CLASS_ROWS, MAX_WITH_NUMBERS, decide_steps, error_steps
from backbench.report.page import faults
from backbench.report.page.marks import name, tag
from backbench.report.page.svg import draw_pair, draw_scale
from backbench.report.ranked import RankedRuns
from backbench.stats.confusion import cluster_order

MAX_NAMED_CLASSES = 30
MAX_HEAT_ROWS = 12
_MAX_HEAT_CELLS = 1000
_MAX_CELLS = 1500
_CELL = '<rect x="{0}%" y="{1}%" width="{2}%" height="{2}%" class="{3}" data-pair="{4}|{5}" data-n="{6}"/>'
_UPRIGHT = '<svg x="{}%" y="-6" class="spot"><text class="tick" transform="rotate(-90)" dy="4">{}</text></svg>'


@dataclass(frozen=True)
class ClassLine:
    """One class: the best row's recall on its `n` images with interval; recalls of all rows with their shade."""

    label: str
    n: int
    value: float
    low: float
    high: float
    cells: tuple[tuple[float, str], ...]


def show_classes(ranked: RankedRuns, found: faults.Faults, labels: Sequence[str]) -> dict[str, Any]:
    """Dots of the weakest classes in the best row and the second, and a heat map of all classes and rows."""
    place = [entry.row.is_best for entry in ranked.candidates].index(True)
    present = [index for index in range(len(labels)) if found.sizes[index] > 0]
    num_shown = max(2, min(MAX_HEAT_ROWS, _MAX_HEAT_CELLS // max(1, len(present))))
    shown = [place, *(index for index in range(len(ranked.candidates)) if index != place)][:num_shown]
    order = sorted(present, key=lambda index: (found.recall[place, index], -found.sizes[index], index))
    lines = []
    for index in order:
        value = float(found.recall[place, index])
        low, high = faults.class_interval(value, int(found.sizes[index]))
        shares = [float(found.recall[row, index]) for row in shown]
        cells = tuple((share, shade(1 - share)) for share in shares)
        lines.append(ClassLine(labels[index], int(found.sizes[index]), value, low, high, cells))
    weakest = lines[:MAX_CLASS_ROWS]
    axis = make_axis([end for line in weakest for end in (line.low, line.high, *dict(line.cells[:2]))])
    drawings = [
        draw_pair(line.value, line.cells[1][0] if len(shown) > 1 else None, line.low, line.high, axis)
        for line in weakest
    ]
    return {
        "classes": lines,
        "weakest": list(zip(weakest, drawings, strict=True)),
        "class_scale": draw_scale(axis),
        "class_names": [name(ranked.candidates[row].row.name, 60) for row in shown],
        "untested": [labels[index] for index in range(len(labels)) if found.sizes[index] == 0],
    }


def show_matrix(found: faults.Faults, labels: Sequence[str]) -> dict[str, Any]:
    """A table with counts up to 15 classes, a clustered drawing up to 300, only the pairs above."""
    num = len(labels)
    if num <= MAX_WITH_NUMBERS:
        rows = []
        steps = error_steps(found.counts)
        for truth in range(num):
            cells = [
                (int(found.counts[truth, answer]), _cell_kind(steps, truth, answer), answer)
                for answer in range(num)
            ]
            rows.append((labels[truth], truth, cells))
        return {"kind": "counts", "labels": labels, "rows": rows}
    if num <= faults.MAX_MATRIX_CLASSES:
        drawn, num_left = _choose_cells(found)
        return {
            "kind": "drawing",
            "drawing": _draw_matrix(found, labels, drawn),
            "has_names": num <= MAX_NAMED_CLASSES,
            "num_left": num_left,
        }
    return {"kind": "none"}


def shade(share: float) -> str:
    """The class of the style sheet for a share of errors: none, or its step."""
    return _step_kind(int(decide_steps(np.array(share))))


def _step_kind(step: int) -> str:
    return f"s{step}" if step else ""


def _cell_kind(steps: np.ndarray, truth: int, answer: int) -> str:
    return "same" if truth == answer else _step_kind(int(steps[truth, answer]))


def _choose_cells(found: faults.Faults) -> tuple[list[tuple[int, int]], int]:
    """(true, predicted) of the cells to draw: correct ones and the largest errors; number of errors left out."""
    cells = [(int(truth), int(answer)) for truth, answer in zip(*np.nonzero(found.counts), strict=True)]
    wrong = sorted(
        (cell for cell in cells if cell[0] != cell[1]), key=lambda cell: (-int(found.counts[cell]), cell)
    )
    right = [cell for cell in cells if cell[0] == cell[1]]
    kept = wrong[: max(0, _MAX_CELLS - len(right))]
    return right + kept, len(wrong) - len(kept)


def _draw_matrix(found: faults.Faults, labels: Sequence[str], cells: Sequence[tuple[int, int]]) -> Markup:
    """A matrix with confused classes next to each other; each cell has its identity for the script."""
    order = cluster_order(found.counts).tolist()
    place = {label: at for at, label in enumerate(order)}
    step, steps = 100 / len(order), error_steps(found.counts)
    parts = []
    for truth, answer in sorted(cells, key=lambda cell: (place[cell[0]], place[cell[1]])):
        count = int(found.counts[truth, answer])
        kind = _cell_kind(steps, truth, answer)
        box = (round(place[answer] * step, 2), round(place[truth] * step, 2), round(step, 2), kind)
        parts.append(tag(_CELL, *box, truth, answer, count))
    if len(order) <= MAX_NAMED_CLASSES:
        for at, label in enumerate(order):
            middle, said = round((at + 0.5) * step, 2), name(labels[label], 16)
            parts.append(tag('<text class="tick" x="-6" y="{}%" dy="4" text-anchor="end">{}</text>', middle, said))
            parts.append(tag(_UPRIGHT, middle, said))
    return tag('<svg class="plot cells" aria-hidden="true">{}</svg>', Markup("").join(parts))
