"""Names from papers and the five seed studies, and the timm or torchvision models that they mean.

Aliases only work as input: specs, records and tables hold the real name. `resnet18`, `resnet50`,
`efficientnet_b0`, `convnext_base`, `pvt_v2_b3`, ... are not aliases: a bare timm architecture always
means timm's default weights.
"""

from __future__ import annotations

from backbench.backbones import timm_models, torchvision_models
from backbench.registry import ModelSpec

ALIASES = {
    # torchvision's own networks, by the names torchvision gives them
    "alexnet": "torchvision/alexnet",
    "mobilenet_v2": "torchvision/mobilenet_v2",
    "mobilenet": "torchvision/mobilenet_v2",
    "vit_b_16": "torchvision/vit_b_16",
    # the original ImageNet-21k weights, which are also published as ViT-B_16.npz
    "vit_b16": "vit_base_patch16_224.orig_in21k",
    "vit-base-patch16-224-in21k": "vit_base_patch16_224.orig_in21k",
    "vit_base": "vit_base_patch16_224.orig_in21k_ft_in1k",
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2-base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "vit_large_patch14_dinov2.lvd142m",
    # sizes of families, as in tables of results
    "deit3_base": "deit3_base_patch16_224.fb_in22k_ft_in1k",
    "swin_base": "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    "mlp_mixer": "mixer_b16_224.goog_in21k_ft_in1k",
}
"""The real name of each alias."""


def resolve(name: str) -> ModelSpec | None:
    """The spec of an alias under its real name, ignoring case; None if it is not an alias."""
    real = ALIASES.get(name.lower())
    if real is None:
        return None
    return torchvision_models.resolve(real) or timm_models.resolve(real)
