"""torchvision's models load from their published files as torchvision itself would load them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from backbench import registry as catalog
from backbench.backbones.core.model_index import rows_of, torch_file
from backbench.errors import ModelError


def _publish(name: str, state: dict[str, Any]) -> Path:
    """Put a weights file where torch.hub would have put the downloaded one."""
    import torch

    file = torch_file(rows_of("torchvision")[name]["url"])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return file


@pytest.fixture(autouse=True)
def _own_torch_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.mark.parametrize("name", ["squeezenet1_1", "densenet121", "googlenet"])
def test_the_same_network_as_torchvisions_own(name: str) -> None:
    import torch
    from torchvision import models

    from backbench.backbones.core.selftest import check_backbone
    from backbench.backbones.core.weights import digest_weights
    from backbench.backbones.loaders import torchvision as torchvision_body

    torch.manual_seed(1)
    state = torchvision_body.make_network(name).state_dict()
    if name == "densenet121":  # as it is in the published file
        old = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
        state = {old.sub(r"\1.\2", key): value for key, value in state.items() if "num_batches" not in key}
    _publish(name, state)
    expected = torchvision_body.drop_head(models.get_model(name, weights="DEFAULT")).eval()
    spec = catalog.find_model(f"torchvision/{name}")
    assert spec.load is not None
    backbone = spec.load(0)
    assert backbone.facts.weights_digest == digest_weights(expected)
    images = torch.randn(2, 3, *backbone.preprocess.size)
    with torch.no_grad():
        assert torch.equal(backbone(images), expected(images))
    check_backbone(backbone)
    assert backbone.facts.num_parameters == spec.num_parameters
    assert backbone.facts.flops == pytest.approx(spec.flops)


def test_a_published_file_that_lacks_tensors() -> None:
    from torchvision import models

    state = models.squeezenet1_1(weights=None).state_dict()
    del state["features.0.weight"]
    file = _publish("squeezenet1_1", state)
    spec = catalog.find_model("torchvision/squeezenet1_1")
    assert spec.load is not None
    with pytest.raises(ModelError, match=r"missing: features\.0\.weight") as caught:
        spec.load(0)
    assert str(file) in str(caught.value)
