"""What is ranked when the user names no model, and whether a model's weights are on this machine already."""

from __future__ import annotations

from backbench.catalog import ModelSpec

SMALL = (  # one of each kind that a CPU runs at several images a second or better; 380 MB of weights in all
    "mobilenetv3_large_100.ra_in1k",  # the cheapest that is any good: 0.4 GFLOPs
    "resnet18.a1_in1k",  # what everybody compares with
    "efficientnet_b0.ra_in1k",  # most accuracy for its size among plain ImageNet-1k networks
    "convnext_nano.in12k_ft_in1k",  # convolutions with the larger ImageNet-12k behind them
    "vit_small_patch16_224.augreg_in21k_ft_in1k",  # a transformer, ImageNet-21k
    "vit_small_patch16_224.dino",  # the same network without any labels in its training
)
LARGE = (  # the strongest kinds of their size, for a GPU; 1.9 GB of weights in all
    "resnet50.a1_in1k",  # what everybody compares with
    "efficientnet_b0.ra_in1k",  # how much a tenth of the cost gives
    "convnext_base.fb_in22k_ft_in1k",  # supervised, convolutions, ImageNet-22k
    "vit_base_patch16_224.augreg2_in21k_ft_in1k",  # supervised, transformer, ImageNet-21k
    "vit_base_patch16_clip_224.openai",  # image and text
    "vit_base_patch16_siglip_224.v2_webli",  # image and text, newer and with more data
    "vit_base_patch14_dinov2.lvd142m",  # no labels; at its own 518 px
)


def default_models(device: str) -> list[str]:
    """Names of a sensible short list for the device: several kinds of network and of training each, none huge."""
    return list(SMALL if device.partition(":")[0] == "cpu" else LARGE)


def is_on_disk(spec: ModelSpec) -> bool:
    """Whether loading the model needs no download; looks at files only, does not import torch."""
    return spec.find_weights is None or spec.find_weights() is not None
