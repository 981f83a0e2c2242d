"""Truncate a network after a named layer."""

from __future__ import annotations

import torch
from torch import nn

from backbench.errors import ModelError, nearest


class Cut(nn.Module):
    """A network up to a layer; maps (batch, channels, height, width) are averaged over positions."""

    def __init__(self, trunk: nn.Module, *, channels_last: bool) -> None:
        super().__init__()
        self.trunk: nn.Module = trunk
        self.positions = (1, 2) if channels_last else (2, 3)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        values = self.trunk(batch)["features"]
        return values.mean(self.positions) if values.ndim == 4 else values


def cut_at(network: nn.Module, layer: str) -> Cut:
    """The part of `network` up to the end of `layer`, without later layers.

    Args:
        network: in eval mode; its tensors are shared with the result, under their old names after 'trunk.'.
        layer: a module path such as 'layer3'.

    Raises:
        ModelError: no such layer, or a network whose control flow depends on values.
    """
    from timm.layers import get_notrace_functions, get_notrace_modules
    from torchvision.models.feature_extraction import create_feature_extractor

    known = [path for path, _ in network.named_modules() if path]
    if layer not in known:
        close = nearest(layer, known) or [path for path, _ in network.named_children()]
        raise ModelError(
            f"feature_layer '{layer}' is not a layer of this network. Nearest: {', '.join(close[:8])}."
        )
    try:
        trunk = create_feature_extractor(
            network.eval(),
            {layer: "features"},
            tracer_kwargs={  # modules of timm that branch on shapes: not traced
                "leaf_modules": list(get_notrace_modules()),
                "autowrap_functions": list(get_notrace_functions()),
            },
            suppress_diff_warning=True,
        )
    except Exception as error:  # tracing fails in many ways
        raise ModelError(
            f"this network can't be truncated at '{layer}' ({str(error).strip()[:200]}). Leave feature_layer out, "
            "or choose another layer."
        ) from error
    return Cut(trunk.eval(), channels_last=is_channels_last(network))


def is_channels_last(network: nn.Module) -> bool:
    """Whether the maps inside the network are (batch, height, width, channels), as in Swin."""
    name = type(network).__name__
    return getattr(network, "output_fmt", None) == "NHWC" or name == "SwinTransformer"
