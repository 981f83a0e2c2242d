"""What a test split can decide."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from backbench.stats.compare import mcnemar_exact
from backbench.stats.power import critical_counts, smallest_provable_gap


@pytest.mark.parametrize(
    ("n", "points"), [(200, 4.9), (312, 3.9), (500, 3.1), (1000, 2.2), (10_000, 0.7), (1_000_000, 0.07)]
)
def test_published_figures(n: int, points: float) -> None:
    """To the tenth of a point they are given in."""
    gap = smallest_provable_gap(n)
    assert gap is not None
    assert abs(100 * gap - points) < (0.1 if points > 0.1 else 0.005)


@pytest.mark.parametrize("n", [0, 1, 50, 100])
def test_too_few_images_prove_nothing(n: int) -> None:
    assert smallest_provable_gap(n) is None


def test_more_images_prove_smaller_gaps() -> None:
    gaps = [smallest_provable_gap(n) or 1.0 for n in (130, 200, 400, 800, 1600, 5000, 20_000, 60_000, 200_000)]
    assert gaps == sorted(gaps, reverse=True)
    assert len(set(gaps)) == len(gaps)


def test_is_the_exact_sum() -> None:
    """The same by brute force with scipy: at the gap found the power is 0.8."""
    n, disagreement = 312, 0.06
    gap = smallest_provable_gap(n, disagreement=disagreement)
    assert gap is not None
    power = 0.0
    for count in range(80):
        limit = int(critical_counts(np.array([count]), 0.05)[0])
        found = stats.binom.cdf(limit, count, (1 - gap / disagreement) / 2) if limit >= 0 else 0.0
        power += stats.binom.pmf(count, n, disagreement) * found
    assert power == pytest.approx(0.8, abs=2e-3)


def test_simulated_power(test_scale: float) -> None:
    n, gap = 500, smallest_provable_gap(500) or 0.0
    rng = np.random.default_rng(0)
    shares = [(0.06 + gap) / 2, (0.06 - gap) / 2, 0.94]
    draws = int(1500 * test_scale)
    significant = 0
    for only_a, only_b, _ in rng.multinomial(n, shares, draws):
        a, b = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        a[:only_a] = True
        b[only_a : only_a + only_b] = True
        significant += mcnemar_exact(a, b).p_value < 0.05
    assert significant / draws == pytest.approx(0.8, abs=0.035)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_critical_counts_are_exact(alpha: float) -> None:
    counts = np.concatenate([np.arange(300), [5_000, 60_001]])
    limits = critical_counts(counts, alpha)
    for count, limit in zip(counts, limits, strict=True):
        assert limit < 0 or 2 * stats.binom.cdf(limit, count, 0.5) <= alpha
        assert 2 * stats.binom.cdf(limit + 1, count, 0.5) > alpha


def test_full_disagreement() -> None:
    assert smallest_provable_gap(100, disagreement=1.0) == pytest.approx(0.28, abs=0.02)
    assert smallest_provable_gap(100, disagreement=0.0) is None
