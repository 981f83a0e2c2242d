"""Pictures of explanations: contact sheets, filters, and similarity of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from backbench.explain.heat import Heat, colour, overlay
from backbench.explain.samples import Sample
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.style import LINE, MARGIN, fit_text, text_width
from backbench.report.text import percent

CELL_WIDTH, CELL_HEIGHT = 220.0, 180.0
GAP = 16.0
ROWS_PER_SHEET = 12
_PIXELS = 2  # image pixels per figure pixel: as sharp as the PNG
_LEGEND = 20.0
_MIN_WIDTH = 700.0
MAX_FILTERS = 128
_MAX_MAPS = 14


@dataclass(frozen=True, eq=False)
class Explanation:
    """One model's prediction for one image, its confidence in 0..1, and its explanation."""

    label: str
    confidence: float
    is_unsure: bool
    heat: Heat


def draw_explanations(
    samples: Sequence[Sample],
    models: Sequence[tuple[str, str]],
    explanations: Sequence[Sequence[Explanation]],
    *,
    title: str,
    theme: str = "light",
) -> Figure:
    """A sheet with a row for each image: the image, then the explanation of each model's prediction.

    Args:
        models: two lines above each column, such as name and method.
        explanations: one row for each sample, in it one entry for each model.
        title: of the sheet; a legend of the colours is below it.
    """
    above = _LEGEND + 2 * LINE + 8
    heights = [_shown_size(sample.image)[1] + 2 * LINE + GAP for sample in samples]
    width = max(2 * MARGIN + (1 + len(models)) * CELL_WIDTH + len(models) * GAP, _MIN_WIDTH)
    canvas = Canvas(title, _say_kinds(explanations) or "-", width, above + sum(heights) + MARGIN, theme)
    _draw_legend(canvas)
    top = canvas.top + above
    for column, (name, more) in enumerate((("image", ""), *models)):
        x = MARGIN + column * (CELL_WIDTH + GAP)
        canvas.write(x, top - LINE - 8, fit_text(name, CELL_WIDTH, bold=True), bold=True)
        canvas.write(x, top - 8, fit_text(more, CELL_WIDTH), "muted")
    for sample, answers, height in zip(samples, explanations, heights, strict=True):
        _draw_row(canvas, top, sample, answers)
        top += height
    return canvas.figure


def _draw_row(canvas: Canvas, top: float, sample: Sample, answers: Sequence[Explanation]) -> None:
    truth = "" if sample.truth is None else f"true: {sample.truth}"
    cells = [(sample.image, sample.name, "", truth, False)]
    for answer in answers:
        shown = overlay(_shrink(sample.image), _scaled(answer.heat, sample.image))
        is_wrong = sample.truth not in (None, answer.label)
        sure = f", {percent(answer.confidence, 1)}{', no heat' if answer.heat.is_empty else ''}"
        cells.append((shown, answer.label, sure, _judge(answer, sample.truth), is_wrong))
    for column, (image, name, sure, second, is_marked) in enumerate(cells):
        x = MARGIN + column * (CELL_WIDTH + GAP)
        width, height = _shown_size(image)
        canvas.image(image, (x, top, width, height))
        y = top + height + LINE - 4
        said = fit_text(name, CELL_WIDTH - text_width(sure))
        canvas.write(x, y, said)
        # separate, because right-to-left names would reorder the number
        canvas.write(x + text_width(said), y, sure)
        words = fit_text(second, CELL_WIDTH, bold=is_marked)
        canvas.write(x, y + LINE - 2, words, "text" if is_marked else "muted", bold=is_marked)


def _shown_size(image: np.ndarray) -> tuple[float, float]:
    """Width and height in a cell, in the image's own proportions; at least 2."""
    scale = min(CELL_WIDTH / image.shape[1], CELL_HEIGHT / image.shape[0])
    return max(2.0, image.shape[1] * scale), max(2.0, image.shape[0] * scale)


def _say_kinds(explanations: Sequence[Sequence[Explanation]]) -> str:
    heats = [answer.heat for answers in explanations for answer in answers]
    kinds = sorted({heat.kind for heat in heats})
    said = {
        "Grad-CAM": "Grad-CAM: evidence for the prediction",
        "attention rollout": "attention rollout: where the model looked, over all layers",
        "attention, last layer": "attention, last layer: where the model looked at the end",
    }
    none = ["No heat: no evidence in the image"] if any(heat.is_empty for heat in heats) else []
    return ". ".join([*(said.get(kind, kind) for kind in kinds), *none])


