"""`Row`: one line of a ranking; convert records to sorted and ranked rows, with warnings on comparability."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from backbench.errors import ConfigError, DataError
from backbench.records.schema import Predictions, RunRecord
from backbench.report.comparability import input_size, is_control
from backbench.report.row_names import find_differences
from backbench.report.warning_text import row_warnings
from backbench.stats.compare import (
    ALPHA,
    control_tests,
    design_effect,
    needed_images,
    rank_rows,
    rows_to_rank,
    unbeaten_controls,
)
from backbench.stats.intervals import by_unit, group_numbers, share_interval
from backbench.stats.metric import Metric
from backbench.stats.metrics import weakest_first
from backbench.stats.winner import correct_winner

MAJORITY = "majority"
"""The baseline that always predicts the most common class."""

STAGES = ("read", "decode", "resize", "forward", "head")


@dataclass(frozen=True)
class Row:
    """One line of a ranking: one run, done, failed or diverged. Fractions in 0..1; None without a value.

    `p_value` is that of the paired test against the best row (1 for the best). `seconds` are busy seconds by
    stage, with their `total`. `input_size` is in pixels, [height, width] where they differ. `needed_images`:
    about how many test images would separate the row from the best, for rows tied with it. `only_best` and
    `only_row` count the test images that only the best or only this row predicts correctly. `num_test_seen`: test
    images in the training data of the model (contamination); such a row has metrics but no rank, tie or test.
    `difference`: words that distinguish the row from rows of the same model and method. `unbeaten`: baselines that
    it does not beat significantly, strongest first. `at_chance`: it is not significantly better than always
    predicting one class. `num_groups`: number of groups of test images; None without groups. `regret`: the
    certificate, the most that any other row may be better, with 95 % confidence. `corrected`, with its interval:
    of the best row, its accuracy without the luck of having been chosen, see `correct_winner`.
    """

    model: str
    method: str
    run_id: str
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    rank_low: int | None = None
    rank_high: int | None = None
    tied_with_best: bool = False
    p_value: float | None = None
    control: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    parameters: int | None = None
    input_size: int | tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()
    top5: float | None = None
    per_class_mean: float | None = None
    nll: float | None = None
    peak_memory_bytes: int | None = None
    dim: int | None = None
    flops: float | None = None
    licence: str | None = None
    pretrained: bool = True
    features_from_cache: bool = False
    precision: str = "fp32"
    status: str = "done"
    error: str | None = None
    only_best: int | None = None
    only_row: int | None = None
    needed_images: int | None = None
    is_best: bool = False
    weakest_class: str | None = None
    weakest_recall: float | None = None
    weakest_n: int | None = None
    num_test_seen: int = 0
    difference: str = ""
    unbeaten: tuple[str, ...] = ()
    at_chance: bool = False
    num_groups: int | None = None
    regret: float | None = None
    corrected: float | None = None
    corrected_low: float | None = None
    corrected_high: float | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it has no metrics; `error` holds the reason, and `status` whether training diverged."""
        return self.status != "done"

    @property
    def is_candidate(self) -> bool:
        """Whether it can be the best: it has metrics, is not a baseline, and its model is not contaminated."""
        return self.accuracy is not None and not self.control and not self.num_test_seen

    @property
    def is_untrained(self) -> bool:
        """Whether the network has random weights and is not a baseline."""
        return self.status == "done" and not self.pretrained and bool(self.parameters) and not self.control

    @property
    def how(self) -> str:
        """'METHOD', or 'METHOD (20 epochs, sgd)' if the model has other rows with this method."""
        return f"{self.method} ({self.difference})" if self.difference else self.method

    @property
    def name(self) -> str:
        """'MODEL + METHOD', with words that distinguish it from others of that name; unique in its ranking."""
        return f"{self.model} + {self.how}"

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values, and the name; the keys are those of `rank --json`."""
        size = list(self.input_size) if isinstance(self.input_size, tuple) else self.input_size
        lists = {"warnings": list(self.warnings), "unbeaten": list(self.unbeaten)}
        return asdict(self) | lists | {"input_size": size, "name": self.name}


def make_rows(
    records: Sequence[RunRecord],
    predictions: Sequence[Predictions | None],
    groups: Sequence[Hashable | None] | None = None,
    *,
    alpha: float = ALPHA,
) -> list[Row]:
    """The rows of a ranking: best first, then contaminated models, then baselines, then failures.

    Rows are sorted by accuracy, then lower nll, then name; ranks and ties are those of `rank_rows`. With
    `groups`, whole groups are resampled for the intervals and swapped in the tests. A run without predictions
    is not ranked. Nor is one whose model was trained on test images: it is excluded from the best, ties and tests.

    Args:
        records: finished and failed runs on one manifest.
        predictions: of each record, or None.
        groups: group of each test image, in the order of the first predictions; None: separate images.
        alpha: level of the tests.

    Raises:
        ConfigError: the records come from different manifests, so their metrics can't be compared.
        DataError: two runs predict different test images or disagree on a true class.

    Cost: no network is run; 8 rows of 10,000 images take about a second, 40 rows two to three.
    """
    _refuse_other_data(records)
    marks, words = row_warnings(records), find_differences(records)
    rows = [
        replace(_make_row(record, notes), difference=difference)
        for record, notes, difference in zip(records, marks, words, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda index: _sort_key(rows[index]))
    rows = [rows[index] for index in order]
    told = [predictions[index] for index in order]
    answered = [index for index, row in enumerate(rows) if row.accuracy is not None and told[index] is not None]
    if not answered:
        return rows
    matrix = _correct_matrix([rows[index].name for index in answered], [told[index] for index in answered])
    if groups is not None and group_numbers(groups).max() + 1 == matrix.shape[1]:
        groups = None  # every image is separate
    if groups is not None:
        right, sizes = by_unit(matrix, groups)
        for index, row in zip(answered, right, strict=True):
            low, high = share_interval(row, sizes)
            rows[index] = replace(rows[index], low=low, high=high)
    if not any(rows[index].is_candidate for index in answered):
        return rows  # a baseline can't be the best model
    kept = [place for place, index in enumerate(answered) if not rows[index].num_test_seen]
    rows = _ranked(rows, [answered[place] for place in kept], matrix[kept], groups, alpha)
    if groups is not None:
        num_groups = int(group_numbers(groups).max()) + 1
        rows = [row if row.accuracy is None else replace(row, num_groups=num_groups) for row in rows]
    _, sizes = np.unique(next(given.labels for given in told if given is not None), return_counts=True)
    return _mark_chance(rows, float(sizes.max() / sizes.sum()))


def _mark_chance(rows: list[Row], commonest: float) -> list[Row]:
    """Mark the rows that are not significantly better than always predicting one class.

    Without that baseline, the interval is compared with `commonest`, the share of the most common class of the
    test images.
    """
    has_majority = any(row.model == MAJORITY and row.control and row.accuracy is not None for row in rows)
    return [
        replace(row, at_chance=MAJORITY in row.unbeaten if has_majority else (row.low or 0.0) <= commonest)
        if row.is_candidate
        else row
        for row in rows
    ]


def _ranked(
    rows: list[Row], ranked: list[int], correct: np.ndarray, groups: Sequence[Hashable | None] | None, alpha: float
) -> list[Row]:
    """`rows` with rank, tie and test of those at `ranked`, with predictions (ranked, n) `correct`."""
    rows = list(rows)
    controls = [rows[index].control for index in ranked]
    against = control_tests(correct, controls, groups)
    ranks = rank_rows(correct, controls, groups, alpha, against=against)
    unbeaten = unbeaten_controls(correct, controls, groups, alpha, against=against)
    best = best_row(correct, controls)
    num_rows = len(controls) - sum(controls)
    num_tied = sum(rank.tied_with_best and not control for rank, control in zip(ranks, controls, strict=True)) - 1
    for place, index in enumerate(ranked):
        rank = ranks[place]
        changed: dict[str, Any] = asdict(rank) | {"is_best": place == best}
        if place == best and num_rows > 1:
            changed |= _corrected(correct, controls, best, groups)
        changed["unbeaten"] = tuple(rows[ranked[control]].model for control in unbeaten[place])
        if unbeaten[place]:
            warning = f"not significantly better than the baseline {changed['unbeaten'][0]}"
            changed["warnings"] = (*rows[index].warnings, warning)
        if rank.tied_with_best and place != best:
            effect = design_effect(correct[best], correct[place], groups) if groups is not None else 1.0
            changed["needed_images"] = needed_images(
                rank.only_best,
                rank.only_row,
                correct.shape[1],
                alpha=alpha / max(1, num_tied),  # as many comparisons as rows are still tied
                design_effect=effect,
            )
        rows[index] = replace(rows[index], **changed)
    return rows


def _corrected(
    correct: np.ndarray, controls: Sequence[bool], best: int, groups: Sequence[Hashable | None] | None
) -> dict[str, float]:
    """The best row's accuracy, corrected for having been chosen among the rows that are no controls."""
    rows = rows_to_rank(controls)
    found = correct_winner(correct[rows], rows.index(best), groups)
    return {"corrected": found.accuracy, "corrected_low": found.low, "corrected_high": found.high}


