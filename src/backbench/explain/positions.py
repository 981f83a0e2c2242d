"""Similarity of a transformer's learned position embeddings between patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from backbench.backbones.architectures.vit import VisionTransformer
from backbench.backbones.architectures.vit_config import count_patches
from backbench.errors import ModelError
from backbench.explain.tokens import shape_grid

_NAMES = ("pos_embed", "pos_embedding", "position_embedding", "position_embeddings")
_PREFIXES = range(17)
"""Tokens that are not patches: their positions come first."""


def position_similarity(body: nn.Module) -> np.ndarray:
    """Cosine similarity between the position embeddings of all patches: (rows, columns, rows, columns) float32.

    `[r, c]` is a map of the similarity of all patches to that in row r and column c, in -1..1.

    Raises:
        ModelError: the network has no learned positions of patches (convolutions, relative or rotary positions).
    """
    named = ((name.rpartition(".")[2], tensor) for name, tensor in body.named_parameters())
    found = next((tensor.detach() for name, tensor in named if name in _NAMES), None)
    grid = None if found is None else _patches_of(body, found)
    if grid is None:
        is_rotary = any("rope" in name.rpartition(".")[2].lower() for name, _ in body.named_modules())
        how = "uses rotary positions" if is_rotary else "has none"
        raise ModelError(f"{type(body).__name__} has no learned position embedding to show: it {how}.")
    rows, columns, dim = grid.shape
    flat = grid.reshape(-1, dim).double()
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    similarity = (flat @ flat.T).clamp(-1.0, 1.0).reshape(rows, columns, rows, columns)
    return similarity.cpu().numpy().astype(np.float32)


def _patches_of(body: nn.Module, positions: torch.Tensor) -> torch.Tensor | None:
    """A stored embedding as (rows, columns, dim); None if it is not one.

    Args:
        positions: (1, tokens, dim), (1, side, side, dim) or (1, dim, side, side).
    """
    if positions.ndim == 4 and len(positions) == 1:
        is_channels_first = positions.shape[2] == positions.shape[3] != positions.shape[1]
        grid = positions[0].permute(1, 2, 0) if is_channels_first else positions[0]
        return grid if grid.shape[0] == grid.shape[1] else None  # otherwise positions inside windows
    if positions.ndim != 3 or len(positions) != 1:
        return None
    num_tokens = positions.shape[1]
    side = _stored_grid(body)
    if side is None or num_tokens < side[0] * side[1]:
        square = (shape_grid(num_tokens - num_prefix, (1, 1)) for num_prefix in _PREFIXES)
        side = next((found for found in square if found is not None and found[0] > 1), None)
    if side is None:
        return None
    return positions[0, num_tokens - side[0] * side[1] :].reshape(*side, -1)


def _stored_grid(body: nn.Module) -> tuple[int, int] | None:
    """(rows, columns) of the stored positions, if the network gives it."""
    if isinstance(body, VisionTransformer):
        return count_patches(body.image_size, body.config.patch)
    said = getattr(getattr(body, "patch_embed", None), "grid_size", None)
    return said if isinstance(said, tuple) and len(said) == 2 else None
