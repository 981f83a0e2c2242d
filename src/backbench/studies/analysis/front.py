"""Which models of a group go on: those that no other beats in accuracy and in cost, one of each family first.

Pure, from records; the test images have no say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backbench.studies.analysis.cells import Cell, show_value
from backbench.studies.analysis.comparable import best_of_models


@dataclass(frozen=True)
class Candidate:
    """A model by its best run on validation.

    Args:
        beaten_by: of a model behind the front one that is at least as accurate and costs no more.
    """

    cell: Cell
    family: str
    beaten_by: str | None

    @property
    def described(self) -> str:
        """'on the front, 81.2 % on validation, 4.1 GFLOPs an image'."""
        flops = _flops(self.cell)
        cost = "cost not known" if math.isinf(flops) else f"{flops / 1e9:.3g} GFLOPs an image"
        place = "on the front" if self.beaten_by is None else f"behind {self.beaten_by}"
        return f"{place}, {show_value('accuracy', _accuracy(self.cell))} on validation, {cost}"


@dataclass(frozen=True)
class Selection:
    """The models that go on, in the order in which they were taken, with why; and why the others do not."""

    taken: Mapping[str, str]
    left: Mapping[str, str]


def select_front(cells: Iterable[Cell], families: Mapping[str, str], most: int) -> Selection:
    """At most `most` models, by accuracy on validation against FLOPs for an image.

    Models are taken front by front: first those that no other beats in both, then those that only they beat, and
    so on; within a front the most accurate first. In a first round a family sends one model, so that each family
    has one if there is room; a second round takes the others in the same order.

    Args:
        cells: runs of one data set and seed, each with a validation accuracy.
        families: model -> name of its family; one that is not named is a family of its own.
    """
    order = _in_layers(list(best_of_models(list(cells)).values()), families)
    taken: dict[str, str] = {}
    first_of: dict[str, str] = {}
    for one in order:
        if len(taken) < most and one.family not in first_of:
            first_of[one.family] = one.cell.model
            taken[one.cell.model] = f"family {one.family}, {one.described}"
    for one in order:
        if len(taken) < most and one.cell.model not in taken:
            taken[one.cell.model] = f"family {one.family} again, {one.described}"
    left = {}
    for one in order:
        if one.cell.model not in taken:
            first = first_of.get(one.family)
            why = f"family {one.family} has {first}" if first is not None else "others came first"
            left[one.cell.model] = f"{one.described}; {why}"
    return Selection(taken, left)


def _in_layers(cells: Sequence[Cell], families: Mapping[str, str]) -> list[Candidate]:
    """All of them, front by front, in each the most accurate first, of equal ones the cheapest, then by name."""
    order: list[Candidate] = []
    every = sorted(cells, key=lambda cell: (-_accuracy(cell), _flops(cell), cell.model))
    waiting = every
    while waiting:
        beaten = {cell.model: _find_better(cell, waiting) for cell in waiting}
        for cell in waiting:
            if beaten[cell.model] is None:
                family = families.get(cell.model, cell.model)
                order.append(Candidate(cell, family, _find_better(cell, every)))
        waiting = [cell for cell in waiting if beaten[cell.model] is not None]
    return order


def _find_better(cell: Cell, others: Iterable[Cell]) -> str | None:
    """One that is at least as accurate and costs no more, and is better in one of the two."""
    mine = (_accuracy(cell), -_flops(cell))
    for other in others:
        theirs = (_accuracy(other), -_flops(other))
        if theirs != mine and theirs[0] >= mine[0] and theirs[1] >= mine[1]:
            return other.model
    return None


def _accuracy(cell: Cell) -> float:
    metric = cell.figure("val_accuracy")
    return 0.0 if metric is None else metric.value


def _flops(cell: Cell) -> float:
    facts = cell.record.model
    return math.inf if facts is None or facts.flops is None else facts.flops
