"""A model at another input size, or without its training: `resnet50.a1_in1k@160`, `resnet50@random@64`.

The text after the @ is part of the name, so that records, tables and the cache never mix a variant with the
published model.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from typing import Any

from backbench.errors import ConfigError
from backbench.registry import ModelSpec, find_model

FIRST = True
"""Tried before other modules, which would refuse the whole name."""
RANDOM = "random"
SIZE = re.compile(r"[1-9]\d{0,3}")
MIN_SIZE, MAX_SIZE = 8, 2048
IMAGENET_CLASSES = 1000


def resolve(name: str) -> ModelSpec | None:
    """The spec of `NAME@SIZE` (pixels of a square input) or `NAME@random`; None for a name without an @, and for
    a file name that contains an @.

    Raises:
        ConfigError: invalid text after the @, a size out of range, or a NAME without weights.
    """
    base, at, change = name.rpartition("@")
    is_file_name = "/" in change or "." in change or os.path.lexists(name)
    if not at or not base or is_file_name:
        return None
    if change == RANDOM:
        return _random_spec(find_model(base))
    if not SIZE.fullmatch(change) or not MIN_SIZE <= int(change) <= MAX_SIZE:
        raise ConfigError(
            f"model '{name}': after the @ give an input size in pixels, {MIN_SIZE} to {MAX_SIZE}, or '{RANDOM}', "
            "for example resnet50@160."
        )
    return _resized_spec(find_model(base), int(change))


def _resized_spec(spec: ModelSpec, size: int) -> ModelSpec:
    if spec.load is None:
        raise ConfigError(f"'{spec.name}' is a shortcut baseline: it has no input size.")
    name = f"{spec.name}@{size}"
    load = partial(_load_resized, name, spec.load, size)
    if spec.name.endswith(f"@{RANDOM}"):  # without weights it is made at that size
        trained = find_model((spec.file or spec.name).removesuffix(f"@{RANDOM}"))
        load = partial(_load_random, name, trained, size=size)
    scale = None if not spec.flops or not spec.input_size else (size / spec.input_size) ** 2
    return replace(
        spec,
        name=name,
        summary=f"{spec.summary}, at {size} px",
        load=load,
        input_size=size,
        check=partial(_check_resized, name, spec, size),
        flops=None if scale is None or spec.flops is None else spec.flops * scale,
        file=None if spec.file is None else f"{spec.file}@{size}",
    )


def _random_spec(spec: ModelSpec) -> ModelSpec:
    if spec.load is None or spec.is_control:
        raise ConfigError(f"'{spec.name}' is a shortcut baseline: it has no weights to leave out.")
    if spec.pretrained_on is None:  # untrained anyway
        return spec
    return replace(
        spec,
        name=f"{spec.name}@{RANDOM}",
        summary=f"untrained: {spec.summary}",
        load=partial(_load_random, f"{spec.name}@{RANDOM}", spec),
        load_head=None if spec.load_head is None else partial(_load_random_head, spec),
        pretrained_on=None,
        download_bytes=0 if spec.blueprint is not None else spec.download_bytes,
        find_weights=None if spec.blueprint is not None else spec.find_weights,
        ask=None if spec.blueprint is not None else spec.ask,
        check=None if spec.blueprint is not None else spec.check,
        identity="",
        file=None if spec.file is None else f"{spec.file}@{RANDOM}",
    )


def _check_resized(name: str, spec: ModelSpec, size: int) -> None:
    if spec.check is not None:
        spec.check()
    if spec.blueprint is None:  # its architecture is known only from its weights
        return
    from backbench.backbones.core.dry import check_size

    build, preprocess = spec.blueprint()
    check_size(build, preprocess.size, size, name=name, is_trained=spec.pretrained_on is not None)


def _load_resized(name: str, load: Any, size: int, seed: int) -> Any:
    from backbench.backbones.core.resized import at_size

    return at_size(load(seed), name, size)


def _load_random(name: str, spec: ModelSpec, seed: int, *, size: int | None = None) -> Any:
    """The architecture of `spec` with random weights of the seed; no download if there is a blueprint."""
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.backbones.core.rebuild import make_random
    from backbench.backbones.core.resized import resize_body
    from backbench.runtime import stream_seed

    assert spec.load is not None  # checked by _random_spec
    if spec.blueprint is None:  # its architecture is known only from its weights
        trained = spec.load(seed)
        build, preprocess = trained.build, trained.preprocess
    else:
        build, preprocess = spec.blueprint()
    if build is None:
        raise ConfigError(
            f"the architecture of {spec.name} is unknown without its weights, so there is no untrained version."
        )
    architecture = build.architecture.partition(".")[0]
    body = make_random(build, stream_seed(seed, RANDOM))
    if size is not None and preprocess.size != (size, size):
        body, resized = resize_body(body, build, size, name=name, is_trained=False)
        build, preprocess = resized or build, preprocess.model_copy(update={"size": (size, size)})
    return make_backbone(
        body,
        name=name,
        architecture=architecture,
        preprocess=preprocess,
        origin=Origin(None, spec.licence, f"random weights of seed {seed}"),
        build=build,
    )


def _load_random_head(spec: ModelSpec) -> Any:
    """An untrained classifier with the shape of the published one."""
    from backbench.backbones.core import original_head
    from backbench.backbones.loaders.card import make_architecture
    from backbench.errors import ModelError

    if spec.blueprint is None:
        raise ModelError(f"{spec.name} has no classifier without its weights.")
    build, preprocess = spec.blueprint()
    network: Any = make_architecture(build.architecture, build.options.model_dump(exclude_none=True))
    if build.architecture.startswith("torchvision/"):
        take, num_classes = original_head.take_torchvision_head, IMAGENET_CLASSES
    else:
        take, num_classes = original_head.take_timm_head, network.num_classes
    classes = original_head.classes_of_size(num_classes, spec.name)
    return take(network, classes, name=spec.name, size=preprocess.size)
