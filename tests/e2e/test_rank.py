"""The main job as a person runs it: rank, rerun, interrupt, budget, bad input."""

from __future__ import annotations

import html
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from backbench.cli import app
from backbench.config import DataConfig, MethodConfig
from backbench.errors import StorageError
from backbench.runs import probe
from backbench.runs import rank as study

ROW_KEYS = {
    "model", "method", "run_id", "accuracy", "low", "high", "n", "rank_low", "rank_high", "tied_with_best",
    "p_value", "control", "seconds", "images_per_second", "parameters", "input_size", "warnings",
}  # fmt: skip


def backbench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
    )


def rank_json(*arguments: object) -> dict[str, Any]:
    done = backbench("rank", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)  # exactly one document: json.loads refuses anything more
    return document


def metrics_of(root: Path) -> dict[str, Any]:
    """What must be equal in two runs with one seed: everything but time, cost and place."""
    found = {}
    for path in sorted(root.glob("*/record.json")):
        record = json.loads(path.read_text())
        keep = ("metrics", "per_class", "method", "model", "config", "warnings")
        found[path.parent.name] = {key: record[key] for key in keep} | {
            "predictions": record["files"]["predictions.npz"]
        }
    return found


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    """One ranking of generated photos with two models and all methods: its document and its run folder."""
    from conftest import make_photos

    root = tmp_path_factory.mktemp("ranked")
    photos = make_photos(root / "photos", num=40)
    os.environ["BACKBENCH_CACHE"] = str(root / "cache")
    methods = "knn,centroid,ridge,logistic"
    document = rank_json(photos, "--models", "pixels,tiny_cnn", "--methods", methods, "--out", root / "runs")
    return photos, document, root / "runs"


def test_the_document_has_the_promised_shape(ranked: tuple[Path, dict[str, Any], Path]) -> None:
    _, document, _ = ranked
    assert document["schema"] == 1
    assert document["data"]["classes"] == ["circle", "cross", "stripes"]
    assert document["data"]["train"] + document["data"]["val"] + document["data"]["test"] == 120
    rows = document["rows"]
    assert all(set(row) >= ROW_KEYS for row in rows)
    assert {row["model"] for row in rows if row["control"]} == {"majority", "colour", "file-facts", "untrained"}
    ordinary = [row for row in rows if not row["control"]]
    assert len(ordinary) == 8
    assert document["best"]["run_id"] == ordinary[0]["run_id"]
    accuracies = [row["accuracy"] for row in ordinary]
    assert accuracies == sorted(accuracies, reverse=True)
    for row in rows:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert row["n"] == document["data"]["test"]
        assert 1 <= row["rank_low"] <= row["rank_high"]
        assert {"read", "decode", "forward", "head"} <= set(row["seconds"])
    assert ordinary[0]["tied_with_best"]
    assert ordinary[0]["accuracy"] > 0.6  # the shapes are there to be found
    assert next(row for row in rows if row["model"] == "majority")["accuracy"] == pytest.approx(1 / 3, abs=0.02)
    assert document["summary"]


def test_untrained_weights_are_marked(ranked: tuple[Path, dict[str, Any], Path]) -> None:
    _, document, _ = ranked
    row = next(row for row in document["rows"] if row["model"] == "tiny_cnn")
    assert any("untrained" in warning for warning in row["warnings"])


def test_each_run_has_record_predictions_and_manifest(ranked: tuple[Path, dict[str, Any], Path]) -> None:
    _, document, out = ranked
    for row in document["rows"]:
        folder = out / row["run_id"]
        assert {path.name for path in folder.iterdir()} == {"record.json", "predictions.npz", "manifest.json"}
    assert len((out / "openings.jsonl").read_text().splitlines()) == len(document["rows"])


def test_a_second_run_computes_nothing_and_says_the_same(ranked: tuple[Path, dict[str, Any], Path]) -> None:
    photos, document, out = ranked
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    arguments = ("--models", "pixels,tiny_cnn", "--methods", "knn,centroid,ridge,logistic", "--out", out)
    again = rank_json(photos, *arguments)
    assert again["rows"] == document["rows"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*")} == before
    code = (
        "import sys; from backbench.cli import main\n"
        f"sys.argv = ['backbench', 'rank', {str(photos)!r}, '--out', {str(out)!r}, '--models', 'pixels,tiny_cnn',"
        " '--methods', 'knn', '--quiet', '--device', 'cpu']\n"
        "main()\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_same_seed_gives_the_same_record_metrics_elsewhere(
    ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, _, out = ranked
    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path / "other cache"))
    arguments = ("--models", "tiny_cnn,pixels", "--methods", "logistic,ridge,centroid,knn")
    rank_json(photos, *arguments, "--out", tmp_path / "runs")
    assert metrics_of(tmp_path / "runs") == metrics_of(out)


