"""Maps of features: how classes lie to one another, for one model or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from backbench.report.figures.labels import place_labels
from backbench.report.figures.style import (
    GROUPS,
    LINE,
    MARGIN,
    SHAPES,
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

MAX_COLOURED = 20
MAX_POINTS = 1000
_SIDE = 380.0
_GAP = 24.0
_LABEL_LIMIT = 110.0
_MAX_LABELLED = 16
_ANY, _NO_MARK = -1, -2
"""In the key, where else the number of a class stands: the mark of all classes, and words alone."""


def draw_embedding(
    points: Mapping[str, np.ndarray],
    labels: np.ndarray,
    is_wrong: Mapping[str, np.ndarray] | None,
    classes: Sequence[str],
    *,
    title: str = "How the images lie to one another",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """A map for each model, side by side, two to a row above three; wrong answers are crosses.

    Up to 20 classes have a colour and a shape each, no two the same pair; points of more are muted. From six on
    they are named at their middles, of more than 16 those whose images lie closest together over all maps. Of more
    than 1,000 images 1,000 are shown, wrong ones among the first.

    Args:
        points: name of the model -> (n, 2) float. labels: (n,) int.
        is_wrong: name of the model -> (n,) bool; None or a missing name: not known.
        note: how the maps were made, as in 'UMAP, seed 0'. title: '' for none.
    """
    look, wrong = find_look(theme), is_wrong or {}
    columns = len(points) if len(points) <= 3 else 2 if len(points) == 4 else 3
    rows = -(-len(points) // max(columns, 1))
    labels = np.asarray(labels)
    shown = _choose(labels, wrong)
    present = np.unique(labels).tolist()
    has_groups = len(present) <= MAX_COLOURED
    named = _choose_named(labels, list(points.values()))
    subtitle = _describe(len(labels), len(shown), note)
    top = header_height(title, subtitle)
    width = max(2 * MARGIN + columns * _SIDE + (columns - 1) * _GAP, 560)
    groups = present if has_groups else []
    key = _lay_out_key(classes, groups, width, has_wrong=bool(wrong))
    shares = {
        name: f"{100 * np.asarray(wrong[name], dtype=bool).mean():.1f} % wrong"
        if name in wrong and len(labels)
        else ""
        for name in points
    }
    heads = {name: _wrap(name, _SIDE - text_width(shares[name]) - 16) for name in points}
    head = LINE * max(map(len, heads.values()), default=1)
    height = top + rows * (_SIDE + head + _GAP) + (len(key) + 1) * LINE
    figure = new_figure(width, height, theme)
    page = canvas(figure)
    write_header(figure, look, title, subtitle)
    for number, (name, places) in enumerate(points.items()):
        left = MARGIN + number % columns * (_SIDE + _GAP)
        above = top + number // columns * (_SIDE + head + _GAP)
        own_wrong = np.asarray(wrong[name], dtype=bool) if name in wrong else np.zeros(len(labels), dtype=bool)
        for turn, text in enumerate(heads[name]):
            write(page, left, above + SMALL + turn * LINE, text, look["text"], bold=True)
        write(page, left + _SIDE, above + SMALL, shares[name], look["muted"], align="right")
        pixels = _to_pixels(np.asarray(places, dtype=np.float64), left, above + head)
        add_boxes(page, np.array([[left, above + head, _SIDE, _SIDE]]), "none", edge=look["rule"], width=1)
        _add_points(page, look, pixels[shown], labels[shown], own_wrong[shown], groups)
        if len(present) > len(GROUPS):
            _name_classes(
                page,
                look,
                pixels,
                labels,
                classes,
                named,
                left,
                above + head,
                crosses=pixels[shown][own_wrong[shown]],
            )
    _add_key(page, look, key, groups, height - MARGIN - (len(key) - 1) * LINE)
    return figure


def _choose(labels: np.ndarray, wrong: Mapping[str, np.ndarray]) -> np.ndarray:
    """The images shown: all, or those any model gets wrong first, then evenly from the others."""
    if len(labels) <= MAX_POINTS:
        return np.arange(len(labels))
    is_wrong = np.zeros(len(labels), dtype=bool)
    for given in wrong.values():
        is_wrong |= np.asarray(given, dtype=bool)
    first, others = np.flatnonzero(is_wrong), np.flatnonzero(~is_wrong)
    first = first[np.linspace(0, len(first) - 1, min(len(first), MAX_POINTS // 2)).astype(np.int64)]
    room = min(MAX_POINTS - len(first), len(others))
    return np.sort(np.concatenate([first, others[np.linspace(0, len(others) - 1, room).astype(np.int64)]]))


def _choose_named(labels: np.ndarray, maps: Sequence[np.ndarray]) -> list[int]:
    """The classes that have a name on the maps: all of a few; of many those whose images lie closest together.

    A name says little of a class that lies everywhere. Classes of fewer images than most may be close by chance.
    """
    sizes = np.bincount(labels)
    present = np.flatnonzero(sizes).tolist()
    if len(present) <= _MAX_LABELLED:
        return sorted(present, key=lambda label: -sizes[label])
    common = [label for label in present if sizes[label] >= np.median(sizes[present])]
    spread = {
        label: float(np.mean([_spread(places[labels == label], places) for places in maps])) for label in common
    }
    return sorted(common, key=spread.__getitem__)[:_MAX_LABELLED]


def _spread(own: np.ndarray, everything: np.ndarray) -> float:
    """Median distance of a class's points from their middle, in units of the whole map; inf without points."""
    own = own[np.isfinite(own).all(axis=1)]
    if not len(own):
        return float("inf")
    size = float(np.nanmax(everything) - np.nanmin(everything))
    return float(np.median(np.linalg.norm(own - np.median(own, axis=0), axis=1))) / max(size, 1e-12)


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
    return ", ".join(filter(None, [images, note])) + "; far distances mean nothing"


