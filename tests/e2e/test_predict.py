"""`backbench predict` and `backbench evaluate` as a person runs them, and every mistake that is easily made."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import backbench
from backbench.classifier.bundle import write_bundle
from backbench.classifier.classifier import Classifier, Prediction
from backbench.cli import app
from backbench.cli.predict import check_csv_target, split_arguments, write_csv
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.data.load import load_data
from backbench.data.manifest import read_manifest
from backbench.errors import BackbenchError, ConfigError, DataError
from backbench.heads.head_modules import to_module
from backbench.records.folders import read_predictions
from backbench.records.openings import count_openings
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import Adapted, adapt, run
from backbench.stats.compare import mcnemar_exact
from conftest import make_photos

CLASSES = ("circle", "cross", "stripes")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ask(*arguments: object) -> dict[str, Any]:
    done = invoke(*arguments, "--json", "--quiet")
    assert done.exit_code == 0, (done.output, done.exception)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def error_of(*arguments: object) -> BackbenchError:
    """What the verb raises; `cli.main` prints it alone (see `test_main_prints_...`)."""
    error = invoke(*arguments, "--quiet").exception
    assert isinstance(error, BackbenchError), error
    return error


class World:
    """Photos, a finished run on them, and two bundles: of that run's own head, and of another seed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.photos = make_photos(root / "photos", num=30)
        config = RunConfig(
            data=DataConfig(source=str(self.photos), split_seed=3),
            model="pixels",
            method=MethodConfig(name="centroid"),
        )
        self.record = run(config, RunContext(root / "runs"))
        self.predictions = read_predictions(root / "runs" / self.record.run_id)
        self.bundle = write_bundle(root / "bundle", self.fit(config), record=self.record)
        self.other = write_bundle(root / "=other", self.fit(config))

    def fit(self, config: RunConfig) -> Classifier:
        from backbench.methods.centroid import CentroidOptions, adapt
        from backbench.runs.extract import extract_for, features_of
        from backbench.runs.identity import resolve
        from backbench.task import Task

        data = load_data(config.data)
        extracted = extract_for(resolve(config), data, RunContext())
        parts = [features_of(part, data, extracted.values) for part in ("train", "val")]
        fitted = adapt(Task(parts[0], parts[1], data.manifest.classes), CentroidOptions())
        return Classifier(find_model("pixels").load(0), to_module(fitted.head), data.manifest.classes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    os.environ["BACKBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return World(tmp_path_factory.mktemp("world"))


def test_the_bundle_predicts_what_the_run_recorded(world: World) -> None:
    known = {str(world.photos / name): row for row, name in enumerate(world.predictions.ids)}
    answers = backbench.load(world.bundle).predict(list(known))
    for answer in answers:
        row = world.predictions.probabilities[known[answer.path]]
        assert answer.label == world.predictions.classes[row.argmax()]
        assert abs(answer.confidence - row.max()) <= 1e-6


def test_json_of_several_bundles_side_by_side(world: World) -> None:
    folder = world.photos / "cross"
    document = ask("predict", world.bundle, world.other, folder, world.photos / "circle" / "000.png", "--top", 2)
    assert list(document) == ["schema", "predictions"]
    assert document["schema"] == 1
    entries = document["predictions"]
    assert len(entries) == 2 * 31
    assert [entry["bundle"] for entry in entries[:4]] == [str(world.bundle), str(world.other)] * 2
    assert [entry["path"] for entry in entries[:60:2]] == [str(path) for path in sorted(folder.iterdir())]
    assert entries[60]["path"].endswith("circle/000.png")
    for entry in entries:
        assert {"path", "bundle", "label", "confidence", "top"} <= set(entry)
        assert entry["top"][0] == {"label": entry["label"], "confidence": entry["confidence"]}
        assert len(entry["top"]) == 2


def test_a_broken_image_is_an_entry_and_the_status_is_1(world: World, tmp_path: Path) -> None:
    shutil.copy(world.photos / "cross" / "001.png", tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"GIF?")
    done = invoke("predict", world.bundle, tmp_path, "--json", "--quiet")
    assert done.exit_code == 1
    broken, good = json.loads(done.stdout)["predictions"]
    assert "error" in broken
    assert broken["label"] is None
    assert "error" not in good
    assert good["label"] in CLASSES
    done = invoke("predict", world.bundle, world.other, tmp_path, "--quiet")
    assert done.exit_code == 1
    assert "error: is text, not an image" in done.stdout
    assert "good.png" in done.stdout
    done = invoke("predict", world.bundle, tmp_path, "--csv", tmp_path.parent / "answers.csv")
    assert done.exit_code == 1
    assert f"2 images, of which 1 could not be read ({tmp_path / 'broken.png'}): " in done.stderr


def test_deep_images_are_predicted_by_the_scale_they_were_trained_with(tmp_path: Path) -> None:
    """A bundle carries the grey scale: one image, some of them, evaluate and the server see what training saw."""
    from backbench.serve.models import Question, load_models

    rng = np.random.default_rng(0)
    for number in range(40):
        low = (300, 900)[number % 2]
        path = tmp_path / "deep" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(low, low + 100, (32, 32), dtype=np.uint16)).save(path)
    done = invoke(
        "adapt", tmp_path / "deep", "--model", "pixels", "--method", "logistic", "--out", tmp_path / "runs"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    (bundle,) = (tmp_path / "runs").glob("*.bundle")
    (record,) = (path for path in (tmp_path / "runs").glob("*/record.json") if ".bundle" not in str(path))
    predictions = read_predictions(record.parent)
    scale = backbench.load(bundle).grey
    assert scale is not None
    assert scale.integers == (0, 1023)
    (model,) = load_models([bundle], device="cpu")
    for row, name in enumerate(predictions.ids):  # one at a time: its own values would be another scale
        path = tmp_path / "deep" / name
        (entry,) = ask("predict", bundle, path)["predictions"]
        (reply,) = model.answer([Question(path.read_bytes(), "x.png")])
        assert entry["label"] == predictions.classes[predictions.probabilities[row].argmax()]
        assert abs(reply.prediction.confidence - entry["confidence"]) <= 1e-6
    document = ask("evaluate", bundle, tmp_path / "deep")
    assert document["metrics"]["accuracy"]["value"] == predictions.correct.mean()
    for number in range(4):  # their own scale would be 0 to 255, and make them light
        path = tmp_path / "others" / "dark" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(150, 250, (32, 32), dtype=np.uint16)).save(path)
    document = ask("evaluate", bundle, tmp_path / "others")
    assert document["metrics"]["accuracy"]["value"] == 1


def test_a_csv_never_replaces_what_is_no_table_of_answers(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backbench.classifier.bundle.load_bundle", lambda *_: pytest.fail("a model was loaded"))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"precious")
    for target, said in ((photo, "not overwritten"), (tmp_path, "is a folder"), (photo / "a.csv", "is missing")):
        error = error_of("predict", tmp_path / "bundle", photo, "--csv", target)
        assert isinstance(error, ConfigError)
        assert said in str(error)
    assert photo.read_bytes() == b"precious"
    check_csv_target(tmp_path / "new.csv")


def test_a_csv_is_a_rectangle_and_is_written_again(tmp_path: Path) -> None:
    wide = Prediction("a.png", "x", 0.9, (("x", 0.9), ("y", 0.1)), is_unsure=False)
    broken = Prediction("b.png", None, None, (), is_unsure=True, error="no image")
    target = tmp_path / "table.csv"
    for _ in range(2):
        check_csv_target(target)
        write_csv(target, [("one", [wide, broken])])
    rows = [line.split(",") for line in target.read_text().splitlines()]
    assert [len(row) for row in rows] == [9, 9, 9]


def test_csv_cells_are_no_formulas(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.root)
    shutil.copy(world.photos / "cross" / "001.png", world.root / "@evil,name.png")
    done = invoke("predict", "=other", "@evil,name.png", "--csv", tmp_path / "table.csv", "--quiet")
    assert done.exit_code == 0, done.output
    with open(tmp_path / "table.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["path"], row["bundle"]) for row in rows] == [("'@evil,name.png", "'=other")]
    assert rows[0]["label"] in CLASSES
    assert 0 < float(rows[0]["confidence"]) <= 1
    assert rows[0]["label_3"] in CLASSES


def test_mistakes_with_predict_are_answered(world: World, tmp_path: Path) -> None:
    image = world.photos / "cross" / "001.png"
    for arguments, said in (
        (("bundel", image), "there is no bundle 'bundel'"),
        ((world.root / "bundel", image), "Did you mean '.*/bundle'"),
        ((world.photos, image), "is not a bundle"),
        ((world.bundle,), "no images after"),
        ((world.bundle, world.photos / "crss"), "Did you mean '.*/cross'"),
        ((world.bundle, image, world.other), "Give bundles first"),
        ((world.bundle, tmp_path / "nowhere" / "x.png"), "is also missing"),
    ):
        error = error_of("predict", *arguments)
        assert isinstance(error, ConfigError)
        with pytest.raises(ConfigError, match=said):
            raise error
    with pytest.raises(DataError, match="holds no images"):
        raise error_of("predict", world.bundle, tmp_path)
    assert invoke("predict", world.bundle, image, "--top", 0).exit_code == 2
    assert invoke("predict").exit_code == 2


def test_text_shows_as_many_classes_as_were_asked_for(world: World) -> None:
    images = (world.photos / "cross" / "000.png", world.photos / "circle" / "000.png")
    entries = ask("predict", world.bundle, *images, "--top", 2)["predictions"]
    lines = invoke("predict", world.bundle, *images, "--top", 2, "--quiet").stdout.splitlines()
    answers = [answer for entry in entries for answer in entry["top"]]
    assert len(lines) >= len(answers) == 4
    for line, answer in zip(lines, answers, strict=False):
        assert f"{answer['label']} " in line
        assert f"{100 * answer['confidence']:.1f} %" in line
    assert [line.startswith(str(world.photos)) for line in lines[:4]] == [True, False, True, False]
    assert len(invoke("predict", world.bundle, images[0], "--quiet").stdout.strip().splitlines()) == 1
    assert len(ask("predict", world.bundle, images[0])["predictions"][0]["top"]) == 3  # all classes there are


def test_evaluate_finds_the_test_part_of_the_run_and_its_figures(world: World) -> None:
    document = ask("evaluate", world.bundle, world.photos)
    assert document["data"]["part"] == "test"
    assert "as in the run that trained it" in document["data"]["said"]
    assert document["data"]["num_images"] == world.record.metrics["accuracy"].n
    for name in ("accuracy", "per_class_mean"):
        assert document["metrics"][name] == world.record.metrics[name].model_dump()
    assert document["metrics"]["nll"]["value"] == pytest.approx(world.record.metrics["nll"].value, abs=1e-6)
    assert list(document["per_class"]) == list(CLASSES)


def test_evaluate_on_other_images_says_which(world: World, tmp_path: Path) -> None:
    everything = make_photos(tmp_path / "all", classes=("circle", "cross", "stripes"), num=5, size=17)
    document = ask("evaluate", world.bundle, everything)
    assert (document["data"]["part"], document["data"]["num_images"]) == ("all", 15)
    parts = tmp_path / "parts"
    make_photos(parts / "train", num=4, size=18)
    make_photos(parts / "test", num=3, size=19)
    document = ask("evaluate", world.bundle, parts)
    assert (document["data"]["part"], document["data"]["num_images"]) == ("test", 9)
    done = invoke("evaluate", world.bundle, everything, "--quiet")
    assert done.exit_code == 0
    assert "all images of 'all', which has no test split: 15 images" in done.stdout
    assert "recall of each class" in done.stdout


def test_classes_are_matched_by_name(world: World, tmp_path: Path) -> None:
    """Fewer classes, in another order on disk, and unknown ones."""
    few = tmp_path / "few"
    for name in ("stripes", "cross"):
        shutil.copytree(world.photos / name, few / name)
    document = ask("evaluate", world.bundle, few)
    assert list(document["per_class"]) == ["cross", "stripes"]
    assert any(
        "1 of the model's 3 classes" in warning and "'circle'" in warning for warning in document["warnings"]
    )
    answers = backbench.load(world.bundle).predict(few / "stripes")
    right = sum(answer.label == "stripes" for answer in answers)
    assert document["per_class"]["stripes"]["value"] == pytest.approx(right / 30)
    shutil.copytree(world.photos / "circle", few / "circel")
    with pytest.raises(DataError, match=r"does not know 1 class .*'circel'.*Did you mean 'circle'"):
        raise error_of("evaluate", world.bundle, few)


def adapted(root: Path, photos: Path, **data: Any) -> Adapted:
    """A bundle that knows what it was trained on, in a folder of runs."""
    config = RunConfig(
        data=DataConfig(source=str(photos), split_seed=3, **data),
        model="pixels",
        method=MethodConfig(name="centroid"),
    )
    return adapt(config, RunContext(root / "runs", with_gallery=False))


def test_images_that_the_model_was_trained_on_are_left_out(world: World, tmp_path: Path) -> None:
    made = adapted(tmp_path, world.photos)
    parts = dict(zip(*parts_of(made), strict=True))
    more = make_photos(tmp_path / "more", num=4, size=17)
    known = [name for name, part in parts.items() if part != "test"][:15]
    unknown = [name for name, part in parts.items() if part == "test"][:5]
    for number, name in enumerate(known + unknown):
        shutil.copy(world.photos / name, more / Path(name).parent / f"copy{number}.png")
    document = ask("evaluate", made.bundle, more)
    assert document["data"]["num_images"] == 12 + 5
    assert document["data"]["num_seen"] == 15
    said = invoke("evaluate", made.bundle, more, "--quiet").stdout
    assert "17 of the 32 images (15 left out: the model was trained on them)" in said
    assert any("15 of 32 images are left out" in warning for warning in document["warnings"])
    seen_alone = tmp_path / "seen"
    for name in known:
        (seen_alone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(world.photos / name, seen_alone / name)
    with pytest.raises(DataError, match=r"trained on all of these 15 images"):
        raise error_of("evaluate", made.bundle, seen_alone)


def test_own_images_in_another_split_are_measured_where_they_were_not_seen(world: World, tmp_path: Path) -> None:
    made = adapted(tmp_path, world.photos)
    ids, _ = parts_of(made)
    split = tmp_path / "split.csv"
    part_of = {0: "test", 1: "val"}
    split.write_text(
        "id,part\n" + "".join(f"{name},{part_of.get(row % 3, 'train')}\n" for row, name in enumerate(ids))
    )
    document = ask("evaluate", made.bundle, world.photos, "--split", split)
    left = sum(part == "test" for row, part in enumerate(parts_of(made)[1]) if row % 3 == 0)
    assert document["data"]["num_images"] == left
    assert document["data"]["num_seen"] == 30 - left


def test_a_model_of_grouped_images_is_evaluated_on_its_own_table(world: World, tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    names = sorted(str(path.relative_to(world.photos)) for path in world.photos.rglob("*.png"))
    rows = [f"{world.photos / name},{name.split('/')[0]},{int(name[-7:-4]) // 2}" for name in names]
    table.write_text("\n".join(["image,label,camera", *rows]) + "\n")
    made = adapted(tmp_path, table, group_column="camera")
    document = ask("evaluate", made.bundle, table)
    assert "as in the run that trained it" in document["data"]["said"]
    assert document["metrics"]["accuracy"] == made.record.metrics["accuracy"].model_dump()
    assert document["data"]["num_seen"] == 0


def test_several_bundles_are_compared_on_the_same_images(world: World, tmp_path: Path) -> None:
    good = adapted(tmp_path, world.photos)
    poor = backbench.adapt(world.photos, "pixels", "centroid", seed=7, out=tmp_path / "runs", quiet=True)
    assert poor.bundle is not None
    document = ask("evaluate", poor.bundle, good.bundle, world.photos)
    first, second = document["evaluations"]
    alone = {one["bundle"]: ask("evaluate", one["bundle"], world.photos) for one in (first, second)}
    assert first["metrics"]["accuracy"]["value"] >= second["metrics"]["accuracy"]["value"]
    assert first["data"]["num_images"] == second["data"]["num_images"]
    # each was trained on part of the other's test split: what is left is in both
    assert all(one["data"]["num_images"] < alone[one["bundle"]]["data"]["num_images"] for one in (first, second))
    one, other = backbench.evaluate([poor.bundle, good.bundle], world.photos, quiet=True)
    assert one.ids == other.ids
    assert other.rank is not None
    assert other.rank.p_value == mcnemar_exact(one.correct, other.correct).p_value
    assert second["comparison"]["p_value"] == other.rank.p_value
    said = invoke("evaluate", poor.bundle, good.bundle, world.photos, "--quiet").stdout
    assert said.startswith("2 models on ")
    assert re.search(r"  best$", said, re.MULTILINE)
    assert re.search(r"  (no significant difference|significantly worse) \(p [=<] [\d.]+\)$", said, re.MULTILINE)


def test_classes_of_other_images_are_matched_or_left_out_and_said(world: World, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for name, mine in (("Circles", "circle"), ("cross", "cross"), ("zebra", "stripes"), ("potato", "cross")):
        shutil.copytree(world.photos / mine, others / name)
    document = ask("evaluate", world.bundle, others, "--on-bad", "skip")
    assert document["mapping"] == {"Circles": "circle"}
    assert set(document["per_class"]) == {"circle", "cross"}
    assert any("does not have 2 classes" in warning and "'zebra'" in warning for warning in document["warnings"])
    table = tmp_path / "map.csv"
    table.write_text("class,id\nzebra,stripes\ncross,\n")
    document = ask("evaluate", world.bundle, others, "--map", table)
    assert document["mapping"] == {"Circles": "circle", "zebra": "stripes"}
    assert set(document["per_class"]) == {"circle", "stripes"}
    (again,) = backbench.evaluate(world.bundle, others, class_map={"zebra": "stripes", "cross": None}, quiet=True)
    assert again.to_document()["metrics"] == document["metrics"]
    assert "'zebra' is 'stripes'" in invoke("evaluate", world.bundle, others, "--map", table, "--quiet").stdout
    for text, words in (
        ("zebr,stripes", "no class 'zebr'. Did you mean 'zebra'?"),
        ("zebra,stripe", "no class 'stripe'. Did you mean 'stripes'?"),
        ("zebra,stripes\nzebra,cross", "2 classes of the model"),
    ):
        table.write_text(text)
        assert words in str(error_of("evaluate", world.bundle, others, "--map", table))


def test_bundles_that_can_not_be_compared(world: World, tmp_path: Path) -> None:
    assert "given twice" in str(error_of("evaluate", world.bundle, world.root / "." / "bundle", world.photos))
    good = adapted(tmp_path, world.photos)
    with pytest.raises(ConfigError, match="bundles is a int"):
        backbench.evaluate([good.bundle, 7], world.photos, quiet=True)  # type: ignore[list-item]


def test_every_look_at_a_test_part_is_counted(world: World, tmp_path: Path) -> None:
    made = adapted(tmp_path, world.photos)
    digest = made.record.data.manifest_digest
    assert count_openings(tmp_path / "runs", digest) == 1
    ask("evaluate", made.bundle, world.photos)
    assert count_openings(tmp_path / "runs", digest) == 2
    ask("evaluate", made.bundle, make_photos(tmp_path / "others", num=3, size=18))  # no test split
    assert count_openings(tmp_path / "runs", digest) == 2
    ask("evaluate", made.bundle, world.photos, "--out", tmp_path / "elsewhere")
    assert count_openings(tmp_path / "elsewhere", digest) == 1
    lonely = tmp_path / "away" / "bundle"
    shutil.copytree(made.bundle, lonely)
    ask("evaluate", lonely, world.photos)
    assert [path.name for path in lonely.parent.iterdir()] == ["bundle"]


def parts_of(made: Adapted) -> tuple[tuple[str, ...], tuple[str, ...]]:
    manifest = read_manifest(made.run / "manifest.json")
    return manifest.ids, manifest.parts


def test_the_training_images_in_another_split_are_refused(world: World, tmp_path: Path) -> None:
    model = json.loads((world.bundle / "model.json").read_text())
    from backbench.config import digest_json

    del model["digest"]
    model["training"]["split_seed"] = 99
    model["digest"] = digest_json(model)
    shutil.copytree(world.bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.json").write_text(json.dumps(model))
    with pytest.raises(ConfigError, match=r"not in the split of its run .*--split"):
        raise error_of("evaluate", tmp_path / "bundle", world.photos)
    shutil.copytree(world.root / "runs" / world.record.run_id, tmp_path / world.record.run_id)
    manifest = tmp_path / world.record.run_id / "manifest.json"
    assert f"--split {manifest}" in str(error_of("evaluate", tmp_path / "bundle", world.photos))
    document = ask("evaluate", tmp_path / "bundle", world.photos, "--split", manifest)
    assert document["data"]["num_images"] == world.record.metrics["accuracy"].n


def test_unsure_answers_are_counted(world: World, tmp_path: Path) -> None:
    classifier = backbench.load(world.bundle)
    confidence = sorted(answer.confidence for answer in classifier.predict(world.photos))
    classifier.threshold = float(np.median(confidence))
    careful = write_bundle(tmp_path / "careful", classifier)
    document = ask("evaluate", careful, world.photos)
    assert document["metrics"]["coverage"]["value"] == pytest.approx(0.5, abs=0.02)
    assert document["metrics"]["answered_accuracy"]["n"] == round(90 * document["metrics"]["coverage"]["value"])
    assert "?" in invoke("predict", careful, world.photos, "--quiet").stdout


def test_broken_images_in_evaluation(world: World, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", num=4, size=15)
    (photos / "cross" / "bad.png").write_bytes(b"\0" * 30)
    assert isinstance(error_of("evaluate", world.bundle, photos), DataError)
    document = ask("evaluate", world.bundle, photos, "--on-bad", "skip")
    assert document["data"]["num_images"] == 12
    assert any("1 image left out because" in warning for warning in document["warnings"])


def test_main_prints_a_message_and_no_traceback(world: World, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    done = subprocess.run(
        [sys.executable, "-m", "backbench", "predict", str(tmp_path), str(tmp_path / "one.png"), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("how", "classes"), [("drop", 3), ("merge", 4)])
def test_small_classes_are_those_of_the_training_again(
    world: World, tmp_path: Path, how: Literal["drop", "merge"], classes: int
) -> None:
    photos = make_photos(tmp_path / "photos", num=10)
    for name in ("rare", "rarer"):
        make_photos(tmp_path / "few", (name,), num=3, size=18 + len(name))
        shutil.move(tmp_path / "few" / name, photos / name)
    made = adapted(tmp_path, photos, min_images=5, small_classes=how)
    document = ask("evaluate", made.bundle, photos)
    assert document["metrics"]["accuracy"]["value"] == made.record.metrics["accuracy"].value
    assert len(made.record.data.classes) == classes
    assert (made.record.config.data.min_images, made.record.config.data.small_classes) == (5, how)
    manifest = json.loads((made.run / "manifest.json").read_text())
    assert any("fewer than 5 images" in warning for warning in manifest["warnings"])


def test_a_url_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backbench.backbones.core.bundle_files.is_bundle", lambda path: path.name == "bundle")
    with pytest.raises(ConfigError, match=r"'https://x.org/a.jpg' is a URL.*download it first"):
        split_arguments(["bundle", "https://x.org/a.jpg"])
