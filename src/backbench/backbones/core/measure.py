"""Measure a body without data, and wrap it as a `Backbone` with its facts."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.build import Build, plain_build
from backbench.backbones.core.weights import digest_weights, weights_bytes
from backbench.config import Preprocess
from backbench.errors import OUT_OF_MEMORY, ModelError, is_out_of_memory
from backbench.records.schema import ModelFacts


@dataclass(frozen=True)
class Origin:
    """The origin of weights, as far as it is stated; `checkpoint`: see `ModelFacts`."""

    pretrained_on: str | None
    licence: str | None = None
    source: str | None = None
    checkpoint: str | None = None


def make_backbone(
    body: nn.Module,
    *,
    name: str,
    architecture: str,
    preprocess: Preprocess,
    origin: Origin,
    is_control: bool = False,
    build: Build | None = None,
) -> Backbone:
    """Freeze `body`, measure it, and wrap it with its facts.

    Args:
        body: (batch, 3, height, width) float -> (batch, dim) float, weights in place.
        preprocess: costs are measured at its size.
        build: how to rebuild the body; None: derived from `architecture`, if possible.

    Raises:
        ModelError: the body does not run on that size, or does not give one row of features for each image.
    """
    body.eval().requires_grad_(False)
    build = build or plain_build(architecture)
    dim, flops = _measure_known(body, build, preprocess.size, name)
    facts = ModelFacts(
        name=name,
        architecture=architecture,
        dim=dim,
        preprocess=preprocess,
        num_parameters=count_parameters(body),
        flops=flops,
        weights_digest=digest_weights(body),
        weights_bytes=weights_bytes(body),
        pretrained_on=origin.pretrained_on,
        licence=origin.licence,
        source=origin.source,
        checkpoint=origin.checkpoint,
        is_control=is_control,
    )
    return Backbone(body, facts, build)


_MEASURED: dict[tuple[object, ...], tuple[int, float]] = {}
"""Cached results of `measure_body`, because a study loads each of its networks many times."""


def _measure_known(body: nn.Module, build: Build | None, size: tuple[int, int], name: str) -> tuple[int, float]:
    """As `measure_body`, once for each way of making a body, shapes of its tensors and input size."""
    if build is None:  # an unknown build has no cache key
        return measure_body(body, size, name)
    shapes = tuple((key, tuple(tensor.shape)) for key, tensor in body.state_dict().items())
    key = (build.model_dump_json(), size, shapes)
    if key not in _MEASURED:
        _MEASURED[key] = measure_body(body, size, name)
    return _MEASURED[key]


def count_parameters(module: nn.Module) -> int:
    """The number of parameters, each counted once; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def measure_body(body: nn.Module, size: tuple[int, int], name: str) -> tuple[int, float]:
    """(feature size, FLOPs for one image) of a frozen body; a multiplication and an addition count as two.

    Measured on a copy without memory; architectures whose control flow depends on values run once on a grey image.
    Counts matrix products, convolutions and attention.
    """
    try:
        shape, flops = run_once(copy_to_meta(body), size, "meta")
    except Exception:  # any failure on the meta device; the real run below reports errors
        try:
            shape, flops = run_once(body, size, "cpu")
        except Exception as error:
            raise does_not_run(name, size, error) from error
    if len(shape) != 2 or shape[0] != 1:
        raise ModelError(
            f"{name} gives {tuple(shape)} for one image; expected (1, dim). Choose another feature layer."
        )
    return shape[1], flops


def copy_to_meta(body: nn.Module) -> nn.Module:
    """A copy on the meta device that never holds the weights a second time."""
    memo: dict[int, object] = {}
    for parameter in body.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in body.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(body, memo)


def does_not_run(name: str, size: tuple[int, int], error: Exception) -> ModelError:
    """The error for a network that fails on images of (height, width)."""
    if is_out_of_memory(error):
        return ModelError(f"{name}, {size[0]} x {size[1]} pixels: {OUT_OF_MEMORY}.")
    return ModelError(
        f"{name} does not run on images of {size[0]} x {size[1]} pixels: {str(error).strip()[:300]}. "
        f"Check the input size, and options such as img_size."
    )


def run_once(body: nn.Module, size: tuple[int, int], device: str) -> tuple[torch.Size, float]:
    """Run one grey image of (height, width): the output shape and the FLOPs."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = body(torch.zeros(1, 3, *size, device=device))
    return features.shape, float(counter.get_total_flops())