def test_another_seed_gives_other_runs(ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path) -> None:
    photos, document, _ = ranked
    other = rank_json(photos, "--models", "pixels", "--seed", 1, "--out", tmp_path / "runs")
    assert other["data"]["manifest"] != document["data"]["manifest"]


def test_the_split_of_a_run_can_be_reused(ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path) -> None:
    photos, document, out = ranked
    manifest = out / document["best"]["run_id"] / "manifest.json"
    again = rank_json(photos, "--models", "pixels", "--seed", 7, "--split", manifest, "--out", tmp_path / "runs")
    assert again["data"] == document["data"]


def test_a_person_reads_table_and_sentences_on_stdout(
    ranked: tuple[Path, dict[str, Any], Path],
) -> None:
    photos, document, out = ranked
    done = backbench("rank", photos, "--models", "pixels,tiny_cnn", "--methods", "knn", "--out", out)
    assert done.returncode == 0
    assert "tiny_cnn" in done.stdout
    assert "\x1b" not in done.stdout  # no colour into a pipe
    assert "120 images, 3 classes" in done.stderr
    assert "test images" in done.stderr  # what they can decide
    shown = backbench("show", document["best"]["run_id"], "--out", out)
    assert shown.returncode == 0
    assert document["best"]["model"] in shown.stdout
    assert (
        json.loads(backbench("show", document["best"]["run_id"], "--out", out, "--json").stdout)["status"]
        == "done"
    )


