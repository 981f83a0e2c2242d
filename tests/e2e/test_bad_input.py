"""Every mistake ends in a message that says what, where, what is allowed and what to do; nothing is lost."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_rank import backbench

from conftest import make_photos

TYPOS = {
    "data name": (["rank", "digit"], "digits"),
    "model": (["rank", "digits", "--models", "tiny_cn"], "tiny_cnn"),
    "timm model": (["rank", "digits", "--models", "resnet50.a1_in1"], "resnet50.a1_in1k"),
    "method": (["rank", "digits", "--methods", "logistik"], "logistic"),
    "no method": (["rank", "digits", "--methods", ","], "backbench list methods"),
    "precision": (["rank", "digits", "--precision", "fp23"], "fp32"),
    "device": (["rank", "digits", "--device", "gpu"], "cuda"),
    "no such device": (["rank", "digits", "--device", "cuda:99"], "cuda"),
    "set": (["rank", "digits", "--methods", "knn", "--set", "kks=[3]"], "Did you mean 'ks'"),
    "set within": (["rank", "digits", "--methods", "full", "--set", "recipe.epoch=3"], "recipe.epochs"),
    "set of a method": (["rank", "digits", "--set", "logstic:tolerance=1"], "Did you mean 'logistic'"),
    "set value": (["rank", "digits", "--set", "tolerance=small"], "tolerance"),
    "fraction": (["rank", "digits", "--test-fraction", "1.5"], "between 0 and 1"),
    "no number": (["rank", "digits", "--val-fraction", "nan"], "between 0 and 1"),
    "min images": (["rank", "digits", "--min-images", "1"], "min-images"),
    "small classes": (["rank", "digits", "--small-classes", "merge"], "--min-images"),
    "split folders": (["rank", ".", "--split-folders", "a=trian"], "train, val or test"),
    "budget": (["rank", "digits", "--budget", "ten"], "10m"),
    "negative budget": (["rank", "digits", "--budget", "-5m"], "budget"),
    "on-bad": (["rank", "digits", "--on-bad", "ignore"], "skip"),
    "seed": (["rank", "digits", "--seed", "-1"], "seed"),
    "seed word": (["rank", "digits", "--seed", "abc"], "seed"),
    "split file": (["rank", "digits", "--split", "nowhere.json"], "nowhere.json"),
    "option": (["rank", "digits", "--modles", "pixels"], "--models"),
    "verb": (["rnak", "digits"], "rank"),
    "card": (["rank", "digits", "--models", "nowhere.toml"], "nowhere.toml"),
    "run": (["show", "digits-x"], "digits-x"),
    "kind": (["list", "model"], "models"),
    "filter": (["list", "models", "--filter", "resnet5O"], "filter"),
    "folder": (["scan", "photso"], "photso"),
    "url": (["scan", "https://example.org/photos.zip"], "is a URL"),
}


@pytest.mark.parametrize("case", TYPOS)
def test_a_typo_is_answered_with_what_is_allowed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, expected = TYPOS[case]
    monkeypatch.chdir(tmp_path)
    done = backbench(*arguments)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("record.json"))


def refuse(*arguments: object) -> str:
    """Run what must be refused; gives the message."""
    done = backbench(*arguments)
    assert done.returncode in (1, 2), done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def rank(folder: Path, tmp_path: Path) -> list[object]:
    return ["rank", folder, "--models", "pixels", "--out", tmp_path / "runs"]


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "empty" / "a").mkdir(parents=True)
    assert "no images" in refuse(*rank(tmp_path / "empty", tmp_path)).lower()


def test_one_class(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "one", classes=("only",))
    message = refuse(*rank(folder, tmp_path))
    assert "only" in message
    assert "class" in message


def test_a_class_with_one_image(photos: Path, tmp_path: Path) -> None:
    (photos / "rare").mkdir()
    shutil.copy(photos / "cross" / "000.png", photos / "rare" / "x.png")
    Image.fromarray(np.full((9, 9, 3), 77, np.uint8)).save(photos / "rare" / "x.png")
    message = refuse(*rank(photos, tmp_path))
    assert "rare" in message


def test_more_classes_than_test_images(tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "many", classes=tuple(f"class {number}" for number in range(12)), num=2)
    done = backbench(*rank(folder, tmp_path), "--json")
    assert "Traceback" not in done.stderr
    assert "test" in done.stderr
    assert done.returncode in (0, 2)


@pytest.mark.parametrize("kind", ["broken", "empty", "text"])
def test_a_bad_file_stops_or_is_skipped_by_choice(photos: Path, tmp_path: Path, kind: str) -> None:
    bad = photos / "circle" / "bad.png"
    whole = (photos / "circle" / "000.png").read_bytes()
    bad.write_bytes({"broken": whole[: len(whole) // 2], "empty": b"", "text": b"<html>not found</html>"}[kind])
    message = refuse(*rank(photos, tmp_path))
    assert "circle/bad.png" in message
    assert "--on-bad skip" in message
    done = backbench(*rank(photos, tmp_path), "--on-bad", "skip")
    assert done.returncode == 0, done.stderr
    scanned = backbench("scan", photos)
    assert scanned.returncode == 1
    assert "bad.png" in scanned.stdout


def test_a_16_bit_file_is_an_image_like_any_other(photos: Path, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(photos / "circle" / "deep.png")
    done = backbench(*rank(photos, tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_class_missing_from_test_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    make_photos(folder / "train")
    make_photos(folder / "test", classes=("circle", "cross"), num=10)
    done = backbench(*rank(folder, tmp_path))
    assert "stripes" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a file system that tells such names apart")
@pytest.mark.parametrize("twin", ["Circle", "decomposed"])
def test_folders_that_differ_only_in_case_or_normalisation(photos: Path, tmp_path: Path, twin: str) -> None:
    if twin == "decomposed":
        (photos / "circle").rename(photos / unicodedata.normalize("NFC", "né"))
        twin = unicodedata.normalize("NFD", "né")
    shutil.copytree(photos / "cross", photos / twin)
    message = refuse(*rank(photos, tmp_path))
    assert "differ only" in message


def test_a_table_without_the_column(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,species\nphotos/circle/000.png,a\n")
    message = refuse("rank", table, "--image-column", "fiel", "--label-column", "species", "--models", "pixels")
    assert "fiel" in message
    assert "file" in message


def test_weights_of_another_shape(photos: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"conv1.weight": np.zeros((3, 3, 3, 3), np.float32)}, tmp_path / "w.safetensors")
    card = tmp_path / "card.toml"
    card.write_text(
        'name = "bad"\narchitecture = "timm/resnet18"\nweights = "w.safetensors"\n'
        "[preprocess]\nsize = 32\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
    )
    done = backbench("rank", photos, "--models", card, "--out", tmp_path / "runs")
    assert done.returncode == 1
    assert "conv1.weight" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_folder_that_cannot_be_made(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refuse("rank", photos, "--models", "pixels", "--out", tmp_path / "file" / "runs")
    assert "can't write" in message
    assert "--out" in message


def test_a_damaged_cache_is_made_again(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = backbench(*rank(photos, tmp_path), "--json", BACKBENCH_CACHE=str(cache))
    assert first.returncode == 0, first.stderr
    shutil.rmtree(tmp_path / "runs")
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:-7])
    again = backbench(*rank(photos, tmp_path), "--json", BACKBENCH_CACHE=str(cache))
    assert again.returncode == 0, again.stderr
    assert "Traceback" not in again.stderr
