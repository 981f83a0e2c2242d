"""All comparisons of a ranking at once: which rows may be best, which are worse, and how much a choice may cost.

The best row is picked by looking at the data, so a test that treats it as fixed errs far more often than it
promises. Here one set of random draws over the images (or over their groups) gives the joint distribution of all
differences.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from backbench.stats.distributions import normal_below, normal_quantile, student_quantile
from backbench.stats.intervals import by_unit, group_numbers

ALPHA = 0.05
DRAWS = 4000
_MAX_VALUES = 20_000_000  # random numbers, or statistics of pairs, that are held at once
_ROUNDING = 1e-6
_NO_SPREAD = 0.03  # below it two rows have agreed in every unit


@dataclass(frozen=True)
class Comparison:
    """All pairs of rows compared on the images that both have predicted.

    Attributes:
        p_values: (rows, rows) p of "these two are equally good", valid for all pairs together; 1 on the diagonal.
        bounds: (rows, rows) [a, b]: upper confidence bound of accuracy(a) - accuracy(b). For the truly best row a,
            all its bounds hold together with the probability `level`.
        may_be_best: (rows,) bool: the set that holds the truly best row with that probability.
        level: that probability, such as 0.95.
    """

    p_values: np.ndarray
    bounds: np.ndarray
    may_be_best: np.ndarray
    level: float

    def regret(self, row: int) -> float:
        """The most that any other row may be better than this one, as a share of the images; 0 where none may be.

        It holds with the probability `level` for any row, also for one chosen by looking at the results.
        """
        rivals = [other for other in np.flatnonzero(self.may_be_best) if other != row]
        return max([0.0, *(float(self.bounds[other, row]) for other in rivals)])


def compare_rows(
    correct: np.ndarray,
    groups: Sequence[Hashable | None] | None = None,
    *,
    has_answer: np.ndarray | None = None,
    spread: float = 1.0,
    alpha: float = ALPHA,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare each row with each other, with error rates that hold for all comparisons together.

    Two procedures on the same images:
    - Tests: if two rows are equally good, swapping their answers in an image (or in a whole group) changes
      nothing. The signs of all units are drawn at random, the same for all pairs, and the largest statistic of
      each draw is kept: the step-down maximum of Romano and Wolf (2005). The distribution of each single pair is
      that of the exact McNemar test, so that no normal approximation is made: few images cost power, not truth.
    - Bounds: multiple comparisons with the best (Hsu 1981). Each row in turn is taken as the best, and the largest
      of its studentised differences from the others is drawn with normal multipliers (Dunnett's constant, which
      uses that rows agree on most images). Half an image in each cell (Agresti and Min 2005), or Student's t for
      groups, keeps the bounds honest where images are few.

    Args:
        correct: (rows, n) bool.
        groups: n group names; None in it is a group of its own; None: each image stands alone.
        has_answer: (rows, n) bool, where not all rows have predicted all images; each pair is compared on the
            images that both have.
        spread: standard deviation of a difference over that of fixed models, at least 1: models that were fitted
            on overlapping images (cross-fitting) vary together.
        alpha: level of all tests together; the bounds hold with 1 - `alpha`.
        draws: random draws; p-values are multiples of 1 / (draws + 1).
        seed: same seed, same result.

    Raises: ValueError for shapes that do not fit.
    Cost: images that all rows answer alike are drawn as one; 8 rows of 10,000 images take 0.1 s, 40 rows 2 s.
    """
    correct = np.asarray(correct, dtype=bool)
    if correct.ndim != 2 or (has_answer is not None and has_answer.shape != correct.shape):
        raise ValueError("predictions must be (rows, n), and has_answer alike")
    rows, n = correct.shape
    if rows < 2 or n == 0:
        return Comparison(np.ones((rows, rows)), np.zeros((rows, rows)), np.ones(rows, dtype=bool), 1 - alpha)
    units, mask_of = _make_units(correct, groups, has_answer)
    p_values = _test_pairs(units, mask_of, spread, draws, seed)
    bounds = _bound_gains(units, mask_of, spread, alpha, draws, seed)
    may_be_best = np.array([bool((np.delete(bounds[row], row) >= 0).all()) for row in range(rows)])
    return Comparison(p_values, bounds, may_be_best, 1 - alpha)


