"""Many heads side by side: each is what it would be alone, a cut leaves no trace, validation chooses one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from backbench.classifier.bundle import load_bundle
from backbench.config import DataConfig, MethodConfig, Recipe, RunConfig
from backbench.errors import ConfigError, Interrupted, ModelError, TrainingDiverged
from backbench.heads.head_modules import HeadModule, HeadSpec, build_head, make_linear, make_mlp
from backbench.methods.head import HeadOptions, _decide_grid
from backbench.registry import find_method, resolve_options
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from backbench.runtime import make_torch_rng
from backbench.task import Features
from backbench.training import train
from backbench.training.batches import FeatureBatches
from backbench.training.checkpoint import Workspace
from backbench.training.many_heads import (
    ManyHeads,
    Setting,
    choose_head,
    describe_heads,
    make_grid,
    result_of_head,
    spread_phase,
    warn_of_diverged,
)
from backbench.training.optimise import Phase
from backbench.training.phases import Trained, training_figures
from backbench.training.train import FitResult

DIM, CLASSES = 6, 3
GRID = make_grid((1e-3, 0.03, 0.3), (0.0, 0.5))


def make_head(kind: str) -> HeadModule:
    rng = make_torch_rng(0, "head")
    return make_linear(DIM, CLASSES, rng, 0.2) if kind == "linear" else make_mlp(DIM, 5, CLASSES, 0.25, rng)


def make_batches(num_val: int = 16) -> FeatureBatches:
    rng = np.random.default_rng(0)
    num = 30 + num_val
    labels = rng.integers(0, CLASSES, num)
    values = (rng.normal(size=(num, DIM)) + np.eye(CLASSES, DIM)[labels] * 1.5).astype(np.float32)
    names = tuple(str(i) for i in range(num))
    parts = [Features(values[s], labels[s], names[s]) for s in (slice(30), slice(30, None))]
    return FeatureBatches(parts[0], parts[1], num_classes=CLASSES, smoothing=0.1, device="cpu")


def run_fit(
    network: torch.nn.Module, phase: Phase, folder: Path, stop_signal: Callable[[], int] = train.never_stop
) -> FitResult:
    return train.fit(
        network,
        make_batches(),
        phase,
        class_names=("a", "b", "c"),
        workspace=Workspace(folder),
        seed=5,
        stop_signal=stop_signal,
    )


def phase_for(network: torch.nn.Module, recipe: Recipe) -> Phase:
    return Phase("head", frozenset(name for name, _ in network.named_parameters()), recipe)


def fit_grid(
    kind: str, recipe: Recipe, folder: Path, stop_signal: Callable[[], int] = train.never_stop
) -> tuple[ManyHeads, FitResult]:
    heads = ManyHeads(make_head(kind), len(GRID))
    return heads, run_fit(heads, spread_phase(phase_for(heads, recipe), "", GRID), folder, stop_signal)


RECIPES = {
    "clipped": Recipe(epochs=8, batch_size=8, clip_norm=0.02, patience=2, micro_batch_size=4),
    "averaged": Recipe(epochs=4, batch_size=8, ema_decay=0.8, class_weights="auto"),
    "plateau": Recipe(
        epochs=6, batch_size=8, optimizer="sgd", schedule="plateau", plateau_patience=1, patience=0, clip_norm=0
    ),
}


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("name", RECIPES)
def test_each_head_is_what_a_run_of_its_own_gives(kind: str, name: str, tmp_path: Path) -> None:
    heads, result = fit_grid(kind, RECIPES[name], tmp_path / "grid")
    for number, setting in enumerate(GRID):
        alone = make_head(kind)
        recipe = RECIPES[name].model_copy(
            update={"learning_rate": setting.learning_rate, "weight_decay": setting.weight_decay}
        )
        expected = run_fit(alone, phase_for(alone, recipe), tmp_path / str(number))
        member = result.members[number]
        assert (member.best_epoch, member.ended) == (expected.best_epoch, expected.ended)
        assert len(member.history) == len(expected.history)
        for ours, theirs in zip(member.history, expected.history, strict=True):
            assert vars(ours) == pytest.approx(vars(theirs), abs=1e-6)
        for ours_of, theirs_of in zip(heads.head(number).parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours_of, theirs_of, rtol=0, atol=1e-6)
    if name == "clipped":  # else the test of stopping one by one shows nothing
        assert len({len(member.history) for member in result.members}) > 1
    rates = {member.history[-1].learning_rate for member in result.members}
    assert len(rates) >= 3


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_logits_are_those_of_each_head(kind: str) -> None:
    heads = ManyHeads(make_head(kind), 4)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=make_torch_rng(1, "noise")))
    values = torch.randn(7, DIM, generator=make_torch_rng(2, "values"))
    for mode in (False, True):
        heads.train(mode)
        torch.manual_seed(3)
        logits = heads(values)
        assert logits.shape == (7, 4, CLASSES)
        for number in range(4):
            torch.manual_seed(3)
            torch.testing.assert_close(logits[:, number], heads.head(number)(values), rtol=1e-5, atol=1e-6)


def test_a_head_without_gradient_steps_is_refused() -> None:
    with pytest.raises(ModelError, match="cosine"):
        ManyHeads(build_head(HeadSpec(kind="cosine", dim=DIM, classes=CLASSES)), 2)


def fingerprint(folder: Path, heads: ManyHeads, result: FitResult) -> str:
    digest = hashlib.sha256(repr([member.history for member in result.members]).encode())
    for tensor in heads.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    digest.update(max(folder.glob("head-*.ckpt")).read_bytes())
    return digest.hexdigest()


def stop_after(calls: int) -> Callable[[], int]:
    asked = 0

    def signal() -> int:
        nonlocal asked
        asked += 1
        return 15 if asked == calls else 0

    return signal


@pytest.mark.parametrize("name", ["clipped", "plateau"])
def test_a_grid_cut_anywhere_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    heads, result = fit_grid("mlp", recipe, tmp_path / "whole")
    whole = fingerprint(tmp_path / "whole", heads, result)
    num_asked = result.num_steps // 4 * 5 + 1  # four steps and a validation for each epoch, and one at the start
    ended = sorted(len(member.history) for member in result.members)
    assert (ended[0] < ended[-1]) == (name == "clipped")
    for cut in (1, 2, 9, num_asked // 2, num_asked - 6, num_asked - 1):
        folder = tmp_path / f"cut {cut}"
        with pytest.raises(Interrupted):
            fit_grid("mlp", recipe, folder, stop_after(cut))
        assert fingerprint(folder, *fit_grid("mlp", recipe, folder)) == whole, f"cut at question {cut}"


def test_a_grid_that_forgets_which_heads_have_ended_ends_otherwise(tmp_path: Path) -> None:
    recipe = RECIPES["clipped"]
    heads, result = fit_grid("linear", recipe, tmp_path / "whole")
    whole = fingerprint(tmp_path / "whole", heads, result)
    with pytest.raises(Interrupted):
        fit_grid("linear", recipe, tmp_path / "cut", stop_after(result.num_steps // 4 * 5 - 1))
    workspace = Workspace(tmp_path / "cut")
    stored = workspace.load_latest("head")
    assert stored is not None
    standings = stored.state["loop"]["standings"]
    assert {standing["ended"] for standing in standings} == {"", "patience"}
    for standing in standings:
        standing["ended"] = ""
    workspace.save("head", max(workspace.steps("head")), stored)
    assert fingerprint(tmp_path / "cut", *fit_grid("linear", recipe, tmp_path / "cut")) != whole


def test_a_head_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    """What it learned by then stays, so that a later misstep of it can't end the run of the others."""
    _, result = fit_grid("linear", RECIPES["clipped"], tmp_path)
    first = min(range(len(GRID)), key=lambda number: len(result.members[number].history))
    steps_of_first = len(result.members[first].history) * 4
    assert steps_of_first < result.num_steps
    stored = Workspace(tmp_path).load_latest("head")
    assert stored is not None
    taken = [float(stored.tensors[f"optimizer/step/heads.{number}.weight"]) for number in range(len(GRID))]
    assert taken[first] == steps_of_first
    assert max(taken) == result.num_steps


