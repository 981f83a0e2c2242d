"""The first filters of a network, on colours: of a convolution or a patch embedding."""

from __future__ import annotations

import numpy as np
from torch import nn

from backbench.errors import ConfigError, ModelError


def first_filters(body: nn.Module) -> np.ndarray:
    """The filters that see the pixels: (n, 3, k, k) float32 in 0..1, red, green and blue.

    Each is scaled by its own largest weight, so that 0.5 is a weight of 0, and brighter ones are positive.

    Raises:
        ModelError: the network does not start with a convolution over three colours.
    """
    return _for_view(_first_weights(body))


def principal_filters(body: nn.Module, num: int = 28) -> np.ndarray:
    """The main patterns of the first filters, most common first: (num, 3, k, k) float32 in 0..1.

    Principal components of the filters, centred; scaled as in `first_filters`, the largest weight positive. At
    most n or 3 * k * k patterns.

    Raises:
        ConfigError: `num` is below 1. ModelError: as `first_filters`.
    """
    if num < 1:
        raise ConfigError(f"num is {num}; expected at least 1 principal filter.")
    weights = _first_weights(body)
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    components = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][:num]
    largest = np.abs(components).argmax(axis=1)
    signs = np.where(components[np.arange(len(components)), largest] < 0, -1.0, 1.0)  # SVD does not fix the signs
    return _for_view((components * signs[:, None]).reshape(-1, *weights.shape[1:]))


def _first_weights(body: nn.Module) -> np.ndarray:
    """(n, 3, k, k) float32 of the first convolution in the order of registration that takes three channels."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            return module.weight.detach().cpu().float().numpy()
    raise ModelError(f"{type(body).__name__} does not start with a convolution over red, green and blue.")


def _for_view(weights: np.ndarray) -> np.ndarray:
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    return (0.5 + 0.5 * weights / np.where(largest > 0, largest, 1.0)).astype(np.float32)
