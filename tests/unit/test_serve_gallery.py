"""The gallery of a bundle: what is chosen, what is kept of it, and what happens when it is damaged or left out."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.classifier import gallery as galleries
from backbench.classifier.bundle import find_bundle, load_bundle, load_gallery
from backbench.classifier.gallery import INDEX_FILE, Gallery, know_features, make_gallery, to_jpeg
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.data.load import load_data
from backbench.errors import BadImage, StorageError
from backbench.progress import Progress
from backbench.records.folders import read_predictions
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from conftest import make_photos


class Warned(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_config(photos: Path, method: str = "centroid") -> RunConfig:
    return RunConfig(data=DataConfig(source=str(photos)), model="tiny_cnn", method=MethodConfig(name=method))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gallery")
    return adapt(make_config(make_photos(root / "photos")), RunContext(root / "runs")).bundle


def test_adapt_writes_one_that_belongs_to_the_bundle(bundle: Path) -> None:
    gallery = load_gallery(bundle)
    assert gallery is not None
    assert gallery.features.shape == (len(gallery.ids), load_bundle(bundle).backbone.facts.dim)
    assert set(gallery.labels) == {"circle", "cross", "stripes"}
    assert all(name.startswith(f"{label}/") for name, label in zip(gallery.ids, gallery.labels, strict=True))
    for jpeg in (*gallery.thumbnails, *(sample.jpeg for sample in gallery.samples)):
        picture = Image.open(io.BytesIO(jpeg))
        assert (picture.format, picture.size) == ("JPEG", (16, 16))
        assert not picture.getexif()
    assert sum(path.stat().st_size for path in (bundle / "gallery").iterdir()) < 4_000_000


def test_training_images_come_from_training_and_samples_from_test(bundle: Path) -> None:
    gallery = load_gallery(bundle)
    assert gallery is not None
    data = load_data(DataConfig(source=str(bundle.parent.parent / "photos")))
    part_of = dict(zip(data.manifest.ids, data.manifest.parts, strict=True))
    assert {part_of[name] for name in gallery.ids} == {"train"}
    assert {part_of[sample.id] for sample in gallery.samples} == {"test"}


def test_the_nearest_of_a_training_image_is_itself(bundle: Path) -> None:
    gallery = load_gallery(bundle)
    assert gallery is not None
    found = gallery.find_nearest(gallery.features[:5].astype(np.float32))
    assert [near[0].row for near in found] == [0, 1, 2, 3, 4]
    assert all(len(near) == 3 and near[0].distance < 1e-3 for near in found)


def test_one_sample_is_answered_wrongly_if_any_test_image_is(bundle: Path) -> None:
    gallery, classifier = load_gallery(bundle), load_bundle(bundle)
    assert gallery is not None
    pictures = [np.asarray(Image.open(io.BytesIO(sample.jpeg))) for sample in gallery.samples]
    wrong = [
        row
        for row, answer in enumerate(classifier.predict(pictures))
        if answer.label != gallery.samples[row].label
    ]
    run = bundle.with_name(bundle.name.removesuffix(".bundle"))
    if read_predictions(run).correct.all():
        assert len(wrong) <= 1
    else:
        assert wrong == [1]
    assert len(gallery.samples) <= 5


def test_a_large_data_set_leaves_a_small_gallery(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "MAX_IMAGES", 9)
    data = load_data(DataConfig(source=str(bundle.parent.parent / "photos")))
    predictions = read_predictions(bundle.with_name(bundle.name.removesuffix(".bundle")))
    classifier = load_bundle(bundle)
    known = know_features(classifier, data)
    small = make_gallery(classifier, data, predictions, known)
    assert sorted(small.labels) == sorted(["circle", "cross", "stripes"] * 3)  # evenly, however few
    monkeypatch.setattr(galleries, "MAX_THUMBNAIL_BYTES", 2000)
    smaller = make_gallery(classifier, data, predictions, known)
    assert 0 < len(smaller.ids) < 9
    assert sum(map(len, smaller.thumbnails)) <= 2000
    assert smaller.ids == small.ids[: len(smaller.ids)]


@pytest.mark.parametrize("name", ["features.safetensors", "images.bin", "index.json"])
def test_damage_is_refused_by_name(bundle: Path, name: str) -> None:
    path = bundle / "gallery" / name
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(StorageError, match=name):
            load_gallery(bundle)
        path.unlink()
        with pytest.raises(StorageError, match=name):
            load_gallery(bundle)
        assert load_bundle(bundle).class_names  # the model itself does not depend on it
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("change", [{"schema": 9}, {"ids": []}, {"image_bytes": [1]}, {"samples": [1] * 99}])
def test_contradictions_are_refused(bundle: Path, change: dict[str, object]) -> None:
    gallery = bundle / "gallery"
    index = json.loads((gallery / "index.json").read_bytes()) | change
    features = load_gallery(bundle)
    assert features is not None
    with pytest.raises((ValueError, TypeError, KeyError)):
        galleries._parse(
            index, (gallery / "images.bin").read_bytes(), features.features, features.features.shape[1]
        )


def test_no_gallery_leaves_no_image_and_says_when_one_is_there_already(photos: Path, tmp_path: Path) -> None:
    made = adapt(make_config(photos), RunContext(tmp_path / "runs", with_gallery=False))
    assert load_gallery(made.bundle) is None
    assert not (find_bundle(made.bundle) / INDEX_FILE).exists()
    other = adapt(make_config(photos), RunContext(tmp_path / "other"))
    warned = Warned()
    adapt(make_config(photos), RunContext(tmp_path / "other", with_gallery=False, progress=warned))
    assert (other.bundle / INDEX_FILE).exists()
    assert "exists already, with a gallery" in warned.warnings[-1]


def test_a_gallery_that_cannot_be_made_costs_a_warning_not_the_model(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Gallery:
        raise BadImage("a.png", "vanished")

    monkeypatch.setattr(galleries, "make_gallery", fail)
    warned = Warned()
    made = adapt(make_config(photos), RunContext(tmp_path / "runs", progress=warned))
    assert load_gallery(made.bundle) is None
    assert any("no gallery" in warning for warning in warned.warnings)
    assert load_bundle(made.bundle).class_names == ("circle", "cross", "stripes")


def test_the_folder_may_be_removed_and_the_card_says_so(photos: Path, tmp_path: Path) -> None:
    made = adapt(make_config(photos), RunContext(tmp_path / "runs")).bundle
    assert "`gallery/` holds small copies of training images" in (made / "README.md").read_text()
    shutil.rmtree(made / "gallery")
    assert load_gallery(made) is None
    assert load_bundle(made).class_names == ("circle", "cross", "stripes")


def test_copies_are_small_upright_and_without_metadata() -> None:
    jpeg = to_jpeg(np.zeros((400, 200, 3), np.uint8), 96, 75)
    assert Image.open(io.BytesIO(jpeg)).size == (48, 96)
