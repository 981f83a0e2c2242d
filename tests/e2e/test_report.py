"""`backbench report` as a person runs it, on runs that `backbench rank` and `backbench adapt` made."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from backbench.records.folders import read_record, write_run
from reports import make_runs


def backbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backbench", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def test_a_page_that_cannot_be_written_says_how_to_name_another(made: Path) -> None:
    (made / "file").touch()
    done = backbench("report", made / "runs", "--no-images", "-o", made / "file" / "r.html")
    assert done.returncode == 1
    assert "is a file where a folder is needed: choose another file with --output." in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("arguments", [("list", "models"), ("list", "methods"), ("list", "data", "--json")])
def test_results_that_cannot_be_written_are_one_line_and_no_traceback(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "backbench", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "error: the results can't be written to stdout: No space left on device.\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, the runs of a small ranking and of one adapted model with its bundle."""
    from conftest import make_photos

    root = tmp_path_factory.mktemp("made")
    make_photos(root / "photos", num=30)
    os.environ["BACKBENCH_CACHE"] = str(root / "cache")
    chosen = ("--models", "pixels,tiny_cnn", "--methods", "logistic", "--out", root / "runs")
    ranked = backbench("rank", root / "photos", *chosen)
    assert ranked.returncode == 0, ranked.stderr
    adapted = backbench("adapt", root / "photos", "--model", "tiny_cnn", "--method", "knn", "--out", root / "runs")
    assert adapted.returncode == 0, adapted.stderr
    return root


@pytest.fixture(autouse=True)
def _cache_of_the_runs(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKBENCH_CACHE", str(made / "cache"))


def report(made: Path, *arguments: object) -> str:
    """The page of all runs."""
    done = backbench("report", made / "runs", "-o", made / "page.html", *arguments)
    assert done.returncode == 0, done.stderr
    return (made / "page.html").read_text(encoding="utf-8")


def test_one_page_holds_runs_controls_images_maps_explanations_and_the_bundle(made: Path):
    page = report(made, "--map", "pca")
    for run in (made / "runs").glob("*/record.json"):
        assert f"<bdi>{read_record(run.parent).config.model}</bdi>" in page
    assert "baselines: no pretrained model" in page
    assert "data:image/jpeg;base64," in page
    assert 'class="map"' in page
    assert "The same images, as each model sees them" in page
    assert "no thumbnail" not in page.partition("</style>")[2]
    assert len(page.encode()) < 3_000_000


def test_the_page_of_the_same_runs_is_the_same_to_the_byte(made: Path):
    assert report(made, "--map", "pca", "--explain", 0) == report(made, "--map", "pca", "--explain", 0)


def test_images_that_changed_or_went_are_left_out_and_that_is_said(made: Path, tmp_path: Path):
    runs = shutil.copytree(made / "runs", tmp_path / "runs")
    shutil.move(made / "photos", tmp_path / "elsewhere")
    try:
        gone = backbench("report", runs, "-o", tmp_path / "gone.html", "--map", "none", "--explain", 0)
        assert gone.returncode == 0, gone.stderr
        page = (tmp_path / "gone.html").read_text()
        assert "Images are not included: their source can no longer be read" in page
        assert "data:image/jpeg" not in page
        shutil.copytree(tmp_path / "elsewhere", made / "photos")
        for path in (made / "photos").glob("*/*.png"):
            Image.new("RGB", (16, 16), (200, 0, 0)).save(path)
        changed = backbench("report", runs, "-o", tmp_path / "changed.html", "--map", "none", "--explain", 0)
        assert changed.returncode == 0, changed.stderr
        page = (tmp_path / "changed.html").read_text()
        assert "its content has changed since the evaluation" in page
        assert "data:image/jpeg" not in page
    finally:
        shutil.rmtree(made / "photos", ignore_errors=True)
        shutil.move(tmp_path / "elsewhere", made / "photos")


def test_tables_go_to_stdout_and_agree_with_the_records(made: Path):
    records = [read_record(path.parent) for path in (made / "runs").glob("*/record.json")]
    wanted = {record.run_id: record.metrics["accuracy"].value for record in records}
    document = json.loads(backbench("report", made / "runs", "--format", "json").stdout)
    rows = document["comparisons"][0]["rows"]
    assert {row["run_id"]: row["accuracy"] for row in rows} == wanted
    lines = csv.DictReader(io.StringIO(backbench("report", made / "runs", "--format", "csv").stdout))
    assert {line["run_id"]: float(line["accuracy"]) for line in lines} == wanted
    assert backbench("report", made / "runs", "--format", "md").stdout.count("\n| ") == 2 + len(records)
    assert "## Figures" in backbench("report", made / "runs", "--format", "card").stdout
    assert "## Classes" in backbench("report", made / "runs", "--format", "data-card").stdout


def test_runs_on_two_data_sets_stay_apart(made: Path, tmp_path: Path):
    for run in make_runs(data_name="pets"):
        write_run(tmp_path / "other", run.record, run.predictions, lambda path: path.write_text("{}"))
    page = report(made, tmp_path / "other", "--map", "none", "--explain", 0)
    assert page.count("<article ") == 2
    assert "never ranked together" in page
    assert "not a manifest" in page  # the page is made without it, and says what it lacks


def test_a_damaged_run_is_left_out_of_a_folder_but_refused_by_name(made: Path, tmp_path: Path):
    runs = shutil.copytree(made / "runs", tmp_path / "runs")
    damaged = next(path.parent for path in sorted(runs.glob("*/predictions.npz")))
    (damaged / "predictions.npz").write_bytes(b"nothing")
    whole = backbench("report", runs, "--format", "json")
    assert whole.returncode == 0
    assert damaged.name in whole.stderr
    assert damaged.name not in whole.stdout
    named = backbench("report", damaged, "--format", "json")
    assert named.returncode == 1
    assert re.match("error: .*damaged", named.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing-here",), "no run 'nothing-here'"),
        (("--out", "nothing-here"), "no run 'nothing-here'"),
        (("photos",), "holds no runs"),
    ],
)
def test_a_mistake_ends_in_a_message(made: Path, tmp_path: Path, monkeypatch, arguments, message):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    done = backbench("report", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_page_without_explanations_never_loads_torch(made: Path):
    code = (
        "import sys\nfrom backbench.explain.evidence import ReportRequest, gather_report\n"
        "from backbench.report.page.render import render_report\n"
        f"asked = ReportRequest(runs=({str(made / 'runs')!r},), map_method='none', num_explained=0)\n"
        "found = gather_report(asked)\n"
        "render_report(found[0], found[1])\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
