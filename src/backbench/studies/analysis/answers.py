"""Answers to a study's questions, in sentences made from its figures by fixed rules.

Where two runs answered the same test images, an exact paired test says whether they differ significantly; whether
their intervals overlap decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from backbench.stats.compare import ALPHA, holm
from backbench.studies.analysis.across import across_data, both_resolutions, generalisation
from backbench.studies.analysis.cells import Cell, describe_fit, name_data
from backbench.studies.analysis.comparable import (
    NOTHING,
    Asked,
    accuracy,
    best_of_models,
    best_on_validation,
    describe_test,
    join_all,
    name_alike,
    percent_of,
    place_of,
    rank_cells,
    show_accuracy,
    show_p,
    split_of,
    tell_apart,
    tell_unlike,
)

Answer = Callable[[Asked], list[str]]


def answer_question(by: str, asked: Asked) -> list[str]:
    """What the runs say, one item for each data set, run or remark; `by` is one of `RULES`. Runs whose weights saw
    test images have no say, and are named."""
    finished = [
        cell for cell in asked.cells if cell.figure("accuracy") is not None and cell.record.run_id in asked.told
    ]
    named, same = name_alike(replace(asked, cells=finished))
    usable = replace(named, cells=[cell for cell in named.cells if not cell.record.num_test_seen])
    answer = RULES[by](usable) if usable.cells else []
    return [*(answer or [NOTHING]), *same, *_describe_seen(named, by)]


def _describe_seen(asked: Asked, by: str) -> list[str]:
    """Which runs were left out, or come last where validation chooses: the images there taught their weights."""

    def name_all(found: Sequence[tuple[Cell, int, int]]) -> str:
        return join_all([f"{asked.name(cell)} ({num:,} of {among:,})" for cell, num, among in found])

    counted = [(cell, cell.record, cell.record.data) for cell in asked.unique_cells()]
    of_test = [(cell, run.num_test_seen, data.num_test) for cell, run, data in counted if run.num_test_seen]
    of_val = [
        (cell, run.num_val_seen, data.num_val)
        for cell, run, data in counted
        if run.num_val_seen and not run.num_test_seen and by not in BY_TEST_ALONE
    ]
    said = (
        [f"Left out, because their weights were trained on test images: {name_all(of_test)}."] if of_test else []
    )
    if of_val and by == "training-gap":
        said.append(f"Left out, because their weights were trained on validation images: {name_all(of_val)}.")
    elif of_val:
        said.append(
            "After all others where validation chooses, because their weights were trained on images of it: "
            f"{name_all(of_val)}."
        )
    return said


def best_features(asked: Asked) -> list[str]:
    """The best frozen features on each data set, and what is tied with them."""
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
            also = f"; no significant difference from {join_all(tied)} (exact paired tests, Holm-adjusted)"
        else:
            has_tied = any(row.tied_with_best for _, row in rest)  # by another method of the best model
            which = "all other models" if has_tied else "all others"
            also = f"; {which} are significantly worse (exact paired tests, Holm-adjusted)"
            also = also if not has_tied or len({asked.title(cell) for cell in own}) > 1 else ""
        how = f" + {best.method}" if len({cell.method for cell in own}) > 1 else ""
        sentences.append(f"On {data}: {name}{how}, {show_accuracy(best)}{also}.")
    return sentences + tell_unlike(asked, [own for _, own in asked.by_data()])


def own_network(asked: Asked) -> list[str]:
    """The study's own network against the best of the others on the same images, each by validation, and how many
    of them are above it beyond chance."""
    sentences, compared = [], []
    for data, own in asked.by_data():
        mine = [cell for cell in own if cell.model == asked.model]
        others = [cell for cell in own if cell.model != asked.model]
        if not mine or not others:
            continue
        first, best = best_on_validation(mine), best_on_validation(others)
        gap = 100 * (accuracy(best) - accuracy(first))
        where = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} it" if gap else "level with it"
        sentences.append(
            f"{asked.title(first)} ({first.method}) reaches {show_accuracy(first)} on {data}; of the other models "
            f"the best on validation, {asked.title(best)} ({best.method}), is {where} at {show_accuracy(best)} "
            f"({describe_test(asked, best, first)}).{_count_above(asked, first, others)}"
        )
        compared.append([first, *best_of_models(others).values()])
    return sentences + tell_unlike(asked, compared) or _why_not(asked, lambda cell: cell.model == asked.model)


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


def _why_not(asked: Asked, is_ours: Callable[[Cell], bool]) -> list[str]:
    """What to say where nothing could be compared: that the training images differ, if that is why."""
    ours = {cell.data for cell in asked.cells if is_ours(cell)}
    common = sorted(ours & {cell.data for cell in asked.cells if not is_ours(cell)})
    if not common:
        return []
    return [
        f"What is finished on {join_all(common)} had different training images on the two sides, so that the "
        "models are not what is compared."
    ]


def between_groups(asked: Asked) -> list[str]:
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
    return sentences


def families(asked: Asked) -> list[str]:
    """One family of models against all others: their mean over the same test images, and the best of each.

    The best of a family is the one that was best on validation, so that the test images choose nothing.
    """
    sentences, compared = [], []
    for data, own in asked.by_data():
        ours = [cell for cell in own if cell.model in asked.models]
        others = [cell for cell in own if cell not in ours]
        if not ours or not others:
            continue
        mine = np.stack([asked.correct(cell) for cell in ours])
        theirs = np.stack([asked.correct(cell) for cell in others])
        gap = float(mine.mean() - theirs.mean())
        p_value = asked.p_value(ours[0], len(others) * mine.sum(axis=0) - len(ours) * theirs.sum(axis=0))
        is_alone = len({asked.title(cell) for cell in ours}) == 1
        reach, they_are = ("reaches", "it is") if is_alone else ("reach", "they are")
        if p_value >= ALPHA:
            verdict = "there is no significant difference"
        else:
            verdict = f"{they_are} worse" if gap < 0 else f"{they_are} no worse, but better"
        first, second = best_on_validation(ours), best_on_validation(others)
        one, other = asked.title(first), asked.title(second)
        names = join_all([asked.title(cell) for cell in ours])
        sentences.append(
            f"On {data} {names} {reach} {percent_of(mine.mean())} on average, the others "
            f"{percent_of(theirs.mean())}: {verdict} ({100 * gap:+.1f} points, {show_p(p_value)}, exact "
            f"paired test on {mine.shape[1]:,} images). Of each, the best on validation: {one} with "
            f"{show_accuracy(first)}, {other} with {show_accuracy(second)} "
            f"({describe_test(asked, first, second)})."
        )
        compared.append(own)
    return sentences + tell_unlike(asked, compared) or _why_not(asked, lambda cell: cell.model in asked.models)


def fine_tuning_gain(asked: Asked) -> list[str]:
    """How much each model gained over its probe by being trained, on the same images.

    The probe is one of the weights that the training began with; where there is none, of the weights as they came.
    Of several the one that was best on validation counts.
    """
    cells = asked.unique_cells()
    probes = [cell for cell in cells if cell.method in PROBES]
    sentences, without = [], []
    compared: dict[str, list[Cell]] = {}
    used: list[Cell] = []
    for cell in cells:
        if cell.method in PROBES:
            continue
        own = [probe for probe in probes if split_of(probe) == split_of(cell)]
        of_start = [probe for probe in own if probe.record.model_name == cell.record.model_name]
        as_it_came = [probe for probe in own if probe.record.model is None or probe.record.model.label is None]
        if not (of_start or as_it_came):
            without.append(asked.name(cell))
            continue
        probe = best_on_validation(of_start or as_it_came)
        gain = 100 * (accuracy(cell) - accuracy(probe))
        start = "" if of_start else " of the weights before the earlier training"
        sentences.append(
            f"{asked.title(cell)} on {name_data(cell, asked.cells)}: {cell.method} {gain:+.1f} points over "
            f"{probe.method}{start} ({describe_test(asked, cell, probe)})."
        )
        compared.setdefault(cell.record.data.manifest_digest, []).append(cell)
        used.append(probe)
    said = sentences + tell_unlike(asked, compared.values(), told=("method",)) if sentences else [NOTHING]
    trained = [cell for own in compared.values() for cell in own]
    of_probes, of_training = ({cell.record.config.precision for cell in runs} for runs in (used, trained))
    if of_probes != of_training:
        said.append(
            f"Features of the probes were computed in {join_all(sorted(of_probes))}, training in "
            f"{join_all(sorted(of_training))}."
        )
    if without:
        said.append(f"No probe of the same weights and images stands beside {join_all(without)}.")
    return said


def training_gap(asked: Asked) -> list[str]:
    """How much less each run gets right of its validation images than of its training images, the most first."""
    sentences: list[str] = []
    compared: list[list[Cell]] = []
    for data, own in asked.by_data():
        gaps = [
            (train.value - val.value, cell, train.value, val.value)
            for cell in own
            if (train := cell.figure("train_accuracy")) is not None
            and (val := cell.figure("val_accuracy")) is not None
            and not cell.record.num_val_seen
        ]
        shown = [
            f"{asked.title(cell)} + {cell.method} {100 * gap:+.1f} points ({percent_of(train)}, {percent_of(val)})"
            for gap, cell, train, val in sorted(gaps, key=lambda found: -found[0])
        ]
        compared.append([cell for _, cell, _, _ in gaps])
        if shown:
            sentences.append(f"On {data}, accuracy in training over that on validation: {', '.join(shown)}.")
    if sentences:
        names = [
            asked.name(cell)
            for cell in asked.unique_cells()
            if cell.kept_start and cell.figure("train_accuracy") is None
        ]
        sentences += [f"No figures of training, as the start was best: {join_all(names)}."] if names else []
        sentences += tell_unlike(asked, compared, told=("method",))
        sentences += describe_fit([cell for cell in asked.cells if cell.recipe])
    return sentences


PROBES = ("logistic", "knn", "ridge", "centroid")
BY_TEST_ALONE = ("best-features", "between-groups")
"""Rules that look at no figure of validation."""
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
