"""Default models, and a check whether a model's weights are on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backbench.registry import ModelSpec, find_model, find_source

if TYPE_CHECKING:
    from backbench.progress import Progress

EMBEDDED_MODELS = ("pixels", "tiny_cnn.cifar100", "tiny_vit.cifar100")
SMALL = (  # one of each kind that a CPU runs at several images a second or more; 380 MB of weights
    "mobilenetv3_large_100.ra_in1k",  # the cheapest useful one: 0.4 GFLOPs
    "resnet18.a1_in1k",  # the usual reference
    "efficientnet_b0.ra_in1k",  # the most accurate for its size among plain ImageNet-1k networks
    "convnext_nano.in12k_ft_in1k",  # convolutions, pretrained on the larger ImageNet-12k
    "vit_small_patch16_224.augreg_in21k_ft_in1k",  # a transformer, ImageNet-21k
    "vit_small_patch16_224.dino",  # the same network, trained without labels
)
LARGE = (  # the strongest kinds of their size, for a GPU; 1.9 GB of weights
    "resnet50.a1_in1k",  # the usual reference
    "efficientnet_b0.ra_in1k",  # a tenth of the cost
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
    """A short list that fits the data and the machine, without models that need a missing network."""
    from backbench.runtime import has_network

    known = find_source(source)
    if known is not None and known.is_embedded:  # embedded data: embedded models, no network
        return [find_model(name) for name in EMBEDDED_MODELS]
    wanted = [find_model(name) for name in default_models(device)]
    if all(is_on_disk(model) for model in wanted) or has_network():
        return wanted
    wanted = [model for model in wanted if is_on_disk(model)]
    if wanted:
        progress.warn("can't reach the hub: ranking only models whose weights are on this machine")
        return wanted
    progress.warn(
        "can't reach the hub, and no weights of the default models are on this machine: ranking the small models "
        f"that come with backbench, {', '.join(EMBEDDED_MODELS)}. The last two were trained on the tiny images of "
        "CIFAR-100; a larger model is usually better. Give a card of local weights with --models CARD.toml "
        "(README: own weights)"
    )
    return [find_model(name) for name in EMBEDDED_MODELS]
