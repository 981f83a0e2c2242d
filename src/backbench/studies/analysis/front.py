"""Chooses models of a group by validation accuracy and cost, one of each family first. Pure, from records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.comparable import best_of_models
from backbench.studies.analysis.facts import Candidate, Selection


def select_front(cells: Iterable[Cell], families: Mapping[str, str], most: int) -> Selection:
    """Choose at most `most` models by validation accuracy against FLOPs for an image.

    Models are taken front by front: first those that no other model beats in both, then those that only these
    beat, and so on; within a front the most accurate first. The first round takes one model of each family, the
    second round the others in the same order.

    Args:
        cells: runs of one data set and seed, each with a validation accuracy.
        families: model -> name of its family; a model without one is a family of its own.
    """
    order = _in_layers(list(best_of_models(list(cells)).values()), families)
    first = {one.family: one for one in reversed(order)}.values()
    taken = sorted(order, key=lambda one: one not in first)[:most]  # in each round in the same order
    return Selection(tuple(taken), tuple(one for one in order if one not in taken))


def _in_layers(cells: Sequence[Cell], families: Mapping[str, str]) -> list[Candidate]:
    """All models, front by front; in each the most accurate first, of equal ones the cheapest, then by name."""
    order: list[Candidate] = []
    every = sorted(cells, key=lambda cell: (-_accuracy(cell), _flops(cell), cell.model))
    waiting = every
    while waiting:
        beaten = {cell.model: _find_better(cell, waiting) for cell in waiting}
        for cell in waiting:
            if beaten[cell.model] is None:
                flops = None if math.isinf(_flops(cell)) else _flops(cell)
                family, better = families.get(cell.model, cell.model), _find_better(cell, every)
                order.append(Candidate(cell.model, family, _accuracy(cell), flops, better))
        waiting = [cell for cell in waiting if beaten[cell.model] is not None]
    return order


def _find_better(cell: Cell, others: Iterable[Cell]) -> str | None:
    """A model that is at least as accurate, costs no more, and is better in one of the two."""
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
