"""The statistical power of a test split, before any run."""

from __future__ import annotations

import math

import numpy as np

from backbench.stats.distributions import binomial_below, normal_quantile

_POINTS = 300  # numbers of discordant images to evaluate; if there are more, every k-th one
_POINTS_LARGE = 60  # the same above 2,000 discordant images, where the power changes slowly
_WIDTH = 6.5  # standard deviations of their number on either side; the omitted probability is below 1e-10


def smallest_provable_gap(
    n: int, *, disagreement: float = 0.06, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest true difference in accuracy that n test images can detect, as a fraction; None if none.

    Two rows that disagree on a share `disagreement` of the images differ by at most that. The result is the
    smallest difference that the exact McNemar test detects with probability `power`.

    Args:
        n: test images, at least 0.
        disagreement: share of images that exactly one of the two predicts correctly, 0..1.
        power: required probability of detecting the difference.
        alpha: two-sided level of the test.

    Cost: about 10 ms at n = 1,000, 30 ms at 10,000, a third of a second at 10^6. The sum over the number of
    discordant images is exact up to about n = 10,000; above, evenly spaced numbers represent all.
    """
    if n < 1 or not 0 < disagreement <= 1:
        return None
    counts, weights = _discordant(n, disagreement)
    limits = critical_counts(counts, alpha)

    def found(gap: float) -> float:
        fewer = (
            1 - gap / disagreement
        ) / 2  # share of the discordant images that the worse row predicts correctly
        return float(weights @ binomial_below(limits, counts, fewer))

    if found(disagreement) < power:
        return None
    guess = _normal_gap(n, disagreement, power, alpha)
    low, high = 0.8 * guess, min(1.2 * guess, disagreement)
    if found(low) >= power or found(high) < power:
        low, high = 0.0, disagreement
    while high - low > 2e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high


def _normal_gap(n: int, disagreement: float, power: float, alpha: float) -> float:
    """About the same by the normal approximation (Connor 1987, solved for the gap)."""
    z_test, z_power = normal_quantile(1 - alpha / 2), normal_quantile(power)
    gap = 0.0
    for _ in range(20):
        left = max(0.0, disagreement - gap * gap)
        gap = (z_test * math.sqrt(disagreement) + z_power * math.sqrt(left)) / math.sqrt(n)
    return gap


def critical_counts(discordant: np.ndarray, alpha: float) -> np.ndarray:
    """For each number of discordant images, the maximum that the worse row may predict correctly for p <= alpha;
    -1: never.

    discordant: (k,) int >= 0; result (k,) int64, of the exact two-sided McNemar test.
    """
    discordant = np.asarray(discordant, dtype=np.int64)
    z = normal_quantile(1 - alpha / 2)
    near = np.floor((discordant - 1 - z * np.sqrt(discordant)) / 2).astype(np.int64)
    # the normal guess is off by at most two; the exact tail decides
    candidates = near[:, None] + np.arange(-3, 4)
    trials = np.broadcast_to(discordant[:, None], candidates.shape)
    tails = 2 * binomial_below(candidates.ravel(), trials.ravel(), 0.5).reshape(candidates.shape)
    allowed = (tails <= alpha) & (candidates >= 0)
    return np.where(allowed, candidates, -1).max(axis=1)


def _discordant(n: int, disagreement: float) -> tuple[np.ndarray, np.ndarray]:
    """Likely numbers of discordant images among n, and the probability of each; they sum to 1."""
    mean, deviation = n * disagreement, math.sqrt(n * disagreement * (1 - disagreement))
    low = max(0, math.floor(mean - _WIDTH * deviation - 5))
    high = min(n, math.ceil(mean + _WIDTH * deviation + 5))
    step = -(-(high - low + 1) // (_POINTS if mean < 2000 else _POINTS_LARGE))
    counts = np.arange(low, high + 1, step)
    if disagreement == 1:
        return counts, (counts == n).astype(np.float64)
    log_odds = [_log_binomial(int(k), n, disagreement) for k in counts]
    weights = np.exp(np.array(log_odds) - max(log_odds))
    return counts, weights / weights.sum()


def _log_binomial(k: int, n: int, probability: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(probability) + (n - k) * math.log1p(-probability)
