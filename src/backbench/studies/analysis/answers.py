"""Answers to a study's questions: facts found in its runs by fixed rules.

An exact paired test decides whether two runs on the same test images differ significantly; the best features are
found by comparing all runs at once. Overlapping intervals decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from backbench.stats.compare import ALPHA, holm
from backbench.studies.analysis import facts
from backbench.studies.analysis.across import across_data, both_resolutions, generalisation
from backbench.studies.analysis.cells import Cell, find_fit_remarks, name_data
from backbench.studies.analysis.comparable import (
    Asked,
    accuracy,
    best_of_models,
    best_on_validation,
    find_unlike,
    list_changes,
    name_alike,
    place_of,
    rank_cells,
    split_of,
)
from backbench.studies.analysis.facts import Fact, Facts, Kind, PairedTest, Remark

Rule = Callable[[Asked], Facts]


def answer_question(by: str, asked: Asked) -> Facts:
    """Return the facts found by one of `RULES`. Runs whose weights saw test images are left out and named."""
    finished = [
        cell for cell in asked.cells if cell.figure("accuracy") is not None and cell.record.run_id in asked.told
    ]
    named, same = name_alike(replace(asked, cells=finished))
    usable = replace(named, cells=[cell for cell in named.cells if not cell.record.num_test_seen])
    answer = RULES[by](usable) if usable.cells else ()
    return *(answer or (Remark(Kind.NOTHING),)), *same, *_find_seen(named, by)


def _find_seen(asked: Asked, by: str) -> list[facts.Seen]:
    """Runs whose weights saw test or validation images: left out, or last where validation chooses."""
    of_test, of_val = [], []
    for cell in asked.unique_cells():
        run = cell.record
        if run.num_test_seen:
            of_test.append((asked.run(cell), run.num_test_seen, run.data.num_test))
        elif run.num_val_seen and by not in BY_TEST_ALONE:
            of_val.append((asked.run(cell), run.num_val_seen, run.data.num_val))
    found = [
        facts.Seen("test", tuple(of_test), is_left_out=True),
        facts.Seen("validation", tuple(of_val), is_left_out=by == "training-gap"),
    ]
    return [seen for seen in found if seen.runs]


def best_features(asked: Asked) -> Facts:
    """The best frozen features on each data set, and the runs tied with them."""
    found = []
    for data, own in asked.by_data():
        (best, _), *rest = rank_cells(asked, own)
        tied = tuple(asked.run(cell) for cell, row in rest if row.tied_with_best)
        worse = tuple(asked.run(cell) for cell, row in rest if not row.tied_with_best)
        found.append(facts.BestFeatures(data, asked.run(best), tied, worse))
    return *found, *find_unlike(asked, [own for _, own in asked.by_data()])


def own_network(asked: Asked) -> Facts:
    """The study's own network and the best other model, both by validation, on the same images, and how many
    models are significantly better."""
    found, compared = [], []
    for data, mine, others in _split(asked, [asked.model]):
        first, best = best_on_validation(mine), best_on_validation(others)
        rivals = list(best_of_models(others).values())
        p_values = holm([asked.p_value(first, asked.gains(cell, first)) for cell in rivals])
        above = [
            cell.model
            for cell, p_value in zip(rivals, p_values, strict=True)
            if p_value < ALPHA and accuracy(cell) > accuracy(first)
        ]
        not_above = tuple(cell.model for cell in rivals if cell.model not in above)
        test = asked.test(best, first)
        found.append(facts.OwnNetwork(asked.run(first), asked.run(best), test, data, tuple(above), not_above))
        compared.append([first, *rivals])
    return (*found, *find_unlike(asked, compared)) or _why_not(asked, [asked.model])


def _split(asked: Asked, models: Sequence[str | None]) -> list[tuple[str, list[Cell], list[Cell]]]:
    """(data set, runs of these models, those of all others), where there are both."""
    found = []
    for data, own in asked.by_data():
        mine = [cell for cell in own if cell.model in models]
        others = [cell for cell in own if cell.model not in models]
        if mine and others:
            found.append((data, mine, others))
    return found


def _why_not(asked: Asked, models: Sequence[str | None]) -> Facts:
    """Why nothing could be compared: the training images differ, if that is why."""
    ours = {cell.data for cell in asked.cells if cell.model in models}
    common = sorted(ours & {cell.data for cell in asked.cells if cell.model not in models})
    return (Remark(Kind.OTHER_TRAINING_IMAGES, tuple(common)),) if common else ()


def between_groups(asked: Asked) -> Facts:
    """What each model and method gains from the question's first group to a later one, on the same test images,
    and the settings that differ."""
    found = []
    before = [cell for cell in asked.cells if cell.group == asked.order[0]]
    for first in before:
        for later in asked.cells:
            if later.group == first.group or place_of(later) != place_of(first):
                continue
            if sorted(asked.told[later.record.run_id].ids) != sorted(asked.told[first.record.run_id].ids):
                continue
            one, two = (
                replace(asked.run(cell), title=first.model, data=name_data(first, before))
                for cell in (first, later)
            )
            is_same = later.record.run_id == first.record.run_id
            changes, groups = list_changes(first, later), (first.group, later.group)
            found.append(facts.GroupGain(one, two, asked.test(later, first), groups, changes, is_same))
    return tuple(found)


def families(asked: Asked) -> Facts:
    """One family of models against all others: means on the same test images, and the best of each."""
    found, compared = [], []
    for data, ours, others in _split(asked, asked.models):
        mine = np.stack([asked.correct(cell) for cell in ours])
        theirs = np.stack([asked.correct(cell) for cell in others])
        p_value = asked.p_value(ours[0], len(others) * mine.sum(axis=0) - len(ours) * theirs.sum(axis=0))
        first, second = best_on_validation(ours), best_on_validation(others)
        found.append(
            facts.FamilyAverage(
                data,
                tuple(dict.fromkeys(asked.title(cell) for cell in ours)),
                accuracy=float(mine.mean()),
                accuracy_of_others=float(theirs.mean()),
                test=PairedTest(p_value, mine.shape[1]),
                best=asked.run(first),
                best_other=asked.run(second),
                test_of_best=asked.test(first, second),
            )
        )
        compared.append([*ours, *others])
    return (*found, *find_unlike(asked, compared)) or _why_not(asked, asked.models)


def fine_tuning_gain(asked: Asked) -> Facts:
    """How much each model gains over its probe by training, on the same images.

    The probe has the weights that the training started from, or else the original weights. Of several probes the
    best on validation counts.
    """
    cells = asked.unique_cells()
    probes = [cell for cell in cells if cell.method in PROBES]
    gains, without = [], []
    compared: dict[str, list[Cell]] = {}
    used: list[Cell] = []
    for cell in cells:
        if cell.method in PROBES:
            continue
        own = [probe for probe in probes if split_of(probe) == split_of(cell)]
        of_start = [probe for probe in own if probe.record.model_name == cell.record.model_name]
        as_it_came = [probe for probe in own if probe.record.model is None or probe.record.model.label is None]
        if not (of_start or as_it_came):
            without.append(asked.run(cell))
            continue
        probe = best_on_validation(of_start or as_it_came)
        test = asked.test(cell, probe)
        gains.append(facts.TrainingGain(asked.run(probe), asked.run(cell), test, is_of_start=bool(of_start)))
        compared.setdefault(cell.record.data.manifest_digest, []).append(cell)
        used.append(probe)
    found: list[Fact] = [*gains, *find_unlike(asked, compared.values(), told=("method",))] or [
        Remark(Kind.NOTHING)
    ]
    trained = [cell for own in compared.values() for cell in own]
    of_probes, of_training = (sorted({cell.record.config.precision for cell in runs}) for runs in (used, trained))
    if of_probes != of_training:
        found.append(facts.Precisions(tuple(of_probes), tuple(of_training)))
    return *found, *([Remark(Kind.WITHOUT_PROBE, tuple(without))] if without else [])


def training_gap(asked: Asked) -> Facts:
    """Training accuracy minus validation accuracy of each run, the largest first."""
    found = []
    compared: list[list[Cell]] = []
    for data, own in asked.by_data():
        gaps = [
            (facts.TrainingGap(asked.run(cell), train.value, val.value), cell)
            for cell in own
            if (train := cell.figure("train_accuracy")) is not None
            and (val := cell.figure("val_accuracy")) is not None
            and not cell.record.num_val_seen
        ]
        gaps.sort(key=lambda each: each[0].val - each[0].train)
        compared.append([cell for _, cell in gaps])
        if gaps:
            found.append(facts.TrainingGaps(data, tuple(gap for gap, _ in gaps)))
    if not found:
        return ()
    at_start = [cell for cell in asked.unique_cells() if cell.kept_start and cell.figure("train_accuracy") is None]
    return (
        *found,
        *([Remark(Kind.KEPT_START, tuple(map(asked.run, at_start)))] if at_start else []),
        *find_unlike(asked, compared, told=("method",)),
        *find_fit_remarks([cell for cell in asked.cells if cell.recipe]),
    )


PROBES = ("logistic", "knn", "ridge", "centroid")
BY_TEST_ALONE = ("best-features", "between-groups")
"""Rules that use no validation figure."""
RULES: dict[str, Rule] = {
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
