"""Networks of backbench for training from scratch: `cnn`, `lenet`, `backbench/vit_base_patch16` and relatives.

Vision transformers have the prefix so that they are not confused with timm's trained `vit_base_patch16_224`.
For trained weights, write a card with `architecture` `backbench/NAME`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from backbench.backbones.architectures.vit_config import (
    ViTConfig,
    config_of_name,
    count_vit_flops,
    count_vit_parameters,
    list_names,
)
from backbench.config import Preprocess
from backbench.registry import ModelSpec

PREFIX = "backbench/"
LICENCE = "Apache-2.0"
SMALL_PREPROCESS = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def list_specs() -> list[ModelSpec]:
    """The usual vision transformers."""
    return [spec for name in list_names() if (spec := resolve(PREFIX + name))]


def resolve(name: str) -> ModelSpec | None:
    """The spec of `backbench/vit_{tiny,small,base,large,huge}_patch{N}[_{image size}]`, or of `backbench/cnn`.

    None for other names.

    Raises:
        ModelError: an image size that is not a multiple of the patch.
    """
    if not name.startswith(PREFIX):
        return None
    own = name.removeprefix(PREFIX)
    config = config_of_name(own)
    if config is not None:
        return _vit_spec(own, config)
    return next((spec for spec in SPECS if spec.name == own), None)


def _vit_spec(name: str, config: ViTConfig) -> ModelSpec:
    side = config.image_size[0]
    preprocess = Preprocess(size=(side, side), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    num_parameters = count_vit_parameters(config)
    return ModelSpec(
        name=PREFIX + name,
        summary=f"untrained: {num_parameters / 1e6:.1f} M parameters, {side} px, a vision transformer of our own",
        load=partial(_load, PREFIX + name, name, preprocess),
        num_parameters=num_parameters,
        input_size=side,
        flops=count_vit_flops(config),
        licence=LICENCE,
    )


def _load(name: str, network: str, preprocess: Preprocess, seed: int) -> Any:
    """The backbone with random weights of the seed."""
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.backbones.loaders.own import make_untrained_body

    return make_backbone(
        make_untrained_body(network, seed),
        name=name,
        architecture=PREFIX + network,
        preprocess=preprocess,
        origin=Origin(pretrained_on=None, licence=LICENCE, source=f"random weights of seed {seed}"),
    )


def _cnn_spec(name: str, summary: str, num_parameters: int, flops: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        summary=summary,
        load=partial(_load, name, name, SMALL_PREPROCESS),
        num_parameters=num_parameters,
        input_size=SMALL_PREPROCESS.size[0],
        flops=flops,
        licence=LICENCE,
    )


GOOGLE_URL = "https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz"


def _find_google() -> Path | None:
    from backbench.backbones.core.model_index import find_torch_file
    from backbench.backbones.weights_folder import find_file

    return find_file("ViT-B_16.npz") or find_torch_file(GOOGLE_URL)


def _ask_google(name: str) -> None:
    from backbench.backbones.core.fetch import ask_address
    from backbench.backbones.core.model_index import torch_file

    ask_address(GOOGLE_URL, name, torch_file(GOOGLE_URL))


def _check_google(name: str) -> None:
    if _find_google() is not None:
        _load_google(name, 0)


def _load_google(name: str, _seed: int) -> Any:
    """Our ViT-B/16 with the original weights, from the weights folder, this machine, or a download."""
    from backbench.backbones.core.fetch import fetch_from_address
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.backbones.core.model_index import torch_file
    from backbench.backbones.loaders.own import load_own_body

    file = _find_google() or fetch_from_address(GOOGLE_URL, name, torch_file(GOOGLE_URL))
    return make_backbone(
        load_own_body("vit_base_patch16", {}, file)[0],
        name=name,
        architecture=f"{PREFIX}vit_base_patch16",
        preprocess=Preprocess(size=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        origin=Origin("ImageNet-21k", LICENCE, GOOGLE_URL),
    )


def _google_spec() -> ModelSpec:
    config = config_of_name("vit_base_patch16")
    assert config is not None  # a standard name
    name = f"{PREFIX}vit_base_patch16.in21k"
    return ModelSpec(
        name=name,
        summary="85.8 M parameters, 224 px, ImageNet-21k: our own ViT-B/16 with the original weights",
        load=partial(_load_google, name),
        pretrained_on="ImageNet-21k",
        num_parameters=count_vit_parameters(config),
        input_size=224,
        flops=count_vit_flops(config),
        licence=LICENCE,
        download_bytes=412_815_506,
        find_weights=_find_google,
        ask=partial(_ask_google, name),
        check=partial(_check_google, name),
    )


SPECS = [
    _google_spec(),
    _cnn_spec("cnn", "untrained: seven convolutions, quick to train at 32 px", 1_970_232, 236_289_600),
    _cnn_spec(
        "cnn_small", "untrained: three convolutions, the small network of a published study", 23_808, 5_603_328
    ),
    _cnn_spec(
        "lenet", "untrained: two convolutions and two dense layers, as in PyTorch's tutorial", 61_156, 1_301_760
    ),
]
