"""Load the body that a card describes: an architecture of timm or torchvision with local weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbench.backbones.core.checkpoint import Choice, State, find_state
from backbench.backbones.core.cut import cut_at
from backbench.backbones.core.misfit import explain_misfit
from backbench.backbones.core.outline import make_outline
from backbench.backbones.core.skip_init import undrawn
from backbench.backbones.core.weights import check_state, put_state
from backbench.backbones.core.weights_file import open_weights, tell_reason
from backbench.backbones.loaders import own as own_body
from backbench.backbones.loaders import timm as timm_body
from backbench.backbones.loaders import torchvision as torchvision_body
from backbench.errors import ModelError, nearest

LIBRARIES = {"timm": timm_body, "torchvision": torchvision_body}
GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey value, by ITU-R 601, as Pillow makes them."""
_OF_TRAINING = ("decoder", "mask_token", "projection_head", "projector", "predictor", "prototypes", "n_averaged")
"""Name prefixes of tensors that are used only in pretraining."""


@dataclass(frozen=True)
class CardWeights:
    """The weights of a card: the file, and the card's settings for its content.

    in_chans: channels of the images that the first layer takes, 1 or 3.
    """

    file: Path
    choice: Choice = Choice()  # noqa: RUF009 - frozen
    in_chans: int = 3


def load_card_body(
    architecture: str, options: Mapping[str, Any], weights: CardWeights, feature_layer: str | None
) -> tuple[nn.Module, str]:
    """The network without its head, or up to `feature_layer`, with all its tensors from the file.

    Args:
        architecture: 'timm/NAME', 'torchvision/NAME' or (without feature_layer) 'backbench/NAME'.
        options: passed to the constructor of the architecture.
        weights: tensors of the head or after `feature_layer` are ignored whatever their shape.

    Returns:
        The body, and a remark on the choice of tensors in the file, or ''.

    Raises:
        ModelError: no such architecture, invalid options, or weights that do not fit.
    """
    library_name, _, name = architecture.partition("/")
    if library_name == "backbench":
        if feature_layer is not None:
            raise ModelError(f"{architecture} can't be truncated: leave feature_layer out.")
        return own_body.load_own_body(name, options, weights.file, weights.choice)
    if weights.file.suffix == own_body.GOOGLE_SUFFIX:
        raise ModelError(
            f"{weights.file} works only with architectures backbench/vit_*, such as backbench/vit_base_patch16; "
            f"the card has {architecture}."
        )
    held = open_weights(weights.file)
    outline = _outline(architecture, options, feature_layer)
    parts = outline or _make_parts(architecture, options, feature_layer)
    state, remark = _find_weights(held, parts, weights, architecture)
    own, unused = parts.named.state_dict(), parts.shapes.keys() - parts.named.state_dict().keys()
    where, advice = str(weights.file), explain_misfit(own, state, architecture)
    check_state(own, state, where=where, unused=unused, advice=advice)
    if outline is not None:
        parts = _make_parts(architecture, options, feature_layer)
    put_state(parts.named, state, where=where, unused=unused)
    return parts.body.eval(), remark


def load_card_network(architecture: str, options: Mapping[str, Any], weights: CardWeights) -> nn.Module:
    """The whole network of timm or torchvision, head included, every tensor from the file; errors as above."""
    held = open_weights(weights.file)
    where, parts = str(weights.file), _outline(architecture, options, None)
    with undrawn():
        network = make_architecture(architecture, options)
    own = network.state_dict()
    state, _ = _find_weights(
        held, parts or _make_parts(architecture, options, None), weights, architecture, keeps_head=True
    )
    check_state(own, state, where=where, advice=explain_misfit(own, state, architecture))
    put_state(network, state, where=where)
    return network.eval()


@dataclass(frozen=True)
class _Parts:
    """A network without its head or later layers, and the module whose names match the file.

    shapes: shapes of all tensors of the whole network, by name.
    """

    body: nn.Module
    named: nn.Module
    shapes: dict[str, torch.Size]


