"""What a ranking is about to do, said before it does it: what can be decided, downloads, time."""

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
"""Loading torch, building a network and fitting heads: what a model costs however few the images are."""
STEP_FORWARDS = 3
"""Forward passes that a training step costs: the backward pass is about two."""


@dataclass(frozen=True)
class Plan:
    """Estimated seconds of each model, and bytes to fetch; `training_seconds`: see `estimate_training`.

    `guessed`: models whose cost is not known, see `runs.speeds.list_guessed`.
    `unsized`: models to fetch whose size is not known before.
    """

    seconds: dict[str, float]
    download_bytes: int
    guessed: tuple[str, ...] = ()
    unsized: tuple[str, ...] = ()

    def sentences(self, num_methods: int, training_seconds: float = 0.0) -> list[str]:
        """Lines for the terminal; where a cost is a guess, that is said."""
        work = f"{count(len(self.seconds), 'model')} x {count(num_methods, 'method')}"
        parts = [format_bytes(self.download_bytes)] if self.download_bytes else []
        parts += [f"{join_names(self.unsized)} (size not known)"] if self.unsized else []
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
        methods: each with its options; those that train count.
        num_images: for each pass.
        top: so many models are trained, the dearest at worst; None: all.

    Early stopping makes it less.
    """
    passes = {model.name: sum(count_passes(model, *method) for method in methods) for model in models}
    known = [model for model in models if passes[model.name]]
    if not known:
        return 0.0
    each = guess_forward(known, device=device, precision=precision)
    dearest_first = sorted((seconds * passes[name] for name, seconds in each.items()), reverse=True)
    return sum(dearest_first[:top]) * num_images


def count_passes(model: ModelSpec, method: MethodSpec, options: Frozen) -> float:
    """Forward passes over the training split that the training of a method is worth at most; 0 for a probe.

    A step with its backward pass is worth three where everything learns; through frozen blocks none runs backward.
    `gradual` trains for its epochs in each of its steps. Where nothing but heads learn, the backbone runs forward
    only, and once for all epochs if images are not augmented: that pass for features is counted apart.
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
    """About how much of the network the backward pass runs through: its last blocks, where only these learn."""
    if "steps" in options:  # from none of it to all
        return 0.5
    blocks, there = options.get("blocks"), None
    if blocks is not None:
        there = _count_blocks(base_name(model.name)) if model.file is None else None
    return 1.0 if blocks is None or not there else min(1.0, blocks / there)


@cache
def _count_blocks(name: str) -> int | None:
    """Stages of the model behind its stem; None where they are not known before its weights are here.

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
    """That these models were counted by a guess: one sentence, or none."""
    if not names:
        return []
    return [
        f"The cost of {', '.join(names)} is not known before it has run here once: counted as a ResNet-50 "
        f"({UNKNOWN_FLOPS / 1e9:g} GFLOPs an image)."
    ]


def describe_power(num_test: int) -> str:
    """What so many test images can decide, in one sentence."""
    gap = smallest_provable_gap(num_test)
    images = f"{num_test:,} test image{'s' if num_test != 1 else ''}"
    if gap is None:
        return f"{images}: too few to prove any gap between two good models."
    return f"{images}: gaps under about {100 * gap:.1f} points cannot be proved."


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
    """Seconds that features of so many images take, by name of the model."""
    each = guess_forward(models, device=device, precision=precision)
    return {name: START_SECONDS + num_images * seconds for name, seconds in each.items()}
