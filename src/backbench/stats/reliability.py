"""Accuracy by confidence: the points of a reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backbench.stats.intervals import wilson_interval


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is in left..right: mean confidence, share right and its 95 % interval."""

    left: float
    right: float
    n: int
    confidence: float
    accuracy: float
    low: float
    high: float


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, num_bins: int = 10) -> tuple[Bin, ...]:
    """Images by confidence in `num_bins` equal parts of 0..1, as far as there are any; the last holds 1 too.

    Args:
        confidence: (n,) float in 0..1, of the predicted class. correct: (n,) bool.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    numbers = np.clip((confidence * num_bins).astype(np.int64), 0, num_bins - 1)
    found = []
    for number in np.unique(numbers).tolist():
        rows = numbers == number
        n, hits = int(rows.sum()), int(np.asarray(correct)[rows].sum())
        low, high = wilson_interval(hits, n)
        left, right = number / num_bins, (number + 1) / num_bins
        found.append(Bin(left, right, n, float(confidence[rows].mean()), hits / n, low, high))
    return tuple(found)


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(n, classes) softmax probabilities -> float64 probabilities of the same logits divided by `temperature`."""
    powers = np.maximum(np.asarray(probabilities, dtype=np.float64), np.finfo(np.float32).tiny) ** (
        1 / temperature
    )
    return powers / powers.sum(axis=1, keepdims=True)
