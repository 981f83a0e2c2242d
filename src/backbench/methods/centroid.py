"""`centroid`: the nearest class mean, by cosine or Euclidean distance, whichever is better on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from backbench.config import Frozen
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backbench.heads.heads import CosineHead, Fitted, LinearHead
    from backbench.task import Task

DEFAULT_COSINE_SCALE = 10.0
MIN_WITHIN_SHARE = 0.01
"""Minimum spread of a feature within classes, as a share of its variance: few examples may show no spread."""
BLOCK_ROWS = 2048


class CentroidOptions(Frozen):
    """Which distances to try."""

    distance: Literal["choose", "cosine", "euclidean"] = Field(
        default="choose",
        description="'cosine': of centred features; 'euclidean': each feature divided by its standard "
        "deviation within classes; 'choose': the better one on validation (cosine without validation)",
    )


def adapt(task: Task, options: CentroidOptions) -> Fitted:
    """Compare the distances on validation with means of train, then use means of both splits.

    Scores are multiplied by the factor that makes the softmax most likely on validation.

    Cost: a few passes over the features.
    """
    from backbench.heads.choose import choose_best, fit_prior, fit_scale, score_logits
    from backbench.heads.heads import Fitted
    from backbench.heads.standardise import measure_scale

    if not measure_scale([task.train.values]).inverse_std.any():
        return fit_prior(task)
    fits: dict[str, Callable[..., CosineHead | LinearHead]] = {"cosine": _fit_cosine, "euclidean": _fit_euclidean}
    names = list(fits) if options.distance == "choose" else [options.distance]
    if not len(task.val):
        scale = DEFAULT_COSINE_SCALE if names[0] == "cosine" else 1.0 / task.train.values.shape[1]
        head = fits[names[0]]([task.train.values], task.train.labels, task.num_classes, scale)
        return Fitted(head, {"distance": names[0], "scale": scale}, None, "train")
    scales, logits = [], []
    for name in names:
        unscaled = fits[name]([task.train.values], task.train.labels, task.num_classes, 1.0)
        scales.append(fit_scale(unscaled.logits(task.val.values), task.val.labels))
        head = fits[name]([task.train.values], task.train.labels, task.num_classes, scales[-1])
        logits.append(head.logits(task.val.values))
    scores = [score_logits(each, task.val.labels) for each in logits]
    best = choose_best(scores, len(task.val))
    labels = np.concatenate([task.train.labels, task.val.labels])
    final = fits[names[best]]([task.train.values, task.val.values], labels, task.num_classes, scales[best])
    choices = {
        "distance": names[best],
        "scale": scales[best],
        "val_accuracy": scores[best].accuracy,
        "val_nll": scores[best].nll,
        "num_values": len(names),
    }
    return Fitted(final, choices, logits[best])


def _fit_cosine(parts: Sequence[np.ndarray], labels: np.ndarray, num_classes: int, scale: float) -> CosineHead:
    """Cosine between centred features and centred class means."""
    from backbench.heads.heads import ABSENT_LOGIT, CosineHead, normalise_rows

    present, means = _class_means(parts, labels, num_classes)
    shares = np.bincount(labels, minlength=num_classes)[present] / len(labels)
    centre = shares @ means
    directions = np.zeros((num_classes, means.shape[1]), dtype=np.float32)
    directions[present] = normalise_rows((means - centre).astype(np.float32), 0.0, 1.0)
    bias = np.full(num_classes, ABSENT_LOGIT - scale, dtype=np.float32)
    bias[present] = 0.0
    return CosineHead(centre.astype(np.float32), directions, bias, float(scale))


def _fit_euclidean(parts: Sequence[np.ndarray], labels: np.ndarray, num_classes: int, scale: float) -> LinearHead:
    """Minus half the squared distance to each class mean, without common terms: linear in features."""
    from backbench.heads.heads import LinearHead, spread_classes
    from backbench.heads.ridge import unfold
    from backbench.heads.standardise import Scale, measure_scale

    present, means = _class_means(parts, labels, num_classes)
    overall = measure_scale(parts)
    every_mean = np.zeros((num_classes, means.shape[1]))
    every_mean[present] = means
    within = _variance_within(parts, labels, every_mean)
    total = np.divide(1.0, overall.inverse_std**2, out=np.ones_like(within), where=overall.inverse_std > 0)
    deviation = np.sqrt(np.maximum(within, MIN_WITHIN_SHARE * total))
    yardstick = Scale(overall.mean, np.where(overall.inverse_std > 0, 1.0 / deviation, 0.0))
    centres = (means - yardstick.mean) * yardstick.inverse_std
    weights, bias = spread_classes(scale * centres, -0.5 * scale * (centres**2).sum(axis=1), present, num_classes)
    weights, bias = unfold(weights, bias, yardstick)
    return LinearHead(weights.astype(np.float32), bias.astype(np.float32))


def _class_means(
    parts: Sequence[np.ndarray], labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Classes that have examples (p,), and their means (p, dim) in float64."""
    sums = np.zeros((num_classes, parts[0].shape[1]))
    for block, classes in _blocks(parts, labels):
        one_hot = np.zeros((num_classes, len(block)))
        one_hot[classes, np.arange(len(block))] = 1.0
        sums += one_hot @ block
    counts = np.bincount(labels, minlength=num_classes)
    present = np.flatnonzero(counts)
    return present, sums[present] / counts[present, None]


def _variance_within(parts: Sequence[np.ndarray], labels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(dim,) mean squared deviation of the rows from the mean of their class; `means` has a row for each class."""
    squares = sum(((block - means[classes]) ** 2).sum(axis=0) for block, classes in _blocks(parts, labels))
    return np.asarray(squares / len(labels))


def _blocks(parts: Sequence[np.ndarray], labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    start = 0
    for part in parts:
        for first in range(0, len(part), BLOCK_ROWS):
            block = part[first : first + BLOCK_ROWS].astype(np.float64)
            yield block, labels[start : start + len(block)]
            start += len(block)


SPECS = (MethodSpec("centroid", "nearest class mean, by cosine or Euclidean distance", adapt, CentroidOptions),)
