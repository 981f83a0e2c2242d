"""Answers to questions on models over several data sets or sources: their places, their falls, what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from backbench.studies.analysis.cells import Cell, name_data
from backbench.studies.analysis.comparable import (
    Asked,
    accuracy,
    best_of_models,
    best_on_validation,
    join_all,
    list_changes,
    percent_of,
    place_of,
    place_on_validation,
    rank_cells,
    tell_unlike,
)


def both_resolutions(asked: Asked) -> list[str]:
    """The model whose worst place over the data sets is the best, with the places that the tests leave open.

    Each model has one run on each split of each data set, by the method that is best on validation, and the models
    that are on all of them are ranked.
    """
    names = list(dict.fromkeys(cell.data for cell in asked.cells))
    if len(names) < 2:
        return [f"Only {names[0]} is finished: it takes two data sets."]
    splits = [(data, best_of_models(own)) for data, own in asked.by_data()]
    common = [model for model in splits[0][1] if all(model in best for _, best in splits)]
    if not common:
        return ["No model has finished on all data sets."]
    places: dict[str, list[int]] = {}
    shown: dict[str, list[str]] = {}
    for data, best in splits:
        for place, (cell, row) in enumerate(rank_cells(asked, [best[model] for model in common]), start=1):
            open_to = f" ({row.rank_low} to {row.rank_high})" if row.rank_low != row.rank_high else ""
            places.setdefault(cell.model, []).append(place)
            shown.setdefault(cell.model, []).append(f"place {place}{open_to} on {data}")
    first = min(common, key=lambda model: (max(places[model]), sum(places[model])))
    unlike = tell_unlike(asked, ([best[model] for model in common] for _, best in splits))
    return [
        f"{first}: {', '.join(shown[first])}, of {len(common)} models on all of them (in brackets the places that "
        "paired tests leave open).",
        *unlike,
    ]


def generalisation(asked: Asked) -> list[str]:
    """What is left of the accuracy on images of another source, on the classes that both have, by data set.

    Named apart: the network in question, where the study asks for one, and of the others the best on validation.
    """
    changes: dict[tuple[str, str], list[tuple[Cell, float]]] = {}
    for cell in asked.unique_cells():
        for source, found in cell.elsewhere.items():
            own = _own_accuracy(asked, cell, set(found.mapping.values()))
            if own is not None:
                change = 100 * (found.metrics["accuracy"].value - own)
                changes.setdefault((name_data(cell, asked.cells), source), []).append((cell, change))
    if not changes:
        return []
    sentences = [_describe_change(asked, data, source, found) for (data, source), found in changes.items()]
    sentences.append(
        "On both sides only images of classes that both have are counted, and a source differs in more than its "
        "images' look."
    )
    return sentences + tell_unlike(asked, [[cell for cell, _ in found] for found in changes.values()])


def _describe_change(asked: Asked, data: str, source: str, changes: Sequence[tuple[Cell, float]]) -> str:
    mean = sum(change for _, change in changes) / len(changes)
    mine = [change for change in changes if change[0].model == asked.model]
    others = [change for change in changes if change[0].model != asked.model]
    of_others = "of the others " if mine else ""
    change_of = {cell.record.run_id: change for cell, change in changes}
    named = [
        f"{words}{asked.title(best)} + {best.method}: {change_of[best.record.run_id]:+.1f} points"
        for words, rivals in (("", mine), (f"{of_others}the best on validation, ", others))
        if rivals
        for best in [best_on_validation(cell for cell, _ in rivals)]
    ]
    over = f" on average ({len(changes)} runs)" if len(changes) > 1 else ""
    return (
        f"From {data} to {source} accuracy {'falls' if mean <= 0 else 'rises'} by {abs(mean):.1f} points{over}; "
        f"{'; '.join(named)}."
    )


def _own_accuracy(asked: Asked, cell: Cell, classes: set[str]) -> float | None:
    """On the run's own test images of these classes, chosen among all its classes; None where there are none."""
    told = asked.told[cell.record.run_id]
    wanted = np.isin(told.labels, [place for place, name in enumerate(told.classes) if name in classes])
    return float(told.correct[wanted].mean()) if wanted.any() else None


