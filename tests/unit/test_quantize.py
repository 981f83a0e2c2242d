"""An int8 backbone is much smaller, gives nearly the same features, and comes back from a bundle as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.build import Build
from backbench.backbones.core.rebuild import make_random, rebuild
from backbench.backbones.core.weights import digest_weights, plain_state, weights_bytes
from backbench.classifier.bundle import load_bundle
from backbench.config import DataConfig, MethodConfig, Preprocess, RunConfig
from backbench.errors import BudgetExceeded, ConfigError, ModelError
from backbench.inference import features, quantize
from backbench.inference.accelerate import accelerate
from backbench.inference.int8 import Int8Conv2d, LearningConv2d, input_steps, is_int8
from backbench.inference.quantize import (
    decide_kind,
    decide_schemes,
    finish_learning,
    make_learning,
    measure_ranges,
    quantize_backbone,
    rebuild_int8,
)
from backbench.inference.resize import prepare_batch
from backbench.methods import quantized
from backbench.records import folders
from backbench.records.schema import ModelFacts
from backbench.registry import find_model
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from conftest import make_photos

SIZE = 32
BUILDS = {
    "static": Build(architecture="timm/mobilenetv2_035", options={"pad_type": "same"}),
    "weight-only": Build(architecture="timm/resnet10t"),
    "dynamic": Build(architecture="timm/vit_tiny_patch16_224", options={"img_size": SIZE, "depth": 2}),
}


def make_backbone(build: Build) -> Backbone:
    body = make_random(build, 0)
    with torch.no_grad():
        for module in body.modules():  # statistics of a network that was trained
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    facts = ModelFacts(
        name="small",
        architecture=build.architecture,
        dim=len(body(torch.zeros(1, 3, SIZE, SIZE))[0]),
        preprocess=Preprocess(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        num_parameters=0,
        flops=None,
        weights_digest=digest_weights(body),
        pretrained_on=None,
    )
    return Backbone(body.eval().requires_grad_(False), facts, build)


def make_batch(seed: int = 1, num: int = 8) -> Tensor:
    return torch.randn(num, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(
    params=[("mobilenetv2", "static"), ("resnet", "weight-only"), ("vit", "dynamic"), ("vit", "weight-only")]
)
def case(request: pytest.FixtureRequest) -> tuple[Backbone, Any]:
    family, scheme = request.param
    if family == "vit":
        pytest.importorskip("torchao")
    build = {"mobilenetv2": BUILDS["static"], "resnet": BUILDS["weight-only"], "vit": BUILDS["dynamic"]}[family]
    return make_backbone(build), scheme


def cosines(first: nn.Module, second: nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        return nn.functional.cosine_similarity(first(batch), second(batch), dim=1)


def test_int8_is_small_near_frozen_and_repeats_itself(case: tuple[Backbone, Any]) -> None:
    backbone, scheme = case
    before = digest_weights(backbone)
    ranges = measure_ranges(backbone, [make_batch()])
    int8 = quantize_backbone(backbone, scheme, ranges)
    again = quantize_backbone(backbone, scheme, ranges)
    assert digest_weights(backbone) == before
    assert not is_int8(backbone)
    assert is_int8(int8)
    assert int8.facts.weights_digest == again.facts.weights_digest == digest_weights(int8.body)
    assert int8.facts.weights_digest != backbone.facts.weights_digest
    assert int8.facts.weights_bytes == weights_bytes(int8.body) < 0.4 * weights_bytes(backbone.body)
    assert int8.build is not None
    assert int8.build.scheme == scheme
    assert not int8.training
    assert not any(parameter.requires_grad for parameter in int8.parameters())
    assert cosines(backbone, int8, make_batch(2)).min() > 0.99
    assert not torch.equal(backbone(make_batch()), int8(make_batch()))
    with torch.inference_mode():
        alone = torch.cat([int8(image[None]) for image in make_batch()])
        assert (int8(make_batch()) - alone).abs().max() < 1e-4 * alone.abs().max()


def test_int8_comes_back_from_its_plain_tensors(case: tuple[Backbone, Any]) -> None:
    backbone, scheme = case
    int8 = quantize_backbone(backbone, scheme, measure_ranges(backbone, [make_batch()]))
    state = {name: tensor.clone() for name, tensor in plain_state(int8.body).items()}
    assert {type(tensor) for tensor in state.values()} == {Tensor}
    assert sum(tensor.numel() for tensor in state.values() if tensor.dtype == torch.int8) > 1000
    assert int8.build is not None
    again = rebuild_int8(int8.build, state, where="here")
    assert digest_weights(again) == int8.facts.weights_digest
    with torch.inference_mode():
        assert torch.equal(again(make_batch()), int8.body(make_batch()))
    values = next(name for name, tensor in state.items() if tensor.dtype == torch.int8)
    scale = next(name for name in state if name.endswith("scale"))
    for broken, message in (
        (state | {values: state[values].float()}, "does not fit"),
        (state | {scale: state[scale] * torch.nan}, "not finite"),
        (state | {"more": torch.zeros(1)}, "unexpected: more"),
        ({name: tensor for name, tensor in state.items() if name != scale}, f"missing: {scale}"),
    ):
        with pytest.raises(ModelError, match=message):
            rebuild_int8(int8.build, broken, where="here")
    with pytest.raises(ModelError, match="only predict"):
        rebuild(int8.build, state, where="here")


def test_the_inference_copy_gives_the_same_features(case: tuple[Backbone, Any]) -> None:
    backbone, scheme = case
    int8 = quantize_backbone(backbone, scheme, measure_ranges(backbone, [make_batch()]))
    with torch.inference_mode():
        expected = int8(make_batch())
    for precision in ("fp32", "bf16"):
        found = accelerate(int8, precision=precision)(make_batch())  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_global_settings_of_torch_stay(case: tuple[Backbone, Any]) -> None:
    import torch._inductor.config as compiler

    backbone, scheme = case
    before = (
        torch.backends.quantized.engine,
        torch.get_float32_matmul_precision(),
        dict(compiler.get_config_copy()),
    )
    quantize_backbone(backbone, scheme, measure_ranges(backbone, [make_batch()]))
    after = torch.backends.quantized.engine, torch.get_float32_matmul_precision(), dict(compiler.get_config_copy())
    assert after == before


def test_weights_and_inputs_are_rounded_to_the_steps_of_int8() -> None:
    conv = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0]]], [[[0.0]]]]))
    int8 = Int8Conv2d(conv, (-1.0, 1.55))
    assert int8.weight.flatten().tolist() == [127, 0]
    assert float(int8.input_scale) == pytest.approx(0.01)  # type: ignore[arg-type]
    assert int(int8.input_zero_point) == 100  # type: ignore[arg-type]
    given = torch.tensor([-5.0, -0.304, 0.0, 0.306, 9.0]).reshape(5, 1, 1, 1)
    found = int8(given)[:, 0].flatten()
    torch.testing.assert_close(found, torch.tensor([-1.0, -0.30, 0.0, 0.31, 1.55]), atol=1e-6, rtol=0)
    assert not int8(given)[:, 1].any()
    for low, high in ((2.0, 3.0), (-3.0, -2.0), (0.0, 0.0)):
        step, zero = input_steps(low, high)
        assert 0 <= int(zero) <= 255, "0, with which borders are padded, is none of the steps"
        assert step > 0


def test_what_learns_through_int8_computes_what_int8_will() -> None:
    backbone = make_backbone(BUILDS["static"])
    ranges = measure_ranges(backbone, [make_batch()])
    int8 = quantize_backbone(backbone, "static", ranges)
    names = make_learning(backbone.body, ranges)
    assert {name.rpartition(".")[0] for name in names} == set(ranges)
    for parameter in backbone.body.parameters():
        parameter.requires_grad_(False)
    chosen = [backbone.body.get_parameter(name).requires_grad_(True) for name in names]
    output = backbone(make_batch())
    expected = int8(make_batch())
    torch.testing.assert_close(output.detach(), expected, rtol=0, atol=1e-2 * float(expected.abs().max()))
    output.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in chosen[:4])
    assert any(isinstance(module, LearningConv2d) for module in backbone.body.modules())
    finished = finish_learning(backbone.body)
    assert digest_weights(finished) == int8.facts.weights_digest


def test_what_can_not_be_quantised_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no linear layer and no plain convolution"):
        decide_kind(nn.Flatten(), "small")
    broken = make_backbone(BUILDS["weight-only"])
    nn.init.constant_(broken.body.layer1[0].conv1.weight, float("nan"))  # type: ignore[union-attr, index]
    with pytest.raises(ModelError, match="not finite"):
        measure_ranges(broken, [make_batch()])
    with pytest.raises(ConfigError, match="Choose static, weight-only or auto"):
        decide_schemes("convolutions", "dynamic", "small")
    monkeypatch.setattr(quantize, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"backbench\[quant\]"):
        decide_kind(nn.Linear(2, 2), "small")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("int8") / "photos", num=24)


def config_for(photos: Path, model: str, **options: Any) -> RunConfig:
    method = MethodConfig(name="quantized", options=options)
    return RunConfig(data=DataConfig(source=str(photos)), model=model, method=method)


@pytest.mark.parametrize(("model", "scheme"), [("tiny_cnn", "static"), ("tiny_vit", "weight-only")])
def test_the_bundle_holds_int8_and_answers_as_the_record_says(
    model: str, scheme: str, photos: Path, tmp_path: Path
) -> None:
    if model == "tiny_vit":
        pytest.importorskip("torchao")
    adapted = adapt(config_for(photos, model), RunContext(tmp_path))
    method = adapted.record.method
    assert method is not None
    choices = method.choices
    assert choices["scheme"] == scheme
    assert json.loads((adapted.bundle / "model.json").read_text())["build"]["scheme"] == scheme
    assert 0.9 < choices["least_cosine"] <= choices["mean_cosine"] <= 1.0001
    assert choices["int8_bytes"] < 0.5 * choices["float_bytes"]
    assert (adapted.bundle / "weights.safetensors").stat().st_size < 0.6 * choices["float_bytes"]
    assert choices["int8_images_per_second"] > 0
    assert choices["float_images_per_second"] > 0
    assert abs(choices["int8_val_accuracy"] - choices["float_val_accuracy"]) < 0.3
    classifier = load_bundle(adapted.bundle)
    assert is_int8(classifier)
    predictions = folders.read_predictions(adapted.run)
    answers = classifier.predict([photos / name for name in predictions.ids], top=3)
    classifier.predict([photos / predictions.ids[0]])  # with the kept inference copy
    sharpened = predictions.probabilities ** (1 / classifier.temperature)
    expected = (sharpened / sharpened.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose([answer.confidence for answer in answers], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("pixels", {}, "has none"),
        ("tiny_cnn", {"scheme": "dynamic"}, "Choose static, weight-only or auto"),
        ("tiny_cnn", {"scheme": "weight-only", "qat_epochs": 1}, "works only for convolutional"),
        ("tiny_cnn", {"recipe": {"epochs": 3}}, "qat_epochs=3"),
        ("tiny_vit", {"scheme": "static"}, "Choose weight-only, dynamic or auto"),
        ("tiny_vit", {"qat_epochs": 2}, "works only for convolutional"),
        ("tiny_cnn", {"scheme": "statc"}, "static"),
    ],
)
def test_what_does_not_fit_is_said(
    model: str, options: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    if model == "tiny_vit":
        pytest.importorskip("torchao")
    with pytest.raises(ConfigError, match=message):
        adapt(config_for(photos, model, **options), RunContext(tmp_path))


def test_the_budget_holds_for_the_int8_features(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float features come from the cache at once, so that nothing else would end it."""
    adapt(config_for(photos, "tiny_cnn"), RunContext(tmp_path / "first"))
    monkeypatch.setattr(features, "decide_batch_size", lambda *_: 4)  # else all are done at once
    with pytest.raises(BudgetExceeded, match="Give more time"):
        adapt(config_for(photos, "tiny_cnn"), RunContext(tmp_path / "second", deadline=0.0))


