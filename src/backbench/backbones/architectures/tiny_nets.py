"""Two small networks of our own, for images of 32 x 32 pixels: a convolutional one and a transformer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from backbench.backbones.architectures.vit import LayerScale, VisionTransformer
from backbench.backbones.architectures.vit_config import ViTConfig
from backbench.runtime import make_torch_rng

SIZE = 32


class TinyCNN(nn.Module):
    """Five 3 x 3 convolutions, 32 to 192 channels, averaged over positions: 32 px -> 192 features.

    Batch norm, because it trains fastest on small images and folds into the convolutions afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_block(3, 32, stride=1)
        self.stage1 = conv_block(32, 64, stride=2)
        self.stage2 = conv_block(64, 128, stride=2)
        self.deepen = conv_block(128, 128, stride=1)
        self.stage3 = conv_block(128, 192, stride=2)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        maps = self.stage2(self.stage1(self.stem(batch)))
        maps = maps + self.deepen(maps)
        return self.stage3(maps).mean((2, 3))


def conv_block(channels_in: int, channels_out: int, *, stride: int) -> nn.Sequential:
    """3 x 3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class TinyViT(VisionTransformer):
    """A vision transformer, patch 4, width 96, 6 blocks, 3 heads: 32 px -> 192 features.

    The features are the class token beside the mean of the patch tokens, after the last norm.
    """

    def __init__(self) -> None:
        super().__init__(
            ViTConfig(
                patch=4,
                width=96,
                depth=6,
                heads=3,
                hidden=192,
                image_size=(SIZE, SIZE),
                pooling="token+mean",
                norm_eps=1e-5,
            )
        )


class Flatten(nn.Module):
    """The pixels themselves: (batch, 3, height, width) -> (batch, 3 * height * width)."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(1)


def make_untrained(build: Callable[[], nn.Module], seed: int, use: str) -> nn.Module:
    """A network with random weights from the named stream; torch's own generator is not used or changed."""
    with torch.device("meta"):
        network = build()
    network.to_empty(device="cpu")
    rng = make_torch_rng(seed, use)
    for module in network.modules():
        initialise(module, rng)
    return network.eval()


@torch.no_grad()
def initialise(module: nn.Module, rng: torch.Generator) -> None:
    """Set the weights that belong to `module` itself: scaled by fan-in, so that activations keep their size."""
    if isinstance(module, nn.Conv2d):
        fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        module.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=rng)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.Linear):
        module.weight.normal_(0.0, math.sqrt(1.0 / module.in_features), generator=rng)
        module.bias.zero_()
    elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
        module.reset_parameters()  # ones and zeros, nothing random
    elif isinstance(module, VisionTransformer):
        module.cls_token.normal_(0.0, 0.02, generator=rng)
        module.pos_embed.normal_(0.0, 0.02, generator=rng)
    elif isinstance(module, LayerScale):
        module.gamma.fill_(LayerScale.START)
