"""Sheets of photographs with what a model says they show, the wrong answers first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from backbench.report.figures.style import (
    LINE,
    MARGIN,
    SMALL,
    Look,
    add_boxes,
    add_marks,
    canvas,
    find_look,
    fit_text,
    header_height,
    new_figure,
    text_width,
    write,
    write_header,
)
from backbench.wording import count

_THUMB = 132.0
_GAP = 16.0
_SHARPNESS = 2  # pixels of the picture for each pixel of the sheet, for dense screens
_MIN_SMOOTHED = 64  # images smaller than this are enlarged with hard edges: their pixels are the content


def draw_grid(
    images: Sequence[np.ndarray],
    truths: Sequence[str],
    answers: Sequence[str],
    confidences: Sequence[float] | np.ndarray,
    *,
    num: int = 30,
    title: str = "What it answers",
    theme: str = "light",
) -> Figure:
    """Up to `num` images with truth, answer and confidence: wrong ones first, the surest of them foremost.

    Args:
        images: (height, width, 3) uint8 each, shown in their own proportions. truths, answers: class names.
        confidences: of the answers, 0..1. title: '' for none.
    """
    look = find_look(theme)
    wrong = [truth != answer for truth, answer in zip(truths, answers, strict=True)]
    order = sorted(range(len(images)), key=lambda index: (not wrong[index], -float(confidences[index]), index))[
        :num
    ]
    num_wrong = sum(wrong[index] for index in order)
    if num_wrong == len(order):
        subtitle = f"{count(num_wrong, 'image')} answered wrongly, the surest first"
    else:
        subtitle = f"{count(len(order), 'image')}, {num_wrong:,} of them answered wrongly: those first"
    columns = 10 if num > 30 else 6
    lines = [order[start : start + columns] for start in range(0, len(order), columns)]
    captions = [LINE * (2 if any(wrong[index] for index in line) else 1) for line in lines]
    heights = [
        max(_shown_size(images[index], _THUMB)[1] for index in line) + caption
        for line, caption in zip(lines, captions, strict=True)
    ]
    above = header_height(title, subtitle)
    width = 2 * MARGIN + columns * _THUMB + (columns - 1) * _GAP
    height = above + sum(heights) + max(len(lines) - 1, 0) * _GAP + MARGIN
    figure = new_figure(width, height, theme)
    write_header(figure, look, title, subtitle)
    page = canvas(figure)
    for line, line_height, caption in zip(lines, heights, captions, strict=True):
        bottom = above + line_height - caption
        for column, index in enumerate(line):
            left = MARGIN + column * (_THUMB + _GAP)
            _add_image(page, look, images[index], left, bottom, _THUMB)
            _add_caption(page, look, truths[index], answers[index], float(confidences[index]), left, bottom)
        above += line_height + _GAP
    return figure


def _add_caption(
    page: Axes, look: Look, truth: str, answer: str, confidence: float, left: float, top: float
) -> None:
    """The answer with its confidence; below, the truth where that is another."""
    y, start, share = top + SMALL + 4, left, f"{100 * confidence:.0f} %"
    if truth != answer:
        add_marks(page, [(left + 5, y - 4.5)], "D", look["attention"], size=7, edge_width=0)
        start = left + 16
        write(page, start, y + LINE - 3, f"is {fit_text(truth, _THUMB - 16 - text_width('is '))}", look["muted"])
    name = fit_text(answer, _THUMB - (start - left) - text_width(share) - 6)
    write(page, start, y, name, look["text"])
    write(page, start + text_width(name) + 6, y, share, look["muted"])


def _shown_size(image: np.ndarray, side: float) -> tuple[float, float]:
    """Width and height in pixels of an image whose longer side is `side`."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return max(width * scale, 1.0), max(height * scale, 1.0)


def _add_image(page: Axes, look: Look, image: np.ndarray, x: float, bottom: float, side: float) -> None:
    """An image with its lower left corner at (x, bottom), whole, its longer side `side`, with a thin frame."""
    pixels = np.asarray(image)
    wide, high = _shown_size(pixels, side)
    size = (max(1, round(wide * _SHARPNESS)), max(1, round(high * _SHARPNESS)))
    is_tiny = max(pixels.shape[:2]) < _MIN_SMOOTHED
    method = Image.Resampling.NEAREST if is_tiny else Image.Resampling.LANCZOS
    resized = np.asarray(Image.fromarray(pixels).convert("RGB").resize(size, method))
    y = bottom - high
    limits = page.get_xlim(), page.get_ylim()
    page.imshow(resized, extent=(x, x + wide, y + high, y), interpolation="none", aspect="auto", zorder=2)
    page.set_xlim(limits[0])
    page.set_ylim(limits[1])
    add_boxes(page, np.array([[x, y, wide, high]]), "none", edge=look["rule"], width=1)
