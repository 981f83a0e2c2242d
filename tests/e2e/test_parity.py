"""Command line, Python and HTTP API give one answer for one image, whatever its format.

What the page fetches and shows: tests/browser/test_parity_browser.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

import backbench
from backbench.cli import app
from backbench.serve.app import make_app
from backbench.serve.models import load_models
from browser.test_serve_browser import NAMES, make_bundle
from mixed_images import write_mixed_images

TOLERANCE = 1e-6
NUM_IMAGES = 50


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "one.bundle", NAMES, 0, "ant", threshold=0.6)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_mixed_images(tmp_path_factory.mktemp("images") / "mixed", NUM_IMAGES)


def ask_api(bundle: Path, images: list[Path]) -> list[dict[str, Any]]:
    """What the server answers for each image, asked one by one with all classes."""
    models = load_models([bundle], device="cpu")
    answers = []
    try:
        with TestClient(make_app(models), base_url="http://127.0.0.1") as client:
            for path in images:
                response = client.post(
                    "/api/predict",
                    data={"model": models[0].name, "top": str(len(NAMES))},
                    files={"image": (path.name, path.read_bytes())},
                )
                assert response.status_code == 200, response.text
                answers += response.json()["predictions"]
    finally:
        for model in models:
            model.batcher.close()
    return answers


def test_command_line_python_and_api_agree_on_fifty_images(bundle: Path, images: list[Path]) -> None:
    told = backbench.load(bundle).predict(images, top=len(NAMES))
    command = ["predict", str(bundle), *map(str, images), "--top", str(len(NAMES)), "--json", "--quiet"]
    printed = json.loads(CliRunner().invoke(app, command).stdout)["predictions"]
    served = ask_api(bundle, images)
    assert len(told) == len(printed) == len(served) == NUM_IMAGES
    assert len({answer.label for answer in told}) > 2  # answers that could differ
    for answer, line, reply in zip(told, printed, served, strict=True):
        assert answer.error is None
        expected = dict(answer.top)
        for other in (line, reply):
            assert (other["label"], other["unsure"]) == (answer.label, answer.is_unsure)
            shares = {entry["label"]: entry["confidence"] for entry in other["top"]}
            assert shares.keys() == expected.keys()
            assert max(abs(shares[name] - expected[name]) for name in expected) <= TOLERANCE, answer.path


def test_an_image_gets_one_answer_as_a_file_as_pixels_and_among_others(bundle: Path, images: list[Path]) -> None:
    classifier = backbench.load(bundle)
    together = classifier.predict(images[0].parent)
    assert [Path(answer.path).name for answer in together] == [path.name for path in images]
    for path, known in list(zip(images, together, strict=True))[::7]:
        (alone,) = classifier.predict(path)
        assert (alone.label, alone.confidence) == (known.label, pytest.approx(known.confidence, abs=TOLERANCE))
    with Image.open(images[0]) as image:
        pixels = np.asarray(image)
    (from_pixels,) = classifier.predict(pixels)
    assert from_pixels.confidence == pytest.approx(together[0].confidence, abs=TOLERANCE)
