"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
def test_scale() -> float:
    """How many of the fuzz cases to run: 1 is the quick suite, 10 the full counts."""
    return float(os.environ.get("BACKBENCH_TEST_SCALE", "1"))
