"""Our convolutional networks have the size they are said to have, start well, and learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backbench.backbones.architectures.cnn import CNN, PATCH, LeNet, SmallCNN, whitening_filters
from backbench.backbones.core.measure import count_parameters, measure_body
from backbench.backbones.core.selftest import check_backbone
from backbench.backbones.loaders.own import make_untrained_body
from backbench.errors import ModelError
from backbench.registry import find_model, list_models


@pytest.mark.parametrize("name", ["cnn", "cnn_small", "lenet"])
def test_a_spec_says_what_the_network_is(name: str) -> None:
    spec = find_model(name)
    assert spec.load is not None
    backbone = spec.load(0)
    check_backbone(backbone)
    assert (spec.num_parameters, spec.flops) == (backbone.facts.num_parameters, backbone.facts.flops)
    assert backbone.facts.architecture == f"backbench/{name}"
    assert backbone.facts.pretrained_on is None
    assert backbone.facts.weights_digest == spec.load(0).facts.weights_digest
    assert backbone.facts.weights_digest != spec.load(1).facts.weights_digest
    assert find_model(f"backbench/{name}") is spec
    assert name in [row.name for row in list_models()]


def test_cost_of_a_training_image() -> None:
    body = make_untrained_body("cnn", 0).requires_grad_(False)
    dim, flops = measure_body(body, (32, 32), "cnn")
    assert dim == 256
    assert 0.2e9 < 3 * flops < 0.75e9  # forward, and twice that for the gradients


def test_the_small_network_has_the_numbers_of_the_seed_study() -> None:
    network = nn.Sequential(SmallCNN(), nn.Linear(1024, 10))
    running = sum(buffer.numel() for name, buffer in network.named_buffers() if "running" in name)
    assert count_parameters(network) + running == 34_282
    norm_eps = {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
    assert norm_eps == {1e-3}


def test_the_tutorials_network_has_its_parameters_and_works_at_other_sizes() -> None:
    network = make_untrained_body("lenet", 0)
    assert isinstance(network, LeNet)
    assert count_parameters(nn.Sequential(network, nn.Linear(84, 10))) == 62_006
    with torch.inference_mode():
        for size in ((16, 16), (32, 32), (33, 48), (64, 64)):
            assert network(torch.randn(2, 3, *size)).shape == (2, 84)


def test_halving_rounds_up_as_in_the_seed_study() -> None:
    network = SmallCNN().eval()
    assert network.stage1(torch.zeros(1, 3, 33, 31)).shape == (1, 16, 17, 16)


def test_dropout_of_the_small_network_acts_in_training_only() -> None:
    network = SmallCNN().eval()
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(batch), network(batch))
    dropped = (network.train()(batch) == 0).float().mean() - (network.eval()(batch) == 0).float().mean()
    assert 0.1 < dropped < 0.6


@torch.inference_mode()
@pytest.mark.parametrize("size", [(9, 9), (32, 32), (33, 48), (64, 64)])
def test_any_image_size(size: tuple[int, int]) -> None:
    for name, dim in (("cnn", 256), ("cnn_small", 1024)):
        network = make_untrained_body(name, 0)
        features = network(torch.randn(2, 3, *size))
        assert features.shape == (2, dim)
        assert features.isfinite().all()


def test_whitening_filters_whiten_what_they_are_made_for() -> None:
    rng = torch.Generator().manual_seed(0)
    filters = whitening_filters(PATCH)
    assert filters.shape == (12, 3, 2, 2)
    assert torch.equal(filters, whitening_filters(PATCH))
    photographs = make_photographs(400, rng)
    outputs = F.conv2d(photographs, filters)
    variances = outputs.pow(2).mean((0, 2, 3))
    assert variances.min() > 0.3
    assert variances.max() < 3.0
    flat = outputs.permute(1, 0, 2, 3).flatten(1)
    correlations = torch.corrcoef(flat) - torch.eye(12)
    assert correlations.abs().max() < 0.2
    spread = F.conv2d(photographs, torch.randn(12, 3, 2, 2, generator=rng)).pow(2).mean((0, 2, 3))
    assert spread.max() / spread.min() > 10  # what random filters give


def make_photographs(num: int, rng: torch.Generator) -> torch.Tensor:
    """Smooth noise in which neighbours and colours are alike: correlation exp(-distance / 12) and 0.92."""
    grey, colour = (torch.randn(num, channels, 32, 32, generator=rng) for channels in (1, 3))
    noise = 0.92**0.5 * grey + 0.08**0.5 * colour
    keep = torch.exp(torch.tensor(-1 / 12))
    for dim in (2, 3):
        slices = list(noise.unbind(dim))
        for index in range(1, 32):
            slices[index] = keep * slices[index - 1] + (1 - keep**2).sqrt() * slices[index]
        noise = torch.stack(slices, dim)
    return noise


def test_the_start_passes_signals_through() -> None:
    network = make_untrained_body("cnn", 0)
    assert isinstance(network, CNN)
    stem = network.stem[0]
    assert isinstance(stem, nn.Conv2d)
    assert torch.equal(stem.weight[:12], -stem.weight[12:])
    conv = network.stage2[0]
    assert isinstance(conv, nn.Conv2d)
    maps = torch.randn(1, 64, 6, 6)
    assert torch.allclose(conv(maps)[:, :64], maps, atol=1e-5)
    assert not torch.allclose(conv(maps)[:, 64:128], maps, atol=0.1)


@pytest.mark.parametrize("name", ["cnn", "cnn_small"])
def test_it_learns(name: str) -> None:
    """Twelve steps on shapes: the loss falls well under that of guessing."""
    torch.manual_seed(0)
    network = make_untrained_body(name, 0).train().requires_grad_(True)
    head = nn.Linear(256 if name == "cnn" else 1024, 2)
    rows = torch.arange(32)
    stripes = torch.stack([(rows % 8 < 4).float().expand(32, 32), (rows % 8 < 4).float().expand(32, 32).T])
    labels = torch.arange(32) % 2
    optimiser = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.02, momentum=0.9)
    losses = []
    for _ in range(12):
        batch = 0.5 * torch.randn(32, 3, 32, 32) + stripes[labels, None]
        loss = F.cross_entropy(head(network(batch)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < 0.3


def test_an_unknown_network() -> None:
    with pytest.raises(ModelError, match="Nearest: backbench/cnn"):
        make_untrained_body("cnnn", 0)
