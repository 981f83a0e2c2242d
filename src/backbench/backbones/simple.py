"""`pixels`: the image itself, shrunk and flattened; a baseline without a network."""

from __future__ import annotations

from typing import Any

from backbench.config import Preprocess
from backbench.registry import ModelSpec

PREPROCESS = Preprocess(size=(16, 16), interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Bilinear, which never overshoots, so that the values stay in 0..1."""


def _load_pixels(_seed: int) -> Any:
    from backbench.backbones.architectures.tiny_nets import Flatten
    from backbench.backbones.core.measure import Origin, make_backbone

    return make_backbone(
        Flatten(),
        name="pixels",
        architecture="backbench/pixels",
        preprocess=PREPROCESS,
        origin=Origin(pretrained_on=None, licence="Apache-2.0", source="no weights"),
    )


SPECS = [
    ModelSpec(
        name="pixels",
        summary="no network: the image at 16 x 16 pixels, 768 values",
        load=_load_pixels,
        num_parameters=0,
        input_size=PREPROCESS.size[0],
        flops=0.0,
        licence="Apache-2.0",
    )
]
