"""Answers to questions on models over several data sets or sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from backbench.studies.analysis import facts
from backbench.studies.analysis.cells import Cell, name_data
from backbench.studies.analysis.comparable import (
    Asked,
    accuracy,
    best_of_models,
    best_on_validation,
    find_unlike,
    list_changes,
    place_of,
    place_on_validation,
    rank_cells,
)
from backbench.studies.analysis.facts import Change, Facts, Kind, Remark, Run


def both_resolutions(asked: Asked) -> Facts:
    """The model with the best worst place over the data sets, with the places that the tests allow.

    Each model has one run on each split of each data set, by the method that is best on validation, and the models
    that are on all of them are ranked.
    """
    names = list(dict.fromkeys(cell.data for cell in asked.cells))
    if len(names) < 2:
        return (Remark(Kind.ONE_DATA_SET, (names[0],)),)
    splits = [(data, best_of_models(own)) for data, own in asked.by_data()]
    common = [model for model in splits[0][1] if all(model in best for _, best in splits)]
    if not common:
        return (Remark(Kind.NO_COMMON_MODEL),)
    places: dict[str, list[facts.Place]] = {}
    for data, best in splits:
        ranked = rank_cells(asked, [best[model] for model in common])
        for place, (cell, row) in enumerate(ranked, start=1):
            places.setdefault(cell.model, []).append(
                facts.Place(data, place, row.rank_low or place, row.rank_high or place)
            )

    def worst(model: str) -> tuple[int, int]:
        own = [place.place for place in places[model]]
        return max(own), sum(own)

    first = min(common, key=worst)
    unlike = find_unlike(asked, ([best[model] for model in common] for _, best in splits))
    return facts.BestPlaces(first, tuple(places[first]), len(common)), *unlike


def generalisation(asked: Asked) -> Facts:
    """The change of accuracy on images of another source, on the classes that both have, by data set.

    Named are the network in question, where the study asks for one, and the best of the others on validation.
    """
    changes: dict[tuple[str, str], list[tuple[Cell, float]]] = {}
    for cell in asked.unique_cells():
        for source, found in cell.elsewhere.items():
            own = _own_accuracy(asked, cell, set(found.mapping.values()))
            if own is not None:
                change = found.metrics["accuracy"].value - own
                changes.setdefault((name_data(cell, asked.cells), source), []).append((cell, change))
    if not changes:
        return ()
    gains = [
        facts.SourceGain(
            data,
            source,
            sum(change for _, change in found) / len(found),
            len(found),
            own=_best_change(asked, [each for each in found if each[0].model == asked.model]),
            best=_best_change(asked, [each for each in found if each[0].model != asked.model]),
        )
        for (data, source), found in changes.items()
    ]
    unlike = find_unlike(asked, [[cell for cell, _ in found] for found in changes.values()])
    return *gains, Remark(Kind.SHARED_CLASSES), *unlike


def _best_change(asked: Asked, changes: Sequence[tuple[Cell, float]]) -> tuple[Run, float] | None:
    """The run that is best on validation, with its change; None if there is no run."""
    if not changes:
        return None
    best = best_on_validation(cell for cell, _ in changes)
    change_of = {cell.record.run_id: change for cell, change in changes}
    return asked.run(best), change_of[best.record.run_id]


def _own_accuracy(asked: Asked, cell: Cell, classes: set[str]) -> float | None:
    """Accuracy on the run's own test images of these classes, with all classes allowed; None without images."""
    told = asked.told[cell.record.run_id]
    wanted = np.isin(told.labels, [place for place, name in enumerate(told.classes) if name in classes])
    return float(told.correct[wanted].mean()) if wanted.any() else None


