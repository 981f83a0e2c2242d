"""How often answers of a given confidence are right: the dots of a reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backbench.stats.intervals import wilson_interval


@dataclass(frozen=True)
class Reliability:
    """One entry for each bin of confidence that holds images, from the least confident on.

    left, right: (bins,) edges; num_images: (bins,) int; confidence: (bins,) their mean; accuracy: (bins,) share of
    right answers, with its 95 % interval `low`, `high`.
    """

    left: np.ndarray
    right: np.ndarray
    num_images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, num_bins: int = 10) -> Reliability:
    """Images by confidence in `num_bins` equal parts of 0..1; the last holds 1 too.

    Args:
        confidence: (n,) float in 0..1, of the class answered. correct: (n,) bool.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    numbers = np.clip((confidence * num_bins).astype(np.int64), 0, num_bins - 1)
    sizes = np.bincount(numbers, minlength=num_bins)
    right = np.bincount(numbers, weights=np.asarray(correct, dtype=np.float64), minlength=num_bins)
    sums = np.bincount(numbers, weights=confidence, minlength=num_bins)
    held = np.flatnonzero(sizes)
    bounds = np.array([wilson_interval(right[bin_], int(sizes[bin_])) for bin_ in held]).reshape(-1, 2)
    return Reliability(
        left=held / num_bins,
        right=(held + 1) / num_bins,
        num_images=sizes[held],
        confidence=sums[held] / sizes[held],
        accuracy=right[held] / sizes[held],
        low=bounds[:, 0],
        high=bounds[:, 1],
    )


def at_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(n, classes) softmax probabilities -> float64 probabilities of the same logits divided by `temperature`."""
    powers = np.maximum(np.asarray(probabilities, dtype=np.float64), np.finfo(np.float32).tiny) ** (
        1 / temperature
    )
    return powers / powers.sum(axis=1, keepdims=True)
