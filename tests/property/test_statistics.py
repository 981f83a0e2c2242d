"""Identities of the statistics, on any input."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from backbench.report.text import cell_width, printable, shorten
from backbench.stats.compare import holm, mcnemar_exact, needed_images, permutation_by_group, rank_rows
from backbench.stats.intervals import wilson_interval
from backbench.stats.metrics import measure_share, score
from backbench.stats.power import smallest_provable_gap
from counts import cases


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, list[bool]]:
    rows, n = draw(st.integers(1, 7)), draw(st.integers(1, 60))
    levels = draw(st.lists(st.integers(0, 100), min_size=rows, max_size=rows))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    correct = rng.random((rows, n)) < np.array(levels)[:, None] / 100
    return correct, draw(st.lists(st.booleans(), min_size=rows, max_size=rows))


@cases(60)
@given(answers(), st.booleans())
def test_law_of_ranks(case: tuple[np.ndarray, list[bool]], grouped: bool) -> None:
    correct, controls = case
    groups = (np.arange(correct.shape[1]) // 3).tolist() if grouped else None
    ranks = rank_rows(correct, controls, groups)
    rows = [row for row in range(len(correct)) if not controls[row]] or list(range(len(correct)))
    best = max(rows, key=lambda row: correct[row].sum())
    m = len(rows)
    for row, rank in enumerate(ranks):
        places = m if row in rows else m + 1
        assert 1 <= rank.rank_low <= rank.rank_high <= places
        assert 0 <= rank.p_value <= 1
        assert rank.tied_with_best or row != best
        if row not in rows:
            assert rank.tied_with_best == (rank.p_value >= 0.05)
            assert rank.regret is None
        else:
            assert rank.regret is not None
            assert rank.regret >= (correct[best].sum() - correct[row].sum()) / (correct.shape[1] + 2) - 1e-9
        if rank.tied_with_best:
            assert rank.rank_low == 1
        assert rank.only_best - rank.only_row == correct[best].sum() - correct[row].sum()
    assert ranks[best].rank_low == 1


@cases(40)
@given(answers(), st.integers(0, 10**6))
def test_the_order_of_images_does_not_matter(case: tuple[np.ndarray, list[bool]], seed: int) -> None:
    correct, controls = case
    rng = np.random.default_rng(seed)
    images = rng.permutation(correct.shape[1])
    ranks = rank_rows(correct, controls)
    assert rank_rows(correct[:, images], controls) == ranks


@cases(100)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_symmetrical_and_exact(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b, dtype=bool)
    there, back = mcnemar_exact(a, ~a), mcnemar_exact(~a, a)
    assert there.p_value == back.p_value
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if len(a) else 1.0
    assert np.isclose(there.p_value, expected, rtol=1e-8, atol=0)
    differences = np.where(a, 1, -1)
    assert np.isclose(permutation_by_group(differences), there.p_value, rtol=1e-6, atol=1e-12)


@cases(60)
@given(st.lists(st.integers(-9, 9), max_size=40))
def test_permutation_is_a_probability_and_has_no_sides(differences: list[int]) -> None:
    p = permutation_by_group(np.array(differences, dtype=int))
    assert 0 < p <= 1
    assert p == permutation_by_group(-np.array(differences, dtype=int))
    assert np.isclose(p, permutation_by_group(np.array([3 * d for d in differences], dtype=int)), atol=1e-12)


@cases(100)
@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_is_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    given_p = np.array(p_values)
    assert (adjusted >= given_p).all()
    assert (adjusted <= np.minimum(1, given_p * len(p_values)) + 1e-12).all()
    assert (np.argsort(adjusted, kind="stable") == np.argsort(np.maximum(adjusted, 0), kind="stable")).all()
    order = np.argsort(given_p)
    assert (np.diff(adjusted[order]) >= 0).all()


@cases(100)
@given(st.integers(1, 10**6), st.data())
def test_wilson_brackets(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert low < high
    mirrored = wilson_interval(n - correct, n)
    assert np.allclose((1 - high, 1 - low), mirrored, atol=1e-12)


@cases(30)
@given(st.integers(1, 80), st.integers(1, 20), st.integers(0, 10**6))
def test_grouped_interval_brackets_and_contains_wilson(n: int, num_groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    correct, groups = rng.random(n) < rng.random(), rng.integers(0, num_groups, n)
    metric = measure_share(correct, groups.tolist())
    low, high = metric.low, metric.high
    assert low is not None
    assert high is not None
    assert 0 <= low <= correct.mean() <= high <= 1
    numbers = np.unique(groups)
    if len(numbers) > 1 and np.ptp([correct[groups == g].mean() for g in numbers]) > 0:
        plain = wilson_interval(int(correct.sum()), n)
        assert low <= plain[0]
        assert high >= plain[1]


@cases(60)
@given(st.integers(1, 60), st.integers(2, 9), st.integers(0, 10**6))
def test_scores_stay_in_range_and_ignore_order(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 10 ** rng.uniform(-1, 3)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(0, classes, n)
    found = score(probabilities, labels)
    for name, metric in found.items():
        assert 0 <= metric.value <= {"nll": 28, "brier": 2 + 1e-6}.get(name, 1), name
        assert metric.low is None or metric.high is None or metric.low <= metric.value <= metric.high, name
    order = rng.permutation(n)
    again = score(probabilities[order], labels[order])
    assert {name: round(metric.value, 9) for name, metric in found.items()} == {
        name: round(metric.value, 9) for name, metric in again.items()
    }
    renamed = rng.permutation(classes)
    moved = score(probabilities[:, np.argsort(renamed)], renamed[labels])
    ties = (np.sort(probabilities, axis=1)[:, -1] == np.sort(probabilities, axis=1)[:, -2]).any()
    assert ties or round(moved["macro_f1"].value, 9) == round(found["macro_f1"].value, 9)


@cases(60)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 1000))
def test_needed_images_shrink_with_the_gap(only_a: int, only_b: int, extra: int) -> None:
    n = only_a + only_b + extra
    needed = needed_images(only_a, only_b, n)
    assert (needed is None) == (only_a == only_b)
    if needed is not None:
        assert needed > 0
        assert needed == needed_images(only_b, only_a, n)
        assert needed <= (needed_images(only_a, only_b, n, power=0.9) or 0)


@cases(15)
@given(st.integers(20, 5000), st.floats(0.01, 0.5))
def test_provable_gap_is_possible(n: int, disagreement: float) -> None:
    gap = smallest_provable_gap(n, disagreement=disagreement)
    assert gap is None or 0 < gap <= disagreement
    more = smallest_provable_gap(4 * n, disagreement=disagreement)
    assert gap is None or (more is not None and more < gap)


@cases(200)
@given(st.text(max_size=60), st.integers(0, 40))
def test_any_name_becomes_one_harmless_line(name: str, width: int) -> None:
    shown = printable(name)
    assert printable(shown) == shown
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000 for char in shown)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert cell_width(shorten(shown, width)) <= width


@cases(20)
@given(arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 40))))
def test_rows_that_answer_alike_are_all_first(row: np.ndarray) -> None:
    same = np.repeat(row[:1], 4, axis=0)
    assert {(rank.rank_low, rank.rank_high) for rank in rank_rows(same, [False] * 4)} == {(1, 4)}
