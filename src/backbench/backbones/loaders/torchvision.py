"""torchvision's classification networks without their classification layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from backbench.backbones.core.checkpoint import find_state
from backbench.backbones.core.weights import put_state
from backbench.backbones.core.weights_file import open_weights

_OLD_NAME = re.compile(r"^(features\.denseblock\d+\.denselayer\d+\.(?:norm|relu|conv))\.(\d.*)$")
PORTED = ("googlenet", "inception_v3")
"""Weights ported from another framework: the network rescales its input, and has auxiliary heads for training."""


def make_network(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A torchvision classification network with random weights, head included."""
    from torchvision import models

    fixed: dict[str, Any] = {"aux_logits": True, "init_weights": False} if name in PORTED else {}
    return models.get_model(name, weights=None, **{**fixed, **(options or {})})


def drop_head(network: Any) -> nn.Module:
    """Replace the layers after the features in place, and return the network.

    The last linear layer becomes the identity; layers before it stay: AlexNet and VGG give the 4096 values
    of their second hidden layer, MobileNet-V3 those of its hidden layer. SqueezeNet classifies by a convolution:
    its features are averaged over positions instead. Auxiliary heads are removed: they run in training only.
    """
    for auxiliary in ("aux1", "aux2", "AuxLogits"):
        if hasattr(network, auxiliary):
            setattr(network, auxiliary, None)
            network.aux_logits = False
    if is_squeezenet(network):
        network.classifier = nn.AdaptiveAvgPool2d(1)  # its forward flattens the output of the classifier
        return network
    parent, _, leaf = head_path(network).rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network


def is_squeezenet(network: nn.Module) -> bool:
    """Whether the network classifies by a convolution."""
    classifier = getattr(network, "classifier", None)
    return isinstance(classifier, nn.Sequential) and any(isinstance(part, nn.Conv2d) for part in classifier)


def head_path(network: nn.Module) -> str:
    """The path of the layer that gives logits: a convolution in SqueezeNet, elsewhere the last linear layer."""
    if is_squeezenet(network):
        return "classifier.1"
    return [path for path, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


def rename_old_name(name: str) -> str:
    """DenseNet's published files have 'norm.1' for the network's 'norm1'; other names are unchanged."""
    return _OLD_NAME.sub(r"\1\2", name)


def published_options(name: str, size: int) -> dict[str, Any]:
    """Options that torchvision sets for its default weights of that input size."""
    if name in PORTED:
        return {"transform_input": True}
    return {"image_size": size} if name.startswith("vit_") else {}


def load_pretrained(name: str, file: Path, size: int) -> nn.Module:
    """The body of a published torchvision model from its weights file; as `load_network`."""
    return drop_head(load_network(name, file, size))


def load_network(name: str, file: Path, size: int) -> nn.Module:
    """A published torchvision model from its weights file, head included, for square images of `size` pixels.

    Raises:
        ModelError: the file is damaged or belongs to another model.
    """
    network = make_network(name, published_options(name, size))
    taken = find_state(open_weights(file), network.state_dict(), where=str(file), rename=rename_old_name)
    put_state(network, taken.state, where=str(file))
    return network
