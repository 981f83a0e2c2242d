"""Which images are unlike the training images: how often, for which bundles, and how people are told."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import backbench
from backbench.backbones.core.bundle_files import MODEL_FILE
from backbench.classifier.bundle import load_bundle, load_gallery, write_bundle
from backbench.classifier.classifier import Classifier
from backbench.classifier.strangeness import FILE, MIN_VALIDATION, fit_strangeness, read_strangeness
from backbench.cli import app
from backbench.config import DataConfig, MethodConfig, RunConfig, digest_json
from backbench.data.load import load_data
from backbench.errors import StorageError
from backbench.heads.head_modules import make_linear
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from backbench.storage import digest_file
from conftest import make_photos


def draw(rng: np.random.Generator, num: int, dim: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Features of four classes, whose values differ in size and spread, and labels."""
    means = np.random.default_rng(9).normal(size=(4, dim)) * 3 + 5
    labels = rng.integers(0, 4, num)
    return means[labels] + rng.normal(size=(num, dim)) * np.linspace(0.1, 2, dim), labels


def test_about_two_in_a_hundred_images_like_the_training_images_are_strange() -> None:
    rng = np.random.default_rng(0)
    known = fit_strangeness(*draw(rng, 2000), draw(rng, 2000)[0])
    assert known is not None
    assert 0.01 < (known.measure(draw(rng, 5000)[0]) > 1).mean() < 0.03


def test_features_far_away_and_features_of_another_direction_are_strange() -> None:
    rng = np.random.default_rng(1)
    train, labels = draw(rng, 2000)
    known = fit_strangeness(train, labels, draw(rng, 1000)[0])
    assert known is not None
    far = train[:200] * 3
    opposite = train.mean(axis=0) - (train[:200] - train.mean(axis=0)) / 3  # nearer to the centre than any class
    assert (known.measure(far) > 1).all()
    assert (known.measure(opposite) > 1).mean() > 0.95
    assert known.measure(train[:0]).shape == (0,)


def test_one_image_a_class_is_enough_and_nothing_is_known_without_validation_or_spread() -> None:
    rng = np.random.default_rng(2)
    train, _ = draw(rng, 30)
    assert fit_strangeness(train, np.arange(30), draw(rng, MIN_VALIDATION)[0]) is not None
    assert fit_strangeness(train, np.arange(30), draw(rng, MIN_VALIDATION - 1)[0]) is None
    assert fit_strangeness(np.ones((30, 5)), np.zeros(30), np.ones((30, 5))) is None
    assert fit_strangeness(train[:0], np.zeros(0), train) is None


def make_config(photos: Path | str, method: str, **options: Any) -> RunConfig:
    return RunConfig(
        data=DataConfig(source=str(photos)),
        model="tiny_cnn",
        method=MethodConfig(name=method, options=options),
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapt(
        make_config("digits", "ridge"), RunContext(tmp_path_factory.mktemp("digits"), with_gallery=False)
    ).bundle


def photographs() -> list[np.ndarray]:
    """Pieces of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    return [
        image[row : row + 100, column : column + 100]
        for image in load_sample_images().images
        for row in range(0, 300, 100)
        for column in range(0, 600, 100)
    ]


def test_photographs_are_strange_to_a_model_of_digits_and_digits_are_not(digits: Path) -> None:
    assert load_gallery(digits) is None  # it does not take one
    classifier = backbench.load(digits)
    data = load_data(DataConfig(source="digits"))
    own = [data.read(row) for row in data.manifest.part_rows("test").tolist()]
    assert np.mean([answer.is_strange for answer in classifier.predict(own)]) < 0.05
    answers = classifier.predict(photographs())
    assert np.mean([answer.is_strange for answer in answers]) > 0.9
    assert max(answer.confidence or 0 for answer in answers) > 0.9  # which is why it is said


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("knn", {}),
        ("centroid", {}),
        ("head", {"recipe": {"epochs": 1}}),
        ("full", {"recipe": {"epochs": 1}}),
        ("lora", {"rank": 2, "targets": "auto", "recipe": {"epochs": 1}}),
        ("quantized", {"qat_epochs": 1}),
    ],
)
def test_every_method_leaves_a_bundle_that_knows(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", num=60)
    made = adapt(make_config(photos, method, **options), RunContext(tmp_path / "runs", with_gallery=False))
    classifier = load_bundle(made.bundle)
    answers = classifier.predict(photos)
    assert np.mean([answer.is_strange for answer in answers]) < 0.2
    assert (made.bundle / FILE).stat().st_size < 100_000


def say(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments), "--quiet"])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_command_line_table_and_json_say_it_and_explain_it(digits: Path, photos: Path, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "china.png"
    Image.fromarray(photographs()[0]).save(path)
    text = say(digits, path)
    assert text.splitlines()[0].endswith(" strange")
    assert "strange  unlike the training images" in text
    assert "2 of 100" in text
    assert json.loads(say(digits, path, "--json"))["predictions"][0]["is_strange"] is True
    say(digits, path, "--csv", tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as stream:
        assert [row["strange"] for row in csv.DictReader(stream)] == ["yes"]


def test_a_bundle_that_does_not_know_says_so_once(photos: Path, tmp_path: Path) -> None:
    backbone = find_model("tiny_cnn").load(0)
    head = make_linear(backbone.facts.dim, 2, torch.Generator().manual_seed(0))
    bundle = write_bundle(tmp_path / "old.bundle", Classifier(backbone, head, ("a", "b"), threshold=0.99))
    assert not (bundle / FILE).exists()
    done = CliRunner().invoke(app, ["predict", str(bundle), str(photos)])
    assert done.stderr.count("strange images can't be detected") == 1
    assert "below the model's threshold (99.0 %)" in done.stdout
    assert "strange" not in done.stdout
    assert {answer.is_strange for answer in backbench.load(bundle).predict(photos)} == {None}
    say(bundle, photos, "--csv", tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as stream:
        assert {row["strange"] for row in csv.DictReader(stream)} == {""}


def test_damage_and_other_features_are_refused(digits: Path, tmp_path: Path) -> None:
    path = digits / FILE
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(StorageError, match="checksum"):
            load_bundle(digits)
    finally:
        path.write_bytes(whole)
    with pytest.raises(StorageError, match="does not fit"):
        read_strangeness(path, 3)
    tensors = load_file(path)
    for name, values in (("spread", 0 * tensors["spread"]), ("means", tensors["means"] * np.nan)):
        save_file(tensors | {name: values}, tmp_path / "bad.safetensors")
        with pytest.raises(StorageError, match="does not fit"):
            read_strangeness(tmp_path / "bad.safetensors", tensors["centre"].size)
    del tensors["scales"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(StorageError, match="scales"):
        read_strangeness(tmp_path / "less.safetensors", tensors["centre"].size)


def test_a_bundle_of_an_older_version_still_loads(digits: Path, tmp_path: Path) -> None:
    old = shutil.copytree(digits, tmp_path / "old.bundle")
    (old / FILE).unlink()
    document = json.loads((old / MODEL_FILE).read_bytes())
    del document["files"][FILE], document["digest"]
    document["digest"] = digest_json(document)
    (old / MODEL_FILE).write_text(json.dumps(document))
    assert load_bundle(old).strangeness is None
    assert digest_file(old / "weights.safetensors") == digest_file(digits / "weights.safetensors")
