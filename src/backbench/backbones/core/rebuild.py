"""Rebuild a body from its description and its tensors, without a download."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from backbench.backbones.architectures.tiny_nets import Flatten
from backbench.backbones.architectures.vit import VisionTransformer
from backbench.backbones.architectures.vit_weights import make_vit_from_state
from backbench.backbones.core.build import Build
from backbench.backbones.core.cut import cut_at
from backbench.backbones.core.outline import make_outline
from backbench.backbones.core.skip_init import undrawn
from backbench.backbones.core.weights import check_state, put_state
from backbench.backbones.loaders import clip as clip_body
from backbench.backbones.loaders import hf as hf_body
from backbench.backbones.loaders import own as own_body
from backbench.backbones.loaders.card import LIBRARIES, make_architecture
from backbench.errors import ModelError

PIXELS = "backbench/pixels"


def rebuild(build: Build, state: Mapping[str, torch.Tensor], *, where: str) -> nn.Module:
    """Rebuild the body with these tensors, which must all fit; in eval mode, nothing trainable.

    Args:
        state: named as in the body's own `state_dict`.
        where: name of the tensors' file for messages.

    Raises:
        ModelError: unknown architecture in the installed libraries, invalid options, or tensors that do not fit.
    """
    if build.scheme is not None:
        raise ModelError(
            f"{where} holds int8 weights, which can only predict. Adapt the model that they were made from."
        )
    options = build.options.model_dump(exclude_none=True)
    library = build.architecture.partition("/")[0]
    if library == "backbench":
        body = _rebuild_own(build, options, state, where)
    else:
        outline = make_outline(partial(_make_body, build))
        if outline is not None:  # a network of other shapes may be too large for memory
            check_state(outline.state_dict(), state, where=where)
        body = _make_body(build)
        put_state(body, state, where=where)
    return body.eval().requires_grad_(False)


def _make_body(build: Build) -> nn.Module:
    """The body of one of the libraries, with undefined weights, to be loaded later."""
    library, _, name = build.architecture.partition("/")
    with undrawn():
        if library == hf_body.LIBRARY:
            return hf_body.make_body(build.config or {})
        if library == clip_body.LIBRARY:
            return clip_body.make_body(name, build.config or {})
        network = make_architecture(build.architecture, build.options.model_dump(exclude_none=True))
    if build.feature_layer is None:
        return LIBRARIES[library].drop_head(network)
    return cut_at(network, build.feature_layer)


def _rebuild_own(
    build: Build, options: Mapping[str, Any], state: Mapping[str, torch.Tensor], where: str
) -> nn.Module:
    if build.feature_layer is not None:
        raise ModelError(f"{build.architecture} can't be truncated at '{build.feature_layer}'")
    name = build.architecture.removeprefix(own_body.PREFIX)
    config = own_body.vit_config_of(name, options)
    if config is not None:
        return make_vit_from_state(config, state, where=where)  # image size and layer scale follow from the state
    if build.architecture == PIXELS:
        body: nn.Module = Flatten()
    else:
        body = _sized(own_body.make_untrained_body(name, seed=0), build)
    put_state(body, state, where=where)
    return body


def make_random(build: Build, seed: int) -> nn.Module:
    """The body of that description with random weights; torch's generators are not changed.

    Raises:
        ModelError: see `rebuild`; a truncated network is made completely and truncated again.
    """
    library, _, name = build.architecture.partition("/")
    if build.architecture == PIXELS:
        return Flatten()
    if library == "backbench":
        return _sized(own_body.make_untrained_body(name, seed), build)
    if library == hf_body.LIBRARY:
        return hf_body.make_body(build.config or {}, seed).requires_grad_(False)
    if library == clip_body.LIBRARY:
        return clip_body.make_body(name, build.config or {}, seed).requires_grad_(False)
    options = build.options.model_dump(exclude_none=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_architecture(build.architecture, options)
    if build.feature_layer is None:
        return LIBRARIES[library].drop_head(network).eval().requires_grad_(False)
    return cut_at(network, build.feature_layer).eval().requires_grad_(False)


def _sized(body: nn.Module, build: Build) -> nn.Module:
    """Our own transformer at the image size of the description, if it has one."""
    size = build.options.img_size
    if isinstance(body, VisionTransformer) and size is not None:
        body.set_image_size((size, size) if isinstance(size, int) else size)
    return body
