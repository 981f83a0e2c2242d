"""Networks of our own, untrained or with weights from a local file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbench.backbones.architectures import cnn, tiny_nets, vit_config, vit_weights
from backbench.backbones.architectures.vit import VisionTransformer, drop_head
from backbench.backbones.architectures.vit_config import ViTConfig
from backbench.backbones.core.checkpoint import Choice, find_state
from backbench.backbones.core.weights import check_state, put_state
from backbench.backbones.core.weights_file import open_weights
from backbench.errors import ModelError, nearest

PREFIX = "backbench/"
GOOGLE_SUFFIX = ".npz"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": cnn.CNN,
    "cnn_small": cnn.SmallCNN,
    "lenet": cnn.LeNet,
    "tiny_cnn": tiny_nets.TinyCNN,
    "tiny_vit": tiny_nets.TinyViT,
}
VIT_OPTIONS = {"patch_size": "patch", "embed_dim": "width", "depth": "depth", "num_heads": "heads"}
"""Options of a vision transformer that a card may set, by timm's names."""
POOLINGS = {"token": "token", "avg": "mean"}


def make_untrained_body(name: str, seed: int) -> nn.Module:
    """The network of that name with random weights of the seed, in eval mode; ModelError if there is none."""
    config = vit_config_of(name, {})
    if config is not None:
        return tiny_nets.make_untrained(lambda: VisionTransformer(config), seed, name)
    network = tiny_nets.make_untrained(_find(name), seed, name)
    return cnn.start_well(network) if isinstance(network, cnn.CNN) else network


def load_own_body(
    name: str,
    options: Mapping[str, Any],
    weights: Path,
    choice: Choice = Choice(),  # noqa: B008 - frozen
) -> tuple[nn.Module, str]:
    """The network of that name, without a head, with every tensor from the file, in eval mode; and a remark on
    the choice of tensors.

    Args:
        name: `vit_base_patch16`, `cnn`, ...
        options: for a vision transformer `img_size`, `global_pool`, `patch_size`, `embed_dim`, `depth` and
            `num_heads`; `num_classes` has no effect, because the head is ignored. Other networks have no options.
        weights: for a vision transformer also one of the source's `.npz` checkpoints.
        choice: the card's choice of tensors in the file.

    Raises:
        ModelError: no such network, invalid options, or weights that do not fit.
    """
    config = vit_config_of(name, options)
    if config is not None:
        return _load_vit(config, options, weights, choice)
    build = _find(name)
    if weights.suffix == GOOGLE_SUFFIX:
        raise ModelError(f"{weights} is for {PREFIX}vit_* networks; {PREFIX}{name} needs a .safetensors file.")
    _refuse(name, options, ("num_classes",))
    with torch.device("meta"):
        network = build()
    taken = find_state(open_weights(weights), network.state_dict(), where=str(weights), choice=choice)
    unused = vit_weights.HEAD_NAMES
    check_state(network.state_dict(), taken.state, where=str(weights), unused=unused)
    network.to_empty(device="cpu")
    put_state(network, taken.state, where=str(weights), unused=unused)
    return network.eval(), taken.remark


def _find(name: str) -> Callable[[], nn.Module]:
    if name not in NETWORKS:
        known = [*NETWORKS, *vit_config.list_names()]
        close = ", ".join(PREFIX + near for near in nearest(name, known) or known)
        raise ModelError(f"there is no network '{PREFIX}{name}'. Nearest: {close}.")
    return NETWORKS[name]


def vit_config_of(name: str, options: Mapping[str, Any]) -> ViTConfig | None:
    """The vision transformer of that name with a card's options; None for another kind of network."""
    config = vit_config.config_of_name(name)
    if config is None:
        return None
    _refuse(name, options, (*VIT_OPTIONS, "img_size", "global_pool", "num_classes"))
    changes = {VIT_OPTIONS[key]: value for key, value in options.items() if key in VIT_OPTIONS}
    if "embed_dim" in options:
        changes["hidden"] = 4 * options["embed_dim"]
    if "img_size" in options:
        size = options["img_size"]
        changes["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    if "global_pool" in options:
        pool = options["global_pool"]
        if pool not in POOLINGS:
            raise ModelError(f"{PREFIX}{name}: global_pool is '{pool}'; allowed: {', '.join(POOLINGS)}.")
        changes["pooling"] = POOLINGS[pool]
    return replace(config, **changes)


def _load_vit(
    config: ViTConfig, options: Mapping[str, Any], weights: Path, choice: Choice
) -> tuple[nn.Module, str]:
    if weights.suffix == GOOGLE_SUFFIX:
        state, heads = vit_weights.read_google(weights)
        remark = ""
    else:
        with torch.device("meta"):
            own = drop_head(VisionTransformer(config)).state_dict()
        taken = find_state(open_weights(weights), own, where=str(weights), choice=choice)
        state, remark, heads = (
            taken.state,
            taken.remark,
            config.heads,
        )  # these files do not hold the number of heads
    network = vit_weights.make_vit_from_state(config, state, where=str(weights))
    if heads != config.heads:
        raise ModelError(f"{weights} is a ViT with {heads} heads and not {config.heads}. Check the architecture.")
    if "img_size" in options:
        network.set_image_size(config.image_size)
    return network, remark


def _refuse(name: str, options: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    unknown = [key for key in options if key not in allowed]
    if unknown:
        raise ModelError(f"{PREFIX}{name} has no option '{unknown[0]}'. Allowed: {', '.join(allowed)}.")
