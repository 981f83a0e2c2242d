"""Runs that were cut: who is at work on them, what they cost, and that kills leave no trace in what comes out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.errors import BudgetExceeded, ConfigError, Interrupted, StorageError
from backbench.progress import Progress
from backbench.records.resume import find_unfinished, hold_run, lock_path, working_folder
from backbench.runs import train
from backbench.runs.context import RunContext
from backbench.runs.identity import with_absolute_paths
from backbench.runs.run import adapt
from backbench.training.checkpoint import Checkpoint, Workspace
from backbench.training.optimise import capture_optimizer, restore_optimizer

HOLD = """
import sys, time
from pathlib import Path
from backbench.records.resume import hold_run
with hold_run(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def after(calls: int, act: Callable[[], object]) -> Callable[[], int]:
    """A stop signal that never stops, and acts when it is asked the so many-th time."""
    asked = 0

    def ask() -> int:
        nonlocal asked
        asked += 1
        if asked == calls:
            act()
        return 0

    return ask


def test_the_lock_of_a_killed_process_is_no_obstacle(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    log = Log()
    with hold_run(tmp_path, "run", stop_signal=after(2, holder.kill), progress=log):
        assert holder.wait(10) == -signal.SIGKILL
    assert log.lines == ["run: another process works on this run; waiting for it to end"]
    assert not lock_path(tmp_path, "run").exists()  # nothing stays of a run that kept no state
    with hold_run(tmp_path, "run", progress=log):
        assert len(log.lines) == 1
        working_folder(tmp_path, "run").mkdir()
    assert lock_path(tmp_path, "run").exists()
    with hold_run(tmp_path, "run", progress=log):
        assert len(log.lines) == 1


def test_whoever_waits_can_be_stopped(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught, hold_run(tmp_path, "run", stop_signal=lambda: signal.SIGINT):
        pytest.fail("another process holds it")
    assert caught.value.exit_status == 130
    with pytest.raises(BudgetExceeded, match="another process"), hold_run(tmp_path, "run", deadline=0.0):
        pytest.fail("another process holds it")
    with hold_run(tmp_path, "other run"):
        assert holder.poll() is None


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="is a file where a folder is needed"),
        hold_run(tmp_path / "file", "run"),
    ):
        pytest.fail("there is no folder to lock in")


def test_unfinished_runs_are_found_by_the_beginning_of_their_id(tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(source="digits"), model="tiny_cnn", method=MethodConfig(name="full"))
    for name in ("digits-a-1", "digits-b-2"):
        Workspace(tmp_path / ".working" / name).write_state("config", config.model_dump(mode="json"))
    assert find_unfinished(tmp_path, "digits-a") == ("digits-a-1", config)
    with pytest.raises(ConfigError, match="2 unfinished runs"):
        find_unfinished(tmp_path, "digits")
    with pytest.raises(ConfigError, match="Did you mean 'digits-a-1"):
        find_unfinished(tmp_path, "digit-a-1")
    assert find_unfinished(tmp_path, str(tmp_path / "digits-b-2.bundle")) == ("digits-b-2", config)
    (tmp_path / "digits-c-3").mkdir()
    (tmp_path / "digits-c-3" / "record.json").touch()
    for given in ("digits-c", "runs/digits-c-3", "runs/digits-c-3.bundle/"):
        with pytest.raises(ConfigError, match="'digits-c-3' is finished: there is nothing to resume") as refused:
            find_unfinished(tmp_path, given)
        assert str(refused.value).endswith(f"backbench show {tmp_path}/digits-c-3")
    (tmp_path / "digits-c-4").mkdir()
    (tmp_path / "digits-c-4" / "record.json").touch()
    with pytest.raises(ConfigError, match="'digits-c' is the beginning of 2 runs, all of them finished"):
        find_unfinished(tmp_path, "digits-c")
    with pytest.raises(ConfigError, match=r"no folder .*nowhere.*--out"):
        find_unfinished(tmp_path / "nowhere", "digits-a")
    (tmp_path / ".working" / "digits-a-1" / "config.json").write_text("{")
    with pytest.raises(StorageError, match="damaged"):
        find_unfinished(tmp_path, "digits-a")


def test_a_run_can_be_resumed_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "start.bundle").mkdir()
    data = DataConfig(source="photos")
    config = RunConfig(data=data, model="mine", model_file="start.bundle", method=MethodConfig(name="full"))
    found = with_absolute_paths(config)
    assert (found.data.source, found.model_file) == (str(tmp_path / "photos"), str(tmp_path / "start.bundle"))
    named = config.model_copy(update={"data": DataConfig(source="digits")})
    assert with_absolute_paths(named).data.source == "digits"


def test_the_time_of_all_legs_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    nothing = Checkpoint({}, {})
    first = Workspace(tmp_path)
    now[0] += 7
    first.save("full", 1, nothing)
    now[0] += 1000  # cut, and taken up again much later
    second = Workspace(tmp_path)
    now[0] += 5
    assert second.elapsed_seconds() == 12
    second.save("full", 2, nothing)
    assert Workspace(tmp_path).elapsed_seconds() == 12
    (tmp_path / "elapsed.json").write_text("what?")
    assert Workspace(tmp_path).elapsed_seconds() == 0


