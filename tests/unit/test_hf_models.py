"""Models of transformers: small ones with random weights, written and read back as the library does it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbench.backbones import hf_models
from backbench.backbones.core.build import Build
from backbench.backbones.core.parts import parts_of
from backbench.backbones.core.rebuild import make_random, rebuild
from backbench.backbones.core.stages import stages_of
from backbench.backbones.loaders import hf as hf_body
from backbench.backbones.loaders.hf_preprocess import read_preprocess
from backbench.classifier.bundle import load_bundle, write_bundle
from backbench.classifier.classifier import Classifier
from backbench.errors import ConfigError, ModelError
from backbench.heads.head_modules import make_linear
from backbench.inference.resize import prepare_batch
from backbench.registry import find_model
from backbench.training.lora import add_lora, merge_lora

transformers = pytest.importorskip("transformers")

SIZE = 32
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIZE,
    "patch_size": 8,
}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def save(folder: Path, kind: str, *, with_head: bool = False, **more: Any) -> Path:
    """A model folder as transformers writes it; random weights of a fixed seed."""
    settings = {"vit": VIT, "dinov2": {**VIT, "mlp_ratio": 2}, "resnet": RESNET}[kind] | more
    config = transformers.AutoConfig.for_model(kind, **settings)
    maker = transformers.AutoModelForImageClassification if with_head else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = maker.from_config(config).eval()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
    model.save_pretrained(folder)
    processor: Any
    if kind == "resnet":
        processor = transformers.ConvNextImageProcessor(size={"shortest_edge": SIZE}, crop_pct=0.875)
    else:
        processor = transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    processor.save_pretrained(folder)
    return folder


def picture(width: int = SIZE, height: int = SIZE) -> Image.Image:
    rows, columns = np.mgrid[:height, :width] / max(width, height)
    pixels = np.stack([np.sin(7 * rows) + 1, np.cos(5 * columns) + 1, rows * columns * 2], axis=2) * 120
    return Image.fromarray(pixels.astype(np.uint8))


def features_here(folder: Path, image: Image.Image) -> torch.Tensor:
    backbone = find_model(f"hf/{folder}").load(0)  # type: ignore[misc]
    batch = prepare_batch([np.asarray(image)], backbone.preprocess, device="cpu", exact=True)
    with torch.inference_mode():
        return backbone(batch)[0]


def outputs_there(folder: Path, image: Image.Image, maker: str = "AutoModel") -> Any:
    """What transformers' own pipeline gives for the image."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = getattr(transformers, maker).from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**processor(images=image, return_tensors="pt"))


CLASS_TOKEN: Callable[[Any], torch.Tensor] = lambda said: said.last_hidden_state[0, 0]  # noqa: E731
POOLED: Callable[[Any], torch.Tensor] = lambda said: said.pooler_output.flatten()  # noqa: E731


