"""Answers to a study's questions, in sentences made from its figures by fixed rules.

Where two runs answered the same test images, an exact paired test says whether they can be told apart; that their
intervals overlap, or do not, decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from backbench.evaluate.compare import ALPHA, holm
from backbench.report.study_runs import (
    Asked,
    accuracy,
    best_of_models,
    describe_test,
    join_all,
    percent_of,
    place_of,
    rank_cells,
    show_accuracy,
    show_p,
    split_of,
    tell_apart,
    val_accuracy,
)
from backbench.report.study_tables import Cell, describe_fit, name_data

NOTHING = "No finished run can answer it."


Answer = Callable[[Asked], str]


def answer_question(by: str, asked: Asked) -> str:
    """A few sentences; `by` is one of `RULES`."""
    usable = [
        cell
        for cell in asked.cells
        if cell.figure("accuracy") is not None
        and cell.record.run_id in asked.told
        and not cell.record.num_test_seen
    ]
    return RULES[by](replace(asked, cells=usable)) if usable else NOTHING


def best_features(asked: Asked) -> str:
    """The best frozen features on each data set, and what can't be told apart from them."""
    sentences = []
    for data, own in asked.by_data():
        ranked = rank_cells(asked, own)
        best, rest = ranked[0][0], ranked[1:]
        name = asked.title(best)
        tied = [asked.title(cell) for cell, row in rest if row.tied_with_best]
        tied = [other for other in tied if other != name]
        if len(ranked) == 1:
            also = ""
        elif tied:
            also = f"; {join_all(tied)} can't be told apart from it (exact paired tests, Holm-adjusted)"
        else:
            has_tied = any(row.tied_with_best for _, row in rest)  # by another method of the best model
            which = "all other models" if has_tied else "all others"
            also = f"; {which} are worse beyond doubt (exact paired tests, Holm-adjusted)"
            also = also if not has_tied or len({asked.title(cell) for cell in own}) > 1 else ""
        how = f" + {best.method}" if len({cell.method for cell in own}) > 1 else ""
        sentences.append(f"On {data}: {name}{how}, {show_accuracy(best)}{also}.")
    return " ".join(sentences)


def both_resolutions(asked: Asked) -> str:
    """The model whose worst place over the data sets is the best, with the places that the tests leave open.

    Each model has one run on each split of each data set, by the method that is best on validation, and the models
    that are on all of them are ranked.
    """
    names = list(dict.fromkeys(cell.data for cell in asked.cells))
    if len(names) < 2:
        return f"Only {names[0]} is finished: it takes two data sets."
    splits = [(data, best_of_models(own)) for data, own in asked.by_data()]
    common = [model for model in splits[0][1] if all(model in best for _, best in splits)]
    if not common:
        return "No model has finished on all data sets."
    places: dict[str, list[int]] = {}
    shown: dict[str, list[str]] = {}
    for data, best in splits:
        for place, (cell, row) in enumerate(rank_cells(asked, [best[model] for model in common]), start=1):
            open_to = f" ({row.rank_low} to {row.rank_high})" if row.rank_low != row.rank_high else ""
            places.setdefault(cell.model, []).append(place)
            shown.setdefault(cell.model, []).append(f"place {place}{open_to} on {data}")
    first = min(common, key=lambda model: (max(places[model]), sum(places[model])))
    return (
        f"{first}: {', '.join(shown[first])}, of {len(common)} models on all of them (in brackets the places "
        "that paired tests leave open)."
    )


def own_network(asked: Asked) -> str:
    """The study's own network against the best of the others on the same images, each by validation, and how many
    of them are above it beyond chance."""
    sentences = []
    for data, own in asked.by_data():
        mine = [cell for cell in own if cell.model == asked.model]
        others = [cell for cell in own if cell.model != asked.model]
        if not mine or not others:
            continue
        first, best = max(mine, key=val_accuracy), max(others, key=val_accuracy)
        gap = 100 * (accuracy(best) - accuracy(first))
        where = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} it" if gap else "level with it"
        sentences.append(
            f"{asked.title(first)} ({first.method}) reaches {show_accuracy(first)} on {data}; of the other models "
            f"the best on validation, {asked.title(best)} ({best.method}), is {where} at {show_accuracy(best)} "
            f"({describe_test(asked, best, first)}).{_count_above(asked, first, others)}"
        )
    return " ".join(sentences) or _why_not(asked, lambda cell: cell.model == asked.model)


