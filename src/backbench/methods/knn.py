"""`knn`: the k most similar training images vote; k and the similarity are chosen on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, PositiveInt

from backbench.config import Frozen
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backbench.heads.heads import Fitted, NeighbourHead
    from backbench.task import Task

Similarity = Literal["plain", "standardised"]


class KnnOptions(Frozen):
    """Votes are weighted by exp(cosine / temperature), as in DINOv2's evaluation."""

    ks: tuple[PositiveInt, ...] = Field(default=(1, 5, 10, 20, 50, 100), min_length=1, max_length=50)
    default_k: int = Field(default=20, ge=1, description="k without a validation split")
    temperature: float = Field(default=0.07, ge=1e-3, le=1e3)
    similarity: Literal["choose", "plain", "standardised"] = Field(
        default="choose",
        description="'plain': cosine of the features; 'standardised': each feature standardised to mean 0 and "
        "standard deviation 1; 'choose': the better one on validation (plain without validation)",
    )


def adapt(task: Task, options: KnnOptions) -> Fitted:
    """Try every k and similarity on validation with the training rows stored, then store both splits.

    Cost: n_val x n_train x dim products for each similarity; the head keeps a copy of the features.
    """
    from backbench.heads.choose import choose_best, fit_prior, score_logits
    from backbench.heads.heads import Fitted
    from backbench.heads.standardise import measure_scale

    if not measure_scale([task.train.values]).inverse_std.any():
        return fit_prior(task)
    kinds: list[Similarity] = ["plain", "standardised"] if options.similarity == "choose" else [options.similarity]
    if not len(task.val):
        k = min(options.default_k, len(task.train))
        head = _store([task.train.values], task.train.labels, task, kinds[0], k, options.temperature)
        return Fitted(head, {"k": k, "similarity": kinds[0]}, None, "train")
    ks = decide_ks(options.ks, len(task.train))
    candidates = [(kind, k) for kind in kinds for k in ks]
    logits: list[np.ndarray] = []
    for kind in kinds:
        head = _store([task.train.values], task.train.labels, task, kind, max(ks), options.temperature)
        logits += head.logits_for(task.val.values, ks)
    scores = [score_logits(each, task.val.labels) for each in logits]
    best = choose_best(scores, len(task.val))
    kind, k = candidates[best]
    labels = np.concatenate([task.train.labels, task.val.labels])
    final = _store([task.train.values, task.val.values], labels, task, kind, k, options.temperature)
    choices = {
        "k": k,
        "similarity": kind,
        "val_accuracy": scores[best].accuracy,
        "val_nll": scores[best].nll,
        "num_values": len(candidates),
    }
    return Fitted(final, choices, logits[best])


def decide_ks(asked: Sequence[int], num_stored: int) -> list[int]:
    """The values of k that are possible with `num_stored` rows, ascending; at least one."""
    return sorted({k for k in asked if k <= num_stored}) or [num_stored]


def _store(
    parts: Sequence[np.ndarray], labels: np.ndarray, task: Task, kind: Similarity, k: int, temperature: float
) -> NeighbourHead:
    from backbench.heads.heads import NeighbourHead, normalise_rows
    from backbench.heads.standardise import measure_scale

    dim = parts[0].shape[1]
    mean, inverse_std = np.zeros(dim, dtype=np.float32), np.ones(dim, dtype=np.float32)
    if kind == "standardised":
        scale = measure_scale(parts)
        mean, inverse_std = scale.mean.astype(np.float32), scale.inverse_std.astype(np.float32)
    directions = np.concatenate([normalise_rows(part, mean, inverse_std) for part in parts])
    return NeighbourHead(directions, labels, mean, inverse_std, task.num_classes, k, temperature, task.device)


SPECS = (MethodSpec("knn", "weighted vote of the most similar training images", adapt, KnnOptions),)
