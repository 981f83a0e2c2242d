"""The training loop: exact resume at every step, nothing frozen moves, what diverges is not applied."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from backbench.config import Recipe
from backbench.errors import ConfigError, Interrupted, ModelError, StorageError, TrainingDiverged
from backbench.progress import Progress
from backbench.task import Features
from backbench.training import train
from backbench.training.batches import FeatureBatches
from backbench.training.checkpoint import Checkpoint, Workspace
from backbench.training.loop import LoopState, Standing
from backbench.training.optimise import Phase, make_optimizer, rate_factor, set_training_mode

NAMES = ("a", "b", "c")


def make_network() -> nn.Module:
    torch.manual_seed(3)
    body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    tail = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    return nn.Sequential(body, tail)


def make_batches(num: int = 46) -> FeatureBatches:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, num)
    values = (rng.normal(size=(num, 6)) + np.eye(3, 6)[labels] * 1.5).astype(np.float32)
    cut = num - 16
    parts = [
        Features(values[s], labels[s], tuple(str(i) for i in range(num))[s])
        for s in (slice(cut), slice(cut, None))
    ]
    return FeatureBatches(parts[0], parts[1], num_classes=3, smoothing=0.1, device="cpu")


RECIPES = {
    "adamw": Recipe(epochs=3, batch_size=8, learning_rate=0.01, ema_decay=0.9, warmup_epochs=1),
    "adam": Recipe(epochs=3, batch_size=8, learning_rate=0.01, optimizer="adam"),
    "accumulated": Recipe(epochs=3, batch_size=8, micro_batch_size=4, learning_rate=0.01, optimizer="sgd"),
    "plateau": Recipe(
        epochs=3, batch_size=8, learning_rate=0.05, schedule="plateau", plateau_patience=1, patience=0
    ),
}
TAIL = frozenset({"1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias", "1.4.weight", "1.4.bias"})


def fit(
    folder: Path, recipe: Recipe, *, stop_at: int = 0, network: nn.Module | None = None
) -> tuple[nn.Module, train.FitResult]:
    network = network or make_network()
    result = train.fit(
        network,
        make_batches(),
        Phase("tail", TAIL, recipe, {"1.0.weight": 0.5}),
        class_names=NAMES,
        workspace=Workspace(folder),
        seed=5,
        stop_signal=stop_after(stop_at),
    )
    return network, result


def stop_after(calls: int) -> Callable[[], int]:
    """A stop signal that comes at the given question, counted over training and validation; 0: never."""
    asked = 0

    def signal() -> int:
        nonlocal asked
        asked += 1
        return 15 if asked == calls else 0

    return signal


def fingerprint(folder: Path, network: nn.Module, result: train.FitResult) -> str:
    """All weights, the last checkpoint (optimiser, average, best) and the training log."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    last = max(folder.glob("tail-*.ckpt"))
    digest.update(last.name.encode() + last.read_bytes())
    digest.update(repr(result.history).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_cut_anywhere_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    whole = fingerprint(tmp_path / "whole", *fit(tmp_path / "whole", recipe))
    steps = 3 * 4
    for cut in range(1, steps + 4):  # every question: before each step, and in each validation
        folder = tmp_path / f"cut {cut}"
        with pytest.raises(Interrupted) as stopped:
            fit(folder, recipe, stop_at=cut)
        assert stopped.value.exit_status == 143
        assert fingerprint(folder, *fit(folder, recipe)) == whole, f"cut at question {cut}"


def test_a_run_cut_twice_or_killed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES["adamw"]
    whole = fingerprint(tmp_path / "whole", *fit(tmp_path / "whole", recipe))
    rng = np.random.default_rng(1)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)  # a checkpoint after every step: a kill loses at most one
    for number in range(8):
        folder = tmp_path / f"double {number}"
        for cut in rng.integers(1, 8, 2):
            with pytest.raises(Interrupted):
                fit(folder, recipe, stop_at=int(cut))
        newest = max(folder.glob("tail-*.ckpt"))
        newest.unlink()  # as if it had never been written
        assert fingerprint(folder, *fit(folder, recipe)) == whole


