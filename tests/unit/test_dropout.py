"""Dropout within a transformer: each kind where it belongs, in training alone, and gone afterwards."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from test_training_methods import outcome, stop_after
from torch import nn

from backbench.backbones.architectures.vit import VisionTransformer
from backbench.backbones.architectures.vit_config import ViTConfig
from backbench.config import DataConfig, MethodConfig, Recipe, RunConfig
from backbench.errors import ConfigError, Interrupted
from backbench.registry import find_method, resolve_options
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from backbench.training.dropout import dropping
from conftest import make_photos

SMALL = ViTConfig(patch=8, width=48, depth=3, heads=4, hidden=96, image_size=(32, 32))


def fractions(network: nn.Module) -> dict[str, float]:
    return {name: layer.p for name, layer in network.named_modules() if isinstance(layer, nn.Dropout) and layer.p}


@pytest.mark.parametrize("is_fused", [True, False])
def test_each_kind_drops_in_its_own_place_alone(is_fused: bool) -> None:
    torch.manual_seed(0)
    network = VisionTransformer(SMALL)
    block = network.blocks[0]
    block.attn.fused_attn = is_fused
    tokens = torch.randn(4, 17, 48)
    whole = block.attn(tokens), block.mlp(tokens)
    with dropping(network, Recipe(attention_dropout=0.3)):
        assert not torch.equal(block.attn(tokens), whole[0])
        assert torch.equal(block.mlp(tokens), whole[1])
    with dropping(network, Recipe(mlp_dropout=0.1)):
        assert torch.equal(block.attn(tokens), whole[0])
        assert 0.02 < (block.mlp(tokens) == 0).float().mean() < 0.2
        network.eval()
        assert torch.equal(block.mlp(tokens), whole[1])
    assert fractions(network) == {}


@pytest.mark.parametrize("is_fused", [True, False])
def test_dropped_attention_weights_are_made_up_for(is_fused: bool) -> None:
    """What is kept is scaled, so the mean over many draws is the attention without dropout."""
    torch.manual_seed(0)
    attention = VisionTransformer(SMALL).blocks[0].attn
    attention.fused_attn = is_fused
    tokens = torch.randn(1, 17, 48)
    plain = attention(tokens)
    attention.attn_drop.p = 0.5
    with torch.no_grad():
        drawn = torch.stack([attention(tokens) for _ in range(800)])
    assert drawn.std(0).mean() > 0.01
    assert (drawn.mean(0) - plain).abs().max() < 0.2 * plain.abs().max()


@pytest.mark.parametrize("make", [lambda: VisionTransformer(SMALL), lambda: timm.create_model("test_vit")])
def test_the_fractions_are_those_of_the_recipe_and_go_with_it(make: Any) -> None:
    network = make()
    before = network.state_dict().keys()
    recipe = Recipe(attention_dropout=0.2, mlp_dropout=0.1)
    with suppress(KeyError), dropping(network, recipe):  # whatever happens within
        found = fractions(network)
        raise KeyError
    assert set(found.values()) == {0.2, 0.1}
    num_blocks = sum(name.endswith("attn") for name, _ in network.named_modules())
    assert sum(value == 0.2 for value in found.values()) == num_blocks
    assert fractions(network) == {}
    assert network.state_dict().keys() == before


def test_a_network_without_such_places_says_so() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.1))
    with pytest.raises(ConfigError, match=r"recipe.mlp_dropout: this network has no such layers.*recipe.dropout"):
        dropping(network, Recipe(mlp_dropout=0.1)).__enter__()
    with dropping(network, Recipe(dropout=0.1)):
        pass


@pytest.mark.parametrize("option", ["attention_dropout", "mlp_dropout"])
@pytest.mark.parametrize("method", ["head", "mlp-head"])
def test_where_a_head_alone_learns_it_is_refused(method: str, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"options.recipe.{option}=0.1: only the head is trained"):
        resolve_options(find_method(method), MethodConfig(name=method, options={"recipe": {option: 0.1}}))


def test_where_it_is_off_records_and_ids_of_runs_are_as_before_it_came() -> None:
    assert Recipe().model_dump().keys().isdisjoint({"attention_dropout", "mlp_dropout"})
    digest = "4100be9dd1f916b4760b5968ed1a2760fc24fa38d5d5ffc707248e73a5214ee9"
    assert Recipe().digest() == digest
    assert Recipe(mlp_dropout=0.1).digest() != digest
    assert Recipe.model_validate(Recipe(mlp_dropout=0.1).model_dump()).mlp_dropout == 0.1


def test_a_run_with_dropout_that_was_cut_ends_with_the_same_bits(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", num=24)
    recipe = {"epochs": 2, "attention_dropout": 0.1, "mlp_dropout": 0.1, "optimizer": "adam"}

    def config(**changes: Any) -> RunConfig:
        method = MethodConfig(name="full", options={"recipe": recipe | changes})
        return RunConfig(data=DataConfig(source=str(photos)), model="tiny_vit", method=method)

    whole = adapt(config(), RunContext(tmp_path / "whole")).record
    with pytest.raises(Interrupted):
        adapt(config(), RunContext(tmp_path / "cut", stop_signal=stop_after(4)))
    resumed = adapt(config(), RunContext(tmp_path / "cut"), resume=whole.run_id).record
    assert outcome(tmp_path / "cut", resumed.run_id) == outcome(tmp_path / "whole", whole.run_id)
    for changes in ({"mlp_dropout": 0.0}, {"attention_dropout": 0.0}, {"optimizer": "adamw"}):
        other = adapt(config(**changes), RunContext(tmp_path / "other")).record
        assert other.run_id != whole.run_id
        theirs, mine = outcome(tmp_path / "other", other.run_id), outcome(tmp_path / "whole", whole.run_id)
        assert theirs["weights"] != mine["weights"], changes