def across_data(asked: Asked) -> Facts:
    """How each model's accuracy changes from the first data set to the others, the largest fall last, and which
    settings change too.

    A model is followed by its best method on validation; several seeds count by their mean.
    """
    names = list(dict.fromkeys(cell.data for cell in asked.cells))
    compared, lost = [], []
    for model in dict.fromkeys(cell.model for cell in asked.cells):
        runs = _follow([cell for cell in asked.cells if cell.model == model], names)
        if runs is None:
            lost.append(model)
        elif len(names) > 1:
            compared.append(runs)
    if not compared:
        return ()
    compared.sort(
        key=lambda runs: -min(_mean_accuracy(runs[data]) for data in names[1:]) + _mean_accuracy(runs[names[0]])
    )
    followed = [_describe_runs(asked, runs) for runs in compared]
    common: list[facts.CommonChanges] = []
    if len(followed) > 1 and len({each.changes for each in followed}) == 1 and followed[0].changes:
        common = [facts.CommonChanges(followed[0].changes)]
        followed = [replace(each, changes=()) for each in followed]
    together = [[cell for runs in compared for cell in runs[data]] for data in names]
    unlike = find_unlike(asked, together, told=("method",))
    return *followed, *common, *unlike, *([Remark(Kind.NOT_FOLLOWED, tuple(lost))] if lost else [])


def _follow(cells: Sequence[Cell], names: Sequence[str]) -> dict[str, list[Cell]] | None:
    """Data set -> a model's runs on it by its best method on validation; None if no method is on all data sets.

    Of several groups the best on validation counts. Only seeds that all data sets have count, if there are any.
    Runs whose weights saw validation images come last.
    """
    followed = []
    for method in sorted({cell.method for cell in cells}):
        runs: dict[str, list[Cell]] = {}
        for data in names:
            by_group: dict[str, list[Cell]] = {}
            for cell in cells:
                if (cell.method, cell.data) == (method, data):
                    by_group.setdefault(cell.group, []).append(cell)
            if by_group:
                runs[data] = min(by_group.values(), key=lambda own: place_on_validation([own]))
        if len(runs) == len(names):
            followed.append(runs)
    if not followed:
        return None
    best = min(followed, key=lambda runs: place_on_validation(runs.values()))
    common = set.intersection(*({cell.seed for cell in own} for own in best.values()))
    return {data: [cell for cell in own if cell.seed in common or not common] for data, own in best.items()}


def _describe_runs(asked: Asked, runs: Mapping[str, Sequence[Cell]]) -> facts.Followed:
    first, *_ = next(iter(runs.values()))
    means = [
        facts.MeanAccuracy(data, _mean_accuracy(cells), _find_group(asked, cells[0]))
        for data, cells in runs.items()
    ]
    seeds = {len({cell.seed for cell in cells}) for cells in runs.values()}
    return facts.Followed(first.model, first.method, tuple(means), tuple(sorted(seeds)), _list_besides(runs))


def _find_group(asked: Asked, cell: Cell) -> str | None:
    """The run's group, where the method is in several on these data."""
    alike = {other.group for other in asked.cells if place_of(other)[:3] == place_of(cell)[:3]}
    return cell.group if len(alike) > 1 else None


def _list_besides(runs: Mapping[str, Sequence[Cell]]) -> tuple[tuple[str, tuple[Change, ...]], ...]:
    """Data set -> what differs from the runs on the first one, by seed if seeds differ."""
    (_, own), *later = runs.items()
    found = []
    for data, cells in later:
        pairs = [(first, cell) for first in own for cell in cells if first.seed == cell.seed]
        changes = [(cell.seed, list_changes(first, cell)) for first, cell in pairs or [(own[0], cells[0])]]
        common = [change for change in changes[0][1] if all(change in each for _, each in changes)]
        alone = [replace(change, seed=seed) for seed, each in changes for change in each if change not in common]
        if common or alone:
            found.append((data, (*common, *alone)))
    return tuple(found)


def _mean_accuracy(cells: Sequence[Cell]) -> float:
    return sum(map(accuracy, cells)) / len(cells)
