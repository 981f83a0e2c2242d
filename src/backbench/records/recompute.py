"""Recompute the metrics of a record from its predictions, which have priority if the two differ."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from backbench.records.schema import CORRECTED, Predictions, RunRecord
from backbench.stats.metric import Metric
from backbench.stats.metrics import NLL_FLOOR, per_class_recall, score
from backbench.stats.reliability import at_temperature

TOLERANCE = 1e-6
"""Tolerance: sums differ in their last digits between machines."""
TEMPERED_TOLERANCE = 1e-2
"""Tolerance of calibrated metrics: predictions are stored in float32 and before temperature scaling."""
OF_GROUPS = ("accuracy", "top5")
"""Metrics whose intervals need the groups of the images."""


def is_consistent(record: RunRecord, predictions: Predictions) -> bool:
    """Whether accuracy and log loss match the predictions (the values that a ranking sorts by); microseconds."""
    n = len(predictions.ids)
    truth = predictions.probabilities[np.arange(n), predictions.labels].astype(np.float64)
    found = {
        "accuracy": Metric(value=float(predictions.correct.mean()), n=n),
        "nll": Metric(value=float(-np.log(np.maximum(truth, NLL_FLOOR)).mean()), n=n),
    }
    return all(
        _is_near(record.metrics[name], metric, TOLERANCE)
        for name, metric in found.items()
        if name in record.metrics
    )


def correct_figures(record: RunRecord, predictions: Predictions) -> RunRecord:
    """The record with metrics from its predictions, and a first warning if they differed.

    Intervals that need the groups of images, which are unknown here, do not change.

    Raises:
        ModelError, ValueError: the predictions are invalid, see `metrics.score`.
    Cost: some milliseconds for 10,000 images of ten classes.
    """
    told = dict(record.metrics)
    changed = []
    for name, metric in _recompute(record, predictions).items():
        tolerance = TEMPERED_TOLERANCE if name.startswith("calibrated_") else TOLERANCE
        said = told.get(name)
        has_interval = record.data.num_groups is None or name not in OF_GROUPS
        if said is None and name != "accuracy":  # a metric that is newer than the record
            continue
        if said is None or not _is_near(said, metric, tolerance, has_interval=has_interval):
            told_alike = said is not None and _show(said) == _show(metric)
            what = f"the interval of {name}" if told_alike else f"{name} {_show(said)} instead of {_show(metric)}"
            changed.append(what)
            told[name] = metric
    per_class = per_class_recall(predictions.probabilities, predictions.labels, predictions.classes)
    if not _are_near(record.per_class, per_class):
        changed.append("other metrics of its classes")
    if not changed:
        return record
    more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
    warning = f"{CORRECTED} {changed[0]}{more}. The values from the predictions are shown"
    return record.model_copy(
        update={"metrics": told, "per_class": per_class, "warnings": (warning, *record.warnings)}
    )


def _recompute(record: RunRecord, predictions: Predictions) -> dict[str, Metric]:
    found = score(predictions.probabilities, predictions.labels)
    if record.is_tempered:
        tempered = at_temperature(predictions.probabilities, record.temperature)
        calibrated = score(tempered, predictions.labels)
        found |= {f"calibrated_{name}": calibrated[name] for name in ("nll", "ece")}
    return found


def _are_near(told: Mapping[str, Metric], found: Mapping[str, Metric]) -> bool:
    return not told or (
        told.keys() == found.keys() and all(_is_near(told[name], found[name], TOLERANCE) for name in found)
    )


def _is_near(told: Metric, found: Metric, tolerance: float, *, has_interval: bool = True) -> bool:
    if told.n != found.n:
        return False
    ends = [(told.low, found.low), (told.high, found.high)] if has_interval and found.low is not None else []
    return all(
        mine is not None
        and theirs is not None
        and math.isclose(mine, theirs, rel_tol=tolerance, abs_tol=tolerance)
        for mine, theirs in [(told.value, found.value), *ends]
    )


def _show(metric: Metric | None) -> str:
    return "nothing" if metric is None else f"{metric.value:.4f} of {metric.n:,}"
