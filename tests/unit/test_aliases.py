"""Names of papers and seed studies stand for real models, under whose names everything is recorded."""

from __future__ import annotations

import pytest

from backbench.backbones import aliases, timm_models
from backbench.errors import ConfigError
from backbench.registry import find_model, list_models


@pytest.mark.parametrize("alias", aliases.ALIASES)
def test_an_alias_is_a_known_model_under_its_real_name(alias: str) -> None:
    spec = find_model(alias)
    assert spec.name == aliases.ALIASES[alias]
    assert spec.identity == find_model(spec.name).identity
    assert find_model(alias.upper()).name == spec.name
    assert timm_models.resolve(alias) is None  # timm's own names are never given another meaning


def test_aliases_are_not_listed_twice() -> None:
    names = [spec.name for spec in list_models()]
    assert len(names) == len(set(names))
    assert not set(names) & set(aliases.ALIASES)


def test_what_the_seed_studies_compared_is_here() -> None:
    assert {study: len(rows) for study, rows in aliases.SEED_MODELS.items()} == {
        "MiniVision": 3,
        "CIFAR-10 transfer benchmarks": 4,
        "cifar10-image-classification": 5,
        "ViT-B16 from scratch": 2,
        "Caltech256 vs CIFAR100": 11,
    }
    for rows in aliases.SEED_MODELS.values():
        for real in rows.values():
            assert find_model(real).name == real


def test_bare_timm_names_keep_timms_meaning() -> None:
    for name in ("resnet18", "resnet50", "efficientnet_b0", "pvt_v2_b3"):
        assert find_model(name).name.startswith(f"{name}.")
    assert find_model("resnet18").name == "resnet18.a1_in1k"


def test_near_misses_are_told() -> None:
    with pytest.raises(ConfigError, match="alexnet"):
        find_model("alexnett")