def _outline(architecture: str, options: Mapping[str, Any], feature_layer: str | None) -> _Parts | None:
    return make_outline(lambda: _part(make_architecture(architecture, options), architecture, feature_layer))


def _make_parts(architecture: str, options: Mapping[str, Any], feature_layer: str | None) -> _Parts:
    with undrawn():
        network = make_architecture(architecture, options)
    return _part(network, architecture, feature_layer)


def _part(network: nn.Module, architecture: str, feature_layer: str | None) -> _Parts:
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if feature_layer is None:
        body = LIBRARIES[architecture.partition("/")[0]].drop_head(network)
        return _Parts(body, body, shapes)
    cut = cut_at(network, feature_layer)
    return _Parts(cut, cut.trunk, shapes)


def _find_weights(
    held: object, parts: _Parts, weights: CardWeights, architecture: str, *, keeps_head: bool = False
) -> tuple[State, str]:
    """The tensors of the network in the file, without those used only in pretraining, and a remark on them."""
    own, where = parts.named.state_dict(), str(weights.file)
    is_timm = architecture.startswith("timm/")
    taken = find_state(
        held,
        own,
        where=where,
        choice=weights.choice,
        rename=str if is_timm else torchvision_body.rename_old_name,
        convert=(lambda state: timm_body.convert_names(state, parts.named, where)) if is_timm else None,
    )
    of_head = tuple(f"{name.rpartition('.')[0]}." for name in parts.shapes.keys() - own.keys())
    state = {
        name: tensor
        for name, tensor in taken.state.items()
        if name in own or (name in parts.shapes and keeps_head) or not name.startswith((*of_head, *_OF_TRAINING))
    }
    remarks = [taken.remark, *_remark_on_head(taken.state, parts)]
    if weights.in_chans == 1:
        state = fold_grey(state, own, where)
        remarks.append("first layer with one channel, applied to grey values")
    return state, ", ".join(filter(None, remarks))


def _remark_on_head(state: State, parts: _Parts) -> list[str]:
    """A remark on an unused classifier with another number of classes than the architecture's."""
    left = parts.shapes.keys() - parts.named.state_dict().keys()
    rows = {
        len(state[name])
        for name in left & state.keys()
        if state[name].ndim and state[name].shape != parts.shapes[name]
    }
    return [f"classifier of {rows.pop():,} classes not used"] if len(rows) == 1 else []


def fold_grey(state: State, own: Mapping[str, torch.Tensor], where: str) -> State:
    """Convert weights for grey images into weights for colour images that give the same for grey values.

    The first layer is linear: w * (0.299 r + 0.587 g + 0.114 b) = 0.299 w * r + 0.587 w * g + 0.114 w * b, if
    the three channels have the same normalisation.

    Raises:
        ModelError: the first layer in the file does not take images of one channel.
    """
    stems = [
        name
        for name, tensor in own.items()
        if name in state and tensor.ndim == 4 and tensor.shape[1] == 3 and state[name].shape[1:2] == (1,)
    ]
    if not stems:
        raise ModelError(
            f"{where}: the card has in_chans = 1, but no first layer here takes grey images. Leave it out."
        )
    spread = {name: torch.cat([share * state[name] for share in GREY], dim=1) for name in stems}
    return {**state, **spread}


def make_architecture(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, head included; ModelError for an unknown name or invalid options."""
    library, _, name = architecture.partition("/")
    known = _architectures(library)
    if name.partition(".")[0] not in known:  # timm names may have a tag
        close = ", ".join(f"{library}/{near}" for near in nearest(name, known)) or f"any {library} model"
        raise ModelError(f"{library} has no architecture '{name}'. Nearest: {close}.")
    try:
        return LIBRARIES[library].make_network(name, options).eval()
    except Exception as error:  # constructors report invalid options in many ways
        raise ModelError(
            f"{architecture} can't be made with options {dict(options)}: {tell_reason(error)}."
        ) from error


def _architectures(library: str) -> list[str]:
    if library == "timm":
        import timm

        return timm.list_models()
    from torchvision import models

    return models.list_models(module=models)
