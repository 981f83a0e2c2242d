"""Every study as it is meant: under its own model names, with weights from a hub, or with none to be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backbench.registry import base_name, find_model
from backbench.studies.schema import read_study
from conftest import make_photos
from loopback_hub import Hub, hub

__all__ = ["hub"]

TESTS = Path(__file__).parents[1]
STUDIES = sorted((TESTS.parent / "studies").glob("*.toml"))
DEAD = "http://127.0.0.1:9"
"""The discard port: nobody listens."""


def python(*arguments: object, home: Path, endpoint: str = DEAD) -> subprocess.CompletedProcess[str]:
    """A process without weights, which reaches no server but that of `endpoint`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    places = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "TORCH_HOME": str(home / "torch"),
        "BACKBENCH_CACHE": str(home / "cache"),
        "HTTPS_PROXY": DEAD,
        "https_proxy": DEAD,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "unit")]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env={**kept, **places}, capture_output=True, text=True, timeout=600)


def carry_out(file: Path, tmp_path: Path, url: str, *served: Path) -> dict[str, Any]:
    """What comes of the study beside that hub, which serves the folder where small weights are made, if any."""
    photos = make_photos(tmp_path / "photos", classes=("airplane", "cat", "dog"), num=10)
    done = python(TESTS / "small_studies.py", file, tmp_path, photos, url, *served, home=tmp_path, endpoint=url)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_starts_from_the_weights_that_a_hub_serves(file: Path, tmp_path: Path, hub: Hub) -> None:
    pytest.importorskip("transformers")
    hub.folder = tmp_path / "served"
    found = carry_out(file, tmp_path, hub.url, hub.folder)
    assert found["error"] is None
    assert found["undone"] == []
    study = read_study(file)
    expected = {
        (group.name, data, model, method)
        for group in study.groups
        if group.chosen_from is None and not group.optional
        for data in group.data
        for model in group.models
        for method in group.methods
    }
    ran = {tuple(cell[:4]) for cell in found["cells"]}
    assert expected <= ran
    for group, _, model, method, start in found["cells"]:
        if method != "scratch":
            assert (start is None) == (find_model(model).pretrained_on is None), (group, model, method)
    fetched = [
        asked
        for asked in hub.asked
        if asked.startswith("GET") and asked.endswith((".safetensors", ".pth", ".npz"))
    ]
    assert len(fetched) == len(set(fetched))  # nothing twice


@pytest.mark.slow
@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_without_weights_a_study_says_so_once_and_runs_what_needs_none(file: Path, tmp_path: Path) -> None:
    found = carry_out(file, tmp_path, DEAD)
    study = read_study(file)
    first = [group for group in study.groups if group.after is None and not group.optional]
    models = {model for group in first for model in group.models}
    absent = {model for model in models if find_model(model).ask is not None}
    told = found["error"] or "\n".join(found["warnings"])
    for base in {base_name(find_model(model).name) for model in absent}:
        assert told.count(f"'{base}'") == 1
    if models == absent:
        assert found["error"].startswith(f"None of the {len(absent)} models can be used; nothing was computed.")
        assert found["runs"] == []
        return
    assert found["error"] is None
    assert {cell[2] for cell in found["cells"]} == models - absent
    assert bool(found["undone"]) == bool(absent)
    assert not any(".failed" in run for run in found["runs"])


def test_the_command_ends_with_that_message_alone(tmp_path: Path) -> None:
    file = TESTS.parent / "studies" / "minivision.toml"
    done = python("-m", "backbench", "study", "run", file, "--out", tmp_path / "out", home=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("error: None of the 5 models can be used; nothing was computed.\n") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
