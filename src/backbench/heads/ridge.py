"""Ridge regression in closed form: every penalty and every class from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backbench.heads.lbfgs import scalar_type
from backbench.heads.standardise import BLOCK_ROWS, Rows, Scale, to_tensor

MIN_SHARE = 1e-10
"""An eigenvalue below this share of the largest is rounding error."""


@dataclass(frozen=True)
class RidgePath:
    """The solutions for all penalties: weights = vectors @ (projected / (values + l2)).

    vectors: (dim, rank); values: (rank,) eigenvalues of the covariance of the standardised rows;
    projected: (rank, classes), the targets along the vectors; targets_mean: (classes,); all float64.
    """

    vectors: Tensor
    values: Tensor
    projected: Tensor
    targets_mean: Tensor

    def solve(self, l2: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights (classes, dim) and intercepts (classes,) on standardised features, float64.

        With l2 = 0 it is the least-squares solution of the smallest norm.
        """
        weights = self.vectors @ (self.projected / (self.values + l2)[:, None])
        return weights.T.double().cpu().numpy(), self.targets_mean.double().cpu().numpy()


def decompose(rows: Rows, labels: np.ndarray, num_classes: int, *, dual: bool | None = None) -> RidgePath:
    """Compute everything for +1 (own class) / -1 (other) targets that does not depend on the penalty.

    Args:
        rows: n standardised rows; their mean is 0, so that the intercept is the targets' mean.
        labels: (n,) int in 0..num_classes-1.
        dual: decompose the (n, n) products of rows rather than the (dim, dim) covariance; None: the smaller.

    Cost: O(n dim m + m^3) time and O(m^2) memory in float64, m = min(n, dim).
    """
    count, dim = len(rows), rows.dim
    kind = scalar_type(rows.mean)
    classes = to_tensor(labels, rows.device)
    targets = torch.nn.functional.one_hot(classes, num_classes).to(kind) * 2.0 - 1.0
    targets_mean = targets.mean(dim=0)
    if count < dim if dual is None else dual:
        values, outer = _eigh(_outer_products(rows, kind) / count)
        is_kept = values > MIN_SHARE * values[-1].clamp_min(MIN_SHARE)
        values, outer = values[is_kept], outer[:, is_kept]
        vectors = _transposed_product(rows, outer) / torch.sqrt(values * count)
    else:
        values, vectors = _eigh(_covariance(rows, kind))
        is_kept = values > MIN_SHARE * values[-1].clamp_min(MIN_SHARE)
        values, vectors = values[is_kept], vectors[:, is_kept]
    projected = vectors.T @ _transposed_product(rows, targets - targets_mean) / count
    return RidgePath(vectors, values, projected, targets_mean)


def unfold(weights: np.ndarray, bias: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias on standardised features -> the same on raw features; float64."""
    raw = weights.astype(np.float64) * scale.inverse_std
    return raw, bias - raw @ scale.mean


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix.cpu())  # some devices lack it
    return values.to(matrix.device), vectors.to(matrix.device)


def _blocks(rows: Rows, kind: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    for first, block in rows.blocks(BLOCK_ROWS):
        yield first, block.to(kind)


def _covariance(rows: Rows, kind: torch.dtype) -> Tensor:
    total = torch.zeros(rows.dim, rows.dim, dtype=kind, device=rows.device)
    for _, block in _blocks(rows, kind):  # in float32, rounding would be as large as the smallest penalties
        total.addmm_(block.T, block)
    return total / len(rows)


def _outer_products(rows: Rows, kind: torch.dtype) -> Tensor:
    total = torch.empty(len(rows), len(rows), dtype=kind, device=rows.device)
    for first, left in _blocks(rows, kind):
        for second, right in _blocks(rows, kind):
            total[first : first + len(left), second : second + len(right)] = left @ right.T
    return total


def _transposed_product(rows: Rows, columns: Tensor) -> Tensor:
    """(dim, k): rows' transposed times (n, k) columns."""
    total = torch.zeros(rows.dim, columns.shape[1], dtype=columns.dtype, device=rows.device)
    for first, block in _blocks(rows, columns.dtype):
        total += block.T @ columns[first : first + len(block)]
    return total
