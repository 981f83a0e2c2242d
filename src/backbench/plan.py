"""What a ranking is about to do, said before it does it: what can be decided, downloads, time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backbench.backbones.defaults import is_on_disk
from backbench.catalog import ModelSpec
from backbench.config import Precision
from backbench.data.survey import Survey
from backbench.errors import StorageError
from backbench.evaluate.power import smallest_provable_gap
from backbench.progress import format_bytes, format_seconds
from backbench.runtime import cache_folder, num_workers
from backbench.storage import write_atomically

SPEED_FILE = "speed.json"
START_SECONDS = 3.0
"""Loading torch, building a network and fitting heads: what a model costs however few the images are."""
FORWARD_SHARE = {"fp32": 0.35, "bf16": 0.9}
"""Share of this machine's fp32 matrix rate that a forward reaches when nothing was measured here yet."""
UNKNOWN_FLOPS = 5e9
"""For a model whose cost the catalog does not know: about that of a ResNet-50."""


@dataclass(frozen=True)
class Plan:
    """Estimated seconds of each model, and bytes to fetch."""

    seconds: dict[str, float]
    download_bytes: int

    def sentences(self, num_methods: int, *, trains: bool = False) -> list[str]:
        """A line for the terminal; training is not estimated, and that is said."""
        num_models = len(self.seconds)
        models = f"{num_models} model{'s' if num_models != 1 else ''}"
        methods = f"{num_methods} method{'s' if num_methods != 1 else ''}"
        fetch = (
            f"{format_bytes(self.download_bytes)} to download" if self.download_bytes else "nothing to download"
        )
        rest = "and the time of training" if trains else "in all"
        return [f"{models} x {methods}, {fetch}, about {format_seconds(sum(self.seconds.values()))} {rest}."]


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
    num_images = found.num_images
    rate = _known_rate(device, precision) or _measure_matrix_rate() * FORWARD_SHARE[precision]
    seconds = {
        model.name: START_SECONDS + (UNKNOWN_FLOPS if model.flops is None else model.flops) * num_images / rate
        for model in models
    }
    return Plan(seconds, download_bytes + found.download_bytes)


def remember_speed(device: str, precision: Precision, flops: float, forward_seconds: float) -> None:
    """Keep the FLOP/s that a forward reached, so that the next estimate is better."""
    if forward_seconds < 0.5:  # too short to say anything
        return
    speeds = _read_speeds() | {f"{device}/{precision}": flops / forward_seconds}
    with contextlib.suppress(StorageError):  # an estimate is not worth failing for
        write_atomically(cache_folder() / SPEED_FILE, json.dumps(speeds).encode())


def _known_rate(device: str, precision: Precision) -> float | None:
    rate = _read_speeds().get(f"{device}/{precision}")
    return float(rate) if rate else None


def _read_speeds() -> dict[str, float]:
    try:
        speeds = json.loads((cache_folder() / SPEED_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return speeds if isinstance(speeds, dict) else {}


def _measure_matrix_rate(size: int = 768) -> float:
    """FLOP/s of an fp32 matrix product on all cores, in about 20 ms; torch is not needed for it."""
    matrix = np.ones((size, size), dtype=np.float32)
    best = np.inf
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best if best > 0 else 1e11 * num_workers()
