"""Metrics of one run from its probabilities, with the number of images and mostly with an interval."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from backbench.errors import ModelError
from backbench.stats.distributions import normal_quantile
from backbench.stats.intervals import by_unit, share_interval, wilson_interval
from backbench.stats.metric import Metric

NLL_FLOOR = 1e-12  # a probability of exactly 0 counts as this, so that one image can't make the mean infinite
ECE_BINS = 15
_Z = normal_quantile(0.975)


def score(
    probabilities: np.ndarray, labels: np.ndarray, groups: Sequence[Hashable | None] | None = None
) -> dict[str, Metric]:
    """All metrics of one run.

    - accuracy: share of images whose most probable class is the true one (the first among equals). Wilson
      interval; with `groups`, that of fewer effective images (`share_interval`).
    - top5: the true class is among the five most probable; only with more than five classes. Interval as accuracy.
    - per_class_mean: mean recall of the classes that have test images (balanced accuracy). Its interval is
      Wilson's for the effective number of images that gives the variance sum_c p_c (1 - p_c) / n_c / classes^2,
      at most the images there are. Each p_c is shrunk towards 1/2 by one image, so that a small perfect
      class does not count as certain. The interval is slightly wide if all classes have under five images, and
      covers about 90 % if one such class is among large ones.
    - nll: mean of -ln p(true class), natural logarithm, p at least 1e-12. Normal interval.
    - macro_f1: mean F1 of the classes that occur as true or predicted class; 0 where undefined.
    - ece: mean |accuracy - confidence| over 15 bins with equally many images; equal confidences share a bin.
    - brier: mean of sum_c (p_c - [c is true])^2, in 0..2.

    Args:
        probabilities: (n, classes) float; rows sum to 1.
        labels: (n,) int in 0..classes-1.
        groups: n group names, or None.

    Raises:
        ModelError: a probability is not finite or outside 0..1, or a row does not sum to 1 within 0.001.
        ValueError: shapes differ, there are no images, or a label is out of range.

    Cost: O(n classes).
    """
    probabilities, labels = _checked(probabilities, labels)
    n, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    truth = probabilities[np.arange(n), labels]
    counts = confusion_counts(labels, predicted, classes)
    losses = -np.log(np.maximum(truth.astype(np.float64), NLL_FLOOR))
    squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64) - 2.0 * truth + 1.0
    found = {"accuracy": measure_share(predicted == labels, groups)}
    if classes > 5:
        found["top5"] = measure_share(_places(probabilities, labels, truth) < 5, groups)
    found["per_class_mean"] = _per_class_mean(counts)
    found["nll"] = _mean(losses)
    found["macro_f1"] = _macro_f1(counts)
    found["ece"] = Metric(value=_calibration_error(probabilities.max(axis=1), predicted == labels), n=n)
    found["brier"] = Metric(value=max(0.0, float(squares.mean())), n=n)
    return found


def per_class_recall(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Metric]:
    """The recall of each class, with Wilson's interval, by class name.

    Classes without test images have no recall and are left out. Arguments and errors as for `score`.
    """
    probabilities, labels = _checked(probabilities, labels)
    if probabilities.shape[1] != len(classes):
        raise ValueError(f"{probabilities.shape[1]} columns of probabilities for {len(classes)} class names")
    counts = confusion_counts(labels, probabilities.argmax(axis=1), len(classes))
    found = {}
    for index, name in enumerate(classes):
        correct, n = int(counts[index, index]), int(counts[index].sum())
        if n:
            low, high = wilson_interval(correct, n)
            found[name] = Metric(value=correct / n, low=low, high=high, n=n)
    return found


def weakest_first(recalls: Mapping[str, Metric]) -> list[tuple[str, Metric]]:
    """(class, recall), the least recognised first; of equal ones those of more images, then by name."""
    return sorted(recalls.items(), key=lambda item: (item[1].value, -item[1].n, item[0]))


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(classes, classes) int64: images by true class (row) and answered class (column)."""
    pairs = np.asarray(labels, dtype=np.int64) * num_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=num_classes * num_classes).reshape(num_classes, num_classes)


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not probabilities.size:
        raise ValueError(f"probabilities {probabilities.shape} and labels {labels.shape} have different lengths")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}, not integers")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"labels {labels.min()}..{labels.max()} for {probabilities.shape[1]} classes")
    n = len(labels)
    infinite = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if infinite:
        raise ModelError(
            f"the classifier gave non-finite probabilities for {infinite:,} of {n:,} test images, so it can't be "
            "evaluated. Its features or its head overflowed: try --precision fp32 or another method."
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    wrong = int(((np.abs(sums - 1) > 1e-3) | (probabilities < 0).any(axis=1)).sum())
    if wrong:
        raise ModelError(
            f"the classifier gave probabilities that are negative or do not sum to 1 for {wrong:,} of {n:,} test "
            "images, so it can't be evaluated. They must be the softmax of its logits."
        )
    return probabilities, labels


def measure_share(right: np.ndarray, groups: Sequence[Hashable | None] | None) -> Metric:
    """How many of (n,) bool are so, n >= 1; the interval is `share_interval`'s."""
    correct, sizes = by_unit(right[None], groups)
    low, high = share_interval(correct[0], sizes)
    return Metric(value=int(right.sum()) / len(right), low=low, high=high, n=len(right))


def _mean(values: np.ndarray) -> Metric:
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Metric(value=mean, n=n)
    half = _Z * float(values.std(ddof=1)) / math.sqrt(n)
    return Metric(value=mean, low=max(0.0, mean - half), high=mean + half, n=n)


def _places(probabilities: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) number of classes above the true one; of equals the lower index is first, as in argmax."""
    before = (probabilities > truth[:, None]).sum(axis=1)
    lower = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    return before + ((probabilities == truth[:, None]) & lower).sum(axis=1)


def _per_class_mean(counts: np.ndarray) -> Metric:
    sizes = counts.sum(axis=1)
    present = sizes > 0
    right, sizes = counts.diagonal()[present].astype(np.float64), sizes[present].astype(np.float64)
    num, n = len(sizes), float(sizes.sum())
    mean = float((right / sizes).mean())
    drawn = (right + 0.5) / (sizes + 1)
    variance = float((drawn * (1 - drawn) / sizes).sum()) / num**2
    typical = (mean * n + 2) / (n + 4)
    effective = min(n, typical * (1 - typical) / variance)
    low, high = wilson_interval(min(mean * effective, effective), effective)
    return Metric(value=mean, low=low, high=high, n=num)


def _macro_f1(counts: np.ndarray) -> Metric:
    answered_and_true = counts.sum(axis=0) + counts.sum(axis=1)
    occurs = answered_and_true > 0
    f1 = 2 * counts.diagonal()[occurs] / answered_and_true[occurs]
    return Metric(value=float(f1.mean()), n=int(occurs.sum()))


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    n = len(right)
    bins = min(ECE_BINS, n)
    edges = np.sort(confidence)[[cut * n // bins for cut in range(1, bins)]]
    numbers = np.searchsorted(edges, confidence, side="right")
    confidences = np.bincount(numbers, weights=confidence, minlength=bins)
    rights = np.bincount(numbers, weights=right, minlength=bins)
    return float(np.abs(confidences - rights).sum() / n)


def fit_figures(parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Metric]:
    """Accuracy and negative log likelihood of 'train' and 'val', as 'train_accuracy', 'train_nll', ...

    Args:
        parts: name -> (n, classes) probabilities and (n,) labels; a split without images is left out.
    """
    figures: dict[str, Metric] = {}
    for name, (probabilities, labels) in parts.items():
        if len(labels):
            found = score(probabilities, labels)
            figures |= {f"{name}_{figure}": found[figure] for figure in ("accuracy", "nll")}
    return figures
