"""timm's networks without their classification layer, with published or local weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from backbench.backbones.networks.fetch import prefer_no_telemetry
from backbench.config import Preprocess
from backbench.errors import ModelError


def load_pretrained(name: str, file: Path) -> nn.Module:
    """The body of a published timm model from its weights file; errors as `load_network`."""
    return drop_head(load_network(name, file))


def load_network(name: str, file: Path) -> nn.Module:
    """A published timm model from its weights file, head included.

    The whole network is filled, strictly, and its head is dropped afterwards: timm itself stops
    complaining about missing tensors as soon as it is asked for a network without a head.

    Raises:
        ModelError: the file is damaged, or is not that of this model.
    """
    prefer_no_telemetry()
    import timm

    overlay = {"file": str(file), "custom_load": False}
    try:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # timm and torch report a wrong or damaged file in many ways
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{file} can't be loaded as '{name}': {' '.join(line.strip() for line in lines[:4])[:500]}. "
            f"If it is damaged, delete it and it will be fetched again."
        ) from error
    return network


def make_network(architecture: str, options: Mapping[str, Any]) -> nn.Module:
    """A timm network with random weights, head included, for a card."""
    prefer_no_telemetry()
    import timm

    return timm.create_model(architecture, pretrained=False, **options)


def drop_head(network: Any) -> nn.Module:
    """Take the classification layer off, in place, as timm does it; a few encoders never had one."""
    if hasattr(network, "reset_classifier"):
        network.reset_classifier(0)
    return network


def published_preprocess(name: str) -> Preprocess:
    """`decide_preprocess` of a published timm model, without making the network."""
    import timm

    return _read_config(timm.get_pretrained_cfg(name).to_dict())


def decide_preprocess(network: Any) -> Preprocess:
    """How timm says that images must be prepared for these weights, at the size they were trained for.

    timm's 'border' (the image shrunk to fit, the rest filled) becomes 'squash': both show the network all of the
    image, and filling would add an edge that these features see. A crop fraction over 1 (an image shrunk, and
    filled around) becomes 1.
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
