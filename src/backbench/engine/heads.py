"""Heads: what is put on frozen features to get logits, and what `adapt` hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


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
class Fitted:
    """A head, what was chosen on validation, and validation logits from before any refit on train + val.

    `val_logits` ((n_val, classes) float32 or None) come from a head that has not seen the validation part,
    so that calibration can be fitted on them.
    """

    head: Head
    choices: dict[str, Any] = field(default_factory=dict)
    val_logits: np.ndarray | None = None
    fitted_on: str = "train+val"
    warnings: tuple[str, ...] = ()
