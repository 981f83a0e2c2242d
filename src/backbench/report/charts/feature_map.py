"""Maps of features: choose the images and class names to show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_POINTS = 1000
_MAX_NAMED = 16


def choose_shown(num: int, wrong: Sequence[np.ndarray]) -> np.ndarray:
    """The images shown, rising: all, or of more than 1,000 first wrong predictions of any model, then an even
    sample of others.

    Args:
        wrong: (num,) bool for each model.
    """
    if num <= MAX_POINTS:
        return np.arange(num)
    is_wrong = np.any([*wrong, np.zeros(num, dtype=bool)], axis=0)
    first, others = np.flatnonzero(is_wrong), np.flatnonzero(~is_wrong)
    first = first[np.linspace(0, len(first) - 1, min(len(first), MAX_POINTS // 2)).astype(np.int64)]
    room = min(MAX_POINTS - len(first), len(others))
    return np.sort(np.concatenate([first, others[np.linspace(0, len(others) - 1, room).astype(np.int64)]]))


def choose_named(labels: np.ndarray, maps: Sequence[np.ndarray]) -> list[int]:
    """The classes that have a name on the maps: all of a few; of many those with the most compact clusters.

    A name is useless for a spread-out class. Classes with few images may be compact by chance.

    Args:
        labels: (n,) int. maps: (n, 2) float each.
    """
    sizes = np.bincount(labels)
    present = np.flatnonzero(sizes).tolist()
    if len(present) <= _MAX_NAMED:
        return sorted(present, key=lambda label: -sizes[label])
    common = [label for label in present if sizes[label] >= np.median(sizes[present])]
    spread = {
        label: float(np.mean([_spread(places[labels == label], places) for places in maps])) for label in common
    }
    return sorted(common, key=spread.__getitem__)[:_MAX_NAMED]


def _spread(own: np.ndarray, everything: np.ndarray) -> float:
    """Median distance of a class's points from their middle, in units of the whole map; inf without points."""
    own = own[np.isfinite(own).all(axis=1)]
    if not len(own):
        return float("inf")
    size = float(np.nanmax(everything) - np.nanmin(everything))
    return float(np.median(np.linalg.norm(own - np.median(own, axis=0), axis=1))) / max(size, 1e-12)


def middles(labels: np.ndarray, points: np.ndarray, named: Sequence[int]) -> list[tuple[int, float, float]]:
    """(label, x, y): the medians of the (n, 2) points of these classes, as far as they have any."""
    found = []
    for label in named:
        own = points[labels == label]
        if np.isfinite(own).any():
            x, y = np.nanmedian(own, axis=0).tolist()
            found.append((label, x, y))
    return found