@pytest.mark.parametrize(
    ("kind", "expected", "dim"), [("vit", CLASS_TOKEN, 32), ("dinov2", CLASS_TOKEN, 32), ("resnet", POOLED, 32)]
)
def test_features_are_those_of_its_own_pipeline(tmp_path: Path, kind: str, expected: Any, dim: int) -> None:
    folder = save(tmp_path / "model", kind)
    image = picture() if kind != "resnet" else picture(36, 36)  # resized to 36, then cut: no pixel is resampled
    found, there = features_here(folder, image), expected(outputs_there(folder, image))
    assert found.shape == (dim,)
    assert found.std() > 0.01
    torch.testing.assert_close(found, there, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_images_of_other_shapes_are_prepared_alike(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "model", kind)
    image = picture(97, 61)
    found = features_here(folder, image)
    there = (CLASS_TOKEN if kind == "vit" else POOLED)(outputs_there(folder, image))
    assert torch.cosine_similarity(found, there, dim=0) > 0.9999


def test_a_classifier_is_left_aside_and_can_be_had(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "vit", with_head=True, id2label={0: "cat", 1: "dog", 2: "eel"})
    spec, image = find_model(f"hf/{folder}"), picture()
    assert spec.load_head is not None
    head, features = spec.load_head(), features_here(folder, image).numpy()
    there = outputs_there(folder, image, "AutoModelForImageClassification").logits[0]
    assert head.classes == ("cat", "dog", "eel")
    np.testing.assert_allclose(features @ head.weights.T + head.bias, there, atol=1e-4)


def test_a_model_without_a_classifier_says_so(tmp_path: Path) -> None:
    spec = find_model(f"hf/{save(tmp_path / 'model', 'vit')}")
    with pytest.raises(ModelError, match="without a classifier"):
        spec.load_head()  # type: ignore[misc]


def test_facts_are_read_from_the_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "mine", "vit")
    (folder / "README.md").write_text("---\ntags:\n- vision\nlicense: apache-2.0\n---\n# Mine\nlicense: no\n")
    spec = find_model(str(folder))  # without hf/ too
    backbone = spec.load(0)  # type: ignore[misc]
    facts = backbone.facts
    assert (spec.name, spec.licence, spec.input_size) == ("hf/mine", "apache-2.0", SIZE)
    assert (facts.name, facts.licence, facts.pretrained_on) == ("hf/mine", "apache-2.0", "mine")
    assert facts.architecture == "transformers/vit"
    assert facts.num_parameters == sum(
        p.numel()
        for p in transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False).parameters()
    )
    assert facts.flops > 2 * 16 * 3 * (4 * 32 * 32 + 2 * 32 * 64)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_folder_of_weights_stands_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "hf--google--vit-base-patch16-224-in21k", "vit")
    monkeypatch.setenv("BACKBENCH_WEIGHTS", str(tmp_path))
    spec = find_model("hf/google/vit-base-patch16-224-in21k")
    assert (spec.name, spec.file) == ("hf/google/vit-base-patch16-224-in21k", None)
    assert spec.identity
    facts = spec.load(0).facts  # type: ignore[misc]
    assert (facts.name, facts.pretrained_on) == (spec.name, "google/vit-base-patch16-224-in21k")
    assert find_model("hf/google/another").identity == ""


def test_the_file_it_is_found_by_again_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "mine", "vit")
    monkeypatch.chdir(tmp_path)
    for name in ("hf/./mine", "./mine", f"hf/{tmp_path}/mine"):
        spec = find_model(name)
        assert spec.name == "hf/mine"
        assert find_model(spec.file or "").identity == spec.identity


def test_its_identity_is_its_content(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "vit")
    before = find_model(str(folder)).identity
    shutil.copytree(folder, tmp_path / "again")
    assert find_model(str(tmp_path / "again")).identity == before
    said = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(said | {"image_mean": [0.4, 0.5, 0.5]}))
    assert find_model(str(folder)).identity != before


@pytest.mark.parametrize(("kind", "num"), [("vit", 3), ("resnet", 4), ("dinov2", 3)])
def test_stages_are_found_in_order(tmp_path: Path, kind: str, num: int) -> None:
    body = hf_body.load_body(save(tmp_path / "model", kind), "it")[0]
    stages = stages_of(body)
    assert stages[0].name == "stem"
    assert len(stages) == num + 1
    assert [stage.name[-1] for stage in stages[1:]] == [str(number) for number in range(num)]
    assert sorted(name for stage in stages for name in stage.parameters) == sorted(dict(body.named_parameters()))


def test_parts_and_adapters_fit(tmp_path: Path) -> None:
    body = hf_body.load_body(save(tmp_path / "model", "vit"), "it")[0]
    parts = parts_of(body)
    assert len(parts["attention"]) == len(parts["mlp"]) * 2 == 3 * 8
    batch = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    names, before = list(body.state_dict()), body(batch)
    assert add_lora(body, rank=2, alpha=2.0, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(body(batch), before)
    assert merge_lora(body) == 3 * 4
    assert list(body.state_dict()) == names


@pytest.mark.parametrize("kind", ["vit", "resnet", "dinov2"])
def test_a_bundle_comes_back_without_the_folder(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "model", kind)
    backbone = find_model(str(folder)).load(0)  # type: ignore[misc]
    head = make_linear(backbone.facts.dim, 2, torch.Generator().manual_seed(0))
    classifier = Classifier(backbone, head, ("a", "b"))
    expected = classifier.predict([np.asarray(picture())])[0]
    write_bundle(tmp_path / "it.bundle", classifier)
    shutil.rmtree(folder)
    again = load_bundle(tmp_path / "it.bundle")
    assert again.predict([np.asarray(picture())])[0].confidence == pytest.approx(expected.confidence, abs=1e-6)
    started = find_model(str(tmp_path / "it.bundle")).load(0)  # type: ignore[misc]
    assert started.facts.weights_digest == backbone.facts.weights_digest


def test_what_is_rebuilt_is_the_same_and_random_ones_differ(tmp_path: Path) -> None:
    body, config, _ = hf_body.load_body(save(tmp_path / "model", "vit"), "it")
    build = Build.model_validate_json(Build(architecture="transformers/vit", config=config).model_dump_json())
    batch = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rebuild(build, body.state_dict(), where="x")(batch), body(batch))
    state = torch.get_rng_state()
    first, same, other = (make_random(build, seed)(batch) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}},
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_a_config_that_could_run_code_has_no_effect(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = save(tmp_path / "model", "vit")
    expected = features_here(folder, picture())
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | change))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    torch.testing.assert_close(features_here(folder, picture()), expected)
    assert not (tmp_path / "was-run").exists()
    kept = find_model(str(folder)).load(0).build.config  # type: ignore[misc]
    assert not set(change) & set(kept)


