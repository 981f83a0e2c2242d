"""The trained backbones that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbench.backbones import included
from backbench.catalog import find_model
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.run import run

NAMES = ("tiny_cnn.cifar100", "tiny_vit.cifar100")


@pytest.mark.parametrize("name", NAMES)
def test_weights_card_record_and_note_are_there_and_small(name: str) -> None:
    files = {
        suffix: included.FOLDER / f"{name}.{suffix}" for suffix in ("safetensors", "toml", "record.json", "md")
    }
    assert files["safetensors"].stat().st_size <= 2_000_000
    record = json.loads(files["record.json"].read_text())
    accuracy = record["metrics"]["accuracy"]["value"]
    note = files["md"].read_text()
    assert f"{100 * accuracy:.1f} %" in note
    assert "backbench adapt cifar100/" in note
    assert "Licence" in note
    everything = "".join(file.read_text() for suffix, file in files.items() if suffix != "safetensors")
    assert "/tmp" not in everything
    assert "/root" not in everything


@pytest.mark.parametrize("name", NAMES)
def test_they_are_found_by_name_and_name_no_path(name: str) -> None:
    spec = find_model(name)
    assert spec.load is not None
    assert spec.file is None
    facts = spec.load(0).facts
    assert (facts.name, facts.pretrained_on, facts.licence) == (name, "CIFAR-100", "Apache-2.0")
    assert facts.num_parameters == spec.num_parameters
    assert spec.load(1).facts.weights_digest == facts.weights_digest


@pytest.mark.parametrize("network", ["tiny_cnn", "tiny_vit"])
def test_training_shows_on_photographs(network: str, shared: Path, tmp_path: Path) -> None:
    accuracy = {}
    for name in (network, f"{network}.cifar100"):
        config = RunConfig(
            data=DataConfig(source=str(shared / "data" / "cifar10-mini")),
            model=name,
            method=MethodConfig(name="logistic"),
        )
        accuracy[name] = run(config, out=tmp_path).metrics["accuracy"].value
    assert accuracy[f"{network}.cifar100"] > accuracy[network] + 0.1, accuracy
