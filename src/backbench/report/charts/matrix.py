"""Tables of classes: how many have numbers, and the step of the colour ramp that a share stands on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_WITH_NUMBERS = 15  # classes up to which a confusion matrix shows its counts
MAX_WITH_NAMES = 60
MAX_CLASS_ROWS = 40  # classes that are shown one below the other, the weakest first
NUM_STEPS = 7
ERROR_LIMITS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
"""The upper ends of the steps of a share of errors."""
PALEST_OF_MANY = 3  # in cells of a few pixels paler steps can't be seen


def decide_steps(shares: np.ndarray, limits: Sequence[float] = ERROR_LIMITS) -> np.ndarray:
    """The step of the ramp for each share, 1..7; 0 for nothing. limits: the upper ends of the steps, rising."""
    steps = np.searchsorted(np.asarray(limits), shares, side="left") + 1
    return np.where(shares > 0, np.minimum(steps, len(limits)), 0)


def error_steps(counts: np.ndarray) -> np.ndarray:
    """(classes, classes) counts, rows true -> the step of each error as a share of its row; 0 on the diagonal."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0.0)
    steps = decide_steps(shares)
    palest = 1 if len(counts) <= MAX_WITH_NAMES else PALEST_OF_MANY
    return np.where(steps > 0, np.maximum(steps, palest), 0)
