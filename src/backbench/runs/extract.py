"""Extract the features of all images for one model, with warnings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backbench.config import Precision, RunConfig
from backbench.data.load import Data
from backbench.data.trained_on import find_seen, read_seen
from backbench.progress import SILENT, Progress
from backbench.records.schema import Cost, ModelFacts
from backbench.registry import ModelSpec
from backbench.runs.context import RunContext
from backbench.runs.identity import Resolved
from backbench.runs.speeds import remember_speed
from backbench.task import Features, Task

if TYPE_CHECKING:
    from backbench.backbones.core.base import Backbone

MAX_ROUNDING = 0.1
"""See `records.Cost.rounding`: 0.01 to 0.03 is usual in bf16; a MobileNetV2 had 0.36."""


class SeenCounts(NamedTuple):
    """Contamination: numbers of validation and test images in the training data of the user's earlier runs."""

    num_val: int = 0
    num_test: int = 0


NOTHING_SEEN = SeenCounts()


@dataclass(frozen=True)
class Extracted:
    """Features of every image of a manifest, in its order: values (n, dim) float32, and their cost.

    `backbone` is the network of these features, for callers that also need it.
    """

    model: ModelFacts
    values: np.ndarray
    cost: Cost
    warnings: tuple[str, ...] = ()
    seen: SeenCounts = NOTHING_SEEN
    backbone: Backbone | None = None


def extract_for(resolved: Resolved, data: Data, context: RunContext) -> Extracted:
    """Features of all images of the manifest, from the cache if possible.

    Raises:
        ModelError: weights missing or unfit. BadImage: a file changed since it was checked.
        BudgetExceeded: as soon as the deadline of `context` can't be met.
    """
    model, config = resolved.model, resolved.config
    if model.describe is not None:
        return _describe_control(model, data)
    from backbench.backbones.core.selftest import check_backbone
    from backbench.inference.features import extract_features

    backbone = load_backbone(model, config.seed, context.progress)
    check_backbone(backbone)
    doubts = warn_of_input(config, backbone)
    extraction = extract_features(
        backbone,
        data.read,
        data.manifest.hashes,
        names=data.manifest.ids,
        device=context.device,
        precision=config.precision,
        exact_resize=config.exact_resize,
        deadline=context.deadline,
        is_shared=True,
        progress=context.progress,
        stage_seconds=data.stage_seconds,
        grey=data.manifest.grey,
    )
    if not extraction.cost.features_from_cache:
        remember_speed(
            model,
            extraction.cost.num_images,
            extraction.cost.seconds.get("forward", 0.0),
            flops=backbone.facts.flops,
            device=context.device,
            precision=config.precision,
        )
    seen = count_seen(model, data)
    warnings = (*doubts, *_warn_of_rounding(extraction.cost, config.precision), *warn_of_seen(model, data))
    return Extracted(backbone.facts, extraction.values, extraction.cost, warnings, seen, backbone)


_TOLD: set[tuple[str, str]] = set()
"""Name and content of models whose choice of weights was reported."""


def load_backbone(model: ModelSpec, seed: int, progress: Progress = SILENT) -> Backbone:
    """The network of a model that sees pixels; the choice of tensors in its file is reported once.

    Raises:
        ModelError: weights missing or unfit.
    """
    assert model.load is not None  # every spec except baselines has it
    backbone: Backbone = model.load(seed)
    if backbone.facts.checkpoint and (model.name, model.identity) not in _TOLD:
        _TOLD.add((model.name, model.identity))
        progress.say(f"{model.name}: tensors used from its weights file: {backbone.facts.checkpoint}.")
    return backbone


def warn_of_input(config: RunConfig, backbone: Backbone) -> tuple[str, ...]:
    """A warning if its weights contradict the pixel scale in its card; other models have a published scale."""
    if config.model_file is None:
        return ()
    from backbench.backbones.core.input_check import doubt_input

    doubt = doubt_input(backbone)
    return () if doubt is None else (doubt,)


def _warn_of_rounding(cost: Cost, precision: Precision) -> tuple[str, ...]:
    if cost.rounding is None or cost.rounding < MAX_ROUNDING:
        return ()
    return (
        f"{precision} changes the features of this model by {100 * cost.rounding:.0f} % of their spread: "
        "its accuracy may be lower than with --precision fp32",
    )


def count_seen(model: ModelSpec, data: Data) -> SeenCounts:
    """Count validation and test images in the training data of the model's earlier runs.

    Raises:
        StorageError: the list of those images can't be read.
    """
    if model.seen_file is None:
        return NOTHING_SEEN
    known = read_seen(Path(model.seen_file)).backbone

    def count(part: str) -> int:
        hashes = [data.manifest.hashes[row] for row in data.manifest.part_rows(part)]
        return int(find_seen(hashes, known).sum())

    return SeenCounts(num_val=count("val"), num_test=count("test"))


def warn_of_seen(model: ModelSpec, data: Data) -> tuple[str, ...]:
    """Warnings on contamination: validation or test images in the training data of the model's earlier runs.

    Raises:
        StorageError: the list of those images can't be read.
    """
    seen, counts = count_seen(model, data), data.manifest.counts
    found = []
    for num, total, word, consequence in (
        (seen.num_test, counts["test"], "test", "its metrics are too good"),
        (seen.num_val, counts["val"], "validation", "choices made on them are too optimistic"),
    ):
        if num:
            share = f"{num:,} of {total:,} {word} images"
            found.append(f"{share} were in the training images of {model.name}: {consequence}")
    return tuple(found)


def _describe_control(model: ModelSpec, data: Data) -> Extracted:
    started = time.perf_counter()
    assert model.describe is not None
    values = np.asarray(model.describe(data.census), dtype=np.float32)[data.manifest.rows]
    seconds = {"read": data.census.read_seconds, "decode": data.census.decode_seconds}
    facts = ModelFacts(
        name=model.name,
        architecture=model.name,
        dim=values.shape[1],
        preprocess=None,
        num_parameters=0,
        flops=None,
        weights_digest="",
        pretrained_on=None,
        is_control=True,
    )
    forward = time.perf_counter() - started
    return Extracted(
        facts, values, Cost(seconds=seconds | {"forward": forward}, images_per_second=None, num_images=len(values))
    )


def load_engine() -> None:
    """Import what every head needs before timing starts, so that the first run is not slower."""
    import backbench.heads.logistic  # noqa: F401 - and with it torch


def feature_task(resolved: Resolved, data: Data, values: np.ndarray, device: str) -> Task:
    """Train and validation as features; `values` are those of all images of the manifest."""
    return Task(
        train=features_of("train", data, values),
        val=features_of("val", data, values),
        class_names=data.manifest.classes,
        seed=resolved.config.seed,
        device=device,
        load_head=resolved.model.load_head if resolved.method.needs_head else None,
    )


def features_of(part: str, data: Data, values: np.ndarray) -> Features:
    """The rows of one split, from features of all images of the manifest."""
    rows = data.manifest.part_rows(part)
    return Features(
        values=values[rows], labels=data.manifest.labels[rows], ids=tuple(data.manifest.ids[row] for row in rows)
    )
