"""Error rates of comparisons that hold for all rows together, by simulation; the same without correction fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from backbench.stats.compare import mcnemar_exact, permutation_by_group
from backbench.stats.simultaneous import compare_rows, reference_tests
from backbench.stats.winner import correct_winner


def draw_rows(
    rng: np.random.Generator, accuracies: list[float], n: int, *, groups: np.ndarray | None = None
) -> np.ndarray:
    """(rows, n) bool: rows that agree on most images (correlation 0.7); images of a group are alike (0.3)."""
    rows = len(accuracies)
    value = math.sqrt(0.7) * rng.standard_normal(n) + math.sqrt(0.3) * rng.standard_normal((rows, n))
    if groups is not None:
        num = groups.max() + 1
        shared = math.sqrt(0.7) * rng.standard_normal(num) + math.sqrt(0.3) * rng.standard_normal((rows, num))
        value = math.sqrt(0.7) * value + math.sqrt(0.3) * shared[:, groups]
    bounds = np.array([NormalDist().inv_cdf(accuracy) for accuracy in accuracies])
    return np.asarray(value < bounds[:, None])


def share(studies: int, study: Callable[[np.random.Generator], bool], seed: int) -> float:
    rng = np.random.default_rng(seed)
    return sum(study(rng) for _ in range(studies)) / studies


def test_no_equally_good_row_is_called_worse(test_scale: float) -> None:
    """8 equal rows: any pair separated in 5 % of studies at most. The highest and the lowest
    alone, by the exact test of two rows that were named before, far more often."""

    def errs(rng: np.random.Generator) -> bool:
        found = compare_rows(draw_rows(rng, [0.8] * 8, 200), draws=500)
        return bool((found.p_values < 0.05).any())

    def errs_alone(rng: np.random.Generator) -> bool:
        rows = draw_rows(rng, [0.8] * 8, 200)
        return mcnemar_exact(rows[rows.sum(axis=1).argmax()], rows[rows.sum(axis=1).argmin()]).p_value < 0.05

    studies = int(100 * test_scale)
    assert share(studies, errs, 1) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    assert share(studies, errs_alone, 1) > 0.25


@pytest.mark.parametrize(("gap", "n"), [(0.0, 200), (0.02, 200), (0.02, 60)])
def test_the_set_holds_the_best_and_the_certificate_holds(gap: float, n: int, test_scale: float) -> None:
    """In 95 % of studies; the bound of the two highest rows alone, as if they had been named before, does not."""
    accuracies = [0.85 - gap * place for place in range(8)]

    def study(rng: np.random.Generator) -> tuple[bool, bool, bool]:
        rows = draw_rows(rng, accuracies, n)
        found = compare_rows(rows, draws=500)
        chosen = int(rows.sum(axis=1).argmax())
        second = int(np.argsort(-rows.sum(axis=1))[1])
        missed = max(accuracies) - accuracies[chosen]
        plain = (rows[second].mean() - rows[chosen].mean()) + 1.645 * np.std(
            rows[second].astype(float) - rows[chosen]
        ) / math.sqrt(n)
        return bool(found.may_be_best[0]), missed <= found.regret(chosen), missed <= max(0.0, plain)

    rng, studies = np.random.default_rng(2), int(100 * test_scale)
    held = np.mean([study(rng) for _ in range(studies)], axis=0)
    assert held[0] >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / studies)
    assert held[1] >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / studies)
    assert held[2] < held[1] or gap == 0.0


def test_groups_are_drawn_whole(test_scale: float) -> None:
    """12 groups of 20 images: images taken for separate ones leave the best out of the set far too often."""
    groups = np.repeat(np.arange(12), 20)

    def misses(rng: np.random.Generator, names: list[int] | None) -> bool:
        rows = draw_rows(rng, [0.8] * 6, 240, groups=groups)
        return not compare_rows(rows, names, draws=500).may_be_best[0]

    studies = int(100 * test_scale)
    whole = share(studies, lambda rng: misses(rng, groups.tolist()), 3)
    single = share(studies, lambda rng: misses(rng, None), 3)
    assert whole <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    assert single > whole


def test_two_rows_are_compared_by_the_exact_test() -> None:
    rng = np.random.default_rng(4)
    for n in (12, 40, 300):
        rows = draw_rows(rng, [0.9, 0.7], n)
        p_value = compare_rows(rows, draws=20_000).p_values[0, 1]
        assert p_value == pytest.approx(mcnemar_exact(*rows).p_value, abs=0.012)
        groups = np.arange(n) // 4
        differences = np.bincount(groups, weights=rows[0].astype(float) - rows[1])
        grouped = compare_rows(rows, groups.tolist(), draws=20_000).p_values[0, 1]
        assert grouped == pytest.approx(permutation_by_group(np.rint(differences)), abs=0.012)


def test_a_clear_winner_is_found_and_costs_nothing() -> None:
    rows = draw_rows(np.random.default_rng(5), [0.95, 0.8, 0.8, 0.6], 600)
    found = compare_rows(rows)
    assert found.may_be_best.tolist() == [True, False, False, False]
    assert found.regret(0) == 0.0
    assert 0.1 < found.regret(1) < 0.25
    assert (found.p_values[0, 1:] < 0.001).all()
    assert np.array_equal(found.p_values, found.p_values.T)


def test_rows_that_never_differ_are_tied_and_still_uncertain() -> None:
    rows = np.stack([np.arange(80) < 60] * 3)
    found = compare_rows(rows)
    assert (found.p_values == 1).all()
    assert found.may_be_best.all()
    assert 0.01 < found.regret(0) < 0.06  # no difference in 80 images is no proof that there is none


def test_the_order_of_images_and_of_names_makes_no_difference() -> None:
    rng = np.random.default_rng(6)
    rows, groups = draw_rows(rng, [0.9, 0.8, 0.8], 90), np.arange(90) // 3
    moved = rng.permutation(90)
    for names, others in ((None, None), (groups.tolist(), [f"g{29 - g}" for g in groups[moved]])):
        first, second = compare_rows(rows, names), compare_rows(rows[:, moved], others)
        assert np.array_equal(first.p_values, second.p_values)
        np.testing.assert_allclose(first.bounds, second.bounds, atol=1e-6)


def test_pairs_are_compared_on_the_images_that_both_have() -> None:
    rng = np.random.default_rng(7)
    rows = draw_rows(rng, [0.9, 0.85, 0.8], 400)
    has_answer = np.ones((3, 400), dtype=bool)
    has_answer[2, 100:] = False  # trained on one fold
    found = compare_rows(rows, has_answer=has_answer)
    whole, part = compare_rows(rows[:2]), compare_rows(rows[[0, 2]][:, :100])
    assert found.p_values[0, 2] == pytest.approx(part.p_values[0, 1], abs=0.06)
    assert found.p_values[0, 1] == pytest.approx(whole.p_values[0, 1], abs=0.06)
    widths = [found.bounds[row, 0] + found.bounds[0, row] for row in (1, 2)]
    assert widths[1] > 1.5 * widths[0], "fewer images, wider bounds"


def test_models_fitted_on_overlapping_images_are_less_certain() -> None:
    rows = draw_rows(np.random.default_rng(8), [0.86, 0.80, 0.80], 400)
    plain, spread = compare_rows(rows), compare_rows(rows, spread=1.25)
    assert (spread.p_values >= plain.p_values).all()
    assert spread.regret(1) > plain.regret(1)


def test_tests_against_one_row_hold_together() -> None:
    rows = draw_rows(np.random.default_rng(9), [0.9, 0.9, 0.6, 0.6], 300)
    p_values = reference_tests(rows[:3], rows[3])
    assert p_values.shape == (3,)
    assert (p_values < 0.05).tolist() == [True, True, False]
    assert (p_values >= [mcnemar_exact(row, rows[3]).p_value for row in rows[:3]] - np.float64(0.02)).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="rows, n"):
        compare_rows(np.ones((2, 3), dtype=bool), has_answer=np.ones((2, 4), dtype=bool))
    with pytest.raises(ValueError, match="2 groups for 3 images"):
        compare_rows(np.ones((2, 3), dtype=bool), ["a", "b"])
    one = compare_rows(np.ones((1, 3), dtype=bool))
    assert (one.may_be_best.tolist(), one.regret(0)) == ([True], 0.0)


@pytest.mark.parametrize(("rows", "gap"), [(8, 0.0), (20, 0.0), (8, 0.02)])
def test_the_winner_s_figure_is_free_of_its_luck(rows: int, gap: float, test_scale: float) -> None:
    """Of the highest of many rows: the raw figure is points too high, the corrected one is not, and its interval
    covers although the usual one does not."""
    rng, studies, n = np.random.default_rng(10), int(60 * test_scale), 200
    accuracies = [0.8 - gap * place for place in range(rows)]
    raw, corrected, covered = [], [], []
    for _ in range(studies):
        right = draw_rows(rng, accuracies, n)
        best = int(right.sum(axis=1).argmax())
        found = correct_winner(right, best, draws=200)
        raw.append(right[best].mean() - accuracies[best])
        corrected.append(found.accuracy - accuracies[best])
        covered.append(found.low <= accuracies[best] <= found.high)
    noise = 3 * np.std(corrected) / math.sqrt(studies)
    assert abs(np.mean(corrected)) <= noise + 0.003
    assert np.mean(raw) > np.mean(corrected) + 0.006
    assert np.mean(covered) >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / studies)


def test_one_row_needs_no_correction() -> None:
    right = np.arange(100)[None] < 90
    assert correct_winner(right, 0).accuracy == 0.9
    assert correct_winner(right, 0).low < 0.9 < correct_winner(right, 0).high
