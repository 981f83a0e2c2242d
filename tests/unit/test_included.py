"""The trained backbones that come with the package."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbench import runtime
from backbench.backbones import included
from backbench.backbones.core import defaults
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.progress import Progress
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import run

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
        accuracy[name] = run(config, RunContext(tmp_path)).metrics["accuracy"].value
    assert accuracy[f"{network}.cifar100"] > accuracy[network] + 0.1, accuracy


def test_the_short_list_without_network_is_described_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes with the package is trained, and small: neither 'untrained' nor as good as what is not there."""
    told: list[str] = []

    class Told(Progress):
        def warn(self, text: str) -> None:
            told.append(text)

    monkeypatch.setattr(runtime, "has_network", lambda: False)
    monkeypatch.setattr(defaults, "is_on_disk", lambda spec: False)
    chosen = defaults.decide_models("photos", "cpu", Told())
    assert [spec.name for spec in chosen] == list(defaults.EMBEDDED_MODELS)
    (warning,) = told
    assert "untrained" not in warning
    trained = [spec.name for spec in chosen if spec.pretrained_on]
    assert trained == list(defaults.EMBEDDED_MODELS[-2:])  # 'the last two', it says
    for words in ("come with backbench", "CIFAR-100", *defaults.EMBEDDED_MODELS):
        assert words in warning


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "studies").glob("*.toml")), ids=lambda p: p.stem
)
def test_texts_of_studies_have_no_stray_quote(path: Path) -> None:
    def texts(value: object) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from texts(inner)

    for text in texts(tomllib.loads(path.read_text())):
        assert text.count('"') % 2 == 0, text
        assert not text.strip().startswith('" '), text
