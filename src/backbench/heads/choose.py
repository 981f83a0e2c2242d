"""Choose values on validation by accuracy and likelihood; convert scores to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backbench.heads.heads import Fitted, make_prior_head
from backbench.task import Task

MIN_SCALE, MAX_SCALE = 1e-4, 1e4
BISECTIONS = 40


@dataclass(frozen=True)
class Score:
    """A candidate's validation result: accuracy in 0..1, mean negative log likelihood in nats."""

    accuracy: float
    nll: float


def score_logits(logits: np.ndarray, labels: np.ndarray) -> Score:
    """Score (n, classes) logits against (n,) labels; n > 0."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    true = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    nll = float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - true))
    return Score(float(np.mean(logits.argmax(axis=1) == labels)), nll)


def choose_best(scores: Sequence[Score], num: int) -> int:
    """Index of the candidate with the lowest NLL among those as accurate as the best, within one standard error.

    Accuracies within one standard error of the highest count as equal (`num` images); of these the lowest NLL
    wins, then the first. With few images accuracy is too coarse for a choice; with many it decides alone.
    Source: the one-standard-error rule of Breiman et al. 1984, with likelihood instead of simplicity.
    """
    best = max(score.accuracy for score in scores)
    expected = (best * num + 2) / (num + 4)  # Agresti and Coull; never 1, which would leave no error
    least = best - (expected * (1 - expected) / num) ** 0.5
    return min((i for i in range(len(scores)) if scores[i].accuracy >= least), key=lambda i: (scores[i].nll, i))


def is_beyond_edge(scores: Sequence[Score], chosen: int) -> bool:
    """Whether the chosen value is the first or last and beats its neighbour, so a wider sweep may be better."""
    if len(scores) < 2 or chosen not in (0, len(scores) - 1):
        return False
    neighbour = 1 if chosen == 0 else len(scores) - 2
    return scores[chosen].accuracy > scores[neighbour].accuracy


def fit_scale(scores: np.ndarray, labels: np.ndarray) -> float:
    """The factor s > 0 for which softmax(s x scores) is most likely, given (n, classes) scores and (n,) labels.

    One extra example with equal shares of all classes keeps s finite if every label is predicted correctly. The
    loss is convex in s, so its slope is bisected.
    """
    values = scores.astype(np.float64)
    spread = float(np.abs(values - values.mean(axis=1, keepdims=True)).mean())
    if not spread > 0:
        return 1.0
    values /= spread
    true = np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    target = float(true.sum() + values.mean())
    low, high = np.log(MIN_SCALE), np.log(MAX_SCALE)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        scaled = np.exp(middle) * values
        shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        expected = (shares * values).sum(axis=1) / shares.sum(axis=1)
        if expected.sum() + expected.mean() < target:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2) / spread)


def fit_prior(task: Task) -> Fitted:
    """The head for constant features: it predicts the classes' shares."""
    labels = np.concatenate([task.train.labels, task.val.labels])
    dim = task.train.values.shape[1]
    choices: dict[str, Any] = {"constant_features": True}
    if not len(task.val):
        return Fitted(make_prior_head(labels, task.num_classes, dim), choices, None, "train")
    before = make_prior_head(task.train.labels, task.num_classes, dim)
    logits = before.logits(task.val.values)
    score = score_logits(logits, task.val.labels)
    choices |= {"val_accuracy": score.accuracy, "val_nll": score.nll}
    return Fitted(make_prior_head(labels, task.num_classes, dim), choices, logits)