WINDOWS = {"image_size": SIZE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}


@pytest.mark.parametrize(
    ("kind", "settings", "num_stages"),
    [
        ("deit", VIT, 3),  # with a tuple of classifiers in the library
        ("beit", VIT, 3),
        ("swin", {**WINDOWS, "window_size": 4}, 2),
        ("convnext", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, 4),
    ],
)
def test_other_kinds_are_made_alike(kind: str, settings: dict[str, Any], num_stages: int) -> None:
    config = hf_body.clean_config(transformers.AutoConfig.for_model(kind, **settings).to_dict())
    body = hf_body.make_body(config | {"model_type": kind})
    with torch.inference_mode():
        assert body(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 32)
    assert len(stages_of(body)) == num_stages + 1


def test_neither_has_one_in_a_bundle(tmp_path: Path) -> None:
    config = hf_body.read_config(save(tmp_path / "model", "vit"))
    for change in ({"attn_implementation": "someone/kernel"}, {"_attn_implementation": "someone/kernel"}):
        made = hf_body.make_body(config | change)
        assert made.network.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    nested = hf_body.clean_config({"vision_config": {"auto_map": {"AutoModel": "evil.Model"}, "depth": 2}})
    assert nested == {"vision_config": {"depth": 2}}


def test_code_for_the_preprocessing_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "vit")
    said = json.loads((folder / "preprocessor_config.json").read_text())
    said |= {"auto_map": {"AutoImageProcessor": "evil.Processor"}, "image_processor_type": "Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    with pytest.raises(ModelError):
        features_here(folder, picture())
    assert not (tmp_path / "was-run").exists()


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "vit")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        find_model(f"hf/{folder}")


def test_weights_that_lack_a_tensor_or_hold_nan_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "model", "vit")
    whole = load_file(folder / "model.safetensors")
    name = next(key for key in whole if key.endswith("layernorm.weight"))
    save_file(
        {key: value for key, value in whole.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"lack .*layernorm\.weight"):
        features_here(folder, picture())
    save_file(whole | {name: whole[name] * float("nan")}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        features_here(folder, picture())
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="can't be loaded"):
        features_here(folder, picture())


@pytest.mark.parametrize("kind", ["bert", "timm_wrapper", "no-such-kind"])
def test_networks_that_are_not_offered_are_named(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "model", "vit")
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ModelError, match=f"'{kind}'.*Supported: .*vit"):
        features_here(folder, picture())


def test_a_folder_without_preprocessing_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"no preprocessor_config\.json.*AutoImageProcessor.*save_pretrained"):
        features_here(folder, picture())


def test_a_name_of_another_form_is_explained(tmp_path: Path) -> None:
    for name in ("hf/resnet", "hf/a/b/c", f"hf/{tmp_path}", "hf/"):
        with pytest.raises(ConfigError, match="hf/ORG/NAME"):
            find_model(name)
    assert hf_models.resolve("resnet50") is None
    assert hf_models.resolve(str(tmp_path)) is None