def best_row(correct: np.ndarray, is_control: Sequence[bool]) -> int:
    """The index `rank_rows` calls the best: most correct predictions, not a baseline (unless all are)."""
    return max(rows_to_rank(is_control), key=lambda row: int(correct[row].sum()))


def _make_row(record: RunRecord, warnings: tuple[str, ...]) -> Row:
    model, cost = record.model, record.cost
    size = input_size(record)
    accuracy = record.metrics.get("accuracy") if record.status == "done" else None
    weakest = next(iter(weakest_first(record.per_class)), None)
    return Row(
        model=record.model_name,
        method=record.config.method.name,
        run_id=record.run_id,
        accuracy=accuracy.value if accuracy else None,
        low=accuracy.low if accuracy else None,
        high=accuracy.high if accuracy else None,
        n=accuracy.n if accuracy else 0,
        control=is_control(record),
        seconds=_seconds(record),
        images_per_second=cost.images_per_second if cost else None,
        parameters=model.num_parameters if model else None,
        input_size=size if size is None or size[0] != size[1] else size[0],
        warnings=warnings,
        top5=_value(record.metrics.get("top5")),
        per_class_mean=_value(record.metrics.get("per_class_mean")),
        nll=_value(record.metrics.get("nll")),
        peak_memory_bytes=cost.peak_memory_bytes if cost else None,
        dim=model.dim if model else None,
        flops=model.flops if model else None,
        licence=model.licence if model else None,
        pretrained=model is None or model.pretrained_on is not None,
        features_from_cache=cost.features_from_cache if cost else False,
        precision=record.config.precision,
        status="done" if accuracy else "failed" if record.status == "done" else record.status,
        error=None if accuracy else _reason(record),
        weakest_class=weakest[0] if weakest else None,
        weakest_recall=weakest[1].value if weakest else None,
        weakest_n=weakest[1].n if weakest else None,
        num_test_seen=record.num_test_seen,
    )


