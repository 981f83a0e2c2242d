"""Adapt, resume, and a ranking that trains, as a person runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_rank import backbench


def adapt(photos: Path, out: Path, *more: object) -> list[object]:
    return ["adapt", photos, "--model", "tiny_cnn", "--method", "full", "--out", out, *more]


def test_one_document_names_the_run_and_the_bundle(photos: Path, tmp_path: Path) -> None:
    done = backbench(*adapt(photos, tmp_path / "runs", "--set", "recipe.epochs=1", "--json"))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"schema", "run_id", "run", "bundle", "metrics", "warnings"}
    again = backbench(*adapt(photos, tmp_path / "runs", "--set", "recipe.epochs=1", "--dry-run"))
    assert "state   finished\n" in again.stdout
    assert "takes   no time: the run is finished\n" in again.stdout
    assert (Path(document["run"]) / "record.json").is_file()
    assert {"accuracy", "nll", "ece", "coverage", "calibrated_ece"} <= {row["name"] for row in document["metrics"]}
    assert "parameters are trained" in done.stderr
    answered = backbench("predict", document["bundle"], photos / "circle" / "000.png", "--json")
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)["predictions"][0]["label"] in ("circle", "cross", "stripes")


def test_a_terminated_run_ends_in_good_order_and_is_resumed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = adapt(
        photos, out, "--set", "recipe.epochs=20", "--set", "recipe.batch_size=4", "--set", "recipe.patience=0"
    )
    command = [sys.executable, "-m", "backbench", *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 120
    while not list(out.glob(".working/*/full-*.ckpt")) and time.monotonic() < patience:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 143, stderr
    assert "saved" in stderr
    assert "Traceback" not in stderr
    run_id = next(out.glob(".working/*/config.json")).parent.name
    cut = backbench("resume", run_id[:-3], "--out", out, "--budget", "0.01s", "--json")
    if cut.returncode == 0:
        assert any("cut by the budget" in warning for warning in json.loads(cut.stdout)["warnings"])
        assert "cut by the budget" in cut.stderr
    else:  # the signal came before anything was better than a random head
        assert "before anything was learnt" in cut.stderr
    resumed = backbench("resume", run_id[:-3], "--out", out, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming at epoch" in resumed.stderr
    assert json.loads(resumed.stdout)["run_id"] == run_id
    again = backbench("resume", run_id, "--out", out)
    assert again.returncode == 2
    assert "finished" in again.stderr


def test_a_ranking_probes_all_and_trains_the_best(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    methods = ("--methods", "logistic,head", "--top", "1")
    done = backbench("rank", photos, "--models", "tiny_cnn,tiny_vit", *methods, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["rows"] if not row["control"]]
    assert sorted(row["method"] for row in rows) == ["head", "logistic", "logistic"]
    assert len(list(out.glob("*.bundle"))) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "ful"], "'ful' in --method. Did you mean 'full'"),
        (["--model", "tiny_cn"], "'tiny_cn' in --model. Did you mean 'tiny_cnn'"),
        (["--model", "majority"], "a control"),
        (["--set", "recipe.epoch=3"], "epochs"),
        (["--set", "recipe.epochs"], "KEY=VALUE"),
        (["--set", "options.blokcs=3", "--method", "last-blocks"], "blocks"),
        (["--set", "recipe.epochs=many"], "epochs"),
        (["--budget", "soon"], "10m"),
    ],
)
def test_a_typo_is_answered_with_what_is_allowed(arguments: list[str], expected: str, photos: Path) -> None:
    done = backbench(*adapt(photos, photos.parent / "runs", *arguments))
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (photos.parent / "runs").exists() or not list((photos.parent / "runs").glob("*/record.json"))


def test_a_dry_run_shows_everything_and_does_nothing(photos: Path, tmp_path: Path) -> None:
    plan = backbench(*adapt(photos, tmp_path / "runs", "--dry-run", "--set", "recipe.epochs=3"))
    assert plan.returncode == 0, plan.stderr
    assert "full: recipe.epochs=3\n" in plan.stdout
    assert "state   new" in plan.stdout
    late = backbench(*adapt(photos, tmp_path / "runs", "--dry-run", "--budget", "soon"))
    assert (late.returncode, late.stdout) == (2, "")
    done = backbench(*adapt(photos, tmp_path / "runs", "--dry-run", "--json"))
    assert done.returncode == 0
    assert json.loads(done.stdout)["method"]["options"]["recipe"]["epochs"] == 10
    assert "photos: 60 images, 3 classes" in done.stderr
    probe = ("--dry-run", "--model", "hf/some/one", "--method", "ridge")
    unknown = backbench(*adapt(photos, tmp_path / "runs", *probe))
    assert "The cost of hf/some/one is unknown" in unknown.stdout
    assert not (tmp_path / "runs").exists()
    typo = backbench(*adapt(photos.with_name("photso"), tmp_path / "runs", "--dry-run"))
    assert (typo.returncode, typo.stdout) == (2, "")
    assert "photos'" in typo.stderr


def test_two_equal_runs_at_once_share_the_work(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = adapt(photos, out, "--set", "recipe.epochs=3", "--set", "recipe.batch_size=8", "--json")
    command = [sys.executable, "-m", "backbench", *map(str, arguments)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    first, second = (json.loads(stdout) for stdout, _ in told)
    assert first == second
    assert sum("waiting for it to end" in stderr for _, stderr in told) == 1
    assert sum("full: epoch 3/3" in stderr for _, stderr in told) == 1
    assert not list(out.glob(".working/*"))
