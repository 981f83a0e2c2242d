"""Carries out one run undisturbed, and once more with SIGKILLs; prints what came of both as one JSON document.

Usage: killed_runs.py CONFIG FOLDER. Every attempt is a fork of this process, which has loaded everything already.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbench import storage
from backbench.classifier import bundle
from backbench.config import RunConfig
from backbench.records.folders import read_predictions, read_record
from backbench.registry import list_methods, list_models
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from backbench.training import phases
from backbench.training import train as training

LOADED = (bundle, phases, list_methods(), list_models())
POINTS = ("half written", "any time", "not moved yet", "any time", "just moved", "any time")


def main() -> None:
    config, folder = RunConfig.model_validate_json(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
    torch.set_num_threads(1)
    training.SAVE_SECONDS = 0.0  # a checkpoint at every step
    rng = random.Random(0)
    started = time.monotonic()
    assert attempt(config, folder / "undisturbed") == 0
    seconds = time.monotonic() - started
    kills = []
    for number, point in enumerate(POINTS):
        delay = None if point != "any time" else rng.uniform(0.05, 0.15) * seconds
        status = attempt(config, folder / "disturbed", point=point, at_write=rng.randint(2, 3), delay=delay)
        steps = [int(path.stem.rpartition("-")[2]) for path in folder.glob("disturbed/.working/*/*.ckpt")]
        kills.append({"number": number, "point": point, "signal": status, "step": max(steps, default=0)})
    assert attempt(config, folder / "disturbed") == 0
    results = {name: describe(folder / name) for name in ("undisturbed", "disturbed")}
    print(json.dumps({"kills": kills} | results))


def attempt(
    config: RunConfig, out: Path, *, point: str | None = None, at_write: int = 0, delay: float | None = None
) -> int:
    """Run in a fork; 0 if it finished, the number of the signal that ended it, or -1 if it failed."""
    child = os.fork()
    if child == 0:
        try:
            if point is not None and delay is None:
                die_in_write(point, at_write)
            adapt(config, RunContext(out, with_gallery=False))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def die_in_write(point: str, at_write: int) -> None:
    """From now on this process kills itself at that point of the so many-th checkpoint that it writes."""
    written = 0
    write_synced, replace = storage.write_synced, Path.replace

    def count(path: Path) -> bool:
        nonlocal written
        written += ".ckpt" in path.name
        return ".ckpt" in path.name and written == at_write

    def write(path: Path, data: bytes) -> None:
        if count(path) and point == "half written":
            path.write_bytes(data[: len(data) // 2])
            die()
        write_synced(path, data)

    def move(path: Path, target: Path) -> Any:
        is_it = ".ckpt" in path.name and written == at_write
        if is_it and point == "not moved yet":
            die()
        moved = replace(path, target)
        if is_it and point == "just moved":
            die()
        return moved

    set_in_fork: Callable[..., None] = setattr
    set_in_fork(storage, "write_synced", write)
    set_in_fork(Path, "replace", move)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def describe(out: Path) -> dict[str, Any]:
    """Everything of a finished run but what it cost."""
    run = next(path.parent for path in out.glob("*/record.json"))
    record = read_record(run)
    history = {
        phase: {key: value for key, value in result.items() if key != "epoch_seconds"}
        for phase, result in json.loads((run / "history.json").read_bytes()).items()
    }
    predictions = np.ascontiguousarray(read_predictions(run).probabilities)
    weights = (out / f"{run.name}.bundle" / "weights.safetensors").read_bytes()
    return {
        "run_id": record.run_id,
        "history": history,
        "metrics": {name: metric.model_dump() for name, metric in record.metrics.items()},
        "predictions": hashlib.sha256(predictions.tobytes()).hexdigest(),
        "weights": hashlib.sha256(weights).hexdigest(),
        "seen": hashlib.sha256((out / f"{run.name}.bundle" / "seen.safetensors").read_bytes()).hexdigest(),
    }


if __name__ == "__main__":
    main()
