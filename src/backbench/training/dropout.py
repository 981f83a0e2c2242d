"""Dropout within a transformer while it learns: of attention weights and of perceptrons, as a recipe has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from backbench.config import Recipe
from backbench.errors import ConfigError

PLACES = {"attention_dropout": ("attn_drop",), "mlp_dropout": ("mlp.dropout", "mlp.drop1", "mlp.drop2")}
"""Option of the recipe -> how names of its layers end, in our own networks and in timm's."""


@contextmanager
def dropping(body: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Within, `body` drops in training as the recipe says; afterwards it has the fractions that it had before.

    An option that is 0 leaves what the network has. Parts that are frozen stay in eval mode and drop nothing.

    Raises:
        ConfigError: an option is on, and the network has no place for it.
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
            f"recipe.{option}: this network has no such layers; our own backbench/vit_* and timm's vision "
            f"transformers do. Leave it out, or drop before the head: recipe.dropout."
        )
    return layers
