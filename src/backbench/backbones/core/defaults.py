"""What is ranked when the user names no model, and whether a model's weights are on this machine already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backbench.registry import ModelSpec, find_model, find_source

if TYPE_CHECKING:
    from backbench.progress import Progress

EMBEDDED_MODELS = ("pixels", "tiny_cnn.cifar100", "tiny_vit.cifar100")
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


def decide_models(source: str, device: str, progress: Progress) -> list[ModelSpec]:
    """A short list that fits the data and the machine, less what can't be had without a network."""
    from backbench.runtime import has_network

    known = find_source(source)
    if known is not None and known.is_embedded:  # embedded data: embedded models, no network
        return [find_model(name) for name in EMBEDDED_MODELS]
    wanted = [find_model(name) for name in default_models(device)]
    if all(is_on_disk(model) for model in wanted) or has_network():
        return wanted
    wanted = [model for model in wanted if is_on_disk(model)]
    if wanted:
        progress.warn("the hub can't be reached: ranking only the models whose weights are on this machine")
        return wanted
    progress.warn(
        "no weights of the usual short list are on this machine and the hub can't be reached: ranking the small "
        f"models that come with backbench, {', '.join(EMBEDDED_MODELS)}. The last two were trained on the tiny "
        "images of CIFAR-100; a larger model usually does better. Name a card of local weights with --models "
        "CARD.toml (README: own weights)"
    )
    return [find_model(name) for name in EMBEDDED_MODELS]