def across_data(asked: Asked) -> list[str]:
    """How each model's accuracy changes from the first data set to the others, largest fall last, and what else
    changes with it.

    A model is followed by one method, the one that does best on validation; over several seeds by their mean.
    """
    names = list(dict.fromkeys(cell.data for cell in asked.cells))
    followed, lost = [], []
    for model in dict.fromkeys(cell.model for cell in asked.cells):
        runs = _follow([cell for cell in asked.cells if cell.model == model], names)
        if runs is None:
            lost.append(model)
        elif len(names) > 1:
            followed.append(runs)
    if not followed:
        return []
    followed.sort(
        key=lambda runs: -min(_mean_accuracy(runs[data]) for data in names[1:]) + _mean_accuracy(runs[names[0]])
    )
    besides = [_list_besides(runs) for runs in followed]
    is_common = len(followed) > 1 and len(set(besides)) == 1
    sentences = [
        _describe_runs(asked, runs) + ("" if is_common or not also else f" Besides the data: {also}.")
        for runs, also in zip(followed, besides, strict=True)
    ]
    if is_common and besides[0]:
        sentences.append(f"Besides the data, of all of them: {besides[0]}.")
    sentences += tell_unlike(
        asked, [[cell for runs in followed for cell in runs[data]] for data in names], told=("method",)
    )
    if lost:
        sentences.append(f"By no method on all of these: {join_all(lost)}.")
    return sentences


def _follow(cells: Sequence[Cell], names: Sequence[str]) -> dict[str, list[Cell]] | None:
    """Data set -> a model's runs on it by the method that does best on validation over all of them; None if no
    method is on all. Of several groups that one which does best on validation; only seeds that all data sets have,
    if there are any. Runs whose weights saw validation images come after all others."""
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


def _describe_runs(asked: Asked, runs: Mapping[str, Sequence[Cell]]) -> str:
    """'resnet18 + full: 93.1 % on cifar10, 75.0 % on cifar100 (-18.1 points).'"""
    (first, own), *later = runs.items()
    start = _mean_accuracy(own)
    figures = [f"{percent_of(start)} on {first}{_name_group(asked, own[0])}"]
    for data, cells in later:
        change = 100 * (_mean_accuracy(cells) - start)
        figures.append(
            f"{percent_of(_mean_accuracy(cells))} on {data}{_name_group(asked, cells[0])} ({change:+.1f} points)"
        )
    seeds = {len({cell.seed for cell in cells}) for cells in runs.values()}
    over = f", means over {' and '.join(map(str, sorted(seeds)))} seeds" if seeds != {1} else ""
    return f"{own[0].model} + {own[0].method}: {', '.join(figures)}{over}."


def _name_group(asked: Asked, cell: Cell) -> str:
    """' in 'full fine-tuning'', where the method is in several groups on these data."""
    alike = {other.group for other in asked.cells if place_of(other)[:3] == place_of(cell)[:3]}
    return f" in '{cell.group}'" if len(alike) > 1 else ""


def _list_besides(runs: Mapping[str, Sequence[Cell]]) -> str:
    """'on cifar100 epochs 20 to 10': what differs from the runs on the first data set, by seed if seeds differ."""
    (_, own), *later = runs.items()
    found = []
    for data, cells in later:
        pairs = [(first, cell) for first in own for cell in cells if first.seed == cell.seed]
        changes = [(cell.seed, list_changes(first, cell)) for first, cell in pairs or [(own[0], cells[0])]]
        common = [change for change in changes[0][1] if all(change in each for _, each in changes)]
        alone = [f"{change} (seed {seed})" for seed, each in changes for change in each if change not in common]
        if common or alone:
            found.append(f"on {data} {', '.join(common + alone)}")
    return "; ".join(found)


def _mean_accuracy(cells: Sequence[Cell]) -> float:
    return sum(map(accuracy, cells)) / len(cells)
