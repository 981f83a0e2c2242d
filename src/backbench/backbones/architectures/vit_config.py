"""Configurations of vision transformers, with their sizes and costs; without torch, so that lists are quick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from backbench.errors import ModelError

Pooling = Literal["token", "mean", "token+mean"]


@dataclass(frozen=True)
class ViTConfig:
    """The configuration of a vision transformer.

    Args:
        width: numbers in a token, a multiple of `heads`.
        hidden: width of the hidden layer of each perceptron.
        image_size: (height, width) in pixels that position embeddings are stored for.
        pooling: features are the class token, the mean of the patch tokens, or both, after the last norm.
        dropout: dropout rate in training at the places of the source: after the position embedding, after
            each attention and after both layers of each perceptron. A recipe can
            set other dropout for attention weights and perceptrons (`training/dropout.py`).
        has_layer_scale: the output of each sublayer is scaled per channel before it is added, as in DINOv2.
        representation: width of a tanh layer between features and head, as in ImageNet-21k files; 0: none.
        num_classes: outputs of the head; 0: no head; the output is the features.
    """

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    image_size: tuple[int, int] = (224, 224)
    pooling: Pooling = "token"
    dropout: float = 0.0
    has_layer_scale: bool = False
    representation: int = 0
    num_classes: int = 0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.heads, self.hidden) < 1:
            raise ModelError(f"patch, width, depth, heads and hidden must be at least 1: {self}.")
        if self.width % self.heads:
            raise ModelError(f"width {self.width} is not a multiple of the {self.heads} heads.")
        if not 0.0 <= self.dropout < 1.0:
            raise ModelError(f"dropout is {self.dropout}; it must be a fraction, at least 0 and below 1.")
        if self.pooling not in ("token", "mean", "token+mean"):
            raise ModelError(f"pooling is '{self.pooling}'; it must be 'token', 'mean' or 'token+mean'.")
        count_patches(self.image_size, self.patch)

    @property
    def dim(self) -> int:
        """Feature size."""
        return 2 * self.width if self.pooling == "token+mean" else self.width


def count_patches(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """(rows, columns) of patches in an image of `size`; ModelError if they do not cover it exactly."""
    if any(side < patch or side % patch for side in size):
        near = [max(patch, round(side / patch) * patch) for side in size]
        raise ModelError(
            f"an image of {size[0]} x {size[1]} pixels can't be divided into patches of {patch} x {patch}. Both "
            f"sides must be multiples of {patch}: the nearest is {near[0]} x {near[1]}."
        )
    return size[0] // patch, size[1] // patch


SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, depth and heads by the names of the literature; perceptrons are four times as wide."""
PATCHES = (14, 16, 32)
NAME = re.compile(rf"vit_({'|'.join(SIZES)})_patch([1-9][0-9]{{0,2}})(?:_([1-9][0-9]{{0,3}}))?")


def config_of_name(name: str) -> ViTConfig | None:
    """The network called `vit_base_patch16`, or `vit_small_patch4_32` for images of 32 px; None for another name.

    Raises:
        ModelError: the image size is not a multiple of the patch.
    """
    match = NAME.fullmatch(name)
    if match is None:
        return None
    width, depth, heads = SIZES[match[1]]
    patch, side = int(match[2]), int(match[3] or 224)
    return ViTConfig(patch=patch, width=width, depth=depth, heads=heads, hidden=4 * width, image_size=(side, side))


def list_names() -> list[str]:
    """The usual names: each size with each usual patch, smallest first."""
    return [f"vit_{size}_patch{patch}" for size in SIZES for patch in PATCHES]


def count_vit_parameters(config: ViTConfig) -> int:
    """Numbers in the network without its head, layer scale and tanh layer."""
    width, hidden = config.width, config.hidden
    rows, columns = count_patches(config.image_size, config.patch)
    block = 4 * width * (width + 1) + hidden * (width + 1) + width * (hidden + 1) + 4 * width
    patches = width * (3 * config.patch**2 + 1)
    return patches + width * (2 + rows * columns) + config.depth * block + 2 * width


def count_vit_flops(config: ViTConfig) -> float:
    """FLOPs for one image of the stored size, without the head; a multiplication and an addition count as two."""
    width = config.width
    rows, columns = count_patches(config.image_size, config.patch)
    tokens = 1 + rows * columns
    block = 4 * width**2 + 2 * width * config.hidden + 2 * tokens * width
    return 2.0 * (rows * columns * 3 * config.patch**2 * width + config.depth * tokens * block)
