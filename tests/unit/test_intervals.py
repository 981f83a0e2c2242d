"""Intervals cover the truth as often as they say."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from scipy import stats

from backbench.stats.distributions import beta_below, binomial_below, student_quantile
from backbench.stats.intervals import (
    by_unit,
    group_numbers,
    share_interval,
    wilson_interval,
)


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (290, 312), (7, 10), (9300, 10000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(correct: int, n: int, level: float) -> None:
    expected = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    assert wilson_interval(correct, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_gives_the_published_figures() -> None:
    """93 % of 100, 312, 1,000 and 10,000 images."""
    shown = [tuple(round(100 * end, 1) for end in wilson_interval(0.93 * n, n)) for n in (100, 312, 1000, 10000)]
    assert shown == [(86.3, 96.6), (89.6, 95.3), (91.2, 94.4), (92.5, 93.5)]


def test_wilson_edges() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for correct, n in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="correct predictions of"):
            wilson_interval(correct, n)


def test_wilson_covers(test_scale: float) -> None:
    rng = np.random.default_rng(0)
    for truth, n in ((0.5, 30), (0.93, 100), (0.93, 312), (0.99, 200)):
        drawn = rng.binomial(n, truth, int(2000 * test_scale))
        covered = np.mean([low <= truth <= high for low, high in (wilson_interval(int(k), n) for k in drawn)])
        assert 0.925 <= covered <= 0.98, (truth, n)


def _grouped(rng: np.random.Generator, num_groups: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Answers with a mean of 0.8, alike within a group: group rates are Beta distributed."""
    sizes = rng.integers(3, 20, num_groups)
    rates = rng.beta(0.8 * spread, 0.2 * spread, num_groups)
    groups = np.repeat(np.arange(num_groups), sizes)
    return rng.random(len(groups)) < rates[groups], groups


def _interval(correct: np.ndarray, groups: Sequence[Hashable | None]) -> tuple[float, float]:
    right, sizes = by_unit(correct[None], groups)
    return share_interval(right[0], sizes)


@pytest.mark.parametrize("num_groups", [6, 15, 60])
def test_the_interval_of_groups_covers_where_wilson_does_not(num_groups: int, test_scale: float) -> None:
    rng = np.random.default_rng(2)
    draws = int(400 * test_scale)
    covered, plain = 0, 0
    for _ in range(draws):
        correct, groups = _grouped(rng, num_groups, spread=2)
        low, high = _interval(correct, groups.tolist())
        covered += low <= 0.8 <= high
        low, high = wilson_interval(int(correct.sum()), len(correct))
        plain += low <= 0.8 <= high
    assert covered / draws >= 0.93
    assert plain / draws < 0.80


def test_the_interval_of_single_images_is_wilsons() -> None:
    correct = np.arange(400) % 10 > 0
    assert _interval(correct, [None] * 400) == wilson_interval(360, 400)


def test_groups_that_do_not_differ_count_as_one_image_each() -> None:
    """All right in 5 groups of 100 is no more certain than 5 of 5, and less by Student's t."""
    low, high = _interval(np.ones(500, dtype=bool), [row // 100 for row in range(500)])
    assert low < wilson_interval(5, 5)[0]
    assert high == 1.0
    assert _interval(np.ones(7, dtype=bool), ["a"] * 7) == wilson_interval(1, 1)


def test_groups_of_unequal_size_count_by_their_share() -> None:
    """One group that holds most images leaves little to learn from, however many others there are."""
    rng = np.random.default_rng(3)
    correct = rng.random(300) < 0.8
    even, uneven = np.arange(300) // 10, np.maximum(0, np.arange(300) - 270)
    narrow, wide = _interval(correct, even.tolist()), _interval(correct, uneven.tolist())
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_units_refuse_groups_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        by_unit(np.ones((1, 3), dtype=bool), ["a", "b"])


def test_none_is_a_group_of_its_own() -> None:
    assert group_numbers(["a", None, "a", None, 0, 1]).tolist() == [0, 1, 0, 2, 3, 4]


def test_distributions_are_scipys() -> None:
    rng = np.random.default_rng(4)
    a, b, x = rng.uniform(0.1, 500, 2000), rng.uniform(0.1, 500, 2000), rng.random(2000)
    np.testing.assert_allclose(beta_below(a, b, x), stats.beta.cdf(x, a, b), rtol=1e-9, atol=1e-14)
    assert beta_below(np.array([2.0, 2.0]), np.array([3.0, 3.0]), np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    trials = rng.integers(0, 100_000, 500)
    successes = (trials * rng.uniform(-0.1, 1.1, 500)).astype(int)
    for probability in (0.1, 0.5):
        expected = stats.binom.cdf(successes, trials, probability)
        np.testing.assert_allclose(binomial_below(successes, trials, probability), expected, rtol=1e-6, atol=1e-13)
    for degrees in (1, 2, 9, 500):
        assert student_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
