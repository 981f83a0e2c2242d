"""Paired tests on the same images, rank intervals, ties, and alarms of shortcut baselines."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from backbench.stats.distributions import binomial_below, normal_quantile
from backbench.stats.intervals import group_numbers, wilson_interval
from backbench.stats.simultaneous import ALPHA, compare_rows, reference_tests


@dataclass(frozen=True)
class PairTest:
    """Two rows on the same n images: images that only one of them predicts correctly, and the two-sided p."""

    only_a: int
    only_b: int
    n: int
    p_value: float


@dataclass(frozen=True)
class Rank:
    """Rank interval of a row: places `rank_low`..`rank_high` (1 is best), and its test against the best row.

    `only_best` and `only_row` count images that only the best or only this row predicts correctly. `regret` is its
    certificate: the most that any other row may be better, as a share of the images; None for a control.
    """

    rank_low: int
    rank_high: int
    tied_with_best: bool
    p_value: float
    only_best: int
    only_row: int
    regret: float | None = None


def mcnemar_exact(a_correct: np.ndarray, b_correct: np.ndarray) -> PairTest:
    """The exact two-sided McNemar test of two rows.

    If both are equally good, each image that only one predicts correctly is equally likely to favour either.

    Args:
        a_correct, b_correct: (n,) bool, on the same images.

    Cost: O(n), about 1 ms at n = 10,000. Source: McNemar 1947; the binomial tail is taken in log space.
    """
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"rows of {a.shape} and {b.shape} predictions can't be paired")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p_value = float(_sign_tests(np.array([only_a]), np.array([only_b]))[0])
    return PairTest(only_a, only_b, len(a), p_value)


def _sign_tests(only_a: np.ndarray, only_b: np.ndarray) -> np.ndarray:
    """Two-sided p of so many heads against so many tails of a fair coin, elementwise; symmetrical."""
    fewer, trials = np.minimum(only_a, only_b), only_a + only_b
    return np.minimum(1.0, 2 * binomial_below(fewer, trials, 0.5))


def permutation_by_group(differences: np.ndarray) -> float:
    """Two-sided p of grouped test images: a permutation test of whole groups.

    If the rows are equally good, swapping their predictions in any group has no effect. The p-value is the share
    of all 2^groups swaps whose total difference is at least as large as the observed one. All are counted, without
    random draws: the distribution of a sum of +-d is the inverse Fourier transform of a product of
    cosines. With one image in each group this is the exact McNemar test.

    Args:
        differences: (groups,) int: correct predictions in the group of the first row, minus those of the second.

    Cost: O(D V + D log D), D = sum of |differences|, V = number of different values; about 1 ms at D = 1,000.
    """
    sizes = np.abs(np.asarray(differences, dtype=np.int64))
    sizes = sizes[sizes > 0]
    total, seen = int(sizes.sum()), abs(int(np.asarray(differences).sum()))
    if seen == 0:
        return 1.0
    length = 2 * total + 2
    turns = np.cos(2 * np.pi * np.arange(length) / length)
    steps = np.arange(length // 2 + 1)
    transform = np.ones(len(steps))
    values, counts = np.unique(sizes, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        transform *= _power(turns[steps * value % length], count)
    chances = np.fft.irfft(transform, length)
    extreme = float(chances[seen : total + 1].sum())  # the other tail mirrors this one
    return min(1.0, max(2 * extreme, 2.0 ** (1 - min(len(sizes), 1000))))


def _power(values: np.ndarray, count: int) -> np.ndarray:
    """values ** count for a whole count >= 1, by squaring: far faster than pow() on arrays."""
    result = np.ones_like(values)
    while count:
        if count % 2:
            result *= values
        values = values * values
        count //= 2
    return result


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjustment: (k,) p-values that hold simultaneously; at most 1, never below the given ones.

    Rejecting below alpha keeps the family-wise error rate at most alpha.
    Source: Holm 1979.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    steps = given[order] * (len(given) - np.arange(len(given)))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(given) else steps
    return adjusted


def rank_rows(
    correct: np.ndarray,
    is_control: Sequence[bool],
    groups: Sequence[Hashable | None] | None = None,
    alpha: float = ALPHA,
    *,
    against: Mapping[int, np.ndarray] | None = None,
) -> list[Rank]:
    """Rank intervals, ties and certificates of rows on the same test images, in the given order.

    Rules, see `simultaneous.compare_rows`:
    - The best is the row with most correct predictions that is not a control (the first of equals).
    - A row is tied with the best if it is in the set that has the truly best row with probability 1 - `alpha`.
    - Two rows are separated when their p-value among all pairs is below `alpha`; a tied row is not separated from
      any that is better. A row that is neither tied nor separated is not the best, but no single test
      shows which row is better.
    - `rank_low` = 1 + rows separated and better; `rank_high` = rows - rows separated and worse.
    - A control (shortcut baseline) is tested against all other rows in its own family and ranked as if it were one
      of them, without using a place or a share of alpha. If all rows are controls, all count as rows.

    Args:
        correct: (rows, n) bool.
        is_control: for each row.
        groups: n group names: whole groups are drawn; None: separate images.
        alpha: level of all tests of the rows together, and of the tests of each control.
        against: the tests against controls, if `control_tests` was called already.

    Cost: as `compare_rows`, once for the rows and once, against them, for each control.
    """
    correct = np.asarray(correct, dtype=bool)
    if correct.ndim != 2 or len(is_control) != len(correct):
        raise ValueError(f"predictions {correct.shape} for {len(is_control)} rows")
    if groups is not None and len(groups) != correct.shape[1]:
        raise ValueError(f"{len(groups)} groups for {correct.shape[1]} images")
    rows = rows_to_rank(is_control)
    if not rows:
        return []
    found = compare_rows(correct[rows], groups, alpha=alpha)
    right = correct.sum(axis=1)
    best = max(range(len(rows)), key=lambda place: int(right[rows[place]]))  # max() keeps the first among equals
    ranks: dict[int, Rank] = {}
    for place, row in enumerate(rows):
        better = (found.p_values[place] < alpha) & (right[rows] > right[row]) & (not found.may_be_best[place])
        worse = (found.p_values[place] < alpha) & (right[rows] < right[row]) & ~found.may_be_best
        ranks[row] = Rank(
            rank_low=1 + int(better.sum()),
            rank_high=len(rows) - int(worse.sum()),
            tied_with_best=bool(found.may_be_best[place]),
            p_value=float(found.p_values[best, place]),
            **_count_only(correct[rows[best]], correct[row]),
            regret=found.regret(place),
        )
    if against is None:
        against = control_tests(correct, is_control, groups)
    for row, p in against.items():
        apart = p < alpha
        is_tied = not apart[best]
        ranks[row] = Rank(
            rank_low=1 if is_tied else 1 + int((apart & (right[rows] > right[row])).sum()),
            rank_high=len(rows) + 1 - int((apart & (right[rows] < right[row])).sum()),
            tied_with_best=is_tied,
            p_value=float(p[best]),
            **_count_only(correct[rows[best]], correct[row]),
        )
    return [ranks[row] for row in range(len(correct))]


def control_tests(
    correct: np.ndarray, is_control: Sequence[bool], groups: Sequence[Hashable | None] | None = None
) -> dict[int, np.ndarray]:
    """Control -> p-values of its tests against all rows that are not controls, see `reference_tests`."""
    rows = [row for row in range(len(correct)) if not is_control[row]]
    controls = [row for row in range(len(correct)) if is_control[row]] if rows else []
    return {control: reference_tests(correct[rows], correct[control], groups) for control in controls}


def rows_to_rank(is_control: Sequence[bool]) -> list[int]:
    """The rows that are not controls, or all if all are."""
    return [row for row in range(len(is_control)) if not is_control[row]] or list(range(len(is_control)))


def _count_only(best: np.ndarray, row: np.ndarray) -> dict[str, int]:
    return {"only_best": int((best & ~row).sum()), "only_row": int((row & ~best).sum())}


def unbeaten_controls(
    correct: np.ndarray,
    is_control: Sequence[bool],
    groups: Sequence[Hashable | None] | None = None,
    alpha: float = ALPHA,
    *,
    against: Mapping[int, np.ndarray] | None = None,
) -> list[tuple[int, ...]]:
    """For each row the controls that it does not beat significantly, strongest first; () for a control itself.

    A row beats a control if it has more correct predictions and the test in the control's family is significant,
    as in `rank_rows`, whose arguments these are.

    Cost: as `reference_tests`, for each control.
    """
    correct = np.asarray(correct, dtype=bool)
    right = correct.sum(axis=1)
    rows = [row for row in range(len(correct)) if not is_control[row]]
    found: list[tuple[int, ...]] = [()] * len(correct)
    if against is None:
        against = control_tests(correct, is_control, groups)
    for control in sorted(against, key=lambda control: -int(right[control])):
        for row, p_value in zip(rows, against[control].tolist(), strict=True):
            if right[row] <= right[control] or p_value >= alpha:
                found[row] += (control,)
    return found


def units_to_prove(alpha: float = ALPHA) -> int:
    """Minimum number of test images (or groups) with which any row can be significantly better than another.

    If each of k favours the same row, swapping its predictions with those of the other gives p = 2^(1 - k). With 5
    groups no difference is significant; several rows that differ from one another need more.
    """
    return math.floor(1 - math.log2(alpha)) + 1


def needed_images(
    only_a: int, only_b: int, n: int, *, power: float = 0.8, alpha: float = ALPHA, design_effect: float = 1.0
) -> int | None:
    """Estimate the test images needed to separate two rows, if the observed difference is the true one.

    Args:
        only_a, only_b: images that only the one or only the other predicts correctly.
        n: number of test images.
        power: probability of detecting the difference; alpha: level of the test.
        design_effect: variance of the difference with grouped images over that of separate ones.

    Returns: images, or None without a difference.
    Source: Connor 1987, with 1/gap added because the exact test is stricter than the normal one.
    """
    if only_a == only_b or n < 1:
        return None
    disagreement, gap = (only_a + only_b) / n, abs(only_a - only_b) / n
    z_test, z_power = normal_quantile(1 - alpha / 2), normal_quantile(power)
    root = z_test * math.sqrt(disagreement) + z_power * math.sqrt(max(0.0, disagreement - gap * gap))
    return math.ceil(design_effect * (root * root / (gap * gap) + 1 / gap))


def design_effect(a_correct: np.ndarray, b_correct: np.ndarray, groups: Sequence[Hashable | None]) -> float:
    """How much grouping inflates the variance of the difference of two rows; at least 1."""
    differences = np.asarray(a_correct, dtype=np.int64) - np.asarray(b_correct, dtype=np.int64)
    separate = int((differences**2).sum())
    together = float((np.bincount(group_numbers(groups), weights=differences) ** 2).sum())
    return max(1.0, together / separate) if separate else 1.0


FAMILIES = ("majority", "colour", "file-facts", "untrained", "pixels")
"""What controls look at; those of one family have names that begin with it."""


def control_family(name: str) -> str:
    """What a control looks at: one of FAMILIES, else its own name."""
    return next((family for family in FAMILIES if name.replace("_", "-").startswith(family)), name)


@dataclass(frozen=True)
class Alarm:
    """A control, by its place among the rows, that comes too near the best row.

    how: 'above': no less accurate than the best; 'tied' with it; 'few': tied, though it makes less than half of
    the best row's gain over the majority class, so that the test images are too few; 'half': makes more than half.
    """

    row: int
    how: Literal["above", "tied", "few", "half"]

    @property
    def is_near(self) -> bool:
        return self.how != "half"


def control_alarms(
    accuracies: Sequence[float],
    is_control: Sequence[bool],
    names: Sequence[str],
    majority_accuracy: float,
    is_tied: Sequence[bool],
    *,
    n: int,
) -> list[Alarm]:
    """Controls that come too near the best, worst first; none when all is well.

    A control alarms when it is tied with the best row or beats it, or when it makes more than half of the best
    row's gain over the majority class while the lower end of its own 95 % interval is above the majority class.
    A control that is no better than the majority class has found no shortcut, so that only the majority class
    itself is named then. Of each family of controls only the best is named.

    Args:
        accuracies, is_control, names, is_tied: for each row: names of models, ties with the best.
        majority_accuracy: of always answering the commonest class.
        n: test images.
    """
    ordinary = [accuracy for accuracy, control in zip(accuracies, is_control, strict=True) if not control]
    if not ordinary:
        return []
    best = max(ordinary)
    controls = [row for row in range(len(names)) if is_control[row]]
    found: dict[str, Alarm] = {}
    for row in sorted(controls, key=lambda row: -accuracies[row]):
        family, accuracy = control_family(names[row]), accuracies[row]
        is_most = accuracy - majority_accuracy > (best - majority_accuracy) / 2
        if family in found or (names[row] != "majority" and accuracy <= majority_accuracy):
            continue
        if accuracy >= best:
            found[family] = Alarm(row, "above")
        elif is_tied[row]:
            found[family] = Alarm(row, "tied" if is_most or names[row] == "majority" else "few")
        elif is_most and wilson_interval(round(accuracy * n), n)[0] > majority_accuracy:
            found[family] = Alarm(row, "half")
    return list(found.values())
