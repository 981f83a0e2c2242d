"""One battery of contracts over every backbone, and hostile names."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbench import registry as catalog
from backbench.errors import BackbenchError, ConfigError

OWN = ("pixels", "tiny_cnn", "tiny_vit", "untrained")
CONTROLS = ("majority", "colour", "file-facts")
CARDS = {  # card -> dim, digest of its weights
    "mobilenetv2_100": (1280, "13123c30cdaf"),
    "resnet18_to_layer3": (256, "2a9e09fde356"),
    "squeezenet1_1": (512, "f7a01be5601f"),
    "vit_tiny_patch16_224": (192, "8c06fdf8e287"),
}


@cache
def _load(name: str, seed: int = 0) -> Any:
    spec = catalog.find_model(name)
    assert spec.load is not None
    return spec.load(seed)


@pytest.fixture(params=OWN)
def own(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[pytest.param(card, marks=pytest.mark.slow) for card in CARDS])
def card(request: pytest.FixtureRequest, shared: Path) -> str:
    return str(shared / "weights" / f"{request.param}.toml")


def _check_contract(name: str) -> None:
    import torch

    from backbench.backbones.core.selftest import check_backbone
    from backbench.backbones.core.weights import digest_weights

    spec, backbone = catalog.find_model(name), _load(name)
    facts = backbone.facts
    before = digest_weights(backbone.body)
    check_backbone(backbone)
    assert digest_weights(backbone.body) == before == facts.weights_digest
    assert facts.name == spec.name
    assert facts.num_parameters == sum(parameter.numel() for parameter in backbone.parameters())
    assert facts.pretrained_on == spec.pretrained_on
    assert facts.licence == spec.licence
    assert facts.is_control == spec.is_control
    assert facts.preprocess.size[0] == spec.input_size
    if spec.num_parameters is not None:
        assert facts.num_parameters == spec.num_parameters
    if spec.flops is not None:
        assert facts.flops == pytest.approx(spec.flops, rel=1e-3)

    images = torch.randn(5, 3, *facts.preprocess.size, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.inference_mode():
        features, permuted = backbone(images), backbone(images[order])
    assert features.dtype == torch.float32
    torch.testing.assert_close(permuted, features[order], rtol=1e-4, atol=1e-5 * float(features.abs().max()))


def test_own_backbones_keep_the_contract(own: str) -> None:
    _check_contract(own)


def test_cards_keep_the_contract(card: str) -> None:
    _check_contract(card)
    dim, digest = CARDS[Path(card).stem]
    assert _load(card).facts.dim == dim
    assert _load(card).facts.weights_digest.startswith(digest)


@pytest.mark.parametrize("name", ["tiny_cnn", "tiny_vit", "untrained"])
def test_the_seed_decides_untrained_weights(name: str) -> None:
    spec = catalog.find_model(name)
    assert spec.load is not None
    again, other = spec.load(0), spec.load(1)
    assert again.facts.weights_digest == _load(name).facts.weights_digest
    assert other.facts.weights_digest != again.facts.weights_digest
    assert again.facts.pretrained_on is None
    assert again.facts.num_parameters < 500_000


def test_features_of_untrained_networks_tell_images_apart() -> None:
    import torch

    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    for name in ("tiny_cnn", "tiny_vit"):
        with torch.inference_mode():
            features = _load(name)(images)
        assert 0.1 < float(features.abs().mean()) < 10
        assert float(features.std(0).mean()) > 0.01


def test_pixels_are_the_pixels() -> None:
    import torch

    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(_load("pixels")(images), images.reshape(2, -1))


@dataclass(frozen=True)
class _Census:
    hashes: tuple[str, ...] = ("a", "b", "c")
    facts: Any = None
    colours: Any = None


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_describe_the_census(name: str) -> None:
    spec = catalog.find_model(name)
    assert spec.is_control
    assert spec.load is None
    assert spec.describe is not None
    census = _Census(facts=np.ones((3, 5)), colours=np.zeros((3, 7)))
    values = spec.describe(census)
    assert values.dtype == np.float32
    assert values.shape == (3, {"majority": 1, "colour": 7, "file-facts": 5}[name])
    if name == "majority":
        assert len(np.unique(values)) == 1


class _Watch:
    """Notes every connection and every file that is opened while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        self.opened: list[str] = []
        self.connected: list[Any] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            self.opened.append(str(arguments[0]))
        elif event in ("socket.connect", "socket.getaddrinfo"):
            self.connected.append(arguments)


@pytest.fixture(scope="module")
def watch() -> Iterator[_Watch]:
    watch = _Watch()
    yield watch
    watch.is_on = False


HEADS = """
hf-hub: hf_hub: HF-HUB: local-dir: local-dir:/ file:// http://127.0.0.1/ timm/ torchvision/ timm/hf-hub:
torchvision/hf-hub: ../ ..%2f %252e%252e/ / ~root/ \\\\h\\
"""
BODIES = """
etc /etc/passwd x timm/resnet18.a1_in1k resnet18.a1_in1k@main resnet18#x resnet18. .a1_in1k resnet18..a1_in1k
resnet18.a1_in1k.x ｒesnet18 resnet‥18 __class__ * {0} $(id) .. CON nul.toml
"""
ODD_BODIES = ["", " resnet18", "resnet18\n", "resnet18\0", "x\0.toml", "a" * 10_000, "\x1b[31m"]


def _hostile_names(num: int) -> list[str]:
    names = [head + body for head, body in itertools.product(["", *HEADS.split()], BODIES.split() + ODD_BODIES)]
    names.remove("timm/resnet18.a1_in1k")  # the one good name among them
    return random.Random(0).sample(names, num)


def test_hostile_names_reach_no_library_no_file_and_no_network(watch: _Watch, test_scale: float) -> None:
    catalog.list_models()  # what is read for good names is read now
    names = _hostile_names(min(300, int(100 * max(1.0, test_scale))))
    for name in names:
        watch.opened.clear()
        watch.connected.clear()
        watch.is_on = True
        try:
            with pytest.raises(ConfigError):
                catalog.find_model(name)
        finally:
            watch.is_on = False
        assert watch.connected == []
        assert [path for path in watch.opened if path != str(Path(name))] == []  # a card's own path may be tried
        assert name.lower().endswith(".toml") or watch.opened == []


def test_hostile_architectures_in_cards(watch: _Watch, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    path = tmp_path / "x.toml"
    for name in _hostile_names(100):
        escaped = "".join(f"\\U{ord(character):08x}" for character in name)
        path.write_text(
            f'name = "x"\narchitecture = "timm/{escaped}"\nweights = "w.safetensors"\n'
            "[preprocess]\nsize = 32\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n"
        )
        watch.connected.clear()
        watch.is_on = True
        try:
            with pytest.raises(BackbenchError):
                _load(str(path))
        finally:
            watch.is_on = False
        assert watch.connected == []