def test_the_hubs_cache_is_enough_and_offline_is_said(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its settings once."""
    place = tmp_path / "hub" / "models--me--mine"
    save(place / "snapshots" / "0123abc", "vit")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abc")
    code = """
from backbench.registry import find_model
from backbench.errors import ModelError
spec = find_model("hf/me/mine")
facts = spec.load(0).facts
print(spec.input_size, facts.pretrained_on, facts.source)
try:
    find_model("hf/me/other").load(0)
except ModelError as error:
    print(str(error).replace("\\n", " "))
"""
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    lines = ran.stdout.splitlines()
    assert lines[0] == f"{SIZE} me/mine me/mine at 0123abc"
    assert "looked for: config.json of me/other" in lines[1]
    assert "Offline" in lines[1]
    assert ran.stderr == ""  # no bars, no reports


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_model(str(save(tmp_path / "model", "vit")))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"backbench\[hf\]"):
        spec.load(0)  # type: ignore[misc]


BASE = {
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
    "size": {"height": 224, "width": 224},
}


def read(**changes: Any) -> Any:
    return read_preprocess(BASE | changes, "it")


def test_the_steps_of_processors_are_read() -> None:
    plain = read()
    assert (plain.size, plain.resize, plain.crop_fraction) == ((224, 224), "squash", 1.0)
    assert (plain.interpolation, plain.mean, plain.std) == ("bilinear", (0.5,) * 3, (0.25,) * 3)
    short = read(size={"shortest_edge": 256}, do_center_crop=True, crop_size={"height": 224, "width": 224})
    assert (short.size, short.resize, short.crop_fraction) == ((224, 224), "short-side", 0.875)
    convnext = read(image_processor_type="ConvNextImageProcessor", size={"shortest_edge": 224}, crop_pct=0.9)
    assert (convnext.size, convnext.resize, convnext.crop_fraction) == ((224, 224), "short-side", 0.9)
    large = read(image_processor_type="ConvNextImageProcessor", size={"shortest_edge": 384}, crop_pct=0.9)
    assert (large.size, large.resize, large.crop_fraction) == ((384, 384), "squash", 1.0)
    levit = read(
        image_processor_type="LevitImageProcessorFast",
        size={"shortest_edge": 224},
        do_center_crop=True,
        crop_size={"height": 224, "width": 224},
    )
    assert levit.crop_fraction == pytest.approx(0.875)


def test_the_scale_of_pixels_is_folded_into_mean_and_deviation() -> None:
    assert read(do_normalize=False).mean == (0.0,) * 3
    assert read(do_normalize=False).std == (1.0,) * 3
    raw = read(do_rescale=False, image_mean=[100.0] * 3, image_std=[50.0] * 3)
    assert raw.mean == pytest.approx([100 / 255] * 3)
    assert raw.std == pytest.approx([50 / 255] * 3)
    centred = read(
        image_processor_type="EfficientNetImageProcessor", rescale_factor=1 / 127.5, rescale_offset=True
    )
    pixel = 200.0
    expected = (pixel / 127.5 - 1 - 0.5) / 0.25
    assert (pixel / 255 - centred.mean[0]) / centred.std[0] == pytest.approx(expected)
    twice = read(image_processor_type="EfficientNetImageProcessor", include_top=True)
    assert twice.std == pytest.approx([0.0625] * 3)


@pytest.mark.parametrize("crop", [33, 97, 224, 289, 333])
def test_the_size_before_the_crop_comes_back_exactly(crop: int) -> None:
    for side in range(crop, crop + 60):
        found = read(
            size={"height": side, "width": side}, do_center_crop=True, crop_size={"height": crop, "width": crop}
        )
        assert int(crop / found.crop_fraction) == side


@pytest.mark.parametrize(
    "changes",
    [
        {"image_processor_type": "MobileViTImageProcessor"},
        {"do_pad": True},
        {"size": {"longest_edge": 224}},
        {"size": None},
        {"resample": 5},
        {"image_std": [0.0] * 3},
        {"do_center_crop": True, "crop_size": {"height": 256, "width": 256}},
        {"do_center_crop": True, "crop_size": {"height": 200, "width": 100}},
    ],
)
def test_what_cannot_be_said_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        read(**changes)


def test_a_folder_of_timm_names_the_card_to_write(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 7}')
    with pytest.raises(ModelError, match="write a card into the folder, with architecture = 'timm/resnet18'"):
        hf_body.read_config(tmp_path)