def _to_pixels(points: np.ndarray, left: float, top: float) -> np.ndarray:
    """Points into the square at (left, top), both directions on one scale; those that are not finite stay so."""
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return np.full_like(points, np.nan)
    low, high = finite.min(axis=0), finite.max(axis=0)
    scale = (_SIDE - 28) / max(float((high - low).max()), 1e-12)
    middle = np.array([left, top]) + _SIDE / 2
    return middle + (points - (low + high) / 2) * scale * np.array([1.0, -1.0])


def _add_points(
    page: Axes, look: Look, pixels: np.ndarray, labels: np.ndarray, is_wrong: np.ndarray, groups: Sequence[int]
) -> None:
    size = 6.0 if len(labels) <= 400 else 4.5
    if not groups:
        right = pixels[~is_wrong]
        add_marks(page, right, "o", look["other"], size=size - 1, edge_width=0, alpha=0.45)
    for number, label in enumerate(groups):
        own = pixels[(labels == label) & ~is_wrong]
        shape, colour = _mark_of(number)
        add_marks(page, own, shape, look[colour], look["page"], size=size, edge_width=0.5)
    for number, label in enumerate(groups or [-1]):
        own = pixels[is_wrong & (labels == label) if groups else is_wrong]
        colour = look[_cross_colour(number, len(groups))]
        add_marks(page, own, "x", look["page"], size=size + 3, edge_width=4.5, zorder=4.1)
        add_marks(page, own, "x", colour, size=size + 2, edge_width=2, zorder=4.2)


def _mark_of(number: int) -> tuple[str, str]:
    """(shape, colour) of the class at this place among those shown: no two have both in common."""
    turn, place = divmod(number, len(GROUPS))
    return SHAPES[(place + turn) % len(SHAPES)], GROUPS[place]


def _cross_colour(number: int, num_groups: int) -> str:
    """Of wrong answers: the colour of the class, while it alone tells the classes apart."""
    if not num_groups:
        return "attention"
    return GROUPS[number] if num_groups <= len(GROUPS) else "text"


def _name_classes(
    page: Axes,
    look: Look,
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    named: Sequence[int],
    left: float,
    top: float,
    crosses: np.ndarray,
) -> None:
    """Names of these classes at the middles (medians) of their points, or beside wrong answers there."""
    with_points = [label for label in named if np.isfinite(pixels[labels == label]).any()]
    if not with_points:
        return
    middles = np.array([np.nanmedian(pixels[labels == label], axis=0) for label in with_points])
    texts = [fit_text(classes[label], _LABEL_LIMIT) for label in with_points]
    boxes_wanted = [(text_width(text), SMALL + 3.0) for text in texts]
    bounds = (left + 2, top + 2, left + _SIDE - 2, top + _SIDE - 2)
    lines = [(x - 5, y - 5, x + 5, y + 5) for x, y in crosses.tolist()]
    boxes = place_labels(middles, boxes_wanted, bounds, lines=lines, num_needed=0, at_point=True)
    for text, box in zip(texts, boxes, strict=True):
        if box is not None:
            page.add_patch(_backing(box, look["page"]))
            write(page, box[0], box[3] - 4, text, look["text"])


def _backing(box: tuple[float, float, float, float], colour: str) -> Rectangle:
    left, top, right, bottom = box
    return Rectangle((left - 3, top), right - left + 6, bottom - top, facecolor=colour, alpha=0.7, zorder=4)


def _lay_out_key(
    classes: Sequence[str], groups: Sequence[int], width: float, *, has_wrong: bool
) -> list[list[tuple[float, int | None, str]]]:
    """Lines of (x, number of the class shown, None for the crosses or one of the above, text) that fit `width`."""
    entries = [(number, fit_text(classes[label], _LABEL_LIMIT)) for number, label in enumerate(groups)]
    wanted: list[tuple[int | None, str]] = [*entries, *([(None, "answered wrongly")] if has_wrong else [])]
    if not groups:
        wanted.append((_ANY, "answered rightly, of any class" if has_wrong else "an image, of any class"))
        wanted.append((_NO_MARK, "named: the classes that lie closest together"))
    lines: list[list[tuple[float, int | None, str]]] = [[]]
    x = float(MARGIN)
    for number, text in wanted:
        room = text_width(text) + (0 if number == _NO_MARK else 16)
        if lines[-1] and x + room > width - MARGIN:
            lines.append([])
            x = float(MARGIN)
        lines[-1].append((x, number, text))
        x += room + 20
    return lines


def _add_key(
    page: Axes, look: Look, key: Sequence[Sequence[tuple[float, int | None, str]]], groups: Sequence[int], y: float
) -> None:
    for line in key:
        for x, number, text in line:
            if number is None:
                colour = "text" if groups else "attention"
                add_marks(page, [(x + 5, y - 4)], "x", look[colour], edge_width=2)
            elif number == _ANY:
                add_marks(page, [(x + 5, y - 4)], "o", look["other"], edge_width=0, alpha=0.45)
            elif number != _NO_MARK:
                shape, colour = _mark_of(number)
                add_marks(page, [(x + 5, y - 4)], shape, look[colour])
            write(page, x + (0 if number == _NO_MARK else 16), y, text, look["text"])
        y += LINE
