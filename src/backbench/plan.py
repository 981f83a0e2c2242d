"""What a ranking is about to do, said before it does it: what can be decided, downloads, time."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from backbench.backbones.defaults import is_on_disk
from backbench.catalog import MethodSpec, ModelSpec
from backbench.config import Augment, Frozen, Precision
from backbench.data.survey import Survey
from backbench.errors import StorageError
from backbench.evaluate.power import smallest_provable_gap
from backbench.progress import format_bytes, format_seconds
from backbench.runtime import cache_folder, num_workers
from backbench.storage import write_atomically

SPEED_FILE = "speed.json"
START_SECONDS = 3.0
"""Loading torch, building a network and fitting heads: what a model costs however few the images are."""
FORWARD_SHARE = {"fp32": 0.35, "bf16": 0.9, "fp16": 0.9}
"""Share of this machine's fp32 matrix rate that a forward reaches when nothing was measured here yet."""
STEP_FORWARDS = 3
"""Forward passes that a training step costs: the backward pass is about two."""
UNKNOWN_FLOPS = 5e9
"""For a model whose cost the catalog does not know: about that of a ResNet-50."""


@dataclass(frozen=True)
class Plan:
    """Estimated seconds of each model, and bytes to fetch; `training_seconds`: see `estimate_training`.

    `guessed`: models whose cost is not known, see `list_guessed`.
    """

    seconds: dict[str, float]
    download_bytes: int
    guessed: tuple[str, ...] = ()

    def sentences(
        self, num_methods: int, *, trains: bool = False, training_seconds: float | None = None
    ) -> list[str]:
        """Lines for the terminal; where a cost or training can't be estimated, that is said."""
        num_models = len(self.seconds)
        models = f"{num_models} model{'s' if num_models != 1 else ''}"
        methods = f"{num_methods} method{'s' if num_methods != 1 else ''}"
        fetch = (
            f"{format_bytes(self.download_bytes)} to download" if self.download_bytes else "nothing to download"
        )
        rest = "in all"
        if training_seconds:
            rest = f"and up to about {format_seconds(training_seconds)} of training (roughly)"
        elif trains and training_seconds is None:
            rest = "and the time of training, which is not estimated: no speed was measured here yet"
        line = f"{models} x {methods}, {fetch}, about {format_seconds(sum(self.seconds.values()))} {rest}."
        return [line, *describe_guessed(self.guessed)]


def estimate_training(
    models: Sequence[ModelSpec],
    num_passes: int,
    num_images: int,
    *,
    top: int | None,
    device: str,
    precision: Precision,
) -> float | None:
    """Seconds that training takes at most, as far as the cost of a forward and the speed seen here tell; None: no
    speed was seen yet.

    Args:
        num_passes: see `count_passes`; of all methods together.
        num_images: for each pass.
        top: so many models are trained, the dearest at worst; None: all.

    Early stopping and frozen layers make it less.
    """
    if not num_passes:
        return 0.0
    speeds = _read_speeds(device, precision)
    if not speeds:
        return None
    dearest_first = sorted((_seconds_each(model, speeds) for model in models), reverse=True)
    return sum(dearest_first[:top]) * num_images * num_passes


def count_passes(method: MethodSpec, options: Frozen) -> int:
    """Forward passes over the training part that the training of a method is worth at most; 0 for a probe.

    A step with its backward pass is worth three. `gradual` trains for its epochs in each of its steps. Where
    nothing but heads learn, the backbone runs forward only, and once for all epochs if images are not augmented:
    that is the pass for features, which is counted apart.
    """
    if method.kind == "probe":
        return 0
    values = options.model_dump()
    if "qat_epochs" in values:
        return int(values["qat_epochs"]) * STEP_FORWARDS
    epochs = int(values["recipe"]["epochs"]) * (values["steps"] + 1 if "steps" in values else 1)
    if method.trains_body:
        return epochs * STEP_FORWARDS
    return 0 if values["recipe"]["augment"] == Augment().model_dump() else epochs


