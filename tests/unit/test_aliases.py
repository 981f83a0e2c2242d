"""Names of papers and seed studies stand for real models, under whose names everything is recorded."""

from __future__ import annotations

import pytest

from backbench.backbones import aliases, timm_models
from backbench.errors import ConfigError
from backbench.registry import find_model, list_models

# What each seed study compared: its own label for a model -> the name here.
SEED_MODELS = {
    "MiniVision": {  # DINOv2 was run at 224 px there, not at the 518 px of its weights
        "ResNet-18": "torchvision/resnet18",
        "EfficientNet-B0": "efficientnet_b0.ra_in1k",
        "DINOv2-B/14": "vit_base_patch14_dinov2.lvd142m",
    },
    "CIFAR-10 transfer benchmarks": {  # weights of the transformers library; the nearest of timm
        "ResNet-50": "resnet50.a1_in1k",
        "ViT-B/16": "vit_base_patch16_224.orig_in21k",
        "EfficientNet-B0": "efficientnet_b0.ra_in1k",
        "LeNet-like CNN": "lenet",
    },
    "cifar10-image-classification": {
        "CNN": "cnn_small",
        "AlexNet": "torchvision/alexnet",
        "MobileNet": "torchvision/mobilenet_v2",
        "ResNet-18": "torchvision/resnet18",
        "ViT": "torchvision/vit_b_16",
    },
    "ViT-B16 from scratch": {
        "ViT-B16 (pretrained)": "vit_base_patch16_224.orig_in21k",
        "ViT-B16": "backbench/vit_base_patch16",
    },
    "Caltech256 vs CIFAR100": {
        "PVT V2 B3": "pvt_v2_b3.in1k",
        "Vit Base": "vit_base_patch16_224.orig_in21k_ft_in1k",
        "DeiT3 Base": "deit3_base_patch16_224.fb_in22k_ft_in1k",
        "Resnet50": "resnet50.a1_in1k",
        "Resnet18": "resnet18.a1_in1k",
        "Resnet152": "resnet152.a1_in1k",
        "Swin Base": "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
        "MLP-MIXER": "mixer_b16_224.goog_in21k_ft_in1k",
        "EfNetV2-M": "tf_efficientnetv2_m.in21k_ft_in1k",
        "CvNext Base": "convnext_base.fb_in22k_ft_in1k",
        "RegNetY-040": "regnety_040.pycls_in1k",
    },
}


@pytest.mark.parametrize("alias", aliases.ALIASES)
def test_an_alias_is_a_known_model_under_its_real_name(alias: str) -> None:
    spec = find_model(alias)
    assert spec.name == aliases.ALIASES[alias]
    assert spec.identity == find_model(spec.name).identity
    assert find_model(alias.upper()).name == spec.name
    assert timm_models.resolve(alias) is None  # timm's own names are never given another meaning


def test_aliases_are_not_listed_twice() -> None:
    names = [spec.name for spec in list_models()]
    assert len(names) == len(set(names))
    assert not set(names) & set(aliases.ALIASES)


def test_what_the_seed_studies_compared_is_here() -> None:
    assert {study: len(rows) for study, rows in SEED_MODELS.items()} == {
        "MiniVision": 3,
        "CIFAR-10 transfer benchmarks": 4,
        "cifar10-image-classification": 5,
        "ViT-B16 from scratch": 2,
        "Caltech256 vs CIFAR100": 11,
    }
    for rows in SEED_MODELS.values():
        for real in rows.values():
            assert find_model(real).name == real


def test_bare_timm_names_keep_timms_meaning() -> None:
    for name in ("resnet18", "resnet50", "efficientnet_b0", "pvt_v2_b3"):
        assert find_model(name).name.startswith(f"{name}.")
    assert find_model("resnet18").name == "resnet18.a1_in1k"


def test_near_misses_are_told() -> None:
    with pytest.raises(ConfigError, match="alexnet"):
        find_model("alexnett")
