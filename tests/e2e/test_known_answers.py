"""Real weights on real images give the figures known for them; a deviation means a mistake in preprocessing."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_rank import rank_json

MODELS = ("mobilenetv2_100.toml", "vit_tiny_patch16_224.toml")


def accuracies(shared: Path, out: Path, *arguments: object) -> list[float]:
    """Of MODELS, with a logistic head."""
    cards = ",".join(str(shared / "weights" / name) for name in MODELS)
    document = rank_json(*arguments, "--models", cards, "--methods", "logistic", "--out", out)
    found = {row["model"].partition(".")[0]: row["accuracy"] for row in document["rows"] if not row["control"]}
    return [found[name.partition(".")[0]] for name in MODELS]


@pytest.mark.slow
def test_cifar10_mini_by_its_own_parts(shared: Path, tmp_path: Path) -> None:
    """0.826 and 0.790 with the strength picked on test; an honest choice gives up to 0.02 less."""
    found = accuracies(shared, tmp_path / "runs", shared / "data" / "cifar10-mini")
    assert found == [pytest.approx(0.826, abs=0.035), pytest.approx(0.790, abs=0.035)]


@pytest.mark.slow
def test_caltech_mini_with_every_third_image_as_test(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "caltech-mini"
    ids = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.jpg"))
    parts = ["test" if row % 3 == 0 else "val" if row % 15 == 1 else "train" for row in range(len(ids))]
    split = tmp_path / "split.csv"
    split.write_text("id,part\n" + "".join(f"{image},{part}\n" for image, part in zip(ids, parts, strict=True)))
    found = accuracies(shared, tmp_path / "runs", root, "--split", split)
    assert min(found) >= 0.95