STUCK = Recipe(
    epochs=9,
    batch_size=8,
    micro_batch_size=4,
    learning_rate=0.3,
    ema_decay=0.5,
    schedule="plateau",
    plateau_patience=1,
    patience=5,
)
"""Best in the third epoch, at a lower rate from the sixth on: at the cut each counter counts."""
CUT_AT = 34
"""After two steps of the seventh epoch: each epoch asks five times, the start once."""
LOST_NUMBERS = {"epoch": 0, "batch": 0, "micro_batch_size": 8, "num_seen": 0}
LOST_OF_STANDING = sorted({entry.name for entry in fields(Standing)} - {"ended"})
LOST_OF_OPTIMIZER = ["optimizer/exp_avg/", "optimizer/exp_avg_sq/", "optimizer/step/", "optimizer/"]
LOST_WEIGHTS = ["weights/", "average/", "best/"]


def rewrite(folder: Path, lost: str) -> None:
    """Put the newest checkpoint back with one part of it as at the start of a run; '': all as it was."""
    workspace = Workspace(folder)
    stored = workspace.load_latest("tail")
    assert stored is not None
    state, tensors = stored.state["loop"], stored.tensors
    (standing,) = state["standings"]
    if lost in LOST_NUMBERS:
        assert state[lost] != LOST_NUMBERS[lost]
        state[lost] = LOST_NUMBERS[lost]
    elif lost in LOST_OF_STANDING:
        start = LoopState().to_json()["standings"][0][lost]
        assert standing[lost] != start
        standing[lost] = start
    elif lost in LOST_WEIGHTS:
        start_weights = make_network().state_dict()
        chosen = [name for name in tensors if name.startswith(lost)]
        assert any(not torch.equal(tensors[name], start_weights[name.removeprefix(lost)]) for name in chosen)
        tensors |= {name: start_weights[name.removeprefix(lost)] for name in chosen}
    elif lost == "optimizer/":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(lost)}
    elif lost:
        tensors |= {name: torch.zeros_like(tensors[name]) for name in tensors if name.startswith(lost)}
    workspace.save("tail", max(workspace.steps("tail")), Checkpoint(tensors, stored.state))


def resume_without(folder: Path, lost: str) -> str:
    with pytest.raises(Interrupted):
        fit(folder, STUCK, stop_at=CUT_AT)
    rewrite(folder, lost)
    return fingerprint(folder, *fit(folder, STUCK))


def test_a_checkpoint_written_again_changes_nothing(tmp_path: Path) -> None:
    whole = fingerprint(tmp_path / "whole", *fit(tmp_path / "whole", STUCK))
    assert resume_without(tmp_path / "cut", "") == whole


@pytest.mark.parametrize("lost", [*LOST_NUMBERS, *LOST_OF_STANDING, *LOST_OF_OPTIMIZER, *LOST_WEIGHTS])
def test_the_comparison_fails_when_a_part_of_the_state_is_lost(lost: str, tmp_path: Path) -> None:
    whole = fingerprint(tmp_path / "whole", *fit(tmp_path / "whole", STUCK))
    assert resume_without(tmp_path / "cut", lost) != whole


def test_what_is_frozen_does_not_move_and_stays_in_eval_mode(tmp_path: Path) -> None:
    before = make_network().state_dict()
    network, _ = fit(tmp_path, RECIPES["adamw"])
    after = network.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert not {name for name in moved if name.startswith("0.")}
    set_training_mode(network)
    assert not network[0][1].training  # frozen batch norm
    assert network[1][1].training
    assert network[1][3].training  # dropout does as the block it is in


def test_batch_norms_that_keep_their_statistics_still_learn(tmp_path: Path) -> None:
    network = make_network()
    norm = network[1][1]
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    phase = Phase("tail", TAIL, RECIPES["adamw"], keeps_statistics=True)
    train.fit(network, make_batches(), phase, class_names=NAMES, workspace=Workspace(tmp_path))
    moved = {name for name, tensor in norm.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"weight", "bias"}


def test_a_frozen_weight_that_moves_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        train, "set_training_mode", lambda network, **_: network.train()
    )  # frozen batch norm drifts
    with pytest.raises(ModelError, match="frozen"):
        fit(tmp_path, RECIPES["adamw"])


