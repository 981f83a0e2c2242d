"""How fast forwards are on this machine: what was measured here, by model, and what follows for other models."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import numpy as np

from backbench.config import Precision
from backbench.documents import parse_json
from backbench.errors import StorageError
from backbench.registry import ModelSpec, base_name
from backbench.runtime import cache_folder, num_workers
from backbench.storage import IN_CACHE, read_file, write_atomically

SPEED_FILE = "speed.json"
FORWARD_SHARE: dict[Precision, float] = {"fp32": 0.35, "bf16": 0.9, "fp16": 0.9}
"""Share of this machine's fp32 matrix rate that a forward reaches when nothing was measured here yet."""
UNMEASURED: dict[str, dict[Precision, float]] = {
    "cuda": {"fp32": 5e12, "bf16": 3e13, "fp16": 3e13},
    "mps": {"fp32": 2e12, "bf16": 2e12, "fp16": 2e12},
}
"""FLOP/s of a forward on an accelerator of middling size, before anything was measured on this one."""
UNKNOWN_FLOPS = 5e9
"""For a model whose cost the catalog does not know: about that of a ResNet-50."""
MIN_SECONDS = 0.5
"""A forward that took less says nothing."""


@dataclass(frozen=True)
class Speed:
    """What the forward of a model reached here: `flops` of one image, `rate` in FLOP/s."""

    flops: float
    rate: float


def remember_speed(
    model: ModelSpec,
    num_images: int,
    forward_seconds: float,
    *,
    flops: float | None,
    device: str,
    precision: Precision,
) -> None:
    """Keep the FLOP/s that the forward of this model reached, so that the next estimate is better.

    What was kept of it before counts half, so that one run on a busy machine does not decide.

    Args:
        flops: of one image, as counted on the network itself; nothing is kept without.
    """
    if not flops or forward_seconds < MIN_SECONDS:
        return
    whole = _read_file()
    speeds = _read_speeds(whole, device, precision)
    rate = flops * num_images / forward_seconds
    if model.name in speeds:
        rate = (rate + speeds[model.name].rate) / 2
    speeds[model.name] = Speed(flops, rate)
    kept = {name: [speed.flops, speed.rate] for name, speed in speeds.items()}
    text = json.dumps(whole | {_key(device, precision): kept})
    with contextlib.suppress(StorageError):  # an estimate is not worth failing for
        write_atomically(cache_folder() / SPEED_FILE, text.encode(), IN_CACHE)


def guess_forward(models: Sequence[ModelSpec], *, device: str, precision: Precision) -> dict[str, float]:
    """Seconds of one image's forward, by name of the model.

    At the model's own speed; else at that of the model that it is a variant of; else at that of the model nearest
    to it in cost: small networks reach a fraction of the FLOP/s that large ones do. What was measured in another
    precision counts where nothing was in this one, by what the two usually reach; and where nothing was at all, on
    the CPU a quick timing of a matrix product, and on an accelerator what one of middling size reaches.
    """
    whole = _read_file()
    measured = _read_speeds(whole, device, precision)
    scaled: dict[str, Speed] = {}
    for other in get_args(Precision):
        factor = FORWARD_SHARE[precision] / FORWARD_SHARE[other]
        found = {} if other == precision else _read_speeds(whole, device, other)
        scaled |= {name: Speed(speed.flops, speed.rate * factor) for name, speed in found.items()}
    known = scaled | measured
    rivals = measured or scaled or {"": Speed(UNKNOWN_FLOPS, _guess_rate(device, precision))}
    seconds = {}
    for model in models:
        own = known.get(model.name) or known.get(base_name(model.name))
        flops = model.flops if model.flops is not None else own.flops if own is not None else UNKNOWN_FLOPS
        rate = own.rate if own is not None else _nearest(flops, rivals).rate
        seconds[model.name] = flops / rate
    return seconds


def list_guessed(models: Sequence[ModelSpec], *, device: str) -> tuple[str, ...]:
    """Names of the models that neither the catalog nor a run of them here tells the cost of."""
    whole = _read_file()
    known = {name for precision in get_args(Precision) for name in _read_speeds(whole, device, precision)}
    return tuple(
        model.name for model in models if model.flops is None and not {model.name, base_name(model.name)} & known
    )


def _guess_rate(device: str, precision: Precision) -> float:
    known = UNMEASURED.get(device.partition(":")[0])
    return known[precision] if known is not None else _measure_matrix_rate() * FORWARD_SHARE[precision]


def _nearest(flops: float, speeds: dict[str, Speed]) -> Speed:
    return min(speeds.values(), key=lambda speed: abs(math.log(speed.flops / max(flops, 1.0))))


def _key(device: str, precision: Precision) -> str:
    return f"{device}/{precision}"


def _read_speeds(whole: dict[str, Any], device: str, precision: Precision) -> dict[str, Speed]:
    """By name of the model; empty where nothing was measured, or where the file is not as it is written here."""
    try:
        kept = whole[_key(device, precision)]
        speeds = {str(name): Speed(float(flops), float(rate)) for name, (flops, rate) in kept.items()}
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
        return {}
    return {
        name: speed for name, speed in speeds.items() if 0 < speed.flops < math.inf and 0 < speed.rate < math.inf
    }


def _read_file() -> dict[str, Any]:
    try:
        whole = parse_json(read_file(cache_folder() / SPEED_FILE))
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
