"""The body that a card describes: an architecture of timm or torchvision with weights from a local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from backbench.backbones.networks import own_body, timm_body, torchvision_body
from backbench.backbones.networks.cut import cut_at
from backbench.backbones.networks.undrawn import undrawn
from backbench.backbones.networks.weights import put_state, read_state
from backbench.errors import ModelError, nearest

LIBRARIES = {"timm": timm_body, "torchvision": torchvision_body}


def load_card_body(
    architecture: str, options: Mapping[str, Any], weights: Path, feature_layer: str | None
) -> nn.Module:
    """The network without its head, or up to `feature_layer`, with every tensor that runs taken from the file.

    Args:
        architecture: 'timm/NAME', 'torchvision/NAME' or, uncut, 'backbench/NAME'.
        options: passed to the constructor of the architecture.
        weights: what of the file belongs to the head, or lies behind the cut, is left aside whatever its shape.

    Raises:
        ModelError: no such architecture, options it does not take, or weights that do not fit.
    """
    library_name, _, name = architecture.partition("/")
    if library_name == "backbench":
        if feature_layer is not None:
            raise ModelError(f"{architecture} can't be cut: leave feature_layer out.")
        return own_body.load_own_body(name, options, weights)
    if weights.suffix == own_body.GOOGLE_SUFFIX:
        raise ModelError(
            f"{weights} is read for the architecture backbench/vit_* only, such as backbench/vit_base_patch16; "
            f"the card says {architecture}."
        )
    state = read_state(weights)
    library = LIBRARIES[library_name]
    with undrawn():
        network = make_architecture(architecture, options)
    all_names = set(network.state_dict())
    if library is torchvision_body:
        state = torchvision_body.rename_old_keys(state)
    if feature_layer is None:
        body = named = library.drop_head(network)
    else:
        body = cut_at(network, feature_layer)
        named = body.trunk  # where tensors have the names they have in the file
    put_state(named, state, where=str(weights), unused=all_names - set(named.state_dict()))
    return body.eval()


def load_card_network(architecture: str, options: Mapping[str, Any], weights: Path) -> nn.Module:
    """The whole network of timm or torchvision, head included, every tensor from the file; errors as above."""
    state = read_state(weights)
    with undrawn():
        network = make_architecture(architecture, options)
    if architecture.startswith("torchvision/"):
        state = torchvision_body.rename_old_keys(state)
    put_state(network, state, where=str(weights))
    return network.eval()


def make_architecture(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, head included; ModelError if there is none, or not with such options."""
    library, _, name = architecture.partition("/")
    known = _architectures(library)
    if name.partition(".")[0] not in known:  # timm names may end in a tag
        close = ", ".join(f"{library}/{near}" for near in nearest(name, known)) or f"any {library} model"
        raise ModelError(f"{library} has no architecture '{name}'. Nearest: {close}.")
    try:
        return LIBRARIES[library].make_network(name, options).eval()
    except Exception as error:  # constructors report options they do not take in many ways
        raise ModelError(
            f"{architecture} can't be made with options {dict(options)}: {str(error)[:200]}."
        ) from error


def _architectures(library: str) -> list[str]:
    if library == "timm":
        import timm

        return timm.list_models()
    from torchvision import models

    return models.list_models(module=models)
