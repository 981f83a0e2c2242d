"""Is confidence honest, and what a threshold buys: reliability diagram and coverage curve."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from backbench.report.figures.style import (
    LINE,
    MARGIN,
    Look,
    add_marks,
    add_panel,
    canvas,
    find_look,
    header_height,
    new_figure,
    scale_percent,
    write,
    write_header,
)
from backbench.stats.calibrate import Coverage, coverage_curve
from backbench.stats.intervals import wilson_interval
from backbench.stats.metrics import score
from backbench.stats.reliability import reliability_bins
from backbench.wording import count

_SIDE = 400.0
_AXIS_ROOM = 50.0
_HISTOGRAM = 90.0
_FEW = 10  # images below which a dot is faint


def draw_reliability(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    title: str = "Is its confidence honest?",
    theme: str = "light",
) -> Figure:
    """Share right by confidence, dots with 95 % intervals along the line of honesty; below, how many images.

    Args:
        probabilities: (n, classes), rows sum to 1. labels: (n,) int. title: '' for none.

    Raises:
        ModelError, ValueError: see `stats.metrics.score`.
    """
    look, probabilities = find_look(theme), np.asarray(probabilities)
    error = score(probabilities, labels)["ece"].value
    bins = reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    subtitle = (
        f"{count(len(labels), 'test image')}; confidence and accuracy {100 * error:.1f} points apart on average"
    )
    top = header_height(title, subtitle) + LINE + 4
    width = 2 * MARGIN + _AXIS_ROOM + _SIDE + 20
    figure = new_figure(width, top + _SIDE + 24 + LINE + _HISTOGRAM + 56, theme)
    write_header(figure, look, title, subtitle)
    left, page = MARGIN + _AXIS_ROOM, canvas(figure)
    write(page, MARGIN, top - 10, "Right, %", look["text"], bold=True)
    axes = add_panel(figure, (left, top, _SIDE, _SIDE), look, grid="both")
    scale_percent(axes, "x", 0, 1)
    scale_percent(axes, "y", 0, 1)
    axes.tick_params(labelbottom=False)
    axes.plot([0, 1], [0, 1], color=look["muted"], linewidth=1, linestyle=(0, (4, 3)))
    if (bins.confidence > 0.55).any():
        _name_halves(axes, look)
    dots = zip(bins.num_images, bins.confidence, bins.accuracy, bins.low, bins.high, strict=True)
    for num, x, y, low, high in dots:
        colour = look["best" if num >= _FEW else "other"]
        axes.plot([x, x], [low, high], color=colour, linewidth=2 if num >= _FEW else 1, solid_capstyle="round")
        fill = colour if num >= _FEW else look["page"]
        add_marks(axes, [(x, y)], "o", fill, colour)
    below = top + _SIDE + 24 + LINE
    write(page, MARGIN, below - 10, "Images", look["text"], bold=True)
    counts = add_panel(figure, (left, below, _SIDE, _HISTOGRAM), look)
    scale_percent(counts, "x", 0, 1)
    counts.bar(
        bins.left,
        bins.num_images,
        bins.right - bins.left,
        align="edge",
        color=look["other"],
        edgecolor=look["page"],
    )
    counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    counts.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    write(page, left + _SIDE, below + _HISTOGRAM + 38, "confidence, %", look["muted"], align="right")
    return figure


def draw_coverage(
    probabilities: np.ndarray,
    labels: np.ndarray,
    threshold: float | None = None,
    *,
    title: str = "What does saying 'not sure' buy?",
    theme: str = "light",
) -> Figure:
    """Accuracy of the answers kept when the least confident are held back, with its 95 % band.

    Args:
        probabilities: (n, classes), rows sum to 1. labels: (n,) int.
        threshold: the confidence from which answers count, marked; None: no mark. title: '' for none.
    """
    look, probabilities = find_look(theme), np.asarray(probabilities)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    curve = coverage_curve(confidence, right)
    subtitle = f"{count(len(right), 'test image')}{_describe_threshold(confidence, right, threshold)}"
    top = header_height(title, subtitle) + LINE + 4
    figure = new_figure(2 * MARGIN + _AXIS_ROOM + 580, top + 320 + 56, theme)
    write_header(figure, look, title, subtitle)
    left, page = MARGIN + _AXIS_ROOM, canvas(figure)
    write(page, MARGIN, top - 10, "Right among those answered, %", look["text"], bold=True)
    axes = add_panel(figure, (left, top, 500, 320), look)
    _draw_curve(axes, look, curve, len(right))
    if threshold is not None:
        _mark_threshold(axes, look, confidence, right, threshold)
    write(page, left + 500, top + 320 + 38, "answered, % of images", look["muted"], align="right")
    return figure


def _describe_threshold(confidence: np.ndarray, right: np.ndarray, threshold: float | None) -> str:
    if threshold is None:
        return ", the most confident answers first"
    answered = confidence >= threshold
    if not answered.any():
        return f"; none reaches the threshold {threshold:.2f}"
    share, accuracy = float(answered.mean()), float(right[answered].mean())
    return (
        f"; from confidence {threshold:.2f} on: {100 * share:.1f} % answered, {100 * accuracy:.1f} % of them right"
    )


def _name_halves(axes: Axes, look: Look) -> None:
    write(axes, 0.01, 0.94, "too modest", look["muted"])
    write(axes, 0.98, 0.04, "too sure", look["muted"], align="right")


def _draw_curve(axes: Axes, look: Look, curve: Coverage, num: int) -> None:
    kept = np.rint(curve.coverage * num)
    chosen = np.unique(np.linspace(0, len(kept) - 1, 400).astype(np.int64))
    kept, coverage, accuracy = kept[chosen], curve.coverage[chosen], curve.accuracy[chosen]
    bounds = np.array([wilson_interval(min(a * n, n), n) for a, n in zip(accuracy, kept, strict=True)])
    shown = kept >= min(20, num)  # the band of fewer images says nothing and would set the scale
    low = float(np.min(np.append(bounds[shown, 0], accuracy[shown])))
    axes.fill_between(coverage[shown], bounds[shown, 0], bounds[shown, 1], color=look["share-2"], linewidth=0)
    axes.plot(coverage, accuracy, color=look["best"], linewidth=2, solid_joinstyle="round")
    floor = max(0.0, low - 0.03)
    scale_percent(axes, "x", 0, 1.005)
    scale_percent(axes, "y", floor, 1 + (1 - floor) * 0.03)
    write(axes, 1.02, accuracy[-1], f"all: {100 * accuracy[-1]:.1f}", look["text"], valign="center")


def _mark_threshold(axes: Axes, look: Look, confidence: np.ndarray, right: np.ndarray, threshold: float) -> None:
    answered = confidence >= threshold
    if not answered.any():
        return
    share, accuracy = float(answered.mean()), float(right[answered].mean())
    axes.plot([share, share], [0, accuracy], color=look["attention"], linewidth=1, linestyle=(0, (4, 3)))
    add_marks(axes, [(share, accuracy)], "D", look["attention"], look["page"], size=10)
    floor = axes.get_ylim()[0]
    text = f"threshold {threshold:.2f}"
    y = floor + (axes.get_ylim()[1] - floor) * 0.05
    is_right = share > 0.5
    write(
        axes, share + (-0.015 if is_right else 0.015), y, text, look["text"], align="right" if is_right else "left"
    )
