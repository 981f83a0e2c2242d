"""What must be known of a body besides its tensors, so that it can be made again anywhere, offline."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError

from backbench.backbones.card import CardOptions
from backbench.config import Frozen

Scheme = Literal["static", "dynamic", "weight-only"]


class Build(Frozen):
    """How a body was made: an architecture, its options, and where it was cut.

    Args:
        architecture: 'timm/NAME' or 'timm/NAME.TAG' (the tag decides the image size), 'torchvision/NAME',
            'backbench/NAME', 'transformers/KIND', 'open_clip/NAME'.
        feature_layer: the layer a network was cut at; None: it is whole but for its head.
        config: of a network of transformers, as its `to_dict` gives it, less its classes; of one of open_clip,
            what its weights decide of it.
        scheme: in what int8 form its weights are kept, see `engine.quantize`; None: as floats.
    """

    architecture: str = Field(
        pattern=r"^(timm|torchvision|backbench|transformers|open_clip)/[A-Za-z0-9_-]{1,80}(\.[A-Za-z0-9_]{1,80})?$"
    )
    options: CardOptions = CardOptions()
    feature_layer: str | None = Field(default=None, max_length=300)
    config: dict[str, Any] | None = None
    scheme: Scheme | None = None


def plain_build(architecture: str) -> Build | None:
    """The whole network of that name; None for a name of another form, which nothing here could make again."""
    try:
        return Build(architecture=architecture)
    except ValidationError:
        return None
