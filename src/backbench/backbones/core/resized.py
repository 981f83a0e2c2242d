"""A backbone for another input size: position embeddings are interpolated."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from torch import nn

from backbench.backbones.architectures.vit import VisionTransformer
from backbench.backbones.core.base import Backbone
from backbench.backbones.core.build import Build
from backbench.backbones.core.measure import Origin, make_backbone
from backbench.backbones.core.rebuild import make_random, rebuild
from backbench.errors import ModelError


def at_size(backbone: Backbone, name: str, size: int) -> Backbone:
    """`backbone`, changed in place, for square images of `size` pixels, under a new name.

    Networks of convolutions take any size; vision transformers get their position embedding interpolated, by
    the rules of timm or torchvision; networks built for one size (mixers) are refused.

    Raises:
        ModelError: the network does not run at that size.
    """
    facts = backbone.facts
    body, build = backbone.body, backbone.build
    if backbone.preprocess.size != (size, size):
        body, build = resize_body(body, build, size, name=facts.name, is_trained=facts.pretrained_on is not None)
    return make_backbone(
        body,
        name=name,
        architecture=facts.architecture,
        preprocess=backbone.preprocess.model_copy(update={"size": (size, size)}),
        origin=Origin(facts.pretrained_on, facts.licence, facts.source, facts.checkpoint),
        build=build,
    )


def resize_body(
    body: Any, build: Build | None, size: int, *, name: str, is_trained: bool
) -> tuple[nn.Module, Build | None]:
    """The body, changed in place or rebuilt, and its description, for another size; see `at_size`.

    Args:
        name: name for messages.
        is_trained: False: a network that can't be changed is rebuilt for that size.
    """
    if hasattr(body, "set_input_size"):  # timm's transformers
        window = _window_of(body)
        with warnings.catch_warnings():  # torch warns when timm interpolates tables of small windows
            warnings.simplefilter("ignore", UserWarning)
            body.set_input_size(img_size=(size, size), **({} if window is None else {"window_size": window}))
        return body, _with_option(build, "img_size", (size, size))
    if build is not None and build.architecture.startswith("torchvision/vit_"):
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(size, body.patch_size, OrderedDict(body.state_dict()))
        resized = _with_option(build, "image_size", size)
        assert resized is not None
        return rebuild(resized, state, where=name), resized
    if isinstance(body, VisionTransformer):  # our own
        body.set_image_size((size, size))
        return body, _with_option(build, "img_size", size)
    if not is_trained and build is not None and build.architecture.startswith("timm/"):
        sized = _with_option(build, "img_size", (size, size))
        assert sized is not None
        with suppress(ModelError):  # networks without an input size have no such option
            return make_random(sized, 0), sized
    return body, build


def _window_of(body: Any) -> int | None:
    """The window of a Swin transformer, which would otherwise change with the input size."""
    windows = [module.window_size[0] for module in body.modules() if hasattr(module, "target_shift_size")]
    return max(windows, default=None)


def _with_option(build: Build | None, option: str, value: Any) -> Build | None:
    if build is None:
        return None
    return build.model_copy(update={"options": build.options.model_copy(update={option: value})})