def reference_tests(
    correct: np.ndarray,
    reference: np.ndarray,
    groups: Sequence[Hashable | None] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """(rows,) p of "this row is as good as the reference", valid for all rows together; as in `compare_rows`.

    Args:
        correct: (rows, n) bool. reference: (n,) bool.
    """
    both = np.vstack([np.asarray(correct, dtype=bool), np.asarray(reference, dtype=bool)[None]])
    units, mask_of = _make_units(both, groups, None)
    rows = np.arange(len(both) - 1)
    p_values = _test_pairs(units, mask_of, 1.0, draws, seed, pairs=(rows, np.full(len(rows), len(rows))))
    return p_values[:-1, -1]


@dataclass(frozen=True)
class _Units:
    """Right answers of each row in units of images: (rows, m) `right`, (m,) `sizes` and `counts`, float64.

    `counts` units are alike: as many images that each row answered alike. `is_separate`: each unit is one image.
    """

    right: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    is_separate: bool

    @property
    def num_images(self) -> float:
        return float(self.sizes @ self.counts)

    @property
    def num_units(self) -> int:
        return int(self.counts[self.sizes > 0].sum())

    @property
    def totals(self) -> np.ndarray:
        return self.right @ self.counts

    @property
    def shares(self) -> np.ndarray:
        return self.totals / max(self.num_images, 1.0)

    def squares(self, values: np.ndarray) -> np.ndarray:
        """(rows, rows) sums over units of the squared difference of each two rows of `values` (rows, m)."""
        products = (values * self.counts) @ values.T
        own = np.diag(products)
        return np.maximum(own[:, None] + own[None] - 2 * products, 0.0)


def _make_units(
    correct: np.ndarray, groups: Sequence[Hashable | None] | None, has_answer: np.ndarray | None
) -> tuple[list[_Units], np.ndarray]:
    """The units of each set of images that a pair of rows shares, and (rows, rows) which of them a pair has."""
    masks, mask_of = _common_images(correct.shape, has_answer)
    is_separate = groups is None or int(group_numbers(groups).max()) + 1 == correct.shape[1]
    columns = np.vstack([correct, masks])
    if not is_separate:
        by_mask = [correct & mask for mask in masks]
        columns = by_unit(np.vstack([*by_mask, masks]), groups)[0].astype(np.int64)
    kinds, counts = _count_alike(columns)
    found = []
    for number in range(len(masks)):
        size = kinds[len(kinds) - len(masks) + number]
        right = kinds[: len(correct)] * size if is_separate else kinds[number * len(correct) :][: len(correct)]
        found.append(_Units(right.astype(np.float64), size.astype(np.float64), counts, is_separate))
    return found, mask_of


def _count_alike(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different columns, sorted, and how often each is there: the order of images then makes no difference."""
    rows = np.ascontiguousarray((np.packbits(columns, axis=0) if columns.dtype == bool else columns).T)
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    return columns[:, first], counts.astype(np.float64)


def _common_images(shape: tuple[int, int], has_answer: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(masks, n) bool: the sets of images that pairs of rows share; and (rows, rows) int: which one a pair has."""
    if has_answer is None or has_answer.all():
        return np.ones((1, shape[1]), dtype=bool), np.zeros((shape[0], shape[0]), dtype=np.int64)
    own, kind = np.unique(np.asarray(has_answer, dtype=bool), axis=0, return_inverse=True)
    both = (own[:, None] & own[None]).reshape(-1, shape[1])
    masks, of_kinds = np.unique(both, axis=0, return_inverse=True)
    of_kinds = of_kinds.reshape(len(own), len(own))
    kind = kind.reshape(-1)
    return masks, of_kinds[kind[:, None], kind[None]]


def _test_pairs(
    units: list[_Units],
    mask_of: np.ndarray,
    spread: float,
    draws: int,
    seed: int,
    pairs: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """(rows, rows) step-down p-values of `pairs` (None: all) by random signs; 1 for the others."""
    first, second = pairs if pairs is not None else np.triu_indices(len(mask_of), 1)
    which = mask_of[first, second]
    step = 1.0 if units[0].is_separate else 0.0  # continuity correction: sums of signs move in steps of two
    variance = np.stack([each.squares(each.right) for each in units])[which, first, second]
    totals = np.stack([each.totals for each in units])
    scale = np.sqrt(np.where(variance > 0, variance, np.inf))
    seen = (np.abs(totals[which, first] - totals[which, second]) / spread - step) / scale
    order = np.argsort(-seen, kind="stable")
    which, first, second = which[order], first[order], second[order]
    scale, seen = scale[order], seen[order]
    exceeded = np.zeros(len(order), dtype=np.int64)
    rng = np.random.default_rng(seed)
    useful = np.any(
        [np.ptp(each.right, axis=0) > 0 for each in units], axis=0
    )  # where no two rows differ, no sign
    for num in chunks(draws, max(int(useful.sum()), len(order))):
        signs = _random_signs(rng, num, units[0].counts[useful])
        drawn = np.stack([each.right[:, useful].astype(np.float32) @ signs for each in units])
        largest = (np.abs(drawn[which, first] - drawn[which, second]) - step) / scale[:, None]
        largest = np.maximum.accumulate(largest[::-1], axis=0)[::-1]
        exceeded += (largest >= seen[:, None] - _ROUNDING).sum(axis=1)
    p_values = np.ones(mask_of.shape)
    p_values[first, second] = p_values[second, first] = np.maximum.accumulate((1 + exceeded) / (draws + 1))
    return p_values


def _random_signs(rng: np.random.Generator, num: int, counts: np.ndarray) -> np.ndarray:
    """(m, num) float32: sums of as many random signs as there are units of each kind."""
    bits = rng.integers(0, 256, size=(len(counts), -(-num // 8)), dtype=np.uint8)
    signs = np.unpackbits(bits, axis=1)[:, :num].astype(np.float32) * 2 - 1
    several = np.flatnonzero(counts > 1)  # few, and drawn by a slower way
    many = counts[several].astype(np.int64)[:, None]
    signs[several] = 2 * rng.binomial(many, 0.5, size=(len(several), num)) - many
    return signs


def _bound_gains(
    units: list[_Units], mask_of: np.ndarray, spread: float, alpha: float, draws: int, seed: int
) -> np.ndarray:
    """(rows, rows) [a, b]: upper bounds of how much better a is than b, with Dunnett's constant of each a."""
    rows, places = len(mask_of), np.arange(len(mask_of))
    pair = (mask_of, places[:, None], places)
    gain, error = (
        np.stack([_gains(each) for each in units])[pair],
        np.stack([_errors(each) for each in units])[pair],
    )
    centred = [each.right - each.shares[:, None] * each.sizes for each in units]
    scale = np.sqrt(np.stack([each.squares(values) for each, values in zip(units, centred, strict=True)]))
    scale = np.where(scale > _NO_SPREAD, scale, np.inf)
    degrees = min(each.num_units for each in units) - 1
    drawn = np.stack(
        [_draw_totals(values, each.counts, draws, seed) for each, values in zip(units, centred, strict=True)]
    )
    bounds = np.zeros((rows, rows))
    for row in range(rows):
        others = places[places != row]
        which = mask_of[row, others]
        apart = drawn[which, row] - drawn[which, others]
        largest = (apart / scale[which, row, others][:, None]).max(axis=0)
        constant = max(float(np.quantile(largest, 1 - alpha)), normal_quantile(1 - alpha))
        bounds[row, others] = gain[row, others] + _student(constant, degrees) * spread * error[row, others]
    return bounds


def _gains(units: _Units) -> np.ndarray:
    """(rows, rows) differences of accuracy; of separate images with half an image in each cell of the pair."""
    totals = units.totals
    return (totals[:, None] - totals[None]) / max(units.num_images + 2 * units.is_separate, 1.0)


def _errors(units: _Units) -> np.ndarray:
    """(rows, rows) standard errors of these differences.

    Of groups, each group's part is divided by 1 - its share of the images, the jackknife's correction for groups
    that are few or of unequal size (CR3; Bell and McCaffrey 2002), and a pair never counts as known without any
    error.
    """
    if units.is_separate:
        totals, n = units.totals, units.num_images + 2
        return np.sqrt(units.squares(units.right) + 1 - (totals[:, None] - totals[None]) ** 2 / n) / n
    n = max(units.num_images, 1.0)
    parts = (units.right - units.shares[:, None] * units.sizes) / np.maximum(1 - units.sizes / n, 0.1)
    return np.sqrt(units.squares(parts) + 1) / n


def _draw_totals(centred: np.ndarray, counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(rows, draws) sums of each row of `centred` with standard normal multipliers, the same for all rows."""
    rng = np.random.default_rng(seed)
    weighted = (centred * np.sqrt(counts)).astype(np.float32)
    sizes = chunks(draws, len(counts))
    return np.concatenate(
        [weighted @ rng.standard_normal((len(counts), num), dtype=np.float32) for num in sizes], axis=1
    )


def _student(normal: float, degrees: int) -> float:
    """The point of Student's t that a value exceeds as often as a standard normal one exceeds `normal`."""
    if degrees < 1:
        return math.inf
    return student_quantile(normal_below(normal), degrees) if degrees < 200 else normal


def chunks(draws: int, values: int) -> list[int]:
    """How many draws to make at once, so that no more than so many values of each are held."""
    step = max(1, min(draws, _MAX_VALUES // max(1, values)))
    return [min(step, draws - start) for start in range(0, draws, step)]
