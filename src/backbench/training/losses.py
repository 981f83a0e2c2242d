"""The training loss: cross-entropy with soft targets and class weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbench.config import Recipe
from backbench.errors import ConfigError


def weigh_classes(recipe: Recipe, labels: np.ndarray, class_names: tuple[str, ...], device: str) -> Tensor | None:
    """(classes,) float32 weights of the loss, 1 on average over the images; None: all equal.

    Raises:
        ConfigError: a weight for an unknown class, or a weight that is not positive.
    """
    if recipe.class_weights == "none":
        return None
    counts = np.bincount(labels, minlength=len(class_names)).astype(np.float64)
    if recipe.class_weights == "auto":
        weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        wrong = [
            name for name, weight in recipe.class_weights.items() if name not in class_names or not weight > 0
        ]
        if wrong:
            raise ConfigError(
                f"class_weights: {', '.join(map(repr, wrong[:3]))} must be classes of the data with positive "
                f"weights. Classes: {', '.join(class_names[:12])}"
            )
        weights = np.array([recipe.class_weights.get(name, 1.0) for name in class_names])
        weights = weights * len(labels) / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32, device=device)


def soft_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """(b,) losses of (b, classes) logits against (b, classes) soft targets, with class weights.

    Of (b, heads, classes) logits and (b, 1, classes) shares: (b, heads) losses.
    """
    log_shares = F.log_softmax(logits, dim=-1)
    weighted = targets if class_weights is None else targets * class_weights
    return -(weighted * log_shares).sum(-1)