def _reason(record: RunRecord) -> str:
    return record.failure.message if record.failure else "its record has no accuracy"


def _seconds(record: RunRecord) -> dict[str, float]:
    if record.cost is None:
        return {}
    seconds = {stage: record.cost.seconds.get(stage, 0.0) for stage in STAGES} | record.cost.seconds
    stages = sum(value for stage, value in seconds.items() if stage != "total")
    return seconds | {"total": record.cost.seconds.get("total", stages)}


def _sort_key(row: Row) -> tuple[bool, bool, bool, float, float, tuple[str, str, str]]:
    accuracy = row.accuracy if row.accuracy is not None else -1.0
    nll = (
        round(row.nll, 9) if row.nll is not None else float("inf")
    )  # sums in another order differ in later digits
    names = (row.model, row.method, row.difference)
    return row.accuracy is None, row.control, row.num_test_seen > 0, -accuracy, nll, names


def _correct_matrix(names: Sequence[str], told: Sequence[Predictions | None]) -> np.ndarray:
    """(rows, n) bool, images in the order of the first row's ids."""
    given = [predictions for predictions in told if predictions is not None]
    ids, truth = given[0].ids, _truth(given[0])
    right = []
    for name, predictions in zip(names, given, strict=True):
        place = {image: index for index, image in enumerate(predictions.ids)}
        if len(place) != len(ids) or any(image not in place for image in ids):
            raise DataError(
                f"{name} predicts other test images than {names[0]}, so the two can't be compared. Their "
                f"predictions do not belong to one manifest: run one of them again."
            )
        order = [place[image] for image in ids]
        own_truth = _truth(predictions)
        if [own_truth[index] for index in order] != truth:
            raise DataError(
                f"{name} and {names[0]} disagree on the true class of some test images. Their predictions do not "
                f"belong to one manifest: run one of them again."
            )
        right.append(predictions.correct[order])
    return np.stack(right)


def _truth(predictions: Predictions) -> list[str]:
    return [predictions.classes[label] for label in predictions.labels.tolist()]


def _refuse_other_data(records: Sequence[RunRecord]) -> None:
    runs: dict[str, RunRecord] = {}
    for record in records:
        runs.setdefault(record.data.manifest_digest, record)
    if len(runs) > 1:
        seen = "; ".join(
            f"{record.run_id}: '{record.data.name}', {record.data.num_test:,} test images, manifest {digest[:12]}"
            for digest, record in list(runs.items())[:3]
        )
        raise ConfigError(
            f"runs on {len(runs)} different manifests can't be ranked together, because they used different test "
            f"images ({seen}). Rank each separately, or run all with one --split FILE."
        )


def _value(metric: Metric | None) -> float | None:
    return metric.value if metric is not None else None
