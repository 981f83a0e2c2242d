"""timm's networks without their classification layer, with published or local weights."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from backbench.backbones.core.checkpoint import State, find_state
from backbench.backbones.core.fetch import prefer_no_telemetry
from backbench.backbones.core.misfit import explain_misfit
from backbench.backbones.core.outline import make_outline
from backbench.backbones.core.weights import check_state
from backbench.backbones.core.weights_file import open_weights, tell_reason
from backbench.config import Preprocess
from backbench.errors import ModelError

_RESIZED = re.compile(r"pos_embed|relative_position_bias_table|rel_pos")


def load_pretrained(name: str, file: Path) -> nn.Module:
    """The body of a published timm model from its weights file; errors as `load_network`."""
    return drop_head(load_network(name, file))


def load_network(name: str, file: Path) -> nn.Module:
    """A published timm model from its weights file, head included.

    All weights are loaded strictly, then the head is dropped: timm does not report missing tensors if it makes a
    network without a head.

    Raises:
        ModelError: the file is damaged or belongs to another model.
    """
    prefer_no_telemetry()
    import timm

    overlay = {"file": str(file), "custom_load": False}
    try:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # timm and torch report wrong or damaged files in many ways
        _explain_failure(name, file)
        raise ModelError(
            f"{file} can't be loaded as '{name}': {tell_reason(error)}. If it is damaged, delete it; backbench "
            "downloads it again."
        ) from error
    return network


def _explain_failure(name: str, file: Path) -> None:
    """Raise ModelError if the reason is known why a file does not fit a published model."""
    held = open_weights(file)
    outline = make_outline(lambda: make_network(name, {}))
    if outline is not None:
        own = outline.state_dict()
        taken = find_state(
            held, own, where=str(file), convert=lambda state: convert_names(state, outline, str(file))
        )
        otherwise = f"It is not the complete file of '{name}': delete it; backbench downloads it again."
        advice = explain_misfit(own, taken.state, f"timm/{name}", otherwise)
        check_state(own, taken.state, where=str(file), advice=advice)


def make_network(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """A timm network with random weights, head included, for a card."""
    prefer_no_telemetry()
    import timm

    return timm.create_model(architecture, pretrained=False, **options)


def convert_names(state: State, network: nn.Module, where: str) -> State | None:
    """Tensors by the names of the original code (DINOv2, ConvNeXt, Swin, BEiT, ...) converted to timm's names by
    timm.

    Args:
        state: by the names in the file; not changed.
        network: a timm network on any device.
        where: name of the file for messages.

    Returns:
        None if timm has no conversion for this network, or if it fails.

    Raises:
        ModelError: timm would resize position embeddings, which changes the features.
    """
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        converted = dict(convert(dict(state), network))
    except Exception:  # tensors of another network fail in many ways
        return None
    resized = [name for name, tensor in converted.items() if _RESIZED.search(name) and _is_resized(tensor, state)]
    if resized:
        raise ModelError(
            f"{where}: its {resized[0]} is for another image size than the network's: set options.img_size and "
            "preprocess.size in the card to the size of its training."
        )
    return converted


def _is_resized(tensor: Tensor, state: State) -> bool:
    """Whether no tensor in the file has this size, except for the positions of one or two tokens."""
    width = tensor.shape[-1] if tensor.ndim else 1
    return not any(0 <= each.numel() - tensor.numel() <= 2 * width for each in state.values())


def drop_head(network: Any) -> nn.Module:
    """Remove the classification layer in place, as timm does; a few encoders have none."""
    if hasattr(network, "reset_classifier"):
        network.reset_classifier(0)
    return network


def published_preprocess(name: str) -> Preprocess:
    """`decide_preprocess` of a published timm model, without making the network."""
    import timm

    return _read_config(timm.get_pretrained_cfg(name).to_dict())


def decide_preprocess(network: Any) -> Preprocess:
    """timm's preprocessing for these weights, at their training size.

    timm's 'border' (the image shrunk to fit, the rest filled) becomes 'squash': both show the whole image
    to the network, but padding would add an edge to the features. A crop fraction over 1 (a shrunk and padded
    image) becomes 1.
    """
    return _read_config(network.pretrained_cfg)


def _read_config(published: Mapping[str, Any]) -> Preprocess:
    from timm.data import resolve_data_config

    said = resolve_data_config({}, pretrained_cfg=dict(published))
    return Preprocess(
        size=said["input_size"][1:],
        resize="short-side" if said["crop_mode"] == "center" else "squash",
        crop_fraction=min(1.0, said["crop_pct"]),
        interpolation=said["interpolation"],
        mean=said["mean"],
        std=said["std"],
    )
