"""Milliseconds of a training step for one head, for ten side by side, and for one with ten times the classes.

Run: python benchmarks/many_heads.py   (random features, one thread, the fastest of three epochs; half a minute)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from backbench.config import Recipe
from backbench.heads.head_modules import make_linear, make_mlp
from backbench.methods.head import DECAYS, RATES
from backbench.runtime import make_torch_rng
from backbench.task import Features
from backbench.training.batches import FeatureBatches
from backbench.training.checkpoint import Workspace
from backbench.training.many_heads import ManyHeads, Setting, make_grid, spread_phase
from backbench.training.optimise import Phase
from backbench.training.train import fit

EPOCHS = 3


def make_features(dim: int, classes: int, num: int) -> Features:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(num, dim)).astype(np.float32)
    return Features(values, rng.integers(0, classes, num), tuple(str(i) for i in range(num)))


def step_seconds(kind: str, dim: int, classes: int, num: int, grid: tuple[Setting, ...]) -> float:
    rng = make_torch_rng(0, "head")
    head = make_linear(dim, classes, rng) if kind == "head" else make_mlp(dim, 512, classes, 0.25, rng)
    heads = ManyHeads(head, len(grid))
    names = frozenset(name for name, _ in heads.named_parameters())
    phase = spread_phase(Phase("head", names, Recipe(epochs=EPOCHS, patience=0)), "", grid)
    train, val = make_features(dim, classes, num), make_features(dim, classes, num // 5)
    batches = FeatureBatches(train, val, classes, 0.0, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            heads, batches, phase, class_names=tuple(map(str, range(classes))), workspace=Workspace(Path(folder))
        )
    return min(result.epoch_seconds) * EPOCHS / result.num_steps


def main() -> None:
    torch.set_num_threads(1)
    one, ten = make_grid((1e-3,), (0.01,)), make_grid(RATES, DECAYS)
    for kind, dim, classes, num in (
        ("head", 384, 10, 4000),
        ("head", 768, 100, 4000),
        ("mlp-head", 384, 10, 1000),
    ):
        alone = step_seconds(kind, dim, classes, num, one)
        side_by_side = step_seconds(kind, dim, classes, num, ten)
        wide = step_seconds(kind, dim, 10 * classes, num, one)
        print(
            f"{kind}, {dim} features, {classes} classes: 1 {1e3 * alone:.2f} ms, 10 {1e3 * side_by_side:.2f} ms "
            f"({side_by_side / alone:.1f} times), ten times the classes {1e3 * wide:.2f} ms"
        )


if __name__ == "__main__":
    main()
