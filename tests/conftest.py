"""Fixtures every test may use."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from real import copy_textiles, write_crops, write_lite0

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden"
UPDATE = (
    "If the new words are right: pytest tests/unit -k golden_file --update-golden, then read what git diff shows."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that rewrites the golden files."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden; with --update-golden write it there."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / name
        if request.config.getoption("--update-golden"):
            file.write_text(text, encoding="utf-8")
        golden = file.read_text(encoding="utf-8") if file.exists() else ""
        if text != golden:
            changes = difflib.unified_diff(
                golden.splitlines(), text.splitlines(), f"golden/{name}", "now", "", "", 1, ""
            )
            pytest.fail("\n".join([*changes, UPDATE]), pytrace=False)

    return compare


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache folder of its own, so that none can profit from another's leftovers."""
    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with small real images (`data`) and real weights (`weights`); the test is skipped without it."""
    folder = Path(os.environ.get("BACKBENCH_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "weights").is_dir():
        pytest.skip("no folder with real images and weights beside the checkout")
    return folder


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of an EfficientNet-Lite0 with real ImageNet weights; see `real.py`."""
    return write_lite0(tmp_path_factory.mktemp("lite0"))


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight crops of each of three photographs, in folders named as ImageNet names what they show."""
    return write_crops(tmp_path_factory.mktemp("crops") / "photographs")


@pytest.fixture(scope="session")
def textiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 simulated textiles of each of three classes: good ones, local faults, faults all over."""
    return copy_textiles(tmp_path_factory.mktemp("textiles") / "simulated", 24)


@pytest.fixture(scope="session")
def lite0_bundle(lite0: Path, crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with real weights, a logistic head on the crops: what exports start from, with known answers."""
    import backbench

    run = backbench.adapt(crops, lite0, "logistic", out=tmp_path_factory.mktemp("lite0-runs"), quiet=True)
    assert run.bundle is not None
    return run.bundle


@pytest.fixture(scope="session")
def test_scale() -> float:
    """How many of the fuzz cases to run: 1 is the quick suite, 10 the full counts."""
    return float(os.environ.get("BACKBENCH_TEST_SCALE", "1"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three classes of 20 small generated images that a probe on pixels tells apart, mostly."""
    return make_photos(tmp_path / "photos")


def make_photos(
    root: Path, classes: tuple[str, ...] = ("circle", "cross", "stripes"), num: int = 20, size: int = 16
) -> Path:
    """Noisy drawings: the class is in the shape, not in the colour or the file facts."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    middle = (size - 1) / 2
    shapes = [
        np.hypot(rows - middle, columns - middle) < size / 3,
        np.minimum(abs(rows - middle), abs(columns - middle)) < size / 10,
        rows % 4 < 2,
        columns % 4 < 2,
        (rows + columns) % 6 < 3,
    ]
    for index, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(num):
            pixels = rng.integers(0, 120, (size, size, 3)) + 90 * shapes[index % len(shapes)][..., None]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png")
    return root
