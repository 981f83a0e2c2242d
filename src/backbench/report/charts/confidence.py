"""Reliability diagram and coverage curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backbench.report.charts.chart import SHARES, Chart, Dot, Line, Points, make_axis
from backbench.stats.calibrate import coverage_curve
from backbench.stats.intervals import wilson_interval
from backbench.stats.reliability import Bin

FEW = 10  # images below which a dot is faint
_MAX_POINTS = 200
_FEWEST_IN_BAND = 20  # the band of fewer images is too wide and would set the scale


@dataclass(frozen=True)
class Coverage:
    """(coverage, accuracy), most confident first.

    band: (coverage, ends of the 95 % interval).
    at_threshold: the same at the model's threshold; None without one, or if no prediction reaches it.
    """

    points: Points
    band: tuple[tuple[float, float, float], ...]
    at_threshold: tuple[float, float] | None


def measure_coverage(confidence: np.ndarray, right: np.ndarray, threshold: float | None = None) -> Coverage:
    """The curve of (n,) confidences and (n,) bool, at least one: at most 200 points of it. Cost: O(n log n)."""
    n = len(right)
    curve = coverage_curve(confidence, right)
    kept = np.unique(np.linspace(0, len(curve.coverage) - 1, _MAX_POINTS).round().astype(int))
    points = tuple(zip(curve.coverage[kept].tolist(), curve.accuracy[kept].tolist(), strict=True))
    band = []
    for share, accuracy in points:
        answered = round(share * n)
        if answered >= min(_FEWEST_IN_BAND, n):
            band.append((share, *wilson_interval(min(accuracy * answered, answered), answered)))
    answers = confidence >= threshold if threshold else np.zeros(n, bool)
    at_threshold = (float(answers.mean()), float(right[answers].mean())) if answers.any() else None
    return Coverage(points, tuple(band), at_threshold)


def coverage_chart(curves: Sequence[Coverage]) -> Chart:
    """At most four curves; the band, and the mark at the threshold, of the first."""
    first = curves[0]
    kinds = ("best", "pinned", "other", "other dashed")
    values = [accuracy for curve in curves for share, accuracy in curve.points if share >= first.band[0][0]]
    lows = [low for _, low, _ in first.band]
    upper = [(share, high) for share, _, high in first.band]
    lower = [(share, low) for share, low, _ in reversed(first.band)]
    return Chart(
        SHARES,
        make_axis([*values, *lows, 1.0]),
        lines=tuple(Line(curve.points, kind) for curve, kind in zip(curves, kinds, strict=False)),
        dots=() if first.at_threshold is None else (Dot(*first.at_threshold, "pinned"),),
        band=(*upper, *lower),
    )


def reliability_chart(bins: Sequence[Bin]) -> Chart:
    """Share right against mean confidence, with the line where they are equal; bins of few images are rings."""
    dots = tuple(
        Dot(each.confidence, each.accuracy, "best" if each.n >= FEW else "other", each.low, each.high)
        for each in bins
    )
    return Chart(SHARES, SHARES, lines=(Line(((0.0, 0.0), (1.0, 1.0)), "equal"),), dots=dots)
