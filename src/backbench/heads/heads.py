"""Heads, which turn frozen features into logits, and the result of `adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backbench.heads.standardise import to_tensor

BLOCK_ROWS = 4096
SIMILARITIES_PER_BLOCK = 1 << 22
ABSENT_LOGIT = -20.0
"""Logit of a class without examples; the best of the others is at least 0, so its probability is below 3e-9."""
MIN_PRIOR = 1e-9
UNMAPPED_LOGIT = -200.0
"""Logit of a class without a row in a `GroupedHead`; the best of the others is at least 0, so its probability is 0
in float32."""


class Head(Protocol):
    """features -> logits; the softmax of the logits are the probabilities."""

    def logits(self, values: np.ndarray) -> np.ndarray:
        """(n, dim) float32 -> (n, classes) float32."""
        ...


@dataclass(frozen=True)
class LinearHead:
    """logits = values @ weights.T + bias, on raw (not standardised) features.

    weights: (classes, dim) float32; bias: (classes,) float32. Standardisation is folded in.
    """

    weights: np.ndarray
    bias: np.ndarray

    def logits(self, values: np.ndarray) -> np.ndarray:
        return values @ self.weights.T + self.bias


@dataclass(frozen=True)
class CosineHead:
    """logits = scale x cosine of (values - centre) and each class's direction, + bias.

    centre: (dim,), directions: (classes, dim) of length 1, bias: (classes,), all float32.
    """

    centre: np.ndarray
    directions: np.ndarray
    bias: np.ndarray
    scale: float

    def logits(self, values: np.ndarray) -> np.ndarray:
        out = np.empty((len(values), len(self.bias)), dtype=np.float32)
        for first in range(0, len(values), BLOCK_ROWS):
            block = normalise_rows(values[first : first + BLOCK_ROWS], self.centre, 1.0)
            cosines = block @ self.directions.T
            out[first : first + BLOCK_ROWS] = np.float32(self.scale) * cosines + self.bias
        return out


@dataclass(frozen=True)
class NeighbourHead:
    """Log of the class shares among the k most similar stored rows, each voting with exp(cosine / temperature).

    One extra vote is divided by the classes' shares among the stored rows, so that no probability is 0.

    Args:
        directions: (n, dim) float32, the stored rows, `(row - mean) * inverse_std` scaled to length 1.
        labels: (n,) int64, their classes.
        mean, inverse_std: (dim,) float32.
        device: where similarities are computed.
    """

    directions: np.ndarray
    labels: np.ndarray
    mean: np.ndarray
    inverse_std: np.ndarray
    num_classes: int
    k: int
    temperature: float
    device: str = "cpu"

    def logits(self, values: np.ndarray) -> np.ndarray:
        return self.logits_for(values, (self.k,))[0]

    def logits_for(self, values: np.ndarray, ks: Sequence[int]) -> list[np.ndarray]:
        """Logits for several k at once, from one pass over the similarities; each (n, classes) float32."""
        stored = to_tensor(self.directions, self.device)
        labels = to_tensor(self.labels, self.device)
        prior = torch.bincount(labels, minlength=self.num_classes).float() / len(labels) + MIN_PRIOR
        out = [np.empty((len(values), self.num_classes), dtype=np.float32) for _ in ks]
        num_rows = max(1, SIMILARITIES_PER_BLOCK // len(labels))
        for first in range(0, len(values), num_rows):
            queries = normalise_rows(values[first : first + num_rows], self.mean, self.inverse_std)
            similarity, nearest = (to_tensor(queries, self.device) @ stored.T).topk(max(ks), dim=1)
            votes = torch.exp((similarity - similarity[:, :1]) / self.temperature)
            for k, logits in zip(ks, out, strict=True):
                logits[first : first + num_rows] = self._shares(votes[:, :k], labels[nearest[:, :k]], prior)
        return out

    def _shares(self, votes: Tensor, classes: Tensor, prior: Tensor) -> np.ndarray:
        counts = torch.zeros(len(votes), self.num_classes, device=votes.device)
        counts.scatter_add_(1, classes, votes * (votes.shape[1] / votes.sum(dim=1, keepdim=True)))
        logits: np.ndarray = torch.log((counts + prior) / (votes.shape[1] + prior.sum())).cpu().numpy()
        return logits


@dataclass(frozen=True)
class GroupedHead:
    """Log of each class's share of a softmax over finer classes, each of which belongs to one class.

    The softmax only includes the rows given here, so the prediction is always one of the classes. It is the log of
    a sum, because every breed of dog belongs to the class dog (Deng et al. 2012, "Hedging Your Bets": the
    probability of a class is the sum over its sub-classes).

    Args:
        weights, bias: (rows, dim), (rows,) float32, of the finer classes.
        groups: (rows,) int64, the class of each row. A class without rows gets `UNMAPPED_LOGIT`.
    """

    weights: np.ndarray
    bias: np.ndarray
    groups: np.ndarray
    num_classes: int

    def logits(self, values: np.ndarray) -> np.ndarray:
        members = np.zeros((len(self.groups), self.num_classes), dtype=np.float32)
        members[np.arange(len(self.groups)), self.groups] = 1
        out = np.empty((len(values), self.num_classes), dtype=np.float32)
        for first in range(0, len(values), BLOCK_ROWS):
            scores = values[first : first + BLOCK_ROWS] @ self.weights.T + self.bias
            shares = np.exp(scores - scores.max(axis=1, keepdims=True)) @ members
            out[first : first + BLOCK_ROWS] = np.log(np.maximum(shares, np.finfo(np.float32).tiny))
        out[:, members.sum(axis=0) == 0] = UNMAPPED_LOGIT
        return out


def normalise_rows(values: np.ndarray, mean: np.ndarray | float, inverse_std: np.ndarray | float) -> np.ndarray:
    """(n, dim) float32 -> `(values - mean) * inverse_std` with rows of length 1; rows of zeros unchanged."""
    out = np.empty(values.shape, dtype=np.float32)
    for first in range(0, len(values), BLOCK_ROWS):
        block = (values[first : first + BLOCK_ROWS] - mean) * inverse_std
        largest = np.abs(block).max(axis=1, keepdims=True)  # squares of 1e20 and of 1e-30 would leave float32
        block /= np.where(largest > 0, largest, 1)
        block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        out[first : first + BLOCK_ROWS] = block
    return out


def spread_classes(
    weights: np.ndarray, bias: np.ndarray, present: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (p, dim) and bias (p,) of the classes `present` -> those of all classes, with the same
    probabilities.

    Logits are shifted so that they sum to 0 over the classes present for any image; the largest is then at
    least 0, and a class without examples, with weights 0, gets the constant `ABSENT_LOGIT`.
    """
    all_weights = np.zeros((num_classes, weights.shape[1]), dtype=weights.dtype)
    all_bias = np.full(num_classes, ABSENT_LOGIT, dtype=bias.dtype)
    all_weights[present] = weights - weights.mean(axis=0)
    all_bias[present] = bias - bias.mean()
    return all_weights, all_bias


def make_prior_head(labels: np.ndarray, num_classes: int, dim: int) -> LinearHead:
    """A constant head: it predicts the classes' shares among `labels` ((n,) int)."""
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    logits = np.log(shares + MIN_PRIOR).astype(np.float32)
    return LinearHead(np.zeros((num_classes, dim), dtype=np.float32), logits)


@dataclass(frozen=True)
class Fitted:
    """A head, the choices made on validation, and validation logits from before a refit on train + val.

    `val_logits` ((n_val, classes) float32 or None) come from a head that was not fitted on the validation split,
    so that calibration can use them.
    """

    head: Head
    choices: dict[str, Any] = field(default_factory=dict)
    val_logits: np.ndarray | None = None
    fitted_on: str = "train+val"
    warnings: tuple[str, ...] = ()