def test_quiet_is_quiet(ranked: tuple[Path, dict[str, Any], Path]) -> None:
    photos, _, out = ranked
    done = backbench("rank", photos, "--models", "pixels", "--methods", "knn", "--out", out, "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""


def test_an_interrupt_keeps_what_is_done(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = ["rank", photos, "--models", "pixels,tiny_cnn,tiny_vit", "--methods", "logistic", "--out", out]
    command = [sys.executable, "-m", "backbench", *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    patience = time.monotonic() + 120
    while not list(out.glob("*-pixels-*/record.json")) and time.monotonic() < patience:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    stdout, _ = running.communicate(timeout=60)
    finished = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/record.json")}
    assert finished
    assert "Traceback" not in stdout
    if running.returncode != 0:  # it may have been just done
        assert running.returncode == 130
        assert "interrupted" in stdout  # the run just written may not have made it into the table
    document = rank_json(photos, "--models", "pixels,tiny_cnn,tiny_vit", "--out", out)
    assert len([row for row in document["rows"] if not row["control"]]) == 3
    for name, stamp in finished.items():
        assert (out / name / "record.json").stat().st_mtime_ns == stamp


def test_an_interrupt_between_a_run_and_its_answers_ends_in_a_table(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = study.folders.read_whole
    asked = []

    def interrupt_the_third(folder: Path) -> Any:
        asked.append(folder)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return read(folder)

    monkeypatch.setattr(study.folders, "read_whole", interrupt_the_third)
    request = study.RankRequest(
        data=DataConfig(source=str(photos)),
        models=["pixels"],
        methods=[MethodConfig(name="knn"), MethodConfig(name="centroid")],
        out=tmp_path,
    )
    ranking = study.rank(request)
    assert ranking.interrupted
    assert len(ranking.rows) == 2


def test_an_interrupt_that_a_library_wrapped_is_no_failure(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_something(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise ImportError("a part failed to import") from interrupt

    monkeypatch.setattr(probe, "extract_for", import_something)
    request = study.RankRequest(
        data=DataConfig(source=str(photos)), methods=(MethodConfig(name="knn"),), models=("pixels",), out=tmp_path
    )
    ranking = study.rank(request)
    assert ranking.interrupted
    assert not ranking.has_failures


def test_a_budget_that_is_too_small_still_gives_an_answer(photos: Path, tmp_path: Path) -> None:
    arguments = (photos, "--models", "pixels,tiny_cnn", "--budget", "0.001s", "--out", tmp_path / "runs")
    document = rank_json(*arguments)
    assert {row["model"] for row in document["rows"]} == {"majority", "colour", "file-facts", "untrained"}
    assert document["best"] is None
    assert any("budget" in warning for warning in document["warnings"])


def test_a_model_that_fails_is_a_row_and_the_others_go_on(photos: Path, tmp_path: Path) -> None:
    save_file({"conv1.weight": np.zeros((3, 3, 3, 3), np.float32)}, tmp_path / "other.safetensors")
    card = tmp_path / "broken.toml"
    card.write_text(
        'name = "broken"\narchitecture = "timm/resnet18"\nweights = "other.safetensors"\n'
        "[preprocess]\nsize = 32\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
    out = tmp_path / "runs"
    done = backbench(
        "rank", photos, "--models", f"{card},pixels", "--methods", "knn,ridge", "--out", out, "--json"
    )
    assert done.returncode == 1
    rows = [row for row in json.loads(done.stdout)["rows"] if not row["control"]]
    failed = [row for row in rows if row["model"] == "broken"]
    assert [row["accuracy"] for row in failed] == [None]  # one row says it, not one for each method
    assert "conv1.weight" in failed[0]["error"]
    assert all(row["accuracy"] is not None for row in rows if row["model"] == "pixels")
    assert len(list(out.glob("*broken*.failed-1/record.json"))) == 1


def test_what_was_taken_of_a_checkpoint_is_said_once_and_recorded(
    ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path
) -> None:
    import timm
    import torch

    raw, averaged = (timm.create_model("test_resnet", num_classes=3).state_dict() for _ in range(2))
    torch.save({"state_dict": raw, "state_dict_ema": averaged, "epoch": 3}, tmp_path / "both.pth")
    (tmp_path / "both.toml").write_text(
        'name = "both"\narchitecture = "timm/test_resnet"\nweights = "both.pth"\n[preprocess]\nsize = 64\n'
        "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
    done = backbench(
        "rank", ranked[0], "--models", tmp_path / "both.toml", "--methods", "knn,centroid", "--out", tmp_path / "r"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("state_dict_ema") == 1
    tuned = backbench(
        *("adapt", ranked[0], "--model", tmp_path / "both.toml", "--method", "head", "--out", tmp_path / "tuned"),
        *("--set", "recipe.epochs=1"),
    )
    assert tuned.returncode == 0, tuned.stderr
    assert tuned.stderr.count("state_dict_ema") == 1
    runs = list((tmp_path / "r").glob("*both*/record.json"))
    assert len(runs) == 2
    for path in runs:
        assert "key 'state_dict_ema'" in json.loads(path.read_text())["model"]["checkpoint"]
        shown = backbench("show", path.parent, COLUMNS="200").stdout
        assert "averaged weights" in shown


def test_every_printed_command_works_as_it_is_pasted(
    ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path
) -> None:
    """From a folder with a blank and a leading dash, in a narrow terminal: what it says to do next can be done."""
    photos, _, _ = ranked
    arguments = ["rank", str(photos), "--models", "pixels", "--methods", "knn,logistic", "--out=-my runs"]
    environment = os.environ | {"COLUMNS": "60", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    where: dict[str, Any] = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-m", "backbench", *arguments], timeout=300, **where)
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"backbench (?:keep|show|report) .*", done.stdout)
    assert [command.split()[1] for command in commands] == ["keep", "show", "report"]
    for command in reversed(commands):
        pasted = subprocess.run(["bash", "-c", command], timeout=300, **where)
        assert pasted.returncode == 0, (command, pasted.stderr)
    (bundle,) = (tmp_path / "-my runs").glob("*.bundle")
    assert (tmp_path / "report.html").is_file()
    openings = (tmp_path / "-my runs" / "openings.jsonl").read_text().splitlines()
    assert len(openings) == 6  # keeping a model looks at no test image
    again = subprocess.run([sys.executable, "-m", "backbench", *arguments], timeout=300, **where)
    (predict,) = re.findall(r"backbench predict .*", again.stdout)
    assert f"Your model:       -my runs/{bundle.name}" in again.stdout
    asked = predict.replace("IMAGE", shlex.quote(str(photos / "cross" / "000.png")))
    pasted = subprocess.run(["bash", "-c", f"{asked} --json"], timeout=300, **where)
    assert pasted.returncode == 0, pasted.stderr
    page = (tmp_path / "report.html").read_text()
    (copied,) = re.findall(r'data-copy="([^"]*)"', page)
    *_, keep, then = html.unescape(copied).splitlines()
    assert keep in commands
    assert then == predict


def test_rank_keep_writes_the_recommended_model(ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path) -> None:
    photos, _, _ = ranked
    document = rank_json(photos, "--models", "pixels", "--methods", "knn", "--out", tmp_path / "runs", "--keep")
    assert document["verdict"] == "alone"
    assert document["recommended"]["run_id"] == document["best"]["run_id"]
    bundle = tmp_path / "runs" / f"{document['best']['run_id']}.bundle"
    assert document["bundle"] == str(bundle)
    done = backbench("predict", bundle, photos / "cross" / "000.png", "--json")
    assert done.returncode == 0, done.stderr
    again = backbench("keep", document["best"]["run_id"], "--out", tmp_path / "runs", "--json")
    assert json.loads(again.stdout)["bundle"] == str(bundle)


@pytest.mark.parametrize("error", [StorageError("the disk is full"), KeyboardInterrupt(), RuntimeError("?")])
def test_a_model_that_can_not_be_kept_does_not_cost_the_answer(
    error: BaseException,
    ranked: tuple[Path, dict[str, Any], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    photos, _, _ = ranked
    monkeypatch.setattr(importlib.import_module("backbench.runs.run"), "keep_run", fail)
    given = ["rank", photos, "--models", "pixels", "--methods", "knn", "--keep", "--json", "--out", tmp_path]
    done = CliRunner().invoke(app, list(map(str, given)))
    document = json.loads(done.stdout)
    assert document["best"]["model"] == "pixels"
    assert document["bundle"] is None
    assert done.exit_code != 0
    assert isinstance(error, KeyboardInterrupt) or done.exception is error


def test_what_can_not_be_kept_is_said(ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path) -> None:
    from conftest import make_photos

    photos = make_photos(tmp_path / "photos", num=20)
    out = tmp_path / "runs"
    document = rank_json(photos, "--models", "pixels", "--out", out)
    control = next(row["run_id"] for row in document["rows"] if row["model"] == "majority")
    done = backbench("keep", out / control)
    assert done.returncode == 2
    assert "is a control" in done.stderr
    (photos / "cross" / "000.png").unlink()
    done = backbench("keep", out / document["best"]["run_id"])
    assert done.returncode == 2
    assert "have changed" in done.stderr
    assert not list(out.glob("*.bundle"))


def test_random_labels_are_not_recommended(tmp_path: Path) -> None:
    from conftest import make_photos

    photos = make_photos(tmp_path / "photos", num=20)
    rng = np.random.default_rng(0)
    rows = [f"{path},{rng.integers(3)}" for path in sorted(photos.rglob("*.png"))]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["image,label", *rows]))
    done = backbench("rank", table, "--models", "pixels", "--methods", "knn", "--out", tmp_path / "runs", "--keep")
    assert done.returncode == 0, done.stderr
    assert "significantly better than always predicting one class" in " ".join(done.stdout.split())
    assert "backbench keep" not in done.stdout
    assert "--keep: no model saved" in done.stderr


def test_choices_of_splits_and_options_are_carried_out_and_recorded(photos: Path, tmp_path: Path) -> None:
    (photos / "rare").mkdir(exist_ok=True)
    shutil.copy(next((photos / "circle").iterdir()), photos / "rare" / "0.png")
    choices = ("--test-fraction", "0.4", "--val-fraction", "0.25", "--min-images", "2", "--set", "knn:ks=[3]")
    arguments = ("--models", "pixels", "--methods", "knn,centroid", "--out", tmp_path / "runs", *choices)
    document = rank_json(photos, *arguments)
    assert "rare" not in document["data"]["classes"]
    assert document["data"]["test"] == round(
        0.4 * sum(document["data"][part] for part in ("train", "val", "test"))
    )
    assert any("fewer than 2 images left out" in warning for warning in document["warnings"])
    for row in document["rows"]:
        record = json.loads((tmp_path / "runs" / row["run_id"] / "record.json").read_text())
        data = record["config"]["data"]
        assert (data["test_fraction"], data["val_fraction"], data["min_images"]) == (0.4, 0.25, 2)
        if row["method"] == "knn":
            assert record["config"]["method"]["options"] == {"ks": [3]}
        elif row["method"] == "centroid":
            assert record["config"]["method"]["options"] == {}


@pytest.mark.parametrize("form", ["folder", "quoted", "words", "words first"])
def test_all_cards_of_a_folder_are_ranked(
    ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path, form: str
) -> None:
    """Also where a shell has made several words of '*.toml'."""
    from backbench.backbones.included import FOLDER

    for name in ("tiny_cnn.cifar100", "tiny_vit.cifar100"):
        for file in FOLDER.glob(f"{name}.*"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    cards = sorted(tmp_path.glob("*.toml"))
    words = {
        "folder": [ranked[0], "--models", tmp_path],
        "quoted": [ranked[0], "--models", f"{tmp_path}/*.toml"],
        "words": [ranked[0], "--models", *cards],
        "words first": ["--models", *cards, ranked[0]],
    }[form]
    document = rank_json(*words, "--methods", "centroid", "--out", tmp_path / "runs")
    found = {row["model"] for row in document["rows"] if not row["control"]}
    assert found == {"tiny_cnn.cifar100", "tiny_vit.cifar100"}


def test_other_words_are_still_refused(ranked: tuple[Path, dict[str, Any], Path], tmp_path: Path) -> None:
    for words in ([ranked[0], "more"], [ranked[0], "a.toml"], ["a", "b", "--models", "x.toml"]):
        done = backbench("rank", *words, "--out", tmp_path / "runs")
        assert done.returncode == 2
        assert "unexpected extra argument" in done.stderr
