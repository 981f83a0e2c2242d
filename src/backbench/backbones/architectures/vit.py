"""A vision transformer: patches become tokens, attention mixes tokens, and the class token gives the features.

Parameters are named as in timm (`blocks.0.attn.qkv.weight`), so that its files fit without renaming.
Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words", with the norm before each part.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from backbench.backbones.architectures.vit_config import ViTConfig, count_patches


def resize_positions(
    positions: torch.Tensor, old: tuple[int, int], new: tuple[int, int], num_other: int = 1
) -> torch.Tensor:
    """Position embeddings of another grid of patches: (1, num_other + old, width) -> (1, num_other + new, width).

    The first `num_other` (tokens that are not patches) stay. The rest is resized like an image:
    bicubic, antialiased, as timm does it. Returns the same tensor if the grid is the same.
    """
    if old == new:
        return positions
    others, grid = positions[:, :num_other], positions[:, num_other:]
    maps = grid.float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=new, mode="bicubic", antialias=True)
    grid = maps.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).to(positions.dtype)
    return torch.cat([others, grid], dim=1)


class Attention(nn.Module):
    """Multi-head self-attention: (batch, tokens, width) -> the same shape.

    `fused_attn`, timm's name for it, can be set to False where torch's kernel is slower.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.fused_attn = True
        self.qkv = nn.Linear(width, 3 * width)  # query, key and value stacked: one product for all three
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (batch, tokens, 3, heads, width / heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused_attn:
            dropped = self.attn_drop.p if self.attn_drop.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropped)
        else:
            scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
            mixed = self.attn_drop(scores.softmax(dim=-1)) @ value
        return self.dropout(self.proj(mixed.transpose(1, 2).flatten(2)))


class Perceptron(nn.Module):
    """Two layers with GELU between them, on each token separately: (batch, tokens, width) -> the same shape."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(tokens)))))


class LayerScale(nn.Module):
    """Multiply each channel by its own learned number, nearly 0 at first."""

    START = 1e-5

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), self.START))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.gamma


class Block(nn.Module):
    """Self-attention, then a perceptron, each on normalised tokens and added to its input."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config.width, config.heads, config.dropout)
        self.ls1 = LayerScale(config.width) if config.has_layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Perceptron(config.width, config.hidden, config.dropout)
        self.ls2 = LayerScale(config.width) if config.has_layer_scale else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PatchEmbedding(nn.Module):
    """One token for each patch, row by row: (batch, 3, height, width) -> (batch, patches, width)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.proj(batch).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """(batch, 3, height, width) -> (batch, dim) features, or (batch, num_classes) logits with a head.

    Any image size that patches cover; position embeddings are resized for other sizes than the stored one.
    Weights are torch's usual random ones until they are loaded or drawn.

    Raises:
        ModelError: an image size that is not a multiple of the patch.
    Cost: 2 * tokens * depth * (4 * width^2 + 2 * width * hidden + 2 * tokens * width) FLOPs an image.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        rows, columns = count_patches(config.image_size, config.patch)
        self.config = config
        self.image_size = config.image_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + rows * columns, config.width))
        self.patch_embed = PatchEmbedding(config.patch, config.width)
        self.pos_drop = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.pre_logits = make_pre_logits(config.dim, config.representation)
        self.head = make_head(config.representation or config.dim, config.num_classes)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.answer(self.blocks(self.embed(batch)))

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """Class token and patch tokens with their positions: (batch, 1 + patches, width)."""
        positions = self.positions_of((batch.shape[2], batch.shape[3]))  # first, because it checks the size
        patches = self.patch_embed(batch)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return self.pos_drop(tokens + positions)

    def positions_of(self, size: tuple[int, int]) -> torch.Tensor:
        """Position embeddings for images of `size`: (1, 1 + patches, width)."""
        grid, patch = count_patches(self.image_size, self.config.patch), self.config.patch
        return resize_positions(self.pos_embed, grid, count_patches(size, patch))

    def answer(self, tokens: torch.Tensor) -> torch.Tensor:
        """Norm, pooling, and the head if there is one: (batch, tokens, width) -> (batch, dim or num_classes)."""
        tokens = self.norm(tokens)
        parts = []
        if self.config.pooling != "mean":
            parts.append(tokens[:, 0])
        if self.config.pooling != "token":
            parts.append(tokens[:, 1:].mean(1))
        features = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return self.head(self.pre_logits(features))

    @torch.no_grad()
    def set_image_size(self, size: tuple[int, int]) -> None:
        """Store position embeddings for another image size, resized once, for training and export."""
        requires_grad = self.pos_embed.requires_grad
        self.pos_embed = nn.Parameter(self.positions_of(size).clone(), requires_grad=requires_grad)
        self.image_size = size


def make_pre_logits(dim: int, representation: int) -> nn.Module:
    """The tanh layer before the head in the source's ImageNet-21k files, or nothing."""
    if not representation:
        return nn.Identity()
    layer = nn.Sequential()
    layer.add_module("fc", nn.Linear(dim, representation))
    layer.add_module("act", nn.Tanh())
    return layer


def make_head(dim: int, num_classes: int) -> nn.Module:
    """The classification layer, or nothing."""
    return nn.Linear(dim, num_classes) if num_classes else nn.Identity()


def drop_head(network: VisionTransformer) -> VisionTransformer:
    """Take head and tanh layer off, in place, and return the network: its output is the features then."""
    network.pre_logits = nn.Identity()
    network.head = nn.Identity()
    return network