def test_a_head_that_diverges_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=8, optimizer="sgd", learning_rate=1.0, clip_norm=0)
    grid = make_grid((1e-2, 1e30), (0.0,))

    def fit_with(second_rate: float) -> tuple[ManyHeads, FitResult]:
        heads = ManyHeads(make_head("mlp"), 2)
        phase = spread_phase(phase_for(heads, recipe), "", grid)
        rates = {name: second_rate if ".1." in f".{name}" else 1e-2 for name in phase.trainable}
        return heads, run_fit(heads, replace(phase, rates=rates, recipe=recipe), tmp_path / str(second_rate))

    heads, result = fit_with(1e30)
    others, tame = fit_with(0.1)
    assert [member.ended for member in result.members] == ["epochs", "diverged"]
    assert [member.ended for member in tame.members] == ["epochs", "epochs"]
    assert result.members[0].history == tame.members[0].history
    assert all(map(torch.equal, heads.head(0).parameters(), others.head(0).parameters()))
    assert all(parameter.isfinite().all() for parameter in heads.head(1).parameters())
    assert warn_of_diverged(tame, grid) == ()
    assert "1 of 2 heads diverged, at rate 1e+30" in warn_of_diverged(result, grid)[0]


def test_when_every_head_diverges_the_run_does(tmp_path: Path) -> None:
    heads = ManyHeads(make_head("mlp"), 2)
    recipe = Recipe(epochs=3, batch_size=8, optimizer="sgd", clip_norm=0)
    grid = make_grid((1e30, 1e31), (0.0,))
    with pytest.raises(TrainingDiverged, match="diverged at step"):
        run_fit(heads, spread_phase(phase_for(heads, recipe), "", grid), tmp_path)


