"""Uncertainty: tests of all pairs of rows, reliability, and coverage."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from backbench.report.charts.confidence import Coverage, measure_coverage
from backbench.report.ranked import Entry, RankedRuns
from backbench.stats.calibrate import coverage_curve
from backbench.stats.distributions import normal_quantile
from backbench.stats.reliability import Bin, reliability_bins
from backbench.stats.simultaneous import compare_rows

MAX_PAIRED_ROWS = 12
TARGET = 0.95


@dataclass(frozen=True)
class PairCell:
    """Row a minus row b: difference of accuracy, its 95 % interval, and the p-value that holds for all pairs."""

    gap: float
    low: float
    high: float
    p_value: float
    only_a: int
    only_b: int


@dataclass(frozen=True)
class Trust:
    """One row's confidences: bins of reliability, coverage, and calibration error.

    target_coverage: the largest coverage with an accuracy of at least `TARGET`; None: never reached.
    is_tempered: the probabilities are calibrated by the model's temperature.
    """

    bins: tuple[Bin, ...]
    curve: Coverage
    calibration_error: float
    gap: float
    target_coverage: float | None
    is_tempered: bool = False


def compare_pairs(ranked: RankedRuns) -> dict[tuple[int, int], PairCell]:
    """Pairs of the first twelve candidates, by their places; the p-values hold for all candidates together."""
    right = np.array([_right(entry, ranked.labels) for entry in ranked.candidates])
    groups = ranked.details.groups
    if groups is not None and len(groups) != len(ranked.labels):
        groups = None
    found: dict[tuple[int, int], PairCell] = {}
    if len(right) < 2:
        return found
    p_values = compare_rows(right, groups).p_values
    n = len(ranked.labels)
    for a, b in itertools.combinations(range(len(right[:MAX_PAIRED_ROWS])), 2):
        only_a, only_b = int((right[a] & ~right[b]).sum()), int((right[b] & ~right[a]).sum())
        low, high = difference_interval(only_a, only_b, n)
        gap, p_value = (only_a - only_b) / n, float(p_values[a, b])
        found[a, b] = PairCell(gap, low, high, p_value, only_a, only_b)
        found[b, a] = PairCell(-gap, -high, -low, p_value, only_b, only_a)
    return found


def difference_interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two accuracies on the same n images, as fractions.

    Args:
        only_a, only_b: images that only one or only the other predicts correctly.

    Source: Agresti and Min 2005: the Wald interval after half an image is added to each of the four cells.
    """
    total, a, b = n + 2, only_a + 0.5, only_b + 0.5
    gap = (a - b) / total
    half = normal_quantile(0.975) * math.sqrt(max(0.0, (a + b) / total - gap * gap) / total)
    return max(-1.0, gap - half), min(1.0, gap + half)


def measure_trust(entry: Entry, labels: np.ndarray) -> Trust:
    """Reliability and coverage of one row's predictions. Cost: O(n log n)."""
    record = entry.record
    confidence = entry.told.max(axis=1).astype(np.float64)
    right = _right(entry, labels)
    curve = coverage_curve(confidence, right)
    reached = np.flatnonzero(curve.accuracy >= TARGET)
    ece = record.served_metric("ece")
    threshold = record.method.choices.get("threshold") if record.method is not None else None
    return Trust(
        bins=reliability_bins(confidence, right),
        curve=measure_coverage(confidence, right, float(threshold) if threshold else None),
        calibration_error=ece.value if ece is not None else float(abs(confidence.mean() - right.mean())),
        gap=float(confidence.mean() - right.mean()),
        is_tempered=record.is_tempered,
        target_coverage=float(curve.coverage[reached[-1]]) if len(reached) else None,
    )


def _right(entry: Entry, labels: np.ndarray) -> np.ndarray:
    right: np.ndarray = entry.told.argmax(axis=1) == labels
    return right
