"""Dropout inside a transformer during training: of attention weights and of MLPs, as set in a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from backbench.config import Recipe
from backbench.errors import ConfigError

PLACES = {"attention_dropout": ("attn_drop",), "mlp_dropout": ("mlp.dropout", "mlp.drop1", "mlp.drop2")}
"""Option of the recipe -> endings of its layers' names, in backbench's networks and in timm's."""


@contextmanager
def dropping(body: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Set the recipe's dropout rates within the block; restore the previous ones afterwards.

    An option of 0 keeps the network's own rates. Frozen parts stay in eval mode, without dropout.

    Raises:
        ConfigError: an option is on, but the network has no layer for it.
    """
    layers = [
        (layer, getattr(recipe, option))
        for option in PLACES
        if getattr(recipe, option)
        for layer in _find_layers(body, option)
    ]
    before = [layer.p for layer, _ in layers]
    try:
        for layer, fraction in layers:
            layer.p = fraction
        yield
    finally:
        for (layer, _), fraction in zip(layers, before, strict=True):
            layer.p = fraction


def _find_layers(body: nn.Module, option: str) -> list[nn.Dropout]:
    layers = [
        module
        for name, module in body.named_modules()
        if isinstance(module, nn.Dropout) and f".{name}".endswith(tuple(f".{end}" for end in PLACES[option]))
    ]
    if not layers:
        raise ConfigError(
            f"recipe.{option}: this network has no such layers; backbench/vit_* and timm's vision transformers "
            "do. Leave this option out, or use dropout before the head: recipe.dropout."
        )
    return layers
