"""Place labels so that none covers another label or a point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GAP = 4.0
# offset of the box's nearest corner or edge from the point, in units of the distance; alignment of the box
_SIDES = ((1, 0), (-1, 0), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7), (0, -1), (0, 1))
_DISTANCES = (11.0, 22.0, 36.0, 54.0, 76.0, 100.0, 130.0)
_NUM_NEAR = 2  # distances at which a label needs no line to its point

Box = tuple[float, float, float, float]


def spread_labels(wanted: Sequence[float], gap: float, height: float) -> list[float]:
    """Heights of labels as near as possible to `wanted`, at least `gap` apart, within 0..height if they fit."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [0.0] * len(wanted)
    lowest = -np.inf
    for index in order:
        lowest = places[index] = max(wanted[index], lowest + gap)
    highest = max(height, gap * (len(wanted) - 1)) + gap
    for index in reversed(order):
        highest = places[index] = min(places[index], highest - gap)
    return places


def nearest_in(box: Box, x: float, y: float) -> tuple[float, float]:
    """The point of a box that is nearest to (x, y): where a line from there to a label ends."""
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])


def place_labels(
    points: np.ndarray,
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    blocked: Sequence[Box] = (),
    lines: Sequence[Box] = (),
    *,
    num_needed: int | None = None,
    at_point: bool = False,
) -> list[Box | None]:
    """A free box for each label beside its point, in order of points; None without room.

    Args:
        points: (n, 2) in pixels. sizes: width and height of each label; points beyond them have none.
        bounds: left, top, right, bottom that labels stay within. blocked: boxes to avoid.
        lines: boxes to avoid if possible.
        num_needed: this many first labels are placed anywhere, even across lines; the others only nearby and clear
            of lines. None: all.
        at_point: labels are on or near their points, across lines if necessary; else beside all points.

    Returns:
        (left, top, right, bottom) for each size.
    """
    places = np.asarray(points, dtype=np.float64).tolist()
    taken = list(blocked)
    if not at_point:
        taken += [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    found: list[Box | None] = []
    for number, ((x, y), (width, height)) in enumerate(zip(places, sizes, strict=False)):
        is_needed = num_needed is None or number < num_needed
        candidates = _candidates(x, y, width, height, _DISTANCES if is_needed else _DISTANCES[:_NUM_NEAR])
        if at_point:
            candidates.insert(0, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        free = [box for box in candidates if _is_free(box, taken, bounds)]
        clear = [box for box in free if _is_free(box, lines, bounds)]
        place = next(iter(clear + (free if is_needed or at_point else [])), None)
        found.append(place)
        if place is not None:
            taken.append(place)
    return found


def _candidates(x: float, y: float, width: float, height: float, distances: Sequence[float]) -> list[Box]:
    boxes = []
    for distance in distances:
        for across, down in _SIDES:
            left = x + across * distance - (width if across < 0 else 0.0 if across > 0 else width / 2)
            top = y + down * distance - (height if down < 0 else 0.0 if down > 0 else height / 2)
            boxes.append((left, top, left + width, top + height))
    return boxes


def _is_free(box: Box, taken: Sequence[Box], bounds: Box) -> bool:
    left, top, right, bottom = box
    if left < bounds[0] or top < bounds[1] or right > bounds[2] or bottom > bounds[3]:
        return False
    return not any(
        left < other[2] + _GAP and right > other[0] - _GAP and top < other[3] and bottom > other[1]
        for other in taken
    )