def test_the_best_epoch_is_the_one_the_network_ends_with(tmp_path: Path) -> None:
    network, result = fit(tmp_path, RECIPES["plateau"])
    batches = make_batches()
    with torch.no_grad():
        logits = network(torch.from_numpy(batches.val.values))
    accuracy = float((logits.argmax(1).numpy() == batches.val.labels).mean())
    assert accuracy == pytest.approx(result.best_accuracy)
    assert result.best_accuracy == max(
        [result.best_accuracy] + [figures.val_accuracy for figures in result.history]
    )


@pytest.mark.parametrize("where", ["input", "weight", "gradient", "buffer"])
@pytest.mark.parametrize("at", [1, 6, 12])
def test_what_is_not_finite_ends_the_run_and_keeps_the_last_good_state(
    where: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network()
    step = train._take_step
    taken = 0

    def poisoned(loop: train.Loop, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        nonlocal taken
        taken += 1
        if taken == at:
            if where == "input":
                inputs = inputs * float("nan")
            elif where == "weight":
                loop.parameters["1.4.weight"].data[0, 0] = float("inf")
            elif where == "buffer":
                network[1][1].running_mean[0] = float("nan")
            else:
                loop.parameters["1.4.bias"].register_hook(lambda gradient: gradient * float("inf"))
        step(loop, inputs, targets)

    monkeypatch.setattr(train, "_take_step", poisoned)
    with pytest.raises(TrainingDiverged, match="step"):
        fit(tmp_path, RECIPES["plateau"], network=network)
    stored = Workspace(tmp_path).load_latest("tail")
    assert stored is not None
    assert all(bool(torch.isfinite(tensor).all()) for tensor in stored.tensors.values())


@pytest.mark.parametrize("at", [1, 3, 7])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_effective_one(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES["adamw"]
    _, plain = fit(tmp_path / "plain", recipe.model_copy(update={"micro_batch_size": 4}))
    network = make_network()
    asked = 0

    def run_out(*_: object) -> None:
        nonlocal asked
        asked += 1
        if asked == at:
            raise torch.OutOfMemoryError("CUDA out of memory, injected")

    network[1].register_forward_pre_hook(lambda *_: run_out() if network.training else None)
    _, shrunk = fit(tmp_path / "shrunk", recipe, network=network)
    assert shrunk.micro_batch_size == 4
    assert len(shrunk.history) == 3
    if at <= 4:  # in the first epoch: begun anew with the smaller one, so as if it had been asked for
        assert shrunk.history == plain.history


def test_validation_that_does_not_fit_is_done_in_smaller_pieces(tmp_path: Path) -> None:
    recipe = RECIPES["adamw"]
    _, plain = fit(tmp_path / "plain", recipe)
    network, sizes = make_network(), []

    def run_out(_: object, inputs: tuple[torch.Tensor]) -> None:
        if not network.training:
            sizes.append(len(inputs[0]))
            if len(inputs[0]) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory, injected")

    network[1].register_forward_pre_hook(run_out)
    _, shrunk = fit(tmp_path / "shrunk", recipe, network=network)
    assert sizes[:6] == [16, 8, 4, 4, 4, 4]  # the 16 validation examples, and no more than 4 from then on
    assert set(sizes[6:]) == {4}
    assert shrunk.micro_batch_size == plain.micro_batch_size
    for one, other in zip(plain.history, shrunk.history, strict=True):
        assert other.val_loss == pytest.approx(one.val_loss, rel=1e-6)
        assert other.train_loss == one.train_loss


def test_other_errors_about_memory_are_not_swallowed(tmp_path: Path) -> None:
    network = make_network()

    def fail(*_: object) -> None:
        raise RuntimeError("not enough memory of the past")

    network[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="of the past"):
        fit(tmp_path, RECIPES["adamw"], network=network)


def test_one_image_that_does_not_fit_is_a_clear_error(tmp_path: Path) -> None:
    network = make_network()

    def fail(*_: object) -> None:
        if network.training:
            raise torch.OutOfMemoryError("CUDA out of memory, injected")

    network[1].register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match="single image"):
        fit(tmp_path, RECIPES["adamw"], network=network)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    recipe = RECIPES["adamw"]
    whole = fingerprint(tmp_path / "whole", *fit(tmp_path / "whole", recipe))
    with pytest.raises(Interrupted):
        fit(tmp_path / "cut", recipe, stop_at=8)
    newest = max((tmp_path / "cut").glob("tail-*.ckpt"))
    for damage in (lambda data: data[:-1], lambda data: b"\0" + data[1:], lambda data: b""):
        content = newest.read_bytes()
        newest.write_bytes(damage(content))
        folder = tmp_path / f"again {len(damage(content))} {content[:1].hex()}"
        folder.mkdir()
        for path in (tmp_path / "cut").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        assert fingerprint(folder, *fit(folder, recipe)) == whole
        newest.write_bytes(content)
    for path in (tmp_path / "cut").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match="no checkpoint"):
        fit(tmp_path / "cut", recipe)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, RECIPES["adamw"])
    other = copy.deepcopy(make_network())
    with torch.no_grad():
        other[0][0].weight.add_(1.0)
    with pytest.raises(StorageError, match="another run"):
        fit(tmp_path, RECIPES["adamw"], network=other)


