"""95 % intervals of an accuracy: Wilson's, with an effective number of images if they come in groups."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from backbench.stats.distributions import normal_quantile, student_quantile


def wilson_interval(correct: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion: (low, high) in 0..1, never empty, never outside.

    Args:
        correct: number of correct predictions, 0..n; a fraction if n is an effective sample size.
        n: images; 0 gives (0, 1).
        level: coverage, 0..1.

    Raises: ValueError when `correct` is not in 0..n.
    Source: Wilson 1927; recommended over the normal interval by Brown, Cai and DasGupta 2001.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct predictions of {n} images")
    return _score_interval(correct, n, normal_quantile((1 + level) / 2))


def _score_interval(correct: float, n: float, z: float) -> tuple[float, float]:
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # rounding must not move an end past the value inside
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def group_numbers(groups: Sequence[Hashable | None]) -> np.ndarray:
    """(n,) int64 from 0, in order of appearance: one number for each group; each None is a separate group."""
    seen: dict[Hashable, int] = {}
    keys: list[Hashable] = [(row,) if group is None else (None, group) for row, group in enumerate(groups)]
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def by_unit(correct: np.ndarray, groups: Sequence[Hashable | None] | None) -> tuple[np.ndarray, np.ndarray]:
    """Correct predictions of each row in each unit, and the size of each unit: (rows, units), (units,) float64.

    A unit is a group of images, or a separate image. correct: (rows, n) bool.
    """
    correct = np.asarray(correct, dtype=bool)
    if groups is None:
        return correct.astype(np.float64), np.ones(correct.shape[1])
    if len(groups) != correct.shape[1]:
        raise ValueError(f"{len(groups)} groups for {correct.shape[1]} images")
    numbers = group_numbers(groups)
    sizes = np.bincount(numbers).astype(np.float64)
    return np.stack([np.bincount(numbers, weights=row, minlength=len(sizes)) for row in correct]), sizes


def share_interval(right: np.ndarray, sizes: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of an accuracy measured on units of images: (low, high) in 0..1.

    Predictions in one group (one camera, one patient) tend to be correct or wrong together, so n images count as
    fewer. The interval is Wilson's with their effective number: the number of separate images with the same
    standard error, which is the jackknife's (CR3; Bell and McCaffrey 2002), at most n. The quantile is Student's
    with Satterthwaite's degrees of freedom, from the sizes of the groups. If all groups have the same accuracy, it
    tells nothing about their spread: then each group counts as one image.

    Args:
        right: (units,) correct predictions in each unit. sizes: (units,) images in it; see `by_unit`.

    Cost: O(units).
    """
    n, units = float(sizes.sum()), len(sizes)
    z = normal_quantile((1 + level) / 2)
    if n == 0:
        return 0.0, 1.0
    share = min(1.0, max(0.0, float(right.sum()) / n))
    if units == n:
        return _score_interval(share * n, n, z)
    if units < 2:
        return _score_interval(share, 1, z)
    squared = sizes.astype(np.float64) ** 2
    degrees = max(1.0, squared.sum() ** 2 / (squared**2).sum() - 1)
    parts = (right - share * sizes) / np.maximum(1 - sizes / n, 0.1)
    variance = float((parts**2).sum()) / n**2
    effective = degrees + 1 if np.ptp(right / sizes) == 0 else min(n, share * (1 - share) / variance)
    return _score_interval(share * effective, effective, student_quantile((1 + level) / 2, degrees))
