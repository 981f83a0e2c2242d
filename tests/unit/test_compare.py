"""Paired tests, ranks and alarms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from backbench.stats.compare import (
    control_alarms,
    design_effect,
    holm,
    mcnemar_exact,
    needed_images,
    permutation_by_group,
    rank_rows,
    unbeaten_controls,
    units_to_prove,
)
from backbench.stats.power import critical_counts


def _pair(only_a: int, only_b: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    a[only_a : only_a + only_b] = False
    b[:only_a] = False
    return a, b


@pytest.mark.parametrize(
    ("only_a", "only_b"),
    [(0, 0), (1, 0), (0, 5), (5, 6), (6, 6), (1, 9), (20, 41), (300, 200), (0, 60), (4000, 3900)],
)
def test_mcnemar_is_scipys_binomial_test(only_a: int, only_b: int) -> None:
    found = mcnemar_exact(*_pair(only_a, only_b, 10_000))
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert (found.only_a, found.only_b, found.n) == (only_a, only_b, 10_000)
    assert found.p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_a_million_images() -> None:
    found = mcnemar_exact(*_pair(251_000, 249_500, 1_000_000))
    assert found.p_value == pytest.approx(stats.binomtest(251_000, 500_500).pvalue, rel=1e-6)
    assert mcnemar_exact(*_pair(900_000, 1_000, 1_000_000)).p_value == 0.0  # below the smallest float


def test_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="can't be paired"):
        mcnemar_exact(np.ones(3, dtype=bool), np.ones(4, dtype=bool))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    assert holm([0.04]).tolist() == [0.04]


def _by_enumeration(differences: list[int]) -> float:
    seen = abs(sum(differences))
    signs = itertools.product((-1, 1), repeat=len(differences))
    totals = [abs(sum(s * d for s, d in zip(sign, differences, strict=True))) for sign in signs]
    return sum(total >= seen for total in totals) / len(totals)


@pytest.mark.parametrize("seed", range(8))
def test_permutation_counts_every_swap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-4, 7, size=int(rng.integers(1, 11))).tolist()
    assert permutation_by_group(np.array(differences)) == pytest.approx(_by_enumeration(differences), abs=1e-12)


def test_permutation_of_single_images_is_mcnemar() -> None:
    for only_a, only_b in ((9, 1), (60, 90), (0, 40), (3, 3)):
        differences = np.array([1] * only_a + [-1] * only_b + [0] * 20)
        expected = mcnemar_exact(*_pair(only_a, only_b, 200)).p_value
        assert permutation_by_group(differences) == pytest.approx(expected, rel=1e-6, abs=1e-13)
    assert permutation_by_group(np.zeros(5, dtype=int)) == 1.0
    assert 0 < permutation_by_group(np.ones(400, dtype=int)) < 1e-100


def test_permutation_keeps_its_level_where_mcnemar_does_not(test_scale: float) -> None:
    """Two rows equally good, but all images of a group go the same way."""
    rng = np.random.default_rng(5)
    draws = int(400 * test_scale)
    grouped, single = 0, 0
    for _ in range(draws):
        favour = np.repeat(rng.integers(0, 2, 30).astype(bool), 8)
        disagree = rng.random(240) < 0.3
        a, b = favour | ~disagree, ~favour | ~disagree
        groups = np.repeat(np.arange(30), 8)
        grouped += permutation_by_group(np.bincount(groups, weights=a.astype(int) - b.astype(int))) < 0.05
        single += mcnemar_exact(a, b).p_value < 0.05
    assert grouped / draws <= 0.08
    assert single / draws > 0.10


def _rows(*accuracies: float, n: int = 1000) -> np.ndarray:
    """Rows that are right on the first images: nested, so that differences are all discordant one way."""
    return np.stack([np.arange(n) < round(accuracy * n) for accuracy in accuracies])


def test_clear_order() -> None:
    ranks = rank_rows(_rows(0.7, 0.9, 0.8), [False] * 3)
    assert [(rank.rank_low, rank.rank_high) for rank in ranks] == [(3, 3), (1, 1), (2, 2)]
    assert [rank.tied_with_best for rank in ranks] == [False, True, False]
    assert ranks[1].p_value == 1.0
    assert ranks[0].p_value < 0.001
    assert (ranks[0].only_best, ranks[0].only_row) == (200, 0)


def test_ties() -> None:
    ranks = rank_rows(_rows(0.900, 0.899, 0.897, 0.5), [False] * 4)
    assert [(rank.rank_low, rank.rank_high) for rank in ranks] == [(1, 3), (1, 3), (1, 3), (4, 4)]
    assert [rank.tied_with_best for rank in ranks] == [True, True, True, False]


def test_a_row_outside_the_set_need_not_be_proved_worse() -> None:
    """It is not the best, or equal to it: its places begin at 1, but it is not tied."""
    rng = np.random.default_rng(12)
    found = []
    for _ in range(40):
        rows = rng.random((6, 300)) < np.array([0.90, 0.83, 0.83, 0.83, 0.83, 0.83])[:, None]
        found += [rank for rank in rank_rows(rows, [False] * 6) if not rank.tied_with_best and rank.rank_low == 1]
    assert found
    assert all(rank.p_value >= 0.05 for rank in found)


def test_more_rows_widen_the_tie_group() -> None:
    """p = 0.03 alone is a difference; among six rows it is none."""
    n = 1000
    rows = [np.ones(n, dtype=bool) for _ in range(6)]
    rows[1][:6] = False  # six images only the best gets right: p = 0.031
    for number, row in enumerate(rows[2:]):
        row[10 + 9 * number : 17 + 9 * number] = False
    assert rank_rows(np.stack(rows[:2]), [False, False])[1].p_value < 0.05
    assert rank_rows(np.stack(rows), [False] * 6)[1].p_value > 0.05


def test_the_first_among_equals_is_the_best() -> None:
    rows = np.zeros((3, 100), dtype=bool)
    rows[0, :50] = rows[1, 50:] = True
    ranks = rank_rows(rows, [False] * 3)
    assert (ranks[0].only_best, ranks[0].only_row) == (0, 0)
    assert (ranks[1].only_best, ranks[1].only_row) == (50, 50)


def test_controls_take_no_place_and_no_alpha() -> None:
    ordinary = _rows(0.9, 0.88, 0.7)
    with_controls = np.concatenate([ordinary, _rows(0.95, 0.2, 0.885, *[0.1] * 30)])
    ranks = rank_rows(with_controls, [False] * 3 + [True] * 33)
    assert ranks[:3] == rank_rows(ordinary, [False] * 3)
    assert (ranks[3].rank_low, ranks[3].rank_high, ranks[3].tied_with_best) == (1, 1, False)  # beats them all
    assert (ranks[4].rank_low, ranks[4].rank_high) == (4, 4)
    assert (ranks[5].rank_low, ranks[5].rank_high) == (2, 3)
    assert ranks[3].p_value < 0.001


def test_only_controls_are_ranked_like_rows() -> None:
    rows = _rows(0.5, 0.2)
    assert rank_rows(rows, [True, True]) == rank_rows(rows, [False, False])
    assert rank_rows(np.zeros((0, 5), dtype=bool), []) == []


def test_one_row() -> None:
    (rank,) = rank_rows(_rows(0.8), [False])
    assert (rank.rank_low, rank.rank_high, rank.tied_with_best, rank.p_value) == (1, 1, True, 1.0)


def test_groups_make_ties() -> None:
    """30 images of one group are one vote."""
    rows = np.ones((2, 300), dtype=bool)
    rows[1, :30] = False
    groups = np.arange(300) // 30
    assert not rank_rows(rows, [False, False])[1].tied_with_best
    assert rank_rows(rows, [False, False], groups.tolist())[1].tied_with_best


def test_rank_rows_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="3 rows"):
        rank_rows(_rows(0.5, 0.6), [False] * 3)
    with pytest.raises(ValueError, match="2 groups"):
        rank_rows(_rows(0.5, 0.6), [False] * 2, ["a", "b"])


def test_identical_truth_is_rarely_separated(test_scale: float) -> None:
    """Eight equally good rows: the best is declared better than any of them in about 5 % of studies at most."""
    rng = np.random.default_rng(6)
    studies = int(150 * test_scale)
    first_apart = 0
    true_rank_missed = 0
    for _ in range(studies):
        difficulty = rng.random(300)
        rows = rng.random((8, 300)) < 0.6 + 0.4 * (difficulty > 0.3)
        ranks = rank_rows(rows, [False] * 8)
        # a row picked beforehand: is its place within its interval, when all are equal?
        first_apart += ranks[0].rank_low > 1
        true_rank_missed += any(rank.rank_low > 1 or rank.rank_high < 8 for rank in ranks)
    assert first_apart / studies <= 0.05
    assert true_rank_missed / studies <= 0.20


def test_a_truly_better_row_is_found(test_scale: float) -> None:
    rng = np.random.default_rng(7)
    studies = int(60 * test_scale)
    lost = 0
    for _ in range(studies):
        rows = rng.random((5, 600)) < np.array([0.93, 0.80, 0.80, 0.80, 0.60])[:, None]
        ranks = rank_rows(rows, [False] * 5)
        assert ranks[4].rank_low >= 2
        lost += ranks[0].rank_low > 1 or ranks[0].rank_high > 1
    assert lost / studies < 0.05


@pytest.mark.parametrize(
    ("only_a", "only_b", "n"),
    [(24, 12, 400), (12, 4, 200), (6, 1, 100), (5, 2, 312), (60, 40, 1000), (200, 100, 2000)],
)
def test_needed_images_gives_the_power_it_promises(only_a: int, only_b: int, n: int) -> None:
    """The exact power of the exact test at the number of images given: 0.8, as an exact sum with scipy."""
    needed = needed_images(only_a, only_b, n)
    assert needed is not None
    counts = np.arange(200 + needed // 5)
    limits = critical_counts(counts, 0.05)
    found = np.where(limits >= 0, stats.binom.cdf(limits, counts, only_b / (only_a + only_b)), 0)
    power = stats.binom.pmf(counts, needed, (only_a + only_b) / n) @ found
    assert 0.785 <= power <= 0.83


def test_needed_images_edges() -> None:
    assert needed_images(5, 5, 100) is None
    assert needed_images(0, 0, 100) is None
    assert needed_images(1, 0, 0) is None
    few, many = needed_images(10, 5, 300), needed_images(10, 5, 300, design_effect=2.0)
    assert few is not None
    assert many is not None
    assert many == pytest.approx(2 * few, abs=2)
    assert (needed_images(10, 5, 300, alpha=0.005) or 0) > few


def test_design_effect() -> None:
    a, b = _pair(40, 20, 600)
    assert design_effect(a, b, list(range(600))) == 1.0
    assert design_effect(a, b, [row // 10 for row in range(600)]) == pytest.approx(10)
    assert design_effect(a, a, ["x"] * 600) == 1.0


def _alarms(
    controls: dict[str, float], best: float = 0.93, tied: tuple[str, ...] = (), n: int = 1000
) -> list[tuple[str, str]]:
    names = ["convnext", *controls]
    alarms = control_alarms(
        [best, *controls.values()],
        [False] + [True] * len(controls),
        names,
        controls.get("majority", 0.0),
        [True, *(name in tied for name in controls)],
        n=n,
    )
    return [(names[alarm.row], alarm.how) for alarm in alarms]


def test_no_alarm_when_controls_are_far() -> None:
    assert _alarms({"majority": 0.17, "colour": 0.31, "file-facts": 0.2, "untrained": 0.4}) == []


def test_controls_that_make_more_than_half_of_the_gain_alarm_and_the_worst_comes_first() -> None:
    assert _alarms({"majority": 0.17, "file-facts": 0.71, "colour": 0.31}) == [("file-facts", "half")]
    both = _alarms({"majority": 0.17, "colour": 0.6, "file-facts": 0.71})
    assert both == [("file-facts", "half"), ("colour", "half")]


def test_of_each_family_of_controls_the_best_alarms() -> None:
    assert _alarms({"untrained_cnn": 0.8, "untrained-vit": 0.9, "own": 0.7}) == [
        ("untrained-vit", "half"),
        ("own", "half"),
    ]


def test_alarm_of_a_tied_or_winning_control() -> None:
    assert _alarms({"majority": 0.5, "colour": 0.92}, tied=("colour",)) == [("colour", "tied")]
    assert _alarms({"majority": 0.5, "untrained": 0.95}) == [("untrained", "above")]
    assert _alarms({"majority": 0.9}, best=0.91, tied=("majority",)) == [("majority", "tied")]


def test_a_tie_far_below_blames_the_number_of_images_and_not_the_data() -> None:
    controls = {"majority": 0.25, "untrained": 0.5}
    assert _alarms(controls, best=0.84, tied=("untrained",), n=32) == [("untrained", "few")]


def test_no_alarm_by_chance() -> None:
    """More than half of a small gain, on few images, is not clearly above the majority class."""
    assert _alarms({"majority": 0.50, "colour": 0.56}, best=0.60, n=50) == []
    assert _alarms({"majority": 0.50, "colour": 0.56}, best=0.60, n=5000) != []


def test_no_alarm_without_rows_to_compare() -> None:
    assert control_alarms([0.5], [True], ["colour"], 0.2, [True], n=100) == []


def test_a_control_no_better_than_the_majority_class_is_no_shortcut() -> None:
    names, controls = ["net", "file-facts", "majority"], [False, True, True]
    said = control_alarms([1.0, 1 / 3, 1 / 3], controls, names, 1 / 3, [True, True, True], n=6)
    assert len(said) == 1
    assert (said[0].row, said[0].is_near) == (2, True)
    assert len(control_alarms([1.0, 0.9, 1 / 3], controls, names, 1 / 3, [True, True, False], n=6)) == 1


def test_a_control_is_beaten_by_more_right_answers_that_are_proved() -> None:
    n = 200

    def answers(*wrong: range) -> np.ndarray:
        right = np.ones(n, dtype=bool)
        for part in wrong:
            right[list(part)] = False
        return right

    rows = np.stack([answers(range(10)), answers(range(80, 140)), answers(range(60)), answers(range(150))])
    controls = [False, False, True, True]
    assert unbeaten_controls(rows, controls) == [(), (2,), (), ()]
    assert unbeaten_controls(rows[[1, 3, 2]], [False, True, True]) == [(2,), (), ()]
    assert unbeaten_controls(rows[2:], [True, True]) == [(), ()]
    # a control that is better beyond doubt is not beaten either, and of several the strongest comes first
    assert unbeaten_controls(rows[[3, 1, 0]], [False, True, True]) == [(2, 1), (), ()]
    # where all images hang together nothing is proved
    assert unbeaten_controls(rows[:3], controls[:3], ["one"] * n) == [(2,), (2,), ()]


@pytest.mark.parametrize("num_rows", [1, 2, 4, 13])
def test_a_proof_takes_so_many_test_images_or_groups(num_rows: int) -> None:
    needed = units_to_prove()
    for units, groups in ((needed, None), (needed, np.repeat(np.arange(needed), 5).tolist())):
        for fewer in (0, 1):
            n = (units - fewer) * (1 if groups is None else 5)
            correct = np.stack([*np.ones((num_rows, n), dtype=bool), np.zeros(n, dtype=bool)])
            told = unbeaten_controls(correct, [False] * num_rows + [True], None if groups is None else groups[:n])
            assert [bool(each) for each in told[:num_rows]] == [bool(fewer)] * num_rows
