"""Standardise features to mean 0 and standard deviation 1, block by block, without a second copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backbench.errors import DataError

BLOCK_ROWS = 2048
MAX_COPY_BYTES = {"cpu": 256 << 20}
MAX_COPY_BYTES_ELSEWHERE = 8 << 30
RELATIVE_FLOOR = 1e-6
"""A feature whose standard deviation is below this share of its size counts as constant."""


@dataclass(frozen=True)
class Scale:
    """Standardised = (values - mean) * inverse_std; (dim,) float64 each; inverse_std is 0 for a constant."""

    mean: np.ndarray
    inverse_std: np.ndarray


def measure_scale(parts: Sequence[np.ndarray]) -> Scale:
    """Mean and inverse standard deviation of each feature over all rows of `parts` ((n, dim) float32 each).

    Raises:
        DataError: no rows, or a value that is not finite.

    Cost: one pass for the mean and one for the standard deviation; blocks in float32, their sums in float64.
    """
    count = sum(len(part) for part in parts)
    if count == 0:
        raise DataError("there are no training images")
    with np.errstate(invalid="ignore", over="ignore"):
        mean = sum(block.sum(axis=0, dtype=np.float64) for block in _row_blocks(parts)) / count
        squares = np.zeros_like(mean)
        for block in _row_blocks(parts):
            offsets = block - mean.astype(block.dtype)
            squares += np.einsum("ij,ij->j", offsets, offsets)
    if not np.isfinite(squares).all():
        squares = _measure_large(parts, mean)
    std = np.sqrt(squares / count)
    varies = std > RELATIVE_FLOOR * np.sqrt(mean**2 + std**2)
    return Scale(mean, np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0))


def _measure_large(parts: Sequence[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """Sums of squares beyond the range of float32; DataError for values that are not finite."""
    finite = np.logical_and.reduce([np.isfinite(block).all(axis=0) for block in _row_blocks(parts)])
    if not finite.all():
        bad = int((~finite).sum())
        raise DataError(f"{bad} of {len(finite)} features hold values that are not finite; extract them again")
    squares = np.zeros_like(mean)
    for block in _row_blocks(parts):
        squares += np.square(block - mean).sum(axis=0)
    return squares


def _row_blocks(parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for part in parts:
        for first in range(0, len(part), BLOCK_ROWS):
            yield part[first : first + BLOCK_ROWS]


def to_tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    """A tensor of the array; shares memory if that is writable and `device` is the CPU."""
    owned = np.ascontiguousarray(array) if array.flags.writeable else array.copy()
    return torch.from_numpy(owned).to(device)


class Rows:
    """The standardised rows of one or more (n, dim) float32 arrays, one after the other, as blocks of a tensor.

    A set of at most 256 MB (8 GB on an accelerator) is standardised once and kept; a larger one is standardised
    again for each block, so that memory is the features plus one block.
    """

    def __init__(self, parts: Sequence[np.ndarray], scale: Scale, device: str) -> None:
        self.parts = [part for part in parts if len(part)]
        self.scale = scale
        self.device = torch.device(device)
        self.dim = parts[0].shape[1]
        self.mean = torch.from_numpy(scale.mean.astype(np.float32)).to(self.device)
        self.inverse_std = torch.from_numpy(scale.inverse_std.astype(np.float32)).to(self.device)
        limit = MAX_COPY_BYTES.get(self.device.type, MAX_COPY_BYTES_ELSEWHERE)
        self.kept: Tensor | None = None
        if len(self) * self.dim * 4 <= limit:
            self.kept = torch.empty(len(self), self.dim, device=self.device)
            for first, block in self.blocks(BLOCK_ROWS, stored=False):
                self.kept[first : first + len(block)] = block

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def blocks(self, num_rows: int, *, stored: bool = True) -> Iterator[tuple[int, Tensor]]:
        """(number of the first row, (at most num_rows, dim) float32), in order."""
        first = 0
        if stored and self.kept is not None:
            for first in range(0, len(self.kept), num_rows):
                yield first, self.kept[first : first + num_rows]
            return
        for part in self.parts:
            for begin in range(0, len(part), num_rows):
                block = to_tensor(part[begin : begin + num_rows], self.device)
                yield first, (block - self.mean).mul_(self.inverse_std)
                first += len(block)

    def thin(self, num_rows: int) -> tuple[Rows, int]:
        """Every k-th of the rows, at least `num_rows` of them, on the same scale; and that k."""
        step = max(1, len(self) // num_rows)
        if step == 1:
            return self, 1
        kept, first = [], 0
        for part in self.parts:
            kept.append(part[-first % step :: step])
            first += len(part)
        return Rows(kept, self.scale, str(self.device)), step

    def sample(self, num_rows: int) -> Tensor:
        """About `num_rows` rows, evenly spaced over all; all of them if there are no more."""
        step = max(1, len(self) // num_rows)
        return torch.cat([block[-first % step :: step] for first, block in self.blocks(BLOCK_ROWS)])
