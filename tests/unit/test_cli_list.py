"""`backbench list`: what a filter finds."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from backbench.cli.list import list_names


def _find(*arguments: str) -> list[dict[str, str]]:
    done = CliRunner().invoke(list_names, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: list[dict[str, str]] = json.loads(done.stdout)[arguments[0]]
    return found


@pytest.mark.parametrize(
    ("words", "key", "has"),
    [
        ("apache", "licence", "apache"),
        ("resnet50 a1_in1k", "name", "resnet50"),
        ("cc-by-nc", "licence", "cc-by-nc"),
    ],
)
def test_models_are_found_by_name_and_licence(words: str, key: str, has: str) -> None:
    found = _find("models", "--filter", words)
    assert found
    assert all(has in (model[key] or "").casefold() for model in found)


def test_methods_and_data_are_found_by_their_summary() -> None:
    assert "lora" in {method["name"] for method in _find("methods", "--filter", "LoRA")}
    assert {source["name"] for source in _find("data", "--filter", "cifar")} >= {"cifar10", "cifar100"}