def _count_above(asked: Asked, first: Cell, others: Sequence[Cell]) -> str:
    """' 3 of the 4 others ... are above it': each by its method that is best on validation; '' for one alone."""
    best = list(best_of_models(others).values())
    if len(best) == 1:
        return ""
    p_values = holm([asked.p_value(first, asked.gains(cell, first)) for cell in best])
    above = [
        cell.model
        for cell, p_value in zip(best, p_values, strict=True)
        if p_value < ALPHA and accuracy(cell) > accuracy(first)
    ]
    which = [cell.model for cell in best if cell.model not in above]
    rest = f"; not {join_all(which)}" if above and which else ""
    num = "All" if not which else "None" if not above else f"{len(above)}"
    verb = "is" if len(above) == 1 else "are"
    return (
        f" {num} of the {len(best)} others, each by its best method on validation, {verb} above it beyond chance "
        f"(exact paired tests, Holm-adjusted){rest}."
    )


def _why_not(asked: Asked, is_ours: Callable[[Cell], bool]) -> str:
    """What to say where nothing could be compared: that the training images differ, if that is why."""
    ours = {cell.data for cell in asked.cells if is_ours(cell)}
    common = sorted(ours & {cell.data for cell in asked.cells if not is_ours(cell)})
    if not common:
        return NOTHING
    return (
        f"What is finished on {join_all(common)} had different training images on the two sides, so that the "
        "models are not what is compared."
    )


def between_groups(asked: Asked) -> str:
    """What each model and method gained from the first of the question's groups to a later one, on the same
    test images, and what else differs between the two."""
    sentences = []
    before = [cell for cell in asked.cells if cell.group == asked.order[0]]
    for first in before:
        for later in asked.cells:
            if later.group == first.group or place_of(later) != place_of(first):
                continue
            if sorted(asked.told[later.record.run_id].ids) != sorted(asked.told[first.record.run_id].ids):
                continue
            gain = 100 * (accuracy(later) - accuracy(first))
            sentences.append(
                f"{first.model} + {first.method} on {name_data(first, before)}: {show_accuracy(first)} in "
                f"'{first.group}', {show_accuracy(later)} in '{later.group}', {gain:+.1f} points "
                f"({describe_test(asked, later, first)}).{tell_apart(first, later)}"
            )
    return " ".join(sentences) or NOTHING


def generalisation(asked: Asked) -> str:
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
        return NOTHING
    sentences = [_describe_change(asked, data, source, found) for (data, source), found in changes.items()]
    return (
        f"{' '.join(sentences)} On both sides only images of classes that both have are counted, and a source "
        "differs in more than its images' look."
    )