def _judge(answer: Explanation, truth: str | None) -> str:
    unsure = ["unsure"] if answer.is_unsure else []
    if truth in (None, answer.label):
        return ", ".join([*([] if truth is None else ["right"]), *unsure])
    room = CELL_WIDTH - text_width(", ".join(["✗ wrong, true: ", *unsure]), bold=True)
    return ", ".join([f"✗ wrong, true: {fit_text(truth, room, bold=True)}", *unsure])


def _draw_legend(canvas: Canvas) -> None:
    """The colour scale from minimum to maximum, and the meaning of grey."""
    ramp = np.repeat(colour(np.linspace(0, 1, 128))[None], 4, axis=0).astype(np.uint8)
    top = canvas.top
    canvas.write(MARGIN, top + 10, "least", "muted")
    canvas.image(ramp, (MARGIN + 42, top, 128, 12))
    canvas.write(MARGIN + 178, top + 10, "maximum of each image", "muted")
    canvas.write(MARGIN + 340, top + 10, "pale grey: cropped away, not seen by the model", "muted")


def _shrink(image: np.ndarray) -> np.ndarray:
    """Reduce the image to the size of a cell, so that the file stays small."""
    height, width = image.shape[:2]
    scale = max(width / (CELL_WIDTH * _PIXELS), height / (CELL_HEIGHT * _PIXELS))
    if scale <= 1:
        return image
    size = max(1, round(width / scale)), max(1, round(height / scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _scaled(heat: Heat, image: np.ndarray) -> Heat:
    """The heat of `image` for its reduced version."""
    shrunk = _shrink(image)
    across, down = shrunk.shape[1] / image.shape[1], shrunk.shape[0] / image.shape[0]
    left, top, right, bottom = heat.box
    box = (left * across, top * down, right * across, bottom * down)
    return Heat(heat.values, box, heat.kind, heat.layer, heat.label)


def draw_filters(filters: np.ndarray, *, title: str, subtitle: str, theme: str = "light") -> Figure:
    """Filters, (n, 3, k, k) in 0..1, as a grid of tiles; at most the first 128."""
    tiles = [np.round(tile.transpose(1, 2, 0) * 255).astype(np.uint8) for tile in filters[:MAX_FILTERS]]
    columns = min(16, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    return _draw_tiles(rows, 46.0, 6.0, 560.0, title, subtitle, theme)


def draw_positions(similarity: np.ndarray, *, title: str, theme: str = "light") -> Figure:
    """For each patch, at its place, a tile with the similarity of all patches to it.

    Args:
        similarity: (rows, columns, rows, columns), as `positions.position_similarity` gives it.

    At most 14 x 14 patches are drawn, evenly chosen.
    """
    num_rows, num_columns = similarity.shape[:2]
    rows = np.unique(np.linspace(0, num_rows - 1, min(num_rows, _MAX_MAPS)).round().astype(int))
    columns = np.unique(np.linspace(0, num_columns - 1, min(num_columns, _MAX_MAPS)).round().astype(int))
    num = num_rows * num_columns
    others = similarity.reshape(num, num)[~np.eye(num, dtype=bool)]  # the similarity to itself is always 1
    low, high = np.quantile(others, (0.01, 0.99)) if num > 1 else (0.0, 1.0)
    scaled = np.clip((similarity - low) / max(high - low, 1e-6), 0.0, 1.0)
    tiles = [[colour(scaled[row, column]).astype(np.uint8) for column in columns] for row in rows]
    subtitle = f"each tile: similarity of all patches to one patch. Colours: cosine {low:.2f} to {high:.2f}"
    return _draw_tiles(tiles, 41.0, 5.0, 600.0, title, subtitle, theme)


def _draw_tiles(
    rows: Sequence[Sequence[np.ndarray]],
    step: float,
    gap: float,
    min_width: float,
    title: str,
    subtitle: str,
    theme: str,
) -> Figure:
    """Tiles in rows, `step` pixels from one to the next, `gap` of them between."""
    width = max(min_width, 2 * MARGIN + max(map(len, rows)) * step)
    canvas = Canvas(title, subtitle, width, len(rows) * step + MARGIN, theme)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            canvas.image(tile, (MARGIN + column * step, canvas.top + row * step, step - gap, step - gap))
    return canvas.figure
