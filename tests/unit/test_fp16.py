"""Training in fp16: the loss is scaled, what overflows is skipped, and a cut run ends with the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backbench.config import DataConfig, MethodConfig, Precision, Recipe, RunConfig
from backbench.errors import ConfigError, Interrupted, TrainingDiverged
from backbench.inference.features import extract_features
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from backbench.runtime import autocast, decide_precision
from backbench.task import Features
from backbench.training import step
from backbench.training.batches import FeatureBatches
from backbench.training.checkpoint import Workspace
from backbench.training.optimise import Phase
from backbench.training.train import FitResult, fit, never_stop
from conftest import make_photos

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=0.03, warmup_epochs=0, patience=0)
NUM_STEPS = 12


class Net(nn.Module):
    """Its logits are infinite in the steps `bad`, counted from 0 over this process's training steps."""

    def __init__(self, bad: frozenset[int] = frozenset()) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.bad = bad
        self.asked = 0
        self.types: set[torch.dtype] = set()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        logits = self.layers(values)
        self.types.add(logits.dtype)
        if self.training:
            self.asked += 1
            if self.asked - 1 in self.bad:
                return logits * float("inf")
        return logits


def train(
    folder: Path,
    network: nn.Module,
    *,
    recipe: Recipe = RECIPE,
    precision: Precision = "fp16",
    stop_signal: Callable[[], int] = never_stop,
) -> FitResult:
    rng = np.random.default_rng(0)
    labels = np.arange(34) % 3
    values = (rng.normal(size=(34, 6)) + 2 * np.eye(3, 6)[labels]).astype(np.float32)
    ids = tuple(map(str, range(34)))
    parts = [Features(values[s], labels[s], ids[s]) for s in (slice(24), slice(24, None))]
    return fit(
        network,
        FeatureBatches(*parts, num_classes=3, smoothing=0.0, device="cpu"),
        Phase("half", frozenset(name for name, _ in network.named_parameters()), recipe),
        class_names=("a", "b", "c"),
        workspace=Workspace(folder),
        precision=precision,
        stop_signal=stop_signal,
    )


def state_of(folder: Path) -> dict[str, float]:
    stored = Workspace(folder).load_latest("half")
    assert stored is not None
    state: dict[str, float] = stored.state["loop"]
    return state


def test_a_network_learns_in_fp16(tmp_path: Path) -> None:
    network = Net()
    result = train(tmp_path, network)
    assert network.types == {torch.float16}
    assert next(network.parameters()).dtype == torch.float32
    assert result.num_skipped == 0
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert result.best_accuracy > 0.6


def test_gradients_too_small_for_fp16_are_not_lost() -> None:
    weight = nn.Parameter(torch.ones(1, 4))
    inputs = torch.full((1, 4), 1e-3)
    with autocast("cpu", "fp16"):
        outputs = nn.functional.linear(inputs, weight)
    gradients = {}
    for scale in (1.0, 65536.0):
        (gradients[scale],) = torch.autograd.grad(outputs.float() * 1e-6 * scale, weight, retain_graph=True)
    assert not gradients[1.0].any()
    torch.testing.assert_close(gradients[65536.0] / 65536, torch.full((1, 4), 1e-9), rtol=0.05, atol=0)


def test_the_scale_leaves_no_trace_in_the_steps(tmp_path: Path) -> None:
    plain = RECIPE.model_copy(update={"optimizer": "sgd", "clip_norm": 0.0, "epochs": 1})
    half, whole = Net(), Net()
    train(tmp_path / "fp16", half, recipe=plain)
    train(tmp_path / "fp32", whole, recipe=plain, precision="fp32")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], tensor, rtol=0, atol=1e-3)
        assert not torch.equal(Net().state_dict()[name], half.state_dict()[name])


def test_an_overflow_is_skipped_and_halves_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(tmp_path, Net(frozenset({2, 5, 6})))
    state = state_of(tmp_path)
    assert result.num_skipped == state["num_skipped"] == 3
    assert state["loss_scale"] == 65536 / 8
    assert state["num_skipped_in_a_row"] == 0
    assert result.ended == "epochs"
    assert result.num_steps == NUM_STEPS
    monkeypatch.setattr(step, "STEPS_TO_GROW", NUM_STEPS)
    train(tmp_path / "grown", Net())
    assert state_of(tmp_path / "grown")["loss_scale"] == 65536 * 2


def test_a_skipped_step_changes_nothing(tmp_path: Path) -> None:
    network = Net(frozenset(range(NUM_STEPS)))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = train(tmp_path, network)
    assert result.num_skipped == NUM_STEPS
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_overflow_without_end_is_divergence(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=f"step {step.MAX_SKIPPED + 1}"):
        train(tmp_path, Net(frozenset(range(1, 100))), recipe=RECIPE.model_copy(update={"epochs": 10}))
    assert state_of(tmp_path)["num_skipped"] < step.MAX_SKIPPED


def test_a_run_cut_anywhere_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "STEPS_TO_GROW", 4)
    bad = frozenset({4, 9})

    def fingerprint(folder: Path) -> str:
        return hashlib.sha256(max(folder.glob("half-*.ckpt")).read_bytes()).hexdigest()

    train(tmp_path / "whole", Net(bad))
    whole = fingerprint(tmp_path / "whole")
    for cut in range(1, NUM_STEPS + 5):
        folder, asked = tmp_path / f"cut {cut}", 0

        def signal(cut: int = cut) -> int:
            nonlocal asked
            asked += 1
            return 15 if asked == cut else 0

        first = Net(bad)
        with pytest.raises(Interrupted):
            train(folder, first, stop_signal=signal)
        train(folder, Net(frozenset(number - first.asked for number in bad)))
        assert fingerprint(folder) == whole, f"cut at question {cut}"


def test_features_in_fp16_are_those_of_fp32_nearly() -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))
    backbone = find_model("tiny_vit").load(0)
    names = [f"{row:064x}" for row in range(5)]
    half, whole = (
        extract_features(backbone, images.__getitem__, names, names=names, precision=precision, use_cache=False)
        for precision in ("fp16", "fp32")
    )
    assert not np.array_equal(half.values, whole.values)
    np.testing.assert_allclose(half.values, whole.values, rtol=0.02, atol=0.02)


def test_a_whole_run_in_fp16(tmp_path: Path) -> None:  # convolutions in fp16 take seconds each on most CPUs
    config = RunConfig(
        data=DataConfig(source=str(make_photos(tmp_path / "photos", num=6))),
        model="tiny_vit",
        method=MethodConfig(name="last-blocks", options={"blocks": 1, "recipe": {"epochs": 1}}),
        precision="fp16",
    )
    record = adapt(config, RunContext(tmp_path / "runs")).record
    assert record.config.precision == "fp16"
    assert np.isfinite(record.metrics["nll"].value)


def test_the_word_is_known_and_others_are_told() -> None:
    assert decide_precision("fp16", "cpu", training=True) == "fp16"
    with pytest.raises(ConfigError, match="fp32, bf16, fp16"):
        decide_precision("half", "cpu")
