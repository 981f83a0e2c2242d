"""`backbench explain` as a person runs it: sheets of one and two models, a run's own test images, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from backbench.cli import app
from backbench.errors import BackbenchError, ConfigError, DataError
from backbench.records.folders import read_predictions
from conftest import make_photos


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ask(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = invoke("explain", *arguments, "--json", "--quiet")
    assert done.exit_code == status, (done.output, done.exception)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def error_of(*arguments: object) -> BackbenchError:
    error = invoke("explain", *arguments, "--quiet").exception
    assert isinstance(error, BackbenchError), error
    return error


class World:
    """Photos, and what `adapt` made of them with a network that has attention and one that has none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.photos = make_photos(root / "photos", num=20, size=24)
        self.vit, self.cnn = self.adapt("tiny_vit"), self.adapt("tiny_cnn")
        self.vit_run = self.vit.with_name(self.vit.name.removesuffix(".bundle"))

    def adapt(self, model: str) -> Path:
        out = self.root / f"runs-{model}"
        done = invoke("adapt", self.photos, "--model", model, "--method", "logistic", "--out", out, "--quiet")
        assert done.exit_code == 0, (done.output, done.exception)
        return next(out.glob("*.bundle"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKBENCH_CACHE", str(root / "cache"))
        return World(root)


def paths_of(document: dict[str, Any], kind: str) -> list[Path]:
    return [Path(picture["path"]) for picture in document["pictures"] if picture["kind"] == kind]


def test_two_models_explain_the_test_images_of_the_first_wrong_ones_first(world: World, tmp_path: Path) -> None:
    document = ask(world.vit, world.cnn, "--num", 5, "--out", tmp_path / "made" / "here")
    predictions = read_predictions(world.vit_run)
    num_wrong = int((~predictions.correct).sum())
    entries = document["explanations"]
    assert [entry["model"] for entry in entries] == [str(world.vit), str(world.cnn)] * 5
    own = entries[::2]
    assert {entry["image"] for entry in own} <= set(predictions.ids)
    assert [entry["label"] != entry["truth"] for entry in own] == [row < num_wrong for row in range(5)]
    confidence = dict(zip(predictions.ids, predictions.probabilities.max(axis=1).tolist(), strict=True))
    for entry in own:
        assert entry["kind"] == "attention rollout"
        assert np.shape(entry["values"]) == (8, 8)
        assert entry["box"] == [0.0, 0.0, 24.0, 24.0]
        assert entry["confidence"] == pytest.approx(confidence[entry["image"]], abs=1e-4)
    assert {entry["kind"] for entry in entries[1::2]} == {"Grad-CAM"}
    assert {picture["kind"] for picture in document["pictures"]} == {
        "explanations",
        "filters",
        "principal-filters",
        "positions",
    }
    for picture in document["pictures"]:
        with Image.open(picture["path"]) as image:
            assert min(image.size) > 200
    assert len(document["pictures"]) == 1 + 3 + 2  # the convolutional network has no positions


def test_a_run_gives_its_own_pictures_too_and_the_paths_are_printed(world: World, tmp_path: Path) -> None:
    options = ("--num", 2, "--out", tmp_path, "--format", "svg", "--theme", "dark", "--map", "pca")
    done = invoke("explain", world.vit_run, *options)
    assert done.exit_code == 0, (done.output, done.exception)
    printed = [Path(line) for line in done.stdout.splitlines()]
    assert printed[0] == tmp_path / "explained.svg"
    assert {path.suffix for path in printed} == {".svg"}
    assert all(path.is_file() for path in printed)
    own = {path.stem for path in printed if path.parent == tmp_path / world.vit_run.name}
    assert own >= {"confusion", "classes", "reliability", "coverage", "answers"}
    assert ("worst" in own) == (not read_predictions(world.vit_run).correct.all())
    assert tmp_path / "map.svg" in printed
    assert tmp_path / "cost.svg" not in printed  # one run is no comparison


def test_runs_are_drawn_side_by_side_from_cached_features(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network of a frozen run ran again for a map")

    runs = []
    for bundle in (world.vit, world.cnn):
        run = bundle.with_name(bundle.name.removesuffix(".bundle"))
        runs.append(tmp_path / f"{run.parent.name}" / run.name)
        shutil.copytree(run, runs[-1])  # without its bundle
    monkeypatch.setattr("backbench.explain.of_runs.extract_features", refuse)
    monkeypatch.setenv("BACKBENCH_CACHE", str(world.root / "cache"))
    document = ask(*runs, "--out", tmp_path / "out", "--map", "pca")
    assert {path.name for path in paths_of(document, "comparison")} == {
        "cost.png",
        "class-heat-map.png",
        "map.png",
    }
    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path / "empty"))
    done = invoke("explain", *runs, "--out", tmp_path / "again", "--map", "pca")
    assert done.exit_code == 0
    assert "no run has cached features or a bundle" in done.stderr
    assert (tmp_path / "again" / "cost.png").is_file()


def test_named_images_and_broken_ones(world: World, tmp_path: Path) -> None:
    images = tmp_path / "new" / "cross"
    images.mkdir(parents=True)
    Image.new("RGB", (90, 30), "teal").save(images / "wide.png")
    (images / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    options = ("--out", tmp_path / "out", "--kind", "grad-cam")
    document = ask(world.vit, tmp_path / "new", *options, status=1)
    (entry,) = document["explanations"]
    assert (entry["image"], entry["truth"], entry["kind"]) == ("wide.png", "cross", "Grad-CAM")
    assert "broken.jpg" in document["errors"][0]
    assert paths_of(document, "explanations")[0].is_file()


def test_many_images_fill_several_sheets(world: World, tmp_path: Path) -> None:
    document = ask(world.cnn, world.photos, "--num", 14, "--out", tmp_path)
    assert [path.name for path in paths_of(document, "explanations")] == ["explained-1.png", "explained-2.png"]
    assert len(document["explanations"]) == 14


def test_the_same_model_twice_gets_two_names(world: World, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / world.cnn.name
    shutil.copytree(world.cnn, twin)
    document = ask(world.cnn, twin, world.photos, "--num", 1, "--out", tmp_path / "out")
    assert len(set(paths_of(document, "filters"))) == 2


def test_a_run_beside_its_bundle_is_one_model_and_other_files_of_the_folder_are_passed_over(
    world: World, tmp_path: Path
) -> None:
    everything = sorted(world.vit_run.parent.glob("[!.]*"))
    assert {world.vit, world.vit_run, world.vit_run.parent / "openings.jsonl"} <= set(everything)
    document = ask(*everything, "--num", 1, "--map", "none", "--out", tmp_path / "out")
    assert [entry["model"] for entry in document["explanations"]] == [str(world.vit_run)]
    assert len(paths_of(document, "filters")) == 1


def test_a_failed_run_does_not_keep_the_others_from_being_drawn(world: World, tmp_path: Path) -> None:
    for name in ("failed", "done"):
        shutil.copytree(world.vit_run, tmp_path / name)
    record = json.loads((tmp_path / "failed" / "record.json").read_text())
    (tmp_path / "failed" / "record.json").write_text(json.dumps(record | {"status": "failed", "metrics": {}}))
    done = invoke("explain", tmp_path / "failed", tmp_path / "done", "--map", "none", "--out", tmp_path / "out")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "no pictures of" in done.stderr
    assert (tmp_path / "out" / "done" / "confusion.png").is_file()


def test_a_run_of_which_nothing_can_be_drawn_ends_with_status_1(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.vit_run, tmp_path / "damaged")
    (tmp_path / "damaged" / "predictions.npz").write_bytes(b"")
    done = invoke("explain", tmp_path / "damaged", "--map", "none", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "no pictures of" in done.stderr
    assert done.stdout.strip() == ""


def test_a_run_that_left_no_bundle_is_missed_in_words(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.vit_run, tmp_path / "alone")
    done = invoke("explain", tmp_path / "alone", world.cnn, "--num", 1, "--map", "none", "--out", tmp_path / "out")
    assert "alone has no explanations because it has no bundle" in done.stderr
    told = str(error_of(tmp_path / "alone", world.photos, "--out", tmp_path / "out"))
    assert told.endswith(f"Save it first: backbench keep {tmp_path / 'alone'}")


def test_images_are_read_before_any_picture_is_drawn(world: World, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no image")
    assert "no readable images" in str(error_of(world.vit_run, tmp_path / "notes.jpg", "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_mistakes_end_in_a_message(world: World, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely.bundle"
    shutil.copytree(world.cnn, lonely)
    assert "no images to explain" in str(error_of(lonely))
    assert isinstance(error_of(world.photos), ConfigError)
    assert "Did you mean" in str(error_of(world.cnn, world.root / "photoz"))
    assert "comes after an image" in str(error_of(world.cnn, world.photos, world.vit))
    assert "grad-cam" in str(error_of(world.cnn, world.photos, "--kind", "rollout", "--out", tmp_path))
    (tmp_path / "empty").mkdir()
    assert isinstance(error_of(world.cnn, tmp_path / "empty", "--out", tmp_path), DataError)


def test_a_run_whose_images_have_changed_is_not_explained_by_others(world: World, tmp_path: Path) -> None:
    moved = world.photos.with_name("aside")
    shutil.copytree(world.photos, moved)
    try:
        Image.new("RGB", (24, 24), "red").save(world.photos / "cross" / "000.png")
        error = error_of(world.vit, "--out", tmp_path)
    finally:
        shutil.rmtree(world.photos)
        moved.rename(world.photos)
    assert "have changed since the run" in str(error)


def test_a_run_without_a_model_gives_its_pictures_alone(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.vit_run, run)
    document = ask(run, "--out", tmp_path / "out")
    assert document["explanations"] == []
    assert {picture["kind"] for picture in document["pictures"]} == {"run"}
    assert "no model to explain images with" in str(error_of(run, world.photos, "--out", tmp_path / "out"))
