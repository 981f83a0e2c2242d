"""Exact resume of every method that trains: cut after each optimiser step, go on, compare hashes.

    python benchmarks/resume.py      # writes benchmarks/results/resume.md; ten minutes on two quiet cores

A run is stopped at each moment at which it can be (before and after every optimiser step, in every validation) and
at random pairs of moments, each leg with another number of reading threads. What it ends with after it has gone on
is compared with a run that was never stopped: SHA-256 of the weights, of the last checkpoint of each phase (the
optimiser's state, the moving average, the best weights), and of training log, figures and predictions. Then parts
of the state are taken out of a checkpoint: the same comparison has to notice each of them.

Every leg is a fork of this process, which has loaded everything already but shares no memory with the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from backbench.classifier.bundle import write_bundle
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.data.load import load_data
from backbench.errors import Interrupted, StorageError
from backbench.inference import accelerate
from backbench.registry import find_model, list_methods
from backbench.runs.context import RunContext
from backbench.runs.finish import finish
from backbench.runs.identity import resolve
from backbench.runs.train import train
from backbench.training import batches, phases
from backbench.training.checkpoint import Checkpoint, Workspace

LOADED = (accelerate, phases)  # before the forks, so that each has it already
CLASSES, EACH, SIDE = 3, {"train": 12, "val": 2, "test": 2}, 16
SIGNAL, REFUSED = 15, 3
RECIPE = {"epochs": 4, "batch_size": 12, "micro_batch_size": 6, "dropout": 0.1, "ema_decay": 0.9}
AUGMENTED = RECIPE | {"augment": {"crop": "random-resized", "flip": True, "mixup": 0.2}}
CNN, VIT = "tiny_cnn@16", "tiny_vit@16"
MODELS = {"parts": VIT, "last-blocks": VIT, "lora": VIT}
OPTIONS: dict[str, dict[str, Any]] = {
    "full": {"recipe": AUGMENTED},
    "gradual": {"steps": 2, "recipe": AUGMENTED | {"epochs": 2, "batch_size": 18, "micro_batch_size": 9}},
    "head": {"recipe": AUGMENTED},
    "last-blocks": {"blocks": 2, "recipe": AUGMENTED},
    "lora": {"rank": 2, "recipe": AUGMENTED},
    "mlp-head": {"hidden": 8, "recipe": {key: value for key, value in RECIPE.items() if key != "dropout"}},
    "parts": {"parts": ["attention", "norm"], "recipe": AUGMENTED},
    "quantized": {
        "qat_epochs": 4,
        "recipe": {key: value for key, value in AUGMENTED.items() if key != "epochs"},
    },
    "scratch": {"recipe": AUGMENTED},
    "two-phase": {"recipe": RECIPE | {"learning_rate": 1e-4}},
}
PLATEAU = {"epochs": 12, "batch_size": 36, "learning_rate": 0.3, "schedule": "plateau", "plateau_patience": 1}
Hashes = tuple[str, str, str]
KINDS = ("weights", "optimiser state", "log and figures")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(sorted(OPTIONS)), help="with commas between")
    parser.add_argument("--doubles", type=int, default=20, help="runs that are cut twice, for each method")
    parser.add_argument("--processes", type=int, default=2, help="methods that are tried at once")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "resume.md")
    given = parser.parse_args()
    trained = {method.name for method in list_methods() if method.trains}
    if trained != OPTIONS.keys():
        parser.error(f"OPTIONS and the methods that train differ: {', '.join(sorted(trained ^ OPTIONS.keys()))}")
    torch.set_num_threads(1)
    cuts, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BACKBENCH_CACHE"] = f"{folder}/cache"
        make_images(Path(folder) / "images")
        for name in (CNN, VIT):
            find_model(name).load(0)
        with multiprocessing.get_context("fork").Pool(given.processes) as pool:
            jobs = [(Path(folder), method, given.doubles) for method in given.methods.split(",")]
            on_plateau = pool.apply_async(try_plateau, (Path(folder),))
            for row, lost in pool.starmap(try_method, jobs, chunksize=1):
                cuts.append(row)
                losses += lost
            losses += on_plateau.get()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(render(cuts, losses))
    return int(any(row["differing"] for row in cuts) or any(row["outcome"] == "not noticed" for row in losses))


def make_images(root: Path) -> None:
    """Noise with a stripe at a place for each class, in three fixed parts."""
    rng = np.random.default_rng(0)
    for part, num in EACH.items():
        for label in range(CLASSES):
            folder = root / part / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(num):
                pixels = rng.integers(0, 160, (SIDE, SIDE, 3))
                pixels[4 * label : 4 * label + 4] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")


def try_method(folder: Path, method: str, doubles: int) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """One row of the table of cuts, and the rows of what is taken away."""
    trial = Trial(folder, method, OPTIONS[method])
    row = trial.cut_everywhere(doubles)
    print(row, flush=True)
    return row, trial.lose_parts()


def try_plateau(folder: Path) -> list[dict[str, str]]:
    """What is taken away, where the rate follows the validation loss."""
    return Trial(folder, "full", {"recipe": RECIPE | PLATEAU}, name="full, plateau").lose_parts()


class Trial:
    """One method on the images: what it ends with undisturbed, and after cuts."""

    def __init__(self, folder: Path, method: str, options: dict[str, Any], name: str = "") -> None:
        self.folder, self.name = folder / (name or method), name or method
        self.config = RunConfig(
            data=DataConfig(source=str(folder / "images")),
            model=MODELS.get(method, CNN),
            method=MethodConfig(name=method, options=options),
        )
        self.data = load_data(self.config.data)
        self.resolved = resolve(self.config)
        self.run_id = self.resolved.run_id(self.data)
        self.whole = self.run("whole")
        self.count = int((self.folder / "whole" / "asked").read_text())
        self.history = json.loads((self.folder / "whole" / self.run_id / "history.json").read_text())

    @property
    def num_steps(self) -> int:
        return sum(phase["num_steps"] for phase in self.history.values())

    def run(self, name: str, *, stop_at: int = 0, workers: int = 3) -> Hashes | None:
        """One leg in a fork: from where the last one of that name was cut, to the moment `stop_at` or to the end.

        Returns:
            What it ended with; None if it was stopped. Raises StorageError, as the run did.
        """
        out = self.folder / name
        out.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if child == 0:
            try:
                os._exit(self._leg(out, stop_at, workers))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        status = os.waitstatus_to_exitcode(status)
        if status == REFUSED:
            raise StorageError((out / "refused").read_text())
        if status not in (0, SIGNAL):
            raise RuntimeError(f"{self.name}, {name}: a leg failed with status {status}")
        return tuple(json.loads((out / "hashes").read_text())) if status == 0 else None

    def _leg(self, out: Path, stop_at: int, workers: int) -> int:
        asked = 0
        batches.num_workers = lambda: workers

        def signal() -> int:
            nonlocal asked
            asked += 1
            return SIGNAL if asked == stop_at else 0

        try:
            context = RunContext(out, stop_signal=signal)
            made = train(self.resolved, self.data, context)
            record = finish(self.resolved, self.data, context, made)
        except Interrupted:
            return SIGNAL
        except StorageError as error:
            (out / "refused").write_text(str(error))
            return REFUSED
        write_bundle(out / "run.bundle", made.classifier(), record=record, gallery=None, seen=None)
        (out / "asked").write_text(str(asked))
        (out / "hashes").write_text(json.dumps(collect_hashes(out)))
        return 0

    def cut_everywhere(self, doubles: int) -> dict[str, Any]:
        """Cut once at every moment, then twice at random pairs; how many hashes differ from the undisturbed."""
        rng = random.Random(0)
        plans = [(cut,) for cut in range(1, self.count + 1)]
        plans += [(rng.randint(2, self.count), rng.randint(1, self.count - 1)) for _ in range(doubles)]
        differing, stopped = 0, 0
        for number, plan in enumerate(plans):
            name = f"cut {number}"
            hashes = None
            for leg, cut in enumerate(plan):
                if hashes is None:
                    hashes = self.run(name, stop_at=cut, workers=1 + 2 * (leg % 2))
                    stopped += hashes is None
            hashes = hashes or self.run(name, workers=1 + 2 * (len(plan) % 2))
            differing += sum(one != other for one, other in zip(hashes or (), self.whole or (), strict=True))
        return {
            "method": self.name,
            "model": self.config.model,
            "steps": self.num_steps,
            "moments": self.count,
            "doubles": doubles,
            "stopped": stopped,
            "hashes": len(KINDS) * len(plans),
            "differing": differing,
        }

    def lose_parts(self) -> list[dict[str, str]]:
        """Cut in the last phase, take a part out of the checkpoint, go on: is that noticed?"""
        at = self.count - 4  # within the last epoch but one, or the last
        phase = list(self.history)[-1]
        rows = []
        for part, lose in PARTS.items():
            name = f"without {part}"
            if self.run(name, stop_at=at) is not None:
                raise RuntimeError(f"{self.name} was not stopped at {at}")
            workspace = Workspace(self.folder / name / ".working" / self.run_id)
            stored = workspace.load_latest(phase)
            assert stored is not None
            tensors, state = dict(stored.tensors), json.loads(json.dumps(stored.state))
            if not lose(tensors, state):
                continue
            workspace.save(phase, max(workspace.steps(phase)), Checkpoint(tensors, state))
            rows.append({"method": self.name, "part": part, "outcome": self._outcome(name)})
        return rows

    def _outcome(self, name: str) -> str:
        try:
            hashes = self.run(name)
        except StorageError:
            return "refused"
        changed = [
            kind for kind, one, other in zip(KINDS, hashes or (), self.whole or (), strict=True) if one != other
        ]
        return f"differs: {', '.join(changed)}" if changed else "not noticed"


def collect_hashes(out: Path) -> Hashes:
    """SHA-256 of the weights, of the last checkpoint of each phase, and of log, figures and predictions."""
    weights = hashlib.sha256((out / "run.bundle" / "weights.safetensors").read_bytes())
    states = hashlib.sha256()
    newest = {path.stem.rpartition("-")[0]: path for path in sorted(out.glob(".working/*/*.ckpt"))}
    for path in newest.values():
        states.update(path.name.encode() + path.read_bytes())
    (run,) = (path.parent for path in out.glob("*/record.json"))
    history = json.loads((run / "history.json").read_bytes())
    for phase in history.values():
        phase.pop("epoch_seconds")
    record = json.loads((run / "record.json").read_bytes())
    choices = {k: v for k, v in record["method"]["choices"].items() if not k.endswith("images_per_second")}
    log = [history, choices, record["metrics"], record["fit"], record["files"]["predictions.npz"]]
    figures = hashlib.sha256(json.dumps(log, sort_keys=True).encode())
    return weights.hexdigest(), states.hexdigest(), figures.hexdigest()


def _zero(prefix: str) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], bool]:
    """Put zeros in the place of all tensors whose names begin so; False if there are none."""

    def lose(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> bool:
        chosen = [name for name, tensor in tensors.items() if name.startswith(prefix) and tensor.any()]
        tensors |= {name: torch.zeros_like(tensors[name]) for name in chosen}
        return bool(chosen)

    return lose


def _restart(name: str, start: float) -> Callable[[dict[str, torch.Tensor], dict[str, Any]], bool]:
    """Set a number of the loop, or of every head in it, to what it is at the start; False if it is that."""

    def lose(_: dict[str, torch.Tensor], state: dict[str, Any]) -> bool:
        owners = [state["loop"]] if name in state["loop"] else state["loop"]["standings"]
        moved = any(owner[name] != start for owner in owners)
        for owner in owners:
            owner[name] = start
        return moved

    return lose


def _drop_average(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> bool:
    """As if the moving average began with the weights of now."""
    chosen = [name for name in tensors if name.startswith("average/")]
    tensors |= {name: tensors[name.replace("average/", "weights/", 1)].clone() for name in chosen}
    return bool(chosen)


def _other_seed(_: dict[str, torch.Tensor], state: dict[str, Any]) -> bool:
    state["seed"] += 1
    return True


PARTS: dict[str, Callable[[dict[str, torch.Tensor], dict[str, Any]], bool]] = {
    "epoch": _restart("epoch", 0),
    "place in the epoch": _restart("batch", 0),
    "rate on a plateau": _restart("plateau_rate", 1.0),
    "seed (all the state that chance has)": _other_seed,
    "moving average": _drop_average,
    "first moments": _zero("optimizer/exp_avg/"),
    "second moments": _zero("optimizer/exp_avg_sq/"),
    "step count of the optimiser": _zero("optimizer/step/"),
}


def render(cuts: list[dict[str, Any]], losses: list[dict[str, str]]) -> str:
    command = " ".join(["python benchmarks/resume.py", *sys.argv[1:]])
    lines = [
        "# Exact resume",
        "",
        f"`{command}`, {time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {platform.machine()}, one thread.",
        "",
        "Runs of 12 optimiser steps with AdamW, warm-up and cosine, dropout, a moving average of the weights,",
        "accumulation of gradients and, but for `mlp-head` and `two-phase`, augmentation and mixup; cut at every",
        "moment (before and after each step, in each validation) and at random pairs of moments, and gone on with",
        "in another process with another number of reading threads. Three hashes for each run: weights; optimiser",
        "state (the last checkpoint of each phase); training log, figures and predictions.",
        "",
        "| method | model | steps | cut once | cut twice | stops | hashes compared | differing |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['method']} | {row['model']} | {row['steps']} | {row['moments']} | {row['doubles']} "
        f"| {row['stopped']} | {row['hashes']} | **{row['differing']}** |"
        for row in cuts
    ]
    lines += [
        "",
        "## A part of the state taken away",
        "",
        "The same comparison after a part of the checkpoint was put back to what it is at the start of a run (the",
        "moving average: to the weights of now). The cosine has no state but the epoch and the place in it.",
        "",
        "| taken away | noticed | by |",
        "| --- | --- | --- |",
    ]
    for part in PARTS:
        rows = [row for row in losses if row["part"] == part]
        noticed = [row for row in rows if row["outcome"] != "not noticed"]
        outcomes = "; ".join(sorted({row["outcome"] for row in noticed}))
        missed = [row["method"] for row in rows if row not in noticed]
        missing = f"; NOT by {', '.join(missed)}" if missed else ""
        lines.append(f"| {part} | {len(noticed)} of {len(rows)} runs{missing} | {outcomes} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
