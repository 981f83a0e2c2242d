"""Networks of our own for 32 px images, untrained: `tiny_cnn` and `tiny_vit`, and the baseline `untrained`."""

from __future__ import annotations

from functools import partial
from typing import Any

from backbench.config import Preprocess
from backbench.registry import ModelSpec

PREPROCESS = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
NETWORKS = {"tiny_cnn": "TinyCNN", "tiny_vit": "TinyViT"}


def _load(name: str, network: str, is_control: bool, seed: int) -> Any:
    from backbench.backbones.architectures import tiny_nets
    from backbench.backbones.core.measure import Origin, make_backbone

    return make_backbone(
        tiny_nets.make_untrained(getattr(tiny_nets, NETWORKS[network]), seed, network),
        name=name,
        architecture=f"backbench/{network}",
        preprocess=PREPROCESS,
        origin=Origin(pretrained_on=None, licence="Apache-2.0", source=f"random weights of seed {seed}"),
        is_control=is_control,
    )


def _spec(
    name: str, network: str, summary: str, num_parameters: int, flops: float, is_control: bool = False
) -> ModelSpec:
    return ModelSpec(
        name=name,
        summary=summary,
        load=partial(_load, name, network, is_control),
        num_parameters=num_parameters,
        input_size=PREPROCESS.size[0],
        flops=flops,
        licence="Apache-2.0",
        is_control=is_control,
    )


SPECS = [
    _spec(
        "tiny_cnn", "tiny_cnn", "untrained: five convolutions, for tests and as a lower bound", 462_752, 46_596_096
    ),
    _spec(
        "tiny_vit",
        "tiny_vit",
        "untrained: a six-block vision transformer, for tests and as a lower bound",
        459_936,
        67_832_064,
    ),
    _spec(
        "untrained",
        "tiny_cnn",
        "baseline: features of random convolutions; a backbone must be better",
        462_752,
        46_596_096,
        is_control=True,
    ),
]
