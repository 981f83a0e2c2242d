"""Calibration: a temperature for confidences, and a threshold below which predictions are unsure.

Both are fitted on validation images that were not used for training, and saved with the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from backbench.stats.metric import Metric
from backbench.stats.metrics import measure_share

LOWEST_TEMPERATURE = 0.05
HIGHEST_TEMPERATURE = 20.0
TARGET_ACCURACY = 0.95
_STEPS = 100
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Calibration:
    """Calibration saved with a model; see `fit_temperature` and `choose_threshold`.

    coverage: share of validation images at or above the threshold; accuracy: their accuracy.
    """

    temperature: float
    threshold: float
    coverage: float
    accuracy: float


@dataclass(frozen=True)
class Coverage:
    """Coverage and accuracy for each useful threshold, strictest first.

    thresholds: (m,) distinct confidences, falling; coverage: (m,) share of images at or above each, rising to 1;
    accuracy: (m,) share of correct predictions among them.
    """

    thresholds: np.ndarray
    coverage: np.ndarray
    accuracy: np.ndarray


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(n, classes) float logits -> float32 probabilities of logits / temperature, computed in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    if temperature != 1.0:
        shifted /= temperature
    weights = np.exp(shifted)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def calibrate(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Temperature and threshold from (n, classes) validation logits and (n,) labels; neutral without images."""
    if not len(labels):
        return Calibration(1.0, 0.0, 0.0, 0.0)
    temperature = fit_temperature(logits, labels)
    probabilities = softmax(logits, temperature)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    threshold = choose_threshold(confidence, correct)
    accepted = confidence >= threshold
    return Calibration(temperature, threshold, float(accepted.mean()), float(correct[accepted].mean()))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that maximises the likelihood of the labels under softmax(logits / T), within 0.05..20.

    The loss is convex in 1 / T, so its slope has one zero, found by Newton steps that fall back on bisection.
    If every prediction is correct, the loss has no minimum; if all logits of an image are equal, it is constant.
    The images then don't determine T, and the result is 1.

    Args:
        logits: (n, classes) float, finite. labels: (n,) int.

    Raises:
        ValueError: shapes differ, there are no images, a label is out of range or a logit not finite.
    Cost: O(n classes) for each of about ten steps.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    values, labels = _checked(logits, labels)
    values = values - values.max(axis=1, keepdims=True)
    truth = values[np.arange(len(labels)), labels]
    if not truth.any():
        return 1.0
    low, high = 1.0 / HIGHEST_TEMPERATURE, 1.0 / LOWEST_TEMPERATURE
    if _slope(values, truth, low)[0] >= 0:
        return HIGHEST_TEMPERATURE
    if _slope(values, truth, high)[0] <= 0:
        return LOWEST_TEMPERATURE
    sharpness = 1.0
    for _ in range(_STEPS):
        slope, curvature = _slope(values, truth, sharpness)
        if slope > 0:
            high = sharpness
        else:
            low = sharpness
        step = slope / curvature if curvature > 0 else np.inf
        following = sharpness - step if low < sharpness - step < high else (low + high) / 2
        if abs(following - sharpness) <= _TOLERANCE * sharpness:
            return float(1.0 / following)
        sharpness = following
    return float(1.0 / sharpness)


def coverage_curve(confidence: np.ndarray, correct: np.ndarray) -> Coverage:
    """Coverage and accuracy at each occurring confidence; equal confidences go together.

    Args:
        confidence: (n,) float. correct: (n,) bool. At least one image.
    """
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    last = np.append(falling[1:] != falling[:-1], True)  # the last image of each run of equal ones
    accepted = np.arange(1, len(falling) + 1)[last]
    right = np.cumsum(correct[order])[last]
    return Coverage(falling[last], accepted / len(falling), right / accepted)


def choose_threshold(confidence: np.ndarray, correct: np.ndarray, target: float = TARGET_ACCURACY) -> float:
    """The confidence below which a prediction counts as unsure.

    Rule: the smallest threshold with an accuracy of at least `target` at or above it; 0 if that holds for all
        images.
    If no threshold reaches `target`, the one with the highest accuracy, and of several the smallest. It is halfway
    between the last accepted confidence and the next, so that rounding has no effect.

    Args:
        confidence: (n,) float in 0..1. correct: (n,) bool. target: in 0..1.
    """
    if not len(confidence):
        return 0.0
    curve = coverage_curve(np.asarray(confidence, dtype=np.float64), np.asarray(correct))
    needed = target if (curve.accuracy >= target).any() else curve.accuracy.max()
    place = int(np.flatnonzero(curve.accuracy >= needed)[-1])
    if place == len(curve.thresholds) - 1:
        return 0.0
    return float((curve.thresholds[place] + curve.thresholds[place + 1]) / 2)


def _slope(values: np.ndarray, truth: np.ndarray, sharpness: float) -> tuple[float, float]:
    """First and second derivative of the mean loss by 1 / T; `values` have their row's maximum subtracted."""
    weights = np.exp(values * sharpness)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = np.einsum("ij,ij->i", weights, values)
    square = np.einsum("ij,ij,ij->i", weights, values, values)
    return float((mean - truth).mean()), float((square - mean**2).mean())


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or labels.shape != values.shape[:1] or not values.size:
        raise ValueError(f"logits {values.shape} and labels {labels.shape} have different lengths")
    if labels.min() < 0 or labels.max() >= values.shape[1]:
        raise ValueError(f"labels {labels.min()}..{labels.max()} for {values.shape[1]} classes")
    if not np.isfinite(values).all():
        raise ValueError("logits that are not finite")
    return values, labels.astype(np.int64)


def is_calibrated(temperature: float) -> bool:
    """Whether validation images decided the temperature: False at 1 and at either end of its range."""
    return temperature != 1.0 and LOWEST_TEMPERATURE < temperature < HIGHEST_TEMPERATURE


def measure_answered(
    probabilities: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    groups: Sequence[Hashable | None] | None = None,
) -> dict[str, Metric]:
    """Coverage of (n, classes) probabilities at the threshold, and the accuracy of these by (n,) labels.

    `coverage` is the share at or above it; `answered_accuracy` (with an interval, see `metrics.score`) is left out
    if the share is 0.
    """
    answered = probabilities.max(axis=1) >= threshold
    right = (probabilities.argmax(axis=1) == labels)[answered]
    found = {"coverage": Metric(value=float(answered.mean()), n=len(labels))}
    if len(right):
        answering = None if groups is None else [groups[row] for row in np.flatnonzero(answered).tolist()]
        found["answered_accuracy"] = measure_share(right, answering)
    return found
