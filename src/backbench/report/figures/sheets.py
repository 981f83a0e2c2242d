"""Sheets of photographs with a model's predictions, wrong ones first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from backbench.report.figures.canvas import Canvas
from backbench.report.figures.style import LINE, MARGIN, SMALL, fit_text, text_width
from backbench.wording import count

_THUMB = 132.0
_GAP = 16.0


def draw_grid(
    images: Sequence[np.ndarray],
    truths: Sequence[str],
    answers: Sequence[str],
    confidences: Sequence[float] | np.ndarray,
    *,
    num: int = 30,
    title: str = "Predictions",
    theme: str = "light",
) -> Figure:
    """Up to `num` images with true class, prediction and confidence: wrong ones first, most confident first.

    Args:
        images: (height, width, 3) uint8 each, shown in their own proportions. truths, answers: class names.
        confidences: of the predictions, 0..1. title: '' for none.
    """
    wrong = [truth != answer for truth, answer in zip(truths, answers, strict=True)]
    order = sorted(range(len(images)), key=lambda index: (not wrong[index], -float(confidences[index]), index))[
        :num
    ]
    num_wrong = sum(wrong[index] for index in order)
    if num_wrong == len(order):
        subtitle = f"{count(num_wrong, 'image')} with wrong predictions, most confident first"
    else:
        subtitle = f"{count(len(order), 'image')}, {num_wrong:,} of them with wrong predictions, shown first"
    columns = 10 if num > 30 else 6
    lines = [order[start : start + columns] for start in range(0, len(order), columns)]
    captions = [LINE * (2 if any(wrong[index] for index in line) else 1) for line in lines]
    heights = [max(_shown_size(images[index])[1] for index in line) for line in lines]
    width = 2 * MARGIN + columns * _THUMB + (columns - 1) * _GAP
    height = sum(heights) + sum(captions) + max(len(lines) - 1, 0) * _GAP + MARGIN
    canvas = Canvas(title, subtitle, width, height, theme)
    bottom = canvas.top - _GAP
    for line, line_height, caption in zip(lines, heights, captions, strict=True):
        bottom += _GAP + line_height
        for column, index in enumerate(line):
            left = MARGIN + column * (_THUMB + _GAP)
            wide, high = _shown_size(images[index])
            box = (left, bottom - high, wide, high)
            canvas.image(np.asarray(images[index]), box)
            canvas.boxes([box], "none", edge="rule")
            _add_caption(canvas, truths[index], answers[index], float(confidences[index]), left, bottom)
        bottom += caption
    return canvas.figure


def _add_caption(canvas: Canvas, truth: str, answer: str, confidence: float, left: float, top: float) -> None:
    """The prediction with its confidence; below, the true class if it differs."""
    y, start, share = top + SMALL + 4, left, f"{100 * confidence:.0f} %"
    if truth != answer:
        canvas.marks([(left + 5, y - 4.5)], "D", "attention", size=7, edge_width=0)
        start = left + 16
        canvas.write(start, y + LINE - 3, f"is {fit_text(truth, _THUMB - 16 - text_width('is '))}", "muted")
    name = fit_text(answer, _THUMB - (start - left) - text_width(share) - 6)
    canvas.write(start, y, name)
    canvas.write(start + text_width(name) + 6, y, share, "muted")


def _shown_size(image: np.ndarray) -> tuple[float, float]:
    """Width and height in pixels of an image as it is shown, its longer side that of a thumbnail."""
    height, width = image.shape[:2]
    scale = _THUMB / max(height, width)
    return max(width * scale, 1.0), max(height * scale, 1.0)
