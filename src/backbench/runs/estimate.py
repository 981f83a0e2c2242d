"""Estimate a ranking before it starts: statistical power, downloads, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from backbench.backbones.core.defaults import is_on_disk
from backbench.config import Augment, Frozen, Precision
from backbench.data.survey import Survey
from backbench.progress import format_bytes, format_seconds
from backbench.registry import MethodSpec, ModelSpec, base_name, find_model
from backbench.runs.speeds import UNKNOWN_FLOPS, guess_forward, list_guessed
from backbench.stats.power import smallest_provable_gap
from backbench.wording import count, join_names

START_SECONDS = 3.0
"""Loading torch, building a network and fitting heads: the fixed cost of a model."""
STEP_FORWARDS = 3
"""Forward passes that a training step costs: the backward pass is about two."""
DISAGREEMENTS = (0.05, 0.15, 0.30)
"""Shares of images on which two models usually disagree: near ones, and a good one and a fair one."""


@dataclass(frozen=True)
class Plan:
    """Estimated seconds of each model, and bytes to fetch; `training_seconds`: see `estimate_training`.

    `guessed`: models with unknown cost, see `runs.speeds.list_guessed`.
    `unsized`: models to download with unknown size.
    """

    seconds: dict[str, float]
    download_bytes: int
    guessed: tuple[str, ...] = ()
    unsized: tuple[str, ...] = ()

    def sentences(self, num_methods: int, training_seconds: float = 0.0) -> list[str]:
        """Lines for the terminal, with a remark on guessed costs."""
        work = f"{count(len(self.seconds), 'model')} x {count(num_methods, 'method')}"
        parts = [format_bytes(self.download_bytes)] if self.download_bytes else []
        parts += [f"{join_names(self.unsized)} (size unknown)"] if self.unsized else []
        fetch = f"{' and '.join(parts) or 'nothing'} to download"
        rest = "in all"
        if training_seconds:
            rest = f"and up to about {format_seconds(training_seconds)} of training (roughly)"
        line = f"{work}, {fetch}, about {format_seconds(sum(self.seconds.values()))} {rest}."
        return [line, *describe_guessed(self.guessed)]


def estimate_training(
    models: Sequence[ModelSpec],
    methods: Sequence[tuple[MethodSpec, Frozen]],
    num_images: int,
    *,
    top: int | None,
    device: str,
    precision: Precision,
) -> float:
    """Seconds that training takes at most, as far as the cost of a forward and the speed seen here tell.

    Args:
        methods: each with its options; only those that train count.
        num_images: for each pass.
        top: number of models that are trained (at worst the most expensive); None: all.

    Early stopping reduces it.
    """
    passes = {model.name: sum(count_passes(model, *method) for method in methods) for model in models}
    known = [model for model in models if passes[model.name]]
    if not known:
        return 0.0
    each = guess_forward(known, device=device, precision=precision)
    dearest_first = sorted((seconds * passes[name] for name, seconds in each.items()), reverse=True)
    return sum(dearest_first[:top]) * num_images


def count_passes(model: ModelSpec, method: MethodSpec, options: Frozen) -> float:
    """Forward passes over the training split that the training of a method costs at most; 0 for a probe.

    A step with its backward pass costs three passes if everything is trained; frozen blocks have no backward pass.
    `gradual` trains for its epochs in each of its steps. If only heads are trained, the backbone runs only
    forward, and once for all epochs without augmentation: that feature pass is counted separately.
    """
    if not method.trains:
        return 0
    values = options.model_dump()
    if "qat_epochs" in values:
        return int(values["qat_epochs"]) * STEP_FORWARDS
    epochs = int(values["recipe"]["epochs"]) * (values["steps"] + 1 if "steps" in values else 1)
    if method.trains_body:
        return epochs * (1 + _learning_share(model, values) * (STEP_FORWARDS - 1))
    return 0 if values["recipe"]["augment"] == Augment().model_dump() else epochs


def _learning_share(model: ModelSpec, options: dict[str, Any]) -> float:
    """Approximate share of the network with a backward pass: its last blocks if only these are trained."""
    if "steps" in options:  # from none of it to all
        return 0.5
    blocks, there = options.get("blocks"), None
    if blocks is not None:
        there = _count_blocks(base_name(model.name)) if model.file is None else None
    return 1.0 if blocks is None or not there else min(1.0, blocks / there)


@cache
def _count_blocks(name: str) -> int | None:
    """Number of stages after the stem; None if unknown before its weights are downloaded.

    Cost: the network is made without memory, in a second at most.
    """
    blueprint = find_model(name).blueprint
    if blueprint is None:
        return None
    from backbench.backbones.core.outline import make_outline
    from backbench.backbones.core.rebuild import make_random
    from backbench.backbones.core.stages import stages_of

    body = make_outline(lambda: make_random(blueprint()[0], 0))
    if body is None:
        return None
    return max(1, len(stages_of(body)) - 1)


def describe_guessed(names: Sequence[str]) -> list[str]:
    """A sentence on models with guessed cost, or none."""
    if not names:
        return []
    return [
        f"The cost of {', '.join(names)} is unknown before its first run on this machine: counted as a ResNet-50 "
        f"({UNKNOWN_FLOPS / 1e9:g} GFLOPs per image)."
    ]


def describe_power(num_test: int) -> str:
    """Differences between two models that this number of test images can detect, in one sentence.

    They depend on how often the two models disagree, which is known only afterwards: hence a range, with its ends.
    """
    images = f"{num_test:,} test image{'s' if num_test != 1 else ''}"
    found = {rate: smallest_provable_gap(num_test, disagreement=rate) for rate in DISAGREEMENTS}
    gaps = [(gap, rate) for rate, gap in found.items() if gap is not None]
    if not gaps:
        most = f"{100 * max(DISAGREEMENTS):.0f} %"
        return f"{images}: too few to detect a difference between models that disagree on up to {most} of them."
    (least, low), (most_gap, high) = gaps[0], gaps[-1]
    start = f"{images} can detect a difference of {100 * least:.1f} points"
    if low == high:
        return f"{start}, between models that disagree on {100 * low:.0f} % of them."
    end = f"{100 * most_gap:.1f} points ({100 * high:.0f} %)"
    return f"{start} (models that disagree on {100 * low:.0f} % of them) to {end}."


def make_plan(models: Sequence[ModelSpec], found: Survey, *, device: str, precision: Precision) -> Plan:
    """Estimate the time of each model from its FLOPs and the speed seen here before, else from a quick timing."""
    absent = {base_name(model.name): model.download_bytes for model in models if not is_on_disk(model)}
    seconds = guess_seconds(models, found.num_images, device=device, precision=precision)
    guessed = list_guessed(models, device=device)
    unknown = tuple(name for name, num_bytes in absent.items() if not num_bytes)
    return Plan(seconds, sum(absent.values()) + found.download_bytes, guessed, unknown)


def guess_seconds(
    models: Sequence[ModelSpec], num_images: int, *, device: str, precision: Precision
) -> dict[str, float]:
    """Seconds for features of this number of images, by name of the model."""
    each = guess_forward(models, device=device, precision=precision)
    return {name: START_SECONDS + num_images * seconds for name, seconds in each.items()}
