"""95 % intervals of an accuracy: Wilson for separate images, cluster bootstrap for groups."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from backbench.stats.distributions import normal_below, normal_quantile, student_quantile

_CHUNK = 2_000_000  # resampled group numbers in memory at once


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


def bootstrap_by_group(
    correct: np.ndarray,
    groups: Sequence[Hashable | None],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of an accuracy measured on groups of related images (one camera, one patient): (low, high).

    Whole groups are drawn with replacement, because predictions in one group tend to be correct or wrong together.
    Three corrections give coverage with few groups: the percentiles are those of a Student t with groups - 1
    degrees of freedom (Hesterberg 2015); the interval is never narrower than Wilson's for as many separate
    images; and if the groups do not differ (for example, all correct), it is Wilson's with groups as images.

    Args:
        correct: (n,) bool.
        groups: n group names; None is a group of its own.
        draws: resamples.
        seed: same seed, same interval.

    Cost: O(draws x groups).
    """
    return bootstrap_rows_by_group(np.asarray(correct)[None], groups, level=level, draws=draws, seed=seed)[0]


def bootstrap_rows_by_group(
    correct: np.ndarray,
    groups: Sequence[Hashable | None],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """`bootstrap_by_group` of each row of `correct` ((rows, n) bool), all on the same resamples."""
    correct = np.asarray(correct, dtype=bool)
    rows, n = correct.shape
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} images")
    if n == 0:
        return [(0.0, 1.0)] * rows
    numbers = group_numbers(groups)
    sizes = np.bincount(numbers)
    right = np.stack([np.bincount(numbers, weights=row, minlength=len(sizes)) for row in correct])
    rates = _resampled_rates(right, sizes, draws, seed)
    tail = _percentile_tail(level, len(sizes))
    found = []
    for row in range(rows):
        low, high = wilson_interval(int(right[row].sum()), n, level)
        if np.ptp(right[row] / sizes) == 0:  # no spread between groups to estimate
            share = float(right[row].sum() / n)
            low, high = wilson_interval(share * len(sizes), len(sizes), level)
        spread = np.quantile(rates[row], [tail, 1 - tail])
        found.append((min(low, float(spread[0])), max(high, float(spread[1]))))
    return found


def _percentile_tail(level: float, num_groups: int) -> float:
    """The share of resamples outside each end, corrected for few groups."""
    if num_groups < 2:
        return 0.0
    t = student_quantile((1 + level) / 2, num_groups - 1)
    return normal_below(-t * math.sqrt(num_groups / (num_groups - 1)))


def _resampled_rates(right: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(rows, draws) accuracies of groups drawn with replacement; right (rows, groups), sizes (groups,)."""
    rng = np.random.default_rng(seed)
    num_groups = len(sizes)
    table = np.vstack([right, sizes]).T  # (groups, rows + 1)
    rates = np.empty((len(right), draws))
    step = max(1, _CHUNK // num_groups)
    for start in range(0, draws, step):
        num = min(step, draws - start)
        drawn = rng.integers(0, num_groups, size=(num, num_groups)) + num_groups * np.arange(num)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=num * num_groups).reshape(num, num_groups)
        totals = weights.astype(np.float64) @ table
        rates[:, start : start + num] = (totals[:, :-1] / totals[:, -1:]).T
    return rates
