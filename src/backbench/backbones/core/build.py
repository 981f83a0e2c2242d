"""The description of a body that is needed, besides its tensors, to rebuild it offline."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from backbench.config import MAX_INPUT_SIDE, Frozen

Scheme = Literal["static", "dynamic", "weight-only"]


Side = Annotated[int, Field(ge=1, le=MAX_INPUT_SIDE)]
"""Pixels."""


class ArchitectureOptions(Frozen):
    """Options of an architecture that a card may set; none of them can open a file or the network."""

    num_classes: int | None = Field(default=None, ge=0, le=1_000_000)
    in_chans: Literal[1, 3] | None = None
    img_size: Side | tuple[Side, Side] | None = None
    patch_size: Side | None = None
    pad_type: Literal["", "same"] | None = None
    global_pool: str | None = None
    class_token: bool | None = None
    reg_tokens: int | None = Field(default=None, ge=0, le=10_000)
    no_embed_class: bool | None = None
    dynamic_img_size: bool | None = None
    embed_dim: int | None = Field(default=None, ge=1, le=65_536)
    depth: int | None = Field(default=None, ge=1, le=1_000)
    num_heads: int | None = Field(default=None, ge=1, le=65_536)
    qkv_bias: bool | None = None
    act_layer: str | None = None
    norm_layer: str | None = None
    width_mult: float | None = Field(default=None, gt=0, le=100)
    bn_eps: float | None = Field(default=None, gt=0)
    transform_input: bool | None = None
    image_size: Side | None = None


class Build(Frozen):
    """How a body was made: an architecture, its options, and the layer where it was truncated.

    Args:
        architecture: 'timm/NAME' or 'timm/NAME.TAG' (the tag decides the image size), 'torchvision/NAME',
            'backbench/NAME', 'transformers/KIND', 'open_clip/NAME'.
        feature_layer: the layer where the network was truncated; None: complete except for its head.
        config: for a transformers network, its `to_dict` without the classes; for one of open_clip, the
            settings that its weights decide.
        scheme: int8 format of its weights, see `inference.quantize`; None: floats.
    """

    architecture: str = Field(
        pattern=r"^(timm|torchvision|backbench|transformers|open_clip)/[A-Za-z0-9_-]{1,80}(\.[A-Za-z0-9_]{1,80})?$"
    )
    options: ArchitectureOptions = ArchitectureOptions()
    feature_layer: str | None = Field(default=None, max_length=300)
    config: dict[str, Any] | None = None
    scheme: Scheme | None = None


def plain_build(architecture: str) -> Build | None:
    """The whole network of that name; None for another form of name, which can't be rebuilt."""
    try:
        return Build(architecture=architecture)
    except ValidationError:
        return None
