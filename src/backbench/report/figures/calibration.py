"""Figures of calibration: reliability diagram and coverage curve."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from backbench.report.charts.chart import SHARES, make_axis
from backbench.report.charts.confidence import coverage_chart, measure_coverage, reliability_chart
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.chart import AXIS_ROOM, BELOW, draw_chart
from backbench.report.figures.style import LINE, MARGIN
from backbench.stats.metrics import score
from backbench.stats.reliability import reliability_bins
from backbench.wording import count

_SIDE = 400.0
_HISTOGRAM = 90.0
_WIDTH, _HEIGHT = 500.0, 320.0


def draw_reliability(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    title: str = "Is its confidence calibrated?",
    theme: str = "light",
) -> Figure:
    """Accuracy by confidence with 95 % intervals, and the diagonal; below, a histogram of images.

    Args:
        probabilities: (n, classes), rows sum to 1. labels: (n,) int. title: '' for none.

    Raises:
        ModelError, ValueError: see `stats.metrics.score`.
    """
    probabilities = np.asarray(probabilities)
    error = score(probabilities, labels)["ece"].value
    bins = reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    images = count(len(labels), "test image")
    subtitle = f"{images}; confidence and accuracy {100 * error:.1f} points apart on average"
    above, between = LINE + 4, BELOW
    width = 2 * MARGIN + AXIS_ROOM + _SIDE + 60
    canvas = Canvas(title, subtitle, width, above + _SIDE + between + _HISTOGRAM + BELOW, theme)
    left, top = MARGIN + AXIS_ROOM, canvas.top + above
    draw_chart(canvas, reliability_chart(bins), (left, top, _SIDE, _SIDE), up="Right, %")
    if any(each.confidence > 0.55 for each in bins):
        canvas.write(left + 4, top + 24, "too modest", "muted")
        canvas.write(left + _SIDE - 8, top + _SIDE - 16, "too sure", "muted", align="right")
    floor = top + _SIDE + between + _HISTOGRAM
    most = max(each.n for each in bins)
    counts = make_axis([0.0, most], most=2 * most, steps=2, show=lambda value: f"{value:,.0f}")
    canvas.write(MARGIN, floor - _HISTOGRAM - 12, "Images", bold=True)
    canvas.scale_up(counts, left, _SIDE, floor - _HISTOGRAM, floor)
    canvas.scale_across(SHARES, left, _SIDE, floor, floor)
    heights = [counts.at(each.n) / 100 * _HISTOGRAM for each in bins]
    sides = [(left + each.left * _SIDE, (each.right - each.left) * _SIDE) for each in bins]
    boxes = [(x, floor - high, wide, high) for (x, wide), high in zip(sides, heights, strict=True)]
    canvas.boxes(boxes, "other", edge="page")
    canvas.line([left, left + _SIDE], [floor, floor], "other")
    canvas.write(left + _SIDE, floor + 38, "confidence, %", "muted", align="right")
    return canvas.figure


def draw_coverage(
    probabilities: np.ndarray,
    labels: np.ndarray,
    threshold: float | None = None,
    *,
    title: str = "Accuracy if unsure predictions are left out",
    theme: str = "light",
) -> Figure:
    """Accuracy of the remaining predictions when the least confident are left out, with its 95 % band.

    Args:
        probabilities: (n, classes), rows sum to 1. labels: (n,) int.
        threshold: the marked confidence threshold; None: no mark. title: '' for none.
    """
    probabilities = np.asarray(probabilities)
    right = probabilities.argmax(axis=1) == labels
    curve = measure_coverage(probabilities.max(axis=1), right, threshold)
    subtitle = f"{count(len(right), 'test image')}{_describe_threshold(threshold, curve.at_threshold)}"
    above = LINE + 4
    canvas = Canvas(title, subtitle, 2 * MARGIN + AXIS_ROOM + _WIDTH + 80, above + _HEIGHT + BELOW, theme)
    left, top = MARGIN + AXIS_ROOM, canvas.top + above
    chart = coverage_chart([curve])
    box = (left, top, _WIDTH, _HEIGHT)
    draw_chart(canvas, chart, box, across="coverage, % of images", up="Accuracy of covered images, %")
    last = curve.points[-1][1]
    canvas.write(
        left + _WIDTH + 10, top + chart.at(1.0, last)[1] * _HEIGHT / 100, f"all: {100 * last:.1f}", valign="center"
    )
    if threshold is not None and curve.at_threshold is not None:
        x, y = chart.at(*curve.at_threshold)
        x, y = left + x * _WIDTH / 100, top + y * _HEIGHT / 100
        canvas.line([x, x], [y, top + _HEIGHT], "attention", linestyle=(0, (4, 3)))
        is_right = curve.at_threshold[0] > 0.5
        words = f"threshold {threshold:.2f}"
        canvas.write(x + (-8 if is_right else 8), top + _HEIGHT - 16, words, align="right" if is_right else "left")
    return canvas.figure


def _describe_threshold(threshold: float | None, reached: tuple[float, float] | None) -> str:
    if threshold is None:
        return ", most confident predictions first"
    if reached is None:
        return f"; none reaches the threshold {threshold:.2f}"
    share, accuracy = reached
    return (
        f"; from confidence {threshold:.2f} on: {100 * share:.1f} % answered, {100 * accuracy:.1f} % of them right"
    )