def make_result(accuracy: float, loss: float, ended: str = "epochs") -> FitResult:
    return FitResult((), 1, accuracy, loss, ended, 8, 4, ())


def test_the_likeliest_of_those_as_accurate_as_the_best_is_kept() -> None:
    members = (make_result(0.90, 0.5), make_result(0.89, 0.3), make_result(0.50, 0.1))
    result = replace(members[0], members=members)
    assert choose_head(result, 100) == 1
    assert choose_head(result, 1_000_000) == 0
    described = describe_heads(result, make_grid((0.1, 0.2, 0.3), (0.0,)), 1)
    assert described["learning_rate"] == 0.2
    assert described["val_nll"] == 0.3
    assert [head["val_accuracy"] for head in described["heads"]] == [0.90, 0.89, 0.50]


def test_a_grid_of_which_one_head_was_cut_counts_as_cut() -> None:
    members = (make_result(0.9, 0.5, "patience"), make_result(0.5, 0.9, "budget"))
    assert result_of_head(replace(members[0], members=members), 0).ended == "budget"
    members = (members[0], make_result(0.5, 0.9, "epochs"))
    assert result_of_head(replace(members[0], members=members), 0).ended == "patience"


def test_what_is_best_within_a_cut_epoch_has_no_training_figures() -> None:
    result = make_result(0.9, 0.5, "budget")
    assert result.best_epoch > len(result.history)
    assert training_figures(Trained(Mock(), {"head": result}), 5) == {}


def test_a_rate_or_decay_of_the_recipe_takes_the_place_of_the_grid() -> None:
    assert len(_decide_grid(HeadOptions(), 10)[0]) == 10
    stated = HeadOptions(recipe=Recipe(learning_rate=0.2, weight_decay=0.3))
    assert _decide_grid(stated, 10) == ((Setting(0.2, 0.3),), ())
    with pytest.raises(ConfigError, match=r"options\.rates.*learning_rate is 0\.2"):
        _decide_grid(HeadOptions(rates=(0.5,), recipe=Recipe(learning_rate=0.2)), 10)
    assert make_grid((0.1, 0.1), (0.0,)) == (Setting(0.1, 0.0),)


def test_without_validation_one_head_is_trained_and_that_is_said() -> None:
    grid, warnings = _decide_grid(HeadOptions(), 0)
    assert grid == (Setting(1e-3, 0.05),)
    assert "no validation images" in warnings[0]
    assert _decide_grid(HeadOptions(rates=(0.5,), weight_decays=(0.0,)), 0) == ((Setting(0.5, 0.0),), ())


@pytest.mark.parametrize(
    "options", [{"rates": []}, {"rates": [-1.0]}, {"rates": ["fast"]}, {"weight_decays": [-0.1]}, {"rates": [0.0]}]
)
def test_a_grid_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        resolve_options(find_method("head"), MethodConfig(name="head", options=options))


def test_the_record_says_what_every_head_reached(photos: Path, tmp_path: Path) -> None:
    options = {"rates": [1e-5, 1e-2], "weight_decays": [0.0], "recipe": {"epochs": 3, "augment": {"flip": True}}}
    config = RunConfig(
        data=DataConfig(source=str(photos)), model="tiny_cnn", method=MethodConfig(name="head", options=options)
    )
    adapted = adapt(config, RunContext(tmp_path, with_gallery=False))
    assert adapted.record.method is not None
    choices = adapted.record.method.choices
    assert [head["learning_rate"] for head in choices["heads"]] == [1e-5, 1e-2]
    assert choices["learning_rate"] == 1e-2
    assert choices["val_nll"] == min(head["val_nll"] for head in choices["heads"])
    assert adapted.record.fit["val_nll"].value == pytest.approx(choices["val_nll"], abs=1e-3)
    assert load_bundle(adapted.bundle).head.spec.kind == "linear"