def test_work_that_others_did_before_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    first = Workspace(tmp_path)
    first.credit(30)
    assert first.elapsed_seconds() == 30
    first.save("full", 1, Checkpoint({}, {}))
    second = Workspace(tmp_path)
    second.credit(30)
    assert second.elapsed_seconds() == 30


@pytest.mark.parametrize("is_cached", [True, False])
def test_features_from_the_cache_cost_what_they_cost_when_they_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cached: bool
) -> None:
    extract = train.extract_for

    def extract_slowly(*given: Any, **options: Any) -> Any:
        found = extract(*given, **options)
        cost = found.cost.model_copy(
            update={"images_per_second": found.cost.num_images / 5000, "features_from_cache": is_cached}
        )
        return replace(found, cost=cost)

    monkeypatch.setattr(train, "extract_for", extract_slowly)
    config = RunConfig(
        data=DataConfig(source=str(digits_folder(tmp_path / "photos"))),
        model="tiny_cnn",
        method=MethodConfig(name="head", options={"recipe": {"epochs": 1}}),
    )
    cost = adapt(config, RunContext(tmp_path / "runs", with_gallery=False)).record.cost
    assert cost is not None
    assert cost.features_from_cache is is_cached
    assert (5000 < cost.seconds["fit"] < 6000) is is_cached


def digits_folder(root: Path, num_each: int = 12) -> Path:
    """The first few of each handwritten digit, as class folders of PNG files."""
    digits = load_digits()
    for label in range(10):
        (root / str(label)).mkdir(parents=True)
        for row in np.flatnonzero(digits.target == label)[:num_each]:
            Image.fromarray((digits.images[row] * 15.9).astype(np.uint8)).save(root / str(label) / f"{row}.png")
    return root


def config_for(photos: Path) -> RunConfig:
    options = {"recipe": {"epochs": 3, "batch_size": 16, "ema_decay": 0.9, "patience": 0}}
    return RunConfig(
        data=DataConfig(source=str(photos)), model="tiny_cnn", method=MethodConfig(name="full", options=options)
    )


def test_the_record_of_a_resumed_run_has_the_cost_of_all_legs(tmp_path: Path) -> None:
    photos = digits_folder(tmp_path / "digits", 6)
    out = tmp_path / "runs"
    asked = 0

    def stop() -> int:
        nonlocal asked
        asked += 1
        return signal.SIGTERM if asked > 5 else 0

    with pytest.raises(Interrupted):
        adapt(config_for(photos), RunContext(out, stop_signal=stop, with_gallery=False))
    kept = next(out.glob(".working/*/elapsed.json"))
    assert json.loads(kept.read_bytes())["seconds"] > 0
    kept.write_text('{"seconds": 5000.0}')
    made = adapt(config_for(photos), RunContext(out, with_gallery=False))
    assert made.record.cost is not None
    assert 5000 < made.record.cost.seconds["fit"] < 6000
    assert not kept.exists()


def test_a_restored_optimiser_goes_on_as_if_it_had_not_been_stored() -> None:
    """Weights lie in memory channels last, stored tensors do not; the fused optimisers do not look at strides."""
    rng = torch.Generator().manual_seed(0)
    network = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    gradients = [torch.randn(network.weight.shape, generator=rng) for _ in range(3)]
    ends = []
    for is_cut in (False, True):
        with torch.no_grad():
            network.weight.fill_(1.0)
        optimizer = torch.optim.AdamW([network.weight], lr=0.1, fused=True)
        for step, gradient in enumerate(gradients):
            if is_cut and step == 2:
                stored = capture_optimizer(optimizer, {"weight": network.weight})
                stored = {
                    name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in stored.items()
                }
                restore_optimizer(optimizer, {"weight": network.weight}, stored)
            network.weight.grad = torch.empty_like(network.weight).copy_(gradient)
            optimizer.step()
        ends.append(network.weight.detach().clone())
    assert torch.equal(*ends)


KILLS = Path(__file__).parent.parent / "killed_runs.py"


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(tmp_path: Path) -> None:
    """SIGKILL while training and at three points of a checkpoint's writing; then the run is taken up again."""
    photos = digits_folder(tmp_path / "digits")
    config = tmp_path / "config.json"
    config.write_text(config_for(photos).model_dump_json())
    done = subprocess.run(
        [sys.executable, str(KILLS), str(config), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document["kills"]) == 6
    assert all(kill["signal"] == signal.SIGKILL for kill in document["kills"]), document
    steps = [kill["step"] for kill in document["kills"]]
    assert steps == sorted(steps)
    assert steps[-1] > 0
    assert document["disturbed"] == document["undisturbed"]
    assert not list((tmp_path / "disturbed").glob(".working/*"))