def test_auto_falls_back_where_a_scheme_does_not_keep_the_features(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_wrongly(backbone: Backbone, batches: list[Tensor]) -> dict[str, tuple[float, float]]:
        return {name: (-1e-6, 0.0) for name, _ in backbone.body.named_modules()}  # nothing positive comes in

    monkeypatch.setattr(quantize, "measure_ranges", measure_wrongly)
    record = adapt(config_for(photos, "tiny_cnn"), RunContext(tmp_path)).record
    assert record.method is not None
    assert record.method.choices["scheme"] == "weight-only"
    assert any("'weight-only' was used" in warning for warning in record.warnings)
    record = adapt(config_for(photos, "tiny_cnn", scheme="static"), RunContext(tmp_path)).record
    assert record.method is not None
    assert record.method.choices["mean_cosine"] < 0.9
    assert any("changes the features strongly" in warning for warning in record.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenetv2_100", "resnet18_to_layer3", "squeezenet1_1", "vit_tiny_patch16_224"]
)
def test_real_weights_keep_their_features(shared: Path, name: str) -> None:
    if name.startswith("vit"):
        pytest.importorskip("torchao")
    load = find_model(str(shared / "weights" / f"{name}.toml")).load
    assert load is not None
    backbone = load(0)
    paths = sorted((shared / "data" / "cifar10-mini" / "train").glob("*/*.png"))[::40][:24]
    images = [np.array(Image.open(path).convert("RGB")) for path in paths]
    batches = [prepare_batch(images[first : first + 8], backbone.preprocess) for first in (0, 8, 16)]
    int8 = quantize_backbone(
        backbone,
        decide_schemes(decide_kind(backbone.body, name), "auto", name)[0],
        measure_ranges(backbone, batches[:2]),
    )
    assert int8.facts.weights_bytes < 0.4 * backbone.facts.weights_bytes
    assert cosines(backbone, int8, batches[2]).min() > 0.95  # images that the ranges were not measured on


def test_int8_that_costs_time_here_is_said_with_what_it_saves() -> None:
    choices = {"int8_images_per_second": 20.0, "float_images_per_second": 30.0, "int8_bytes": 5, "float_bytes": 20}
    assert quantized._describe_slowness(choices) == ["int8 is 1.5 times slower here, and 4.0 times smaller"]
    assert quantized._describe_slowness(choices | {"int8_images_per_second": 29.0}) == []
