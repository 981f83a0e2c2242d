"""Runs, bundles and cached features of earlier versions: they open, predict the same and save the same work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import backbench
from backbench.cli import app
from backbench.inference import features

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
AGES = ("2026-11-28", "2026-11-30")
PROBE = "photos-tiny_cnn.cifar100-logistic-7bb9cbbd8d"
BASELINE = "photos-majority-logistic-0b7fa88986"
TRAINED = "photos-small-full-2f24ceec2a"


@pytest.fixture(params=AGES)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `photos` and `small.toml`, with the `runs` and the cache of an earlier version."""
    for source in (FIXTURES, FIXTURES / request.param):
        shutil.copytree(source, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*AGES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def stored_accuracy(run_id: str) -> float:
    """As its record.json has it, read without backbench."""
    return float(json.loads((Path("runs") / run_id / "record.json").read_text())["metrics"]["accuracy"]["value"])


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_an_old_ranking_opens_as_table_document_and_page(old: Path) -> None:
    ranking = backbench.open_ranking("runs")
    runs = {run.path.name: run for run in ranking.runs}
    assert set(runs) == {PROBE, BASELINE, TRAINED}
    for name, run in runs.items():
        assert run.metrics["accuracy"].value == stored_accuracy(name)
        shown = json.loads(invoke("show", f"runs/{name}", "--json"))
        assert shown["metrics"]["accuracy"]["value"] == stored_accuracy(name)
        assert name in invoke("show", f"runs/{name}")
    assert [row.model for row in ranking.rows][:2] == ["tiny_cnn.cifar100", "small"]
    assert "small" in ranking.table
    assert [epoch["epoch"] for epoch in runs[TRAINED].history["full"]["history"]] == [1, 2]
    invoke("report", "runs", "-o", "report.html")
    page = (old / "report.html").read_text()
    assert all(text in page for text in ("tiny_cnn.cifar100", "majority", "small", "83.3"))


def test_an_old_bundle_predicts_what_its_run_predicted(old: Path) -> None:
    stored = backbench.open_run(TRAINED).predictions
    classifier = backbench.load(f"runs/{TRAINED}.bundle")
    answers = classifier.predict([f"photos/{name}" for name in stored.ids], top=3)
    found = np.array([[dict(answer.top)[name] for name in stored.classes] for answer in answers])
    expected = stored.probabilities.astype(np.float64) ** (1 / classifier.temperature)  # stored before temperature
    assert np.allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-4)


def test_an_old_bundle_is_evaluated_on_the_test_split_of_its_run(old: Path) -> None:
    evaluation = json.loads(
        invoke("evaluate", f"runs/{TRAINED}.bundle", "photos", "--device", "cpu", "--json", "-q")
    )
    assert evaluation["metrics"]["accuracy"]["value"] == stored_accuracy(TRAINED)
    assert evaluation["metrics"]["accuracy"]["n"] == 6


def test_cached_features_of_an_old_version_need_no_forward_pass(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    compute = features._compute

    def counted(work: features._Work, *rest: object) -> object:
        passes.append(work.backbone.facts.name)
        return compute(work, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "_compute", counted)
    settings = {"precision": "fp32", "device": "cpu", "quiet": True}
    ranking = backbench.rank("photos", ["tiny_cnn.cifar100"], ["logistic", "knn"], **settings)  # type: ignore[arg-type]
    assert passes == ["untrained"]  # whose features were not kept
    runs = {run.path.name: run for run in ranking.runs}
    assert {PROBE, BASELINE} <= set(runs)  # finished: not computed again
    (knn,) = [run for name, run in runs.items() if "-knn-" in name]
    cost = knn.record.cost
    assert cost is not None
    assert cost.features_from_cache
    (old / "cache" / "features").rename(old / "cache" / "gone")
    backbench.rank("photos", ["tiny_cnn.cifar100"], ["centroid"], **settings)  # type: ignore[arg-type]
    assert passes == ["untrained", "tiny_cnn.cifar100"]


def test_an_old_trained_run_is_finished_and_not_trained_again(old: Path) -> None:
    before = (old / "runs" / TRAINED / "record.json").read_bytes()
    options = {"recipe": {"epochs": 2}}
    run = backbench.adapt("photos", "small.toml", "full", options, precision="fp32", device="cpu", quiet=True)
    assert run.path.name == TRAINED
    assert (old / "runs" / TRAINED / "record.json").read_bytes() == before