def _describe_change(asked: Asked, data: str, source: str, changes: Sequence[tuple[Cell, float]]) -> str:
    mean = sum(change for _, change in changes) / len(changes)
    mine = [change for change in changes if change[0].model == asked.model]
    others = [change for change in changes if change[0].model != asked.model]
    of_others = "of the others " if mine else ""
    named = [
        f"{words}{asked.title(cell)} + {cell.method}: {change:+.1f} points"
        for words, rivals in (("", mine), (f"{of_others}the best on validation, ", others))
        if rivals
        for cell, change in [max(rivals, key=lambda one: val_accuracy(one[0]))]
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


def families(asked: Asked) -> str:
    """One family of models against all others: their mean over the same test images, and the best of each.

    The best of a family is the one that was best on validation, so that the test images choose nothing.
    """
    sentences = []
    for data, own in asked.by_data():
        ours = [cell for cell in own if cell.model in asked.models]
        others = [cell for cell in own if cell not in ours]
        if not ours or not others:
            continue
        mine = np.stack([asked.correct(cell) for cell in ours])
        theirs = np.stack([asked.correct(cell) for cell in others])
        gap = float(mine.mean() - theirs.mean())
        p_value = asked.p_value(ours[0], len(others) * mine.sum(axis=0) - len(ours) * theirs.sum(axis=0))
        is_alone = len({cell.model for cell in ours}) == 1
        reach, they_are = ("reaches", "it is") if is_alone else ("reach", "they are")
        if p_value >= ALPHA:
            verdict = "these can't be told apart"
        else:
            verdict = f"{they_are} worse" if gap < 0 else f"{they_are} no worse, but better"
        first, second = max(ours, key=val_accuracy), max(others, key=val_accuracy)
        one, other = asked.title(first), asked.title(second)
        names = join_all([asked.title(cell) for cell in ours])
        sentences.append(
            f"On {data} {names} {reach} {percent_of(mine.mean())} on average, the others "
            f"{percent_of(theirs.mean())}: {verdict} ({100 * gap:+.1f} points, {show_p(p_value)}, exact "
            f"paired test on {mine.shape[1]:,} images). Of each, the best on validation: {one} with "
            f"{show_accuracy(first)}, {other} with {show_accuracy(second)} "
            f"({describe_test(asked, first, second)})."
        )
    return " ".join(sentences) or _why_not(asked, lambda cell: cell.model in asked.models)


def fine_tuning_gain(asked: Asked) -> str:
    """How much each model gained over its probe by being trained, on the same images.

    The probe is one of the weights that the training began with; where there is none, of the weights as they came.
    Of several the one that was best on validation counts.
    """
    probes = [cell for cell in asked.cells if cell.method in PROBES]
    sentences = []
    for cell in asked.cells:
        own = [probe for probe in probes if split_of(probe) == split_of(cell)]
        of_start = [probe for probe in own if probe.record.model_name == cell.record.model_name]
        as_it_came = [probe for probe in own if probe.record.model is None or probe.record.model.label is None]
        if cell.method in PROBES or not (of_start or as_it_came):
            continue
        probe = max(of_start or as_it_came, key=val_accuracy)
        gain = 100 * (accuracy(cell) - accuracy(probe))
        start = "" if of_start else " of the weights before the earlier training"
        sentences.append(
            f"{asked.title(cell)} on {name_data(cell, asked.cells)}: {cell.method} {gain:+.1f} points over "
            f"{probe.method}{start} ({describe_test(asked, cell, probe)})."
        )
    return " ".join(sentences) or NOTHING


def training_gap(asked: Asked) -> str:
    """How much less each run gets right of its validation images than of its training images, the most first."""
    sentences = []
    for data, own in asked.by_data():
        gaps = [
            (train.value - val.value, cell, train.value, val.value)
            for cell in own
            if (train := cell.figure("train_accuracy")) is not None
            and (val := cell.figure("val_accuracy")) is not None
        ]
        shown = [
            f"{asked.title(cell)} + {cell.method} {100 * gap:+.1f} points ({percent_of(train)}, {percent_of(val)})"
            for gap, cell, train, val in sorted(gaps, key=lambda found: -found[0])
        ]
        if shown:
            sentences.append(f"On {data}, accuracy in training over that on validation: {', '.join(shown)}.")
    sentences += describe_fit([cell for cell in asked.cells if cell.recipe]) if sentences else ()
    return " ".join(sentences) or NOTHING


def across_data(asked: Asked) -> str:
    """How each model's accuracy changes from the first data set to the others, largest fall last.

    Of several methods the one that was best on validation counts, of several seeds their mean.
    """
    names = list(dict.fromkeys(cell.data for cell in asked.cells))
    found = []
    for model in dict.fromkeys(cell.model for cell in asked.cells):
        means = {
            data: mean
            for data in names
            if (mean := _mean_accuracy([c for c in asked.cells if (c.model, c.data) == (model, data)])) is not None
        }
        if len(means) == len(names) > 1:
            changes = {data: means[data] - means[names[0]] for data in names[1:]}
            found.append((min(changes.values()), model, means, changes))
    sentences = []
    for _, model, means, changes in sorted(found, key=lambda one: -one[0]):
        figures = ", ".join(
            f"{percent_of(means[data])} on {data} ({100 * changes[data]:+.1f} points)" for data in names[1:]
        )
        sentences.append(f"{model}: {percent_of(means[names[0]])} on {names[0]}, {figures}.")
    return " ".join(sentences) or NOTHING


def _mean_accuracy(cells: Sequence[Cell]) -> float | None:
    """Mean over the seeds of the method that does best on validation; None without a run."""
    if not cells:
        return None
    by_method: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_method.setdefault((cell.group, cell.method), []).append(cell)
    best = max(by_method.values(), key=lambda own: sum(map(val_accuracy, own)) / len(own))
    return sum(map(accuracy, best)) / len(best)


PROBES = ("logistic", "knn", "ridge", "centroid")
RULES: dict[str, Answer] = {
    "best-features": best_features,
    "both-resolutions": both_resolutions,
    "own-network": own_network,
    "generalisation": generalisation,
    "families": families,
    "fine-tuning-gain": fine_tuning_gain,
    "across-data": across_data,
    "between-groups": between_groups,
    "training-gap": training_gap,
}
