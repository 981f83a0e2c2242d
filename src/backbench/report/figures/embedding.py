"""Maps of features in two dimensions, for one model or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from backbench.report.charts.feature_map import choose_named, choose_shown, middles
from backbench.report.charts.labels import place_labels
from backbench.report.figures.canvas import Canvas
from backbench.report.figures.style import GROUPS, LINE, MARGIN, SHAPES, SMALL, fit_text, text_width
from backbench.wording import count

MAX_COLOURED = 20
_SIDE = 380.0
_GAP = 24.0
_LABEL_LIMIT = 110.0

_Entry = tuple[str, str, str]
"""Of the key: shape ('' for words alone), role of its colour, words."""


def draw_embedding(
    points: Mapping[str, np.ndarray],
    labels: np.ndarray,
    is_wrong: Mapping[str, np.ndarray] | None,
    classes: Sequence[str],
    *,
    title: str = "Map of features",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """A map for each model, side by side, two per row above three; wrong predictions are crosses.

    Up to 20 classes have a colour and a shape each, all pairs distinct; with more classes points are muted. From
    six classes on, names are at the middles; above 16 only for the most compact classes over all maps. Above 1,000
    images 1,000 are shown, wrong predictions first.

    Args:
        points: name of the model -> (n, 2) float. labels: (n,) int.
        is_wrong: name of the model -> (n,) bool; None or a missing name: unknown.
        note: how the maps were made, such as 'UMAP, seed 0'. title: '' for none.
    """
    wrong = {name: np.asarray(each, dtype=bool) for name, each in (is_wrong or {}).items()}
    columns = len(points) if len(points) <= 3 else 2 if len(points) == 4 else 3
    rows = -(-len(points) // max(columns, 1))
    labels = np.asarray(labels)
    shown = choose_shown(len(labels), list(wrong.values()))
    groups = np.unique(labels).tolist()
    named = choose_named(labels, list(points.values())) if len(groups) > len(GROUPS) else []
    groups = groups if len(groups) <= MAX_COLOURED else []
    width = max(2 * MARGIN + columns * _SIDE + (columns - 1) * _GAP, 560)
    key = _lay_out(_list_key(classes, groups, has_wrong=bool(wrong)), width)
    shares = {
        name: f"{100 * wrong[name].mean():.1f} % wrong" if name in wrong and len(labels) else "" for name in points
    }
    heads = {name: _wrap(name, _SIDE - text_width(shares[name]) - 16) for name in points}
    head = LINE * max(map(len, heads.values()), default=1)
    height = rows * (_SIDE + head + _GAP) + (len(key) + 1) * LINE
    canvas = Canvas(title, _describe(len(labels), len(shown), note), width, height, theme)
    for number, (name, places) in enumerate(points.items()):
        left = MARGIN + number % columns * (_SIDE + _GAP)
        above = canvas.top + number // columns * (_SIDE + head + _GAP)
        for turn, text in enumerate(heads[name]):
            canvas.write(left, above + SMALL + turn * LINE, text, bold=True)
        canvas.write(left + _SIDE, above + SMALL, shares[name], "muted", align="right")
        top = above + head
        canvas.boxes([(left, top, _SIDE, _SIDE)], "none", edge="rule")
        pixels = _to_pixels(np.asarray(places, dtype=np.float64), left, top)
        own_wrong = wrong.get(name, np.zeros(len(labels), dtype=bool))
        _add_points(canvas, pixels[shown], labels[shown], own_wrong[shown], groups)
        spots = middles(labels, pixels, named)
        _name_classes(canvas, spots, classes, (left, top), crosses=pixels[shown][own_wrong[shown]])
    _add_key(canvas, key, canvas.top + height - MARGIN - (len(key) - 1) * LINE)
    return canvas.figure


def _wrap(name: str, room: float) -> list[str]:
    """A name in one line, or in two where it has room for no more than that."""
    if text_width(name, bold=True) <= room:
        return [name]
    words = name.split(" ")
    taken = next(
        (num for num in range(len(words) - 1, 0, -1) if text_width(" ".join(words[:num]), bold=True) <= room), 0
    )
    if not taken:
        return [fit_text(name, room, bold=True)]
    return [" ".join(words[:taken]), fit_text(" ".join(words[taken:]), room, bold=True)]


def _describe(num: int, num_shown: int, note: str) -> str:
    images = count(num, "image") if num_shown == num else f"{num_shown:,} of {num:,} images (wrong ones preferred)"
    return ", ".join(filter(None, [images, note])) + "; large distances have no meaning"


def _to_pixels(points: np.ndarray, left: float, top: float) -> np.ndarray:
    """Points into the square at (left, top), both directions on one scale; non-finite points stay non-finite."""
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return np.full_like(points, np.nan)
    low, high = finite.min(axis=0), finite.max(axis=0)
    scale = (_SIDE - 28) / max(float((high - low).max()), 1e-12)
    middle = np.array([left, top]) + _SIDE / 2
    return middle + (points - (low + high) / 2) * scale * np.array([1.0, -1.0])


def _add_points(
    canvas: Canvas, pixels: np.ndarray, labels: np.ndarray, is_wrong: np.ndarray, groups: Sequence[int]
) -> None:
    size = 6.0 if len(labels) <= 400 else 4.5
    if not groups:
        canvas.marks(pixels[~is_wrong], "o", "other", size=size - 1, edge_width=0, alpha=0.45)
    for number, label in enumerate(groups):
        shape, role = _mark_of(number)
        canvas.marks(pixels[(labels == label) & ~is_wrong], shape, role, "page", size=size, edge_width=0.5)
    for number, label in enumerate(groups or [-1]):
        own = pixels[is_wrong & (labels == label) if groups else is_wrong]
        canvas.marks(own, "x", "page", size=size + 3, edge_width=4.5, zorder=4.1)
        canvas.marks(own, "x", _cross_role(number, len(groups)), size=size + 2, edge_width=2, zorder=4.2)


def _mark_of(number: int) -> tuple[str, str]:
    """(shape, role of the colour) of the class at this place among those shown: no two have both in common."""
    turn, place = divmod(number, len(GROUPS))
    return SHAPES[(place + turn) % len(SHAPES)], GROUPS[place]


def _cross_role(number: int, num_groups: int) -> str:
    """Of wrong answers: the colour of the class, while it alone tells the classes apart."""
    if not num_groups:
        return "attention"
    return GROUPS[number] if num_groups <= len(GROUPS) else "text"


def _name_classes(
    canvas: Canvas,
    spots: Sequence[tuple[int, float, float]],
    classes: Sequence[str],
    corner: tuple[float, float],
    crosses: np.ndarray,
) -> None:
    """Names of classes at (label, x, y), or beside wrong answers there."""
    texts = [fit_text(classes[label], _LABEL_LIMIT) for label, _, _ in spots]
    left, top = corner
    boxes = place_labels(
        np.array([spot[1:] for spot in spots]).reshape(-1, 2),
        [(text_width(text), SMALL + 3.0) for text in texts],
        (left + 2, top + 2, left + _SIDE - 2, top + _SIDE - 2),
        lines=[(x - 5, y - 5, x + 5, y + 5) for x, y in crosses.tolist()],
        num_needed=0,
        at_point=True,
    )
    for text, box in zip(texts, boxes, strict=True):
        if box is not None:
            backing = (box[0] - 3, box[1], box[2] - box[0] + 6, box[3] - box[1])
            canvas.boxes([backing], "page", alpha=0.7, zorder=4)
            canvas.write(box[0], box[3] - 4, text)


def _list_key(classes: Sequence[str], groups: Sequence[int], *, has_wrong: bool) -> list[_Entry]:
    entries = [(*_mark_of(number), fit_text(classes[label], _LABEL_LIMIT)) for number, label in enumerate(groups)]
    if has_wrong:
        entries.append(("x", "text" if groups else "attention", "predicted wrongly"))
    if not groups:
        entries.append(("o", "other", "correct, of any class" if has_wrong else "an image, of any class"))
        entries.append(("", "", "named: the most compact classes"))
    return entries


def _lay_out(entries: Sequence[_Entry], width: float) -> list[list[tuple[float, _Entry]]]:
    """Lines of (x, entry) that fit `width`."""
    lines: list[list[tuple[float, _Entry]]] = [[]]
    x = MARGIN
    for entry in entries:
        room = text_width(entry[2]) + (16 if entry[0] else 0)
        if lines[-1] and x + room > width - MARGIN:
            lines.append([])
            x = MARGIN
        lines[-1].append((x, entry))
        x += room + 20
    return lines


def _add_key(canvas: Canvas, key: Sequence[Sequence[tuple[float, _Entry]]], y: float) -> None:
    for line in key:
        for x, (shape, role, words) in line:
            if shape:
                canvas.marks([(x + 5, y - 4)], shape, role, edge_width=2 if shape == "x" else 1)
            canvas.write(x + (16 if shape else 0), y, words)
        y += LINE
