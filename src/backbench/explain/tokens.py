"""Find the patches among a transformer's tokens, and the token that gives the features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

_MAX_PREFIX = 16
_CLASS_TOKENS = ("cls_token", "class_token")
_PATCH_POOLINGS = ("avg", "avgmax", "max", "map", "mean")
"""Names of pooling over patches in timm and backbench."""


@dataclass(frozen=True)
class Grid:
    """Tokens of an image: `num_prefix` that are not patches (class, registers, distillation), then the patches row
    by row."""

    num_prefix: int
    height: int
    width: int


def token_grid(body: nn.Module, num_tokens: int, size: tuple[int, int]) -> Grid | None:
    """The grid of tokens on an image of `size` (height, width) pixels; None if they do not cover it.

    The number of prefix tokens comes from the network, or is 0, because some add their class token only before the
    last blocks. If the network does not give it, it is the smallest number that leaves a grid of the image's
    proportions.
    """
    said = getattr(body, "num_prefix_tokens", None)
    numbers = [said, 0] if isinstance(said, int) else range(_MAX_PREFIX + 1)
    for num_prefix in numbers:
        side = shape_grid(num_tokens - num_prefix, size)
        if side is not None:
            return Grid(num_prefix, *side)
    return None


def has_all_patches(body: nn.Module, grid: Grid) -> bool:
    """Whether the grid matches the network's patch size, if the network gives one."""
    num = getattr(getattr(body, "patch_embed", None), "num_patches", None)
    is_fixed = isinstance(num, int) and not getattr(body, "dynamic_img_size", False)
    return not is_fixed or grid.height * grid.width == num


def shape_grid(num_patches: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """(rows, columns) of `num_patches` patches in an image's proportions; None without such whole numbers."""
    height, width = size
    if num_patches < 1:
        return None
    rows = round((num_patches * height / width) ** 0.5)
    if rows < 1 or num_patches % rows:
        return None
    columns = num_patches // rows
    # Images may be padded to whole patches: each side may differ by less than a patch.
    return (rows, columns) if abs(rows * width - columns * height) < max(height, width) else None


def reads_class_token(body: nn.Module) -> bool:
    """Whether the features come from a class token, the first of all tokens, and not from the patches."""
    names = {name.rpartition(".")[2] for name, _ in body.named_parameters()}
    if not names.intersection(_CLASS_TOKENS):
        return False
    pooling = getattr(body, "global_pool", None) or getattr(getattr(body, "config", None), "pooling", "token")
    return pooling not in _PATCH_POOLINGS


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """The network without dropout and with fixed statistics; every module gets back the mode it had."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def device_of(network: nn.Module) -> torch.device:
    """The device of the weights; the CPU if there are none."""
    tensor = next(iter((*network.parameters(), *network.buffers())), None)
    return torch.device("cpu") if tensor is None else tensor.device