def test_a_last_single_image_is_taken_with_the_batch_before(tmp_path: Path) -> None:
    said: list[str] = []

    class Told(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    def train_on(num: int, recipe: Recipe) -> int:
        batches, phase = make_batches(num + 16), Phase("tail", TAIL, recipe)
        workspace = Workspace(tmp_path / f"{num} {recipe.digest()}")
        network = make_network()  # whose batch norm can't learn from one image
        result = train.fit(network, batches, phase, class_names=NAMES, workspace=workspace, progress=Told())
        return result.num_steps

    recipe = Recipe(epochs=1, batch_size=8, learning_rate=0.01)
    assert [train_on(num, recipe) for num in (32, 33, 34)] == [4, 4, 5]
    assert train_on(32, recipe.model_copy(update={"batch_size": 16, "micro_batch_size": 5})) == 2
    assert not [text for text in said if "fewer" in text]
    assert train_on(32, recipe.model_copy(update={"batch_size": 64})) == 1
    assert [text for text in said if "32 training images, fewer than recipe.batch_size=64" in text]
    for alone in ({"batch_size": 1}, {"micro_batch_size": 1}):
        with pytest.raises(ConfigError, match="2 or more"):
            train_on(32, recipe.model_copy(update=alone))


def test_a_budget_ends_training_with_what_is_best_so_far(tmp_path: Path) -> None:
    result = train.fit(
        make_network(),
        make_batches(),
        Phase("tail", TAIL, RECIPES["adamw"]),
        class_names=NAMES,
        workspace=Workspace(tmp_path),
        deadline=0.0,
    )
    assert result.ended == "budget"
    assert result.history == ()
    assert result.best_epoch == 0


def test_early_stopping_ends_after_patience(tmp_path: Path) -> None:
    recipe = Recipe(epochs=50, batch_size=32, learning_rate=1e-9, patience=2, warmup_epochs=0, dropout=0)
    _, result = fit(tmp_path, recipe)
    assert result.ended == "patience"


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(epochs=4, warmup_epochs=1)
    rates = [rate_factor(step, 10, recipe) for step in range(40)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_class_weights_balance_and_name_classes() -> None:
    labels = np.array([0] * 6 + [1] * 3)
    weights = train.weigh_classes(Recipe(class_weights="auto"), labels, ("a", "b"), "cpu")
    assert weights is not None
    np.testing.assert_allclose(weights.numpy(), [0.75, 1.5])
    with pytest.raises(ConfigError, match="'x'"):
        train.weigh_classes(Recipe(class_weights={"x": 2.0}), labels, ("a", "b"), "cpu")


def test_nothing_to_train_and_unknown_parameters_are_errors(tmp_path: Path) -> None:
    for trainable, message in ((frozenset[str](), "nothing to train"), (frozenset({"no.such"}), "no.such")):
        with pytest.raises(ConfigError, match=message):
            train.fit(
                make_network(),
                make_batches(),
                Phase("p", trainable, Recipe()),
                class_names=NAMES,
                workspace=Workspace(tmp_path),
            )


def test_one_lucky_epoch_does_not_put_off_early_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience waits for a loss below the lowest so far, not below that of the most accurate epoch."""
    figures = iter([(1.2, 0.4), (1.0, 0.8), *((0.7 + 0.001 * epoch, 0.6) for epoch in range(50))])
    monkeypatch.setattr(train, "_validate", lambda loop: [next(figures)])
    _, result = fit(tmp_path, Recipe(epochs=50, batch_size=32, learning_rate=1e-3, patience=5))
    assert (result.ended, result.best_epoch, len(result.history)) == ("patience", 1, 7)


def test_a_small_improvement_does_not_put_it_off_where_a_larger_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([(1.0 - 0.001 * epoch, 0.5 + 0.001 * epoch) for epoch in range(50)])
    monkeypatch.setattr(train, "_validate", lambda loop: [next(figures)])
    recipe = Recipe(epochs=50, batch_size=32, learning_rate=1e-3, patience=5, min_improvement=0.02)
    _, result = fit(tmp_path, recipe)
    assert (result.ended, len(result.history)) == ("patience", 5)


def test_without_validation_the_plateau_is_that_of_the_training_loss(tmp_path: Path) -> None:
    nothing = Features(np.zeros((0, 6), np.float32), np.zeros(0, np.int64), ())
    batches = replace(make_batches(), val=nothing)
    recipe = Recipe(epochs=8, batch_size=8, learning_rate=0.02, schedule="plateau", plateau_patience=2)
    result = train.fit(
        make_network(), batches, Phase("tail", TAIL, recipe), class_names=NAMES, workspace=Workspace(tmp_path)
    )
    losses = [epoch.train_loss for epoch in result.history]
    assert all(min(losses[place:]) < min(losses[: place - 2]) for place in range(3, 8)), "no plateau anywhere"
    assert {epoch.learning_rate for epoch in result.history[1:]} == {0.02}
    assert {(epoch.val_loss, epoch.val_accuracy) for epoch in result.history} == {(None, None)}
    assert result.best_epoch == 8


@pytest.mark.parametrize("saves_memory", [False, True])
def test_gradient_checkpointing_changes_nothing_but_memory(saves_memory: bool, tmp_path: Path) -> None:
    """It runs the network twice in a step, and batch norm would count each image twice."""

    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            if not (self.training and saves_memory):
                return self.inner(values)
            logits: torch.Tensor = checkpoint(self.inner, values.requires_grad_(), use_reentrant=False)
            return logits

    torch.manual_seed(3)
    inner = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    plain = copy.deepcopy(inner)
    found = []
    for network, recipe in (
        (Checkpointed(inner), Recipe(epochs=3, batch_size=8, learning_rate=0.03, gradient_checkpointing=True)),
        (plain, Recipe(epochs=3, batch_size=8, learning_rate=0.03)),
    ):
        trainable = frozenset(name for name, _ in network.named_parameters())
        phase = Phase("all", trainable, recipe)
        folder = tmp_path / str(len(found))
        found.append(
            train.fit(network, make_batches(), phase, class_names=NAMES, workspace=Workspace(folder), seed=5)
        )
    assert found[0].history == found[1].history
    assert all(map(torch.equal, inner.state_dict().values(), plain.state_dict().values()))
    assert int(plain[1].num_batches_tracked) > 0


@pytest.mark.parametrize(("name", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_each_step_is_that_of_the_optimiser_of_this_name(name: Any, theirs: Any) -> None:
    """Of Adam the decay is part of the gradient (L2), of AdamW it is not; of vectors there is none."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    other = copy.deepcopy(ours)
    parameters = dict(ours.named_parameters())
    recipe = Recipe(optimizer=name, learning_rate=0.02, weight_decay=0.3)
    rates = {"2.weight": 0.5, "2.bias": 0.5}
    optimizer = make_optimizer(parameters, Phase("one", frozenset(parameters), recipe, rates))
    expected = theirs(
        [
            {"params": [parameter], "lr": 0.02 * rates.get(key, 1.0), "weight_decay": 0.3 * (parameter.ndim > 1)}
            for key, parameter in other.named_parameters()
        ],
        fused=True,
    )
    start = copy.deepcopy(ours.state_dict())
    for _ in range(20):
        values = torch.randn(8, 6)
        for network, steps in ((ours, optimizer), (other, expected)):
            steps.zero_grad()
            network(values).square().sum().backward()
            steps.step()
        for key, value in other.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value)
            assert not torch.equal(start[key], value)
