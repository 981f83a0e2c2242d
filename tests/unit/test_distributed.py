"""Training on several processes gives what one gives: weights, figures, files; nobody waits for one who left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import processes
from backbench import distributed
from backbench.errors import ConfigError
from backbench.training import sync_batch_norm as whole_norm
from backbench.training.sync_batch_norm import _WholeBatchNorm, refuse_checkpoints
from conftest import make_photos

MEMBERS = [(world, number) for world in processes.WORLDS for number in range(world)]
HELPER = Path(processes.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every process of a group of three, then of two, was left with."""
    folder = tmp_path_factory.mktemp("processes")
    make_photos(folder / "photos", num=12)
    settings = {"OMP_NUM_THREADS": "1", "BACKBENCH_CACHE": str(folder / "cache")}
    with open(folder / "messages", "wb") as messages:
        started = [
            subprocess.Popen(
                [sys.executable, str(HELPER), str(number), str(folder)],
                env={**os.environ, **settings},
                stdout=messages,
                stderr=messages,
            )
            for number in range(max(processes.WORLDS))
        ]
        try:
            ended = [process.wait(240) for process in started]
        finally:
            for process in started:
                process.kill()
    assert ended == [0] * len(started), (folder / "messages").read_text()
    return folder


def results_of(folder: Path, world: int, number: int) -> dict[str, Any]:
    return json.loads((folder / f"{world}-{number}.json").read_text())


def tensors_of(folder: Path, world: int, number: int, what: str) -> dict[str, torch.Tensor]:
    everything = load_file(folder / f"{world}-{number}.safetensors")
    return {
        name.removeprefix(f"{what}/"): tensor for name, tensor in everything.items() if name.startswith(f"{what}/")
    }


def assert_same_log(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["best_epoch"] == expected["best_epoch"]
    assert len(found["history"]) == len(expected["history"])
    for line, wanted in zip(found["history"], expected["history"], strict=True):
        assert line == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", processes.CASES)
def test_several_processes_train_as_one_does(name: str, folder: Path, tmp_path: Path) -> None:
    expected, log = processes.train_on_images(name, tmp_path)
    assert log["num_steps"] == 3
    for world, number in MEMBERS:
        found = tensors_of(folder, world, number, name)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-5, msg=f"{key}, {number} of {world}")
        assert_same_log(results_of(folder, world, number)[name], log)


def test_all_processes_end_with_the_same_bits(folder: Path) -> None:
    for world in processes.WORLDS:
        for name in processes.CASES:
            first = tensors_of(folder, world, 0, name)
            for number in range(1, world):
                other = tensors_of(folder, world, number, name)
                assert all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("num", range(1, 8))
def test_every_image_is_extracted_once_and_all_get_all(num: int, folder: Path) -> None:
    expected = processes.extract(num, is_shared=False)
    for world, number in MEMBERS:
        found = tensors_of(folder, world, number, "extracted")[str(num)]
        np.testing.assert_array_equal(found.numpy(), expected)


def test_a_signal_to_one_process_stops_all_and_fewer_go_on(folder: Path, tmp_path: Path) -> None:
    for world, number in MEMBERS:
        assert results_of(folder, world, number)["interrupted"] == {"exit_status": 143}
    network, log = processes.train_on_features(tmp_path / "whole")
    for number in range(2):
        found = tensors_of(folder, 2, number, "resumed")
        for key, tensor in network.state_dict().items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-5)
        assert_same_log(results_of(folder, 2, number)["resumed"], log)


def test_the_budget_of_one_process_ends_all(folder: Path) -> None:
    assert {results_of(folder, *member)["late"]["ended"] for member in MEMBERS} == {"budget"}


def test_who_is_left_alone_says_so(folder: Path) -> None:
    assert results_of(folder, 2, 0)["left"] == {"error": "PeerLost"}


def test_a_run_of_two_processes_is_one_run(folder: Path, tmp_path: Path) -> None:
    expected = processes.adapt_photos(folder / "photos", tmp_path / "runs")
    found = [results_of(folder, 2, number)["adapted"] for number in range(2)]
    assert found[0] == found[1]
    assert found[0].pop("id") == expected["id"]
    run_id = expected.pop("id")
    assert found[0] == pytest.approx(expected, rel=1e-3)
    runs = folder / "2" / "runs"
    assert len((runs / "openings.jsonl").read_text().splitlines()) == 1
    assert (runs / f"{run_id}.bundle").is_dir()
    record = json.loads((runs / run_id / "record.json").read_text())
    assert record["environment"]["num_processes"] == "2"
    assert not list((runs / ".working").glob("*"))


def test_whole_batch_norm_is_the_usual_one_for_one_process() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 4, 3, 2, requires_grad=True)
    usual, whole = torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)
    expected = usual(values)
    with _WholeBatchNorm(is_counted=True):
        found = whole(values)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(whole.running_var, usual.running_var)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((output * weights).sum(), values)[0] for output in (expected, found)]
    torch.testing.assert_close(*gradients)


def test_batch_norm_that_is_computed_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    recipe = processes.RECIPE.model_copy(update={"gradient_checkpointing": True})
    refuse_checkpoints(network, recipe)  # one process may
    monkeypatch.setattr(whole_norm, "num_processes", lambda: 2)
    refuse_checkpoints(network, processes.RECIPE)
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        refuse_checkpoints(network, recipe)
    network.requires_grad_(False)
    refuse_checkpoints(network, recipe)


@pytest.mark.parametrize("processes_there", [1, 2, 3, 5])
def test_shares_are_contiguous_and_hold_everything_once(
    processes_there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "num_processes", lambda: processes_there)
    for num in range(12):
        shares = []
        for number in range(processes_there):
            monkeypatch.setattr(distributed, "process_number", lambda number=number: number)
            shares.append(list(range(num))[distributed.share_of(num)])
        assert [row for share in shares for row in share] == list(range(num))
        assert max(map(len, shares)) == distributed.largest_share(num)


def test_torchrun_is_refused_where_one_process_does_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from backbench.cli import main

    for number, told in (("0", "error: torchrun"), ("1", "error in process 1: torchrun")):
        for name, value in {"WORLD_SIZE": "2", "RANK": number, "MASTER_ADDR": "localhost"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["backbench", "scan", "photos"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith(told)
        assert "'scan' needs only one" in message


def test_one_named_device_is_no_device_for_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(ConfigError, match="cuda:0"), distributed.join_processes("cuda:0"):
        pass