def list_guessed(models: Sequence[ModelSpec], *, device: str, precision: Precision) -> tuple[str, ...]:
    """Names of the models that neither the catalog nor a run of them here tells the cost of."""
    speeds = _read_speeds(device, precision)
    return tuple(model.name for model in models if model.flops is None and model.name not in speeds)


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
    download_bytes = sum(model.download_bytes for model in models if not is_on_disk(model))
    seconds = guess_seconds(models, found.num_images, device=device, precision=precision)
    guessed = list_guessed(models, device=device, precision=precision)
    return Plan(seconds, download_bytes + found.download_bytes, guessed)


def guess_seconds(
    models: Sequence[ModelSpec], num_images: int, *, device: str, precision: Precision
) -> dict[str, float]:
    """Seconds that features of so many images take, by name of the model."""
    speeds = _read_speeds(device, precision)
    if not speeds:
        speeds = {"": Speed(UNKNOWN_FLOPS, _measure_matrix_rate() * FORWARD_SHARE[precision])}
    return {model.name: START_SECONDS + num_images * _seconds_each(model, speeds) for model in models}


def _seconds_each(model: ModelSpec, speeds: dict[str, Speed]) -> float:
    """Of one image's forward: at the model's own speed, else at that of the model nearest to it in cost.

    Small networks reach a fraction of the FLOP/s that large ones do, so one rate for all would be off by several
    times. `speeds` is not empty.
    """
    own = speeds.get(model.name)
    if model.flops == 0:  # nothing is multiplied, as for pixels
        return 0.0
    flops = model.flops or (own.flops if own is not None else UNKNOWN_FLOPS)
    if own is None:
        own = min(speeds.values(), key=lambda speed: abs(math.log(speed.flops / flops)))
    return flops / own.rate


@dataclass(frozen=True)
class Speed:
    """What the forward of a model reached here: `flops` of one image, `rate` in FLOP/s."""

    flops: float
    rate: float


def remember_speed(
    name: str, flops: float, num_images: int, forward_seconds: float, *, device: str, precision: Precision
) -> None:
    """Keep the FLOP/s that the forward of this model reached, so that the next estimate is better.

    What was kept of it before counts half, so that one run on a busy machine does not decide.

    Args:
        flops: of one image.
    """
    if forward_seconds < 0.5:  # too short to say anything
        return
    speeds = _read_speeds(device, precision)
    rate = flops * num_images / forward_seconds
    if name in speeds:
        rate = (rate + speeds[name].rate) / 2
    speeds[name] = Speed(flops, rate)
    kept = {each: [speed.flops, speed.rate] for each, speed in speeds.items()}
    whole = _read_speed_file() | {f"{device}/{precision}": kept}
    with contextlib.suppress(StorageError):  # an estimate is not worth failing for
        write_atomically(cache_folder() / SPEED_FILE, json.dumps(whole).encode())


def _read_speeds(device: str, precision: Precision) -> dict[str, Speed]:
    """By name of the model; empty where nothing was measured, or where the file is not as it is written here."""
    try:
        kept = _read_speed_file()[f"{device}/{precision}"]
        speeds = {str(name): Speed(float(flops), float(rate)) for name, (flops, rate) in kept.items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        return {}
    return {name: speed for name, speed in speeds.items() if speed.flops > 0 and speed.rate > 0}


def _read_speed_file() -> dict[str, Any]:
    try:
        whole = json.loads((cache_folder() / SPEED_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return whole if isinstance(whole, dict) else {}


@cache
def _measure_matrix_rate(size: int = 768) -> float:
    """FLOP/s of an fp32 matrix product on all cores, in about 20 ms; torch is not needed for it."""
    matrix = np.ones((size, size), dtype=np.float32)
    best = np.inf
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best if best > 0 else 1e11 * num_workers()
