"""The accuracy of the row that was chosen as the best, corrected for having been chosen on the same images."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from backbench.stats.distributions import normal_below, normal_quantile
from backbench.stats.intervals import by_unit, share_interval
from backbench.stats.simultaneous import chunks

_LUCK_DRAWS = 1000


@dataclass(frozen=True)
class WinnerFigure:
    """The corrected accuracy, 0..1, and an interval that covers although the row was chosen by its figure."""

    accuracy: float
    low: float
    high: float


def correct_winner(
    correct: np.ndarray,
    best: int,
    groups: Sequence[Hashable | None] | None = None,
    *,
    level: float = 0.95,
    draws: int | None = None,
    seed: int = 0,
) -> WinnerFigure:
    """What the best row would reach on new images, without the luck by which it was chosen.

    The figure: images are drawn with replacement, the best row is chosen again on those drawn, and measured on
    those left out; the mean over the draws (Tsamardinos, Greasidou and Borboudakis 2018). Where one row is clearly
    ahead of few others, it is up to a point too low, because the draws choose on fewer images. The interval: its
    upper end is the usual one of a row; its lower end allows for the choice, by the quantile of the largest
    standardised error over all rows.

    Args:
        correct: (rows, n) bool, of the rows among which the best was chosen.
        best: its index.
        groups: n group names: whole groups are drawn; None: separate images.
        level: coverage.
        draws: resamples; None: 1,000, and fewer of more than 2,000 units, which need fewer.

    Cost: O(draws x rows x n); 40 rows of 10,000 images take about a second.
    """
    correct = np.asarray(correct, dtype=bool)
    rows, n = correct.shape
    right, sizes = by_unit(correct, groups)
    shares = right.sum(axis=1) / n
    raw, tail = float(shares[best]), (1 - level) / 2
    draws = max(200, min(1000, 2_000_000 // len(sizes))) if draws is None else draws
    figure = raw if rows < 2 or len(sizes) < 2 else _on_left_out(right, sizes, draws, seed)
    luck = _luckiest(right - shares[:, None] * sizes, 1 - tail, seed)
    low = share_interval(right[best], sizes, level=2 * normal_below(luck) - 1)[0]
    high = share_interval(right[best], sizes, level=level)[1]
    return WinnerFigure(figure, min(low, figure), max(high, figure))


def _luckiest(centred: np.ndarray, level: float, seed: int) -> float:
    """How many standard errors the luckiest row lies above its true accuracy, with probability `level` at most."""
    spread = np.sqrt((centred**2).sum(axis=1))
    scaled = (centred / np.where(spread > 0, spread, np.inf)[:, None]).astype(np.float32)
    rng, largest = np.random.default_rng(seed), []
    for num in chunks(_LUCK_DRAWS, centred.shape[1]):
        largest.append((scaled @ rng.standard_normal((centred.shape[1], num), dtype=np.float32)).max(axis=0))
    return max(float(np.quantile(np.concatenate(largest), level)), normal_quantile(level))


def _on_left_out(right: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> float:
    """Mean accuracy, on the units that a resample leaves out, of the row that is best on those it holds."""
    rng, units, found = np.random.default_rng(seed), len(sizes), []
    for num in chunks(draws, units):
        weights = rng.multinomial(units, np.full(units, 1 / units), size=num)
        held, out = weights @ right.T, weights == 0
        left = out @ sizes
        chosen = (held / np.maximum(weights @ sizes, 1)[:, None]).argmax(axis=1)
        scores = (out @ right.T)[np.arange(num), chosen]
        found.append(scores[left > 0] / left[left > 0])
    return float(np.concatenate(found).mean())
