"""Different operations for different images of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

Change = Callable[[Tensor, np.ndarray], Tensor]
"""(images, their rows in the batch) -> images of the same shape."""


def change_by_choice(images: Tensor, choices: np.ndarray, changes: Mapping[int, Change]) -> Tensor:
    """Apply the chosen change to each image; an image is unchanged if `changes` lacks its choice.

    Args:
        images: (b, 3, H, W).
        choices: (b,) int.

    Cost: the changes, and two copies: of what is changed, and of the batch.
    """
    chosen = [(change, np.flatnonzero(choices == number)) for number, change in changes.items()]
    parts = [(change, rows) for change, rows in chosen if len(rows)]
    if not parts:
        return images
    if len(parts[0][1]) == len(images):
        return parts[0][0](images, parts[0][1])
    pieces = list(images.unbind())
    for change, rows in parts:
        changed = change(images.index_select(0, torch.from_numpy(rows).to(images.device)), rows)
        for row, piece in zip(rows, changed.unbind(), strict=True):
            pieces[row] = piece
    if images.is_contiguous(memory_format=torch.channels_last):  # stacking would put them first
        return torch.stack([piece.permute(1, 2, 0) for piece in pieces]).permute(0, 3, 1, 2)
    return torch.stack(pieces)  # several times as fast as writing to rows of a copy


def as_column(values: np.ndarray, images: Tensor) -> Tensor:
    """(b,) numbers as (b, 1, 1, 1) of the images' type and device, to be multiplied with them."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(images.device)[:, None, None, None]
