"""Attention maps of any vision transformer, and their rollout.

During one forward pass, all attention calls of the network on this thread are intercepted. This needs no list of
families, works with fused kernels (which do not store their weights), and does not change the network or its
output.
Source: Abnar and Zuidema 2020, "Quantifying attention flow in transformers".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backbench.errors import ModelError
from backbench.explain.tokens import Grid, has_all_patches, in_eval_mode, token_grid

_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)
_ALMOST_ZERO = 1e-12


class _Overhear(TorchFunctionMode):
    """Stores the weights of all self-attention inside the block, in order of execution."""

    def __init__(self, *, mean_heads: bool) -> None:
        super().__init__()
        self.mean_heads = mean_heads
        self.maps: list[Tensor] = []
        self.is_partial = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            output, weights = func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
            self.keep(weights)
            return output, weights if kwargs.get("need_weights", True) else None
        output = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self.keep(_weights_of(*args, **kwargs))
        elif func in _SOFTMAX:
            self.keep(output)
        return output

    def keep(self, weights: Tensor | None) -> None:
        """Store weights of shape (batch, heads, tokens, tokens); channel gates and attention pooling are ignored.

        Queries on fewer, merged tokens make the result partial, because their layer would be missing.
        """
        if weights is not None and weights.ndim == 4 and 1 < weights.shape[2] != weights.shape[3] > 1:
            self.is_partial = True
        if weights is not None and weights.ndim == 4 and weights.shape[2] == weights.shape[3] > 1:
            weights = weights.detach().float()
            self.maps.append(weights.mean(dim=1, keepdim=True) if self.mean_heads else weights)


def _weights_of(
    query: Tensor,
    key: Tensor,
    _value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - 0 in eval mode
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights that torch's fused kernel computes but does not return; same arguments."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(above, float("-inf"))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1)


def overhear_attention(
    body: nn.Module, batch: Tensor, *, mean_heads: bool = False
) -> tuple[Tensor, list[Tensor], Grid]:
    """One forward pass in eval mode, without gradients, with the attention of every layer.

    Args:
        body: (b, 3, height, width) -> (b, dim).
        mean_heads: store only the mean over heads, as a single head, which needs a fraction of the memory.

    Returns:
        The unchanged features; for each layer, first to last, (b, heads, tokens, tokens) float32,
        rows sum to 1; the grid of patches among the tokens.

    Raises:
        ModelError: no attention between all tokens of an image, as in convolutional networks and in transformers
            with windows (Swin) or with stages of several sizes.
    Cost: a forward pass, and 4 * heads * tokens^2 bytes for each image and layer: 1.9 MB for ViT-B/16 at 224 px.
    """
    with in_eval_mode(body), torch.no_grad(), _Overhear(mean_heads=mean_heads) as overhear:
        features = body(batch)
    maps = overhear.maps
    grid = token_grid(body, maps[0].shape[-1], (batch.shape[2], batch.shape[3])) if maps else None
    if grid is not None and not has_all_patches(body, grid):  # attention among channels, or in a later stage
        grid = None
    shapes = {(len(weights), weights.shape[-1]) for weights in maps}
    if grid is None or overhear.is_partial or len(shapes) > 1 or len(maps[0]) != len(batch):
        what = "attends inside windows or stages" if maps else "has no self-attention"
        raise ModelError(
            f"the network {what}, so there is no attention between all patches to show. Use Grad-CAM instead "
            "(--kind grad-cam)."
        )
    return features, maps, grid


def roll_out(maps: list[Tensor]) -> Tensor:
    """Attention of layers, each (b, heads, tokens, tokens), multiplied: (b, tokens, tokens), rows sum to 1.

    Averaged over heads; half of each is the identity (the residual connection).
    """
    identity = torch.eye(maps[0].shape[-1], device=maps[0].device)
    total = identity
    for weights in maps:
        step = weights.mean(dim=1) + identity
        total = step / step.sum(dim=-1, keepdim=True) @ total
    return total


def read_patches(weights: Tensor, grid: Grid, *, from_class_token: bool) -> Tensor:
    """(b, tokens, tokens) -> (b, rows, columns): the class token's row, or the patches' mean, at the patches."""
    is_there = from_class_token and grid.num_prefix > 0
    row = weights[:, 0] if is_there else weights[:, grid.num_prefix :].mean(dim=1)
    return row[:, grid.num_prefix :].unflatten(1, (grid.height, grid.width))


def stretch(maps: Tensor) -> Tensor:
    """(b, rows, columns) -> the same, scaled so that each image has minimum 0 and maximum 1; all 0 if constant."""
    least = maps.amin((1, 2), keepdim=True)
    spread = maps.amax((1, 2), keepdim=True) - least
    return torch.where(spread > _ALMOST_ZERO, (maps - least) / spread.clamp_min(_ALMOST_ZERO), 0.0)
