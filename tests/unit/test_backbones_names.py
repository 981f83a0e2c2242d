"""Names of models: what the packaged index says of them, and that nothing else reaches a library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backbench import registry as catalog
from backbench.backbones import timm_models, torchvision_models
from backbench.backbones.core import defaults, model_index
from backbench.errors import ConfigError


def test_a_name_with_and_without_its_tag() -> None:
    spec = timm_models.resolve("resnet50.a1_in1k")
    assert spec is not None
    assert spec.name == "resnet50.a1_in1k"
    assert spec.pretrained_on == "ImageNet-1k"
    assert spec.input_size == 224
    assert spec.licence == "apache-2.0"
    assert spec.num_parameters == 23_508_032  # 25.6 M with the head that is not used
    assert spec.flops == pytest.approx(8.2e9, rel=0.02)
    assert spec.download_bytes == 4 * 25_557_032
    for other in ("resnet50", "timm/resnet50", "timm/resnet50.a1_in1k"):
        found = timm_models.resolve(other)
        assert found is not None
        assert found.name == spec.name


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("vit_base_patch14_dinov2.lvd142m", "LVD-142M"),
        ("vit_base_patch16_clip_224.openai", "OpenAI CLIP's 400 M images"),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "ImageNet-21k, ImageNet-1k"),
        ("convnext_nano.in12k_ft_in1k", "ImageNet-12k, ImageNet-1k"),
        ("vit_small_patch16_224.dino", "ImageNet-1k"),
        ("tf_efficientnet_b0.ns_jft_in1k", "JFT-300M, ImageNet-1k"),
        ("vit_base_patch16_siglip_224.v2_webli", "WebLI"),
    ],
)
def test_what_tags_say_of_the_training_images(name: str, data: str) -> None:
    spec = timm_models.resolve(name)
    assert spec is not None
    assert spec.pretrained_on == data


def test_dinov2_keeps_its_own_input_size() -> None:
    spec = timm_models.resolve("vit_base_patch14_dinov2.lvd142m")
    assert spec is not None
    assert spec.input_size == 518


def test_torchvision_names() -> None:
    spec = torchvision_models.resolve("torchvision/resnet18")
    assert spec is not None
    assert spec.num_parameters == 11_176_512
    assert spec.flops == pytest.approx(3.63e9, rel=0.02)
    assert torchvision_models.resolve("resnet18") is None
    assert torchvision_models.resolve("torchvision/resnet81") is None
    assert torchvision_models.resolve("torchvision/torchvision/resnet18") is None


def test_the_nearest_name_is_offered() -> None:
    for wrong, right in (
        ("resnet50.a1_in2k", "resnet50.a1_in1k"),
        ("ResNet50.A1_IN1K", "resnet50.a1_in1k"),
        ("torchvision/resnet19", "torchvision/resnet18"),
        ("tiny_cn", "tiny_cnn"),
    ):
        with pytest.raises(ConfigError, match=f"'{right}'"):
            catalog.find_model(wrong)


def test_everything_listed_is_found_again() -> None:
    specs = catalog.list_models()
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("torchvision/") for name in names) == 80
    unmarked = {spec.name for spec in specs if spec.pretrained_on is None}
    assert {"pixels", "tiny_cnn", "tiny_vit", "untrained"} <= unmarked
    assert len(names) > 1500
    for spec in specs:
        found = catalog.find_model(spec.name)
        assert (found.name, found.num_parameters, found.flops) == (spec.name, spec.num_parameters, spec.flops)
        assert spec.download_bytes == 0 or spec.pretrained_on
        assert spec.num_parameters is not None
        assert spec.is_control or (spec.input_size and spec.licence != "")


def test_listing_imports_no_library() -> None:
    code = (
        "import sys; from backbench.registry import list_models, find_model\n"
        "from backbench.backbones.core import defaults\n"
        "assert len(list_models()) > 1500; defaults.is_on_disk(find_model('resnet50')); find_model('tiny_vit')\n"
        "defaults.default_models('cpu')\n"
        "found = {'torch', 'timm', 'torchvision', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_index_agrees_with_the_libraries() -> None:
    import timm
    from timm.models import get_pretrained_cfg
    from torchvision import models

    if timm.__version__ != model_index.index_version("timm"):
        pytest.skip("the index was made from another version of timm")
    rows = model_index.rows_of("timm")
    for name in sorted(rows)[::97]:
        config = get_pretrained_cfg(name)
        assert (rows[name]["height"], rows[name]["width"]) == config.input_size[1:]
        assert rows[name]["crop_fraction"] == config.crop_pct
        assert tuple(rows[name]["mean"]) == config.mean
    assert set(rows) >= {
        name for name in timm.list_pretrained() if name.startswith(("resnet", "vit_", "convnext"))
    }
    for name in ("resnet50", "vit_tiny_patch16_224", "mobilenetv3_large_100"):
        assert model_index.default_tag(name) == get_pretrained_cfg(name).tag

    for name, row in model_index.rows_of("torchvision").items():
        weights = models.get_model_weights(name).DEFAULT
        transforms = weights.transforms()
        preprocess = torchvision_models.decide_preprocess(row)
        assert row["url"] == weights.url
        assert preprocess.size == (transforms.crop_size[0], transforms.crop_size[0])
        assert int(preprocess.size[0] / preprocess.crop_fraction) == transforms.resize_size[0]
        assert list(preprocess.mean) == list(transforms.mean)
        assert list(preprocess.std) == list(transforms.std)
        assert preprocess.interpolation == transforms.interpolation.value


def test_the_index_is_small() -> None:
    from importlib.resources import files

    assert len(files("backbench.backbones").joinpath("model_index.json.gz").read_bytes()) < 200_000


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_default_models_are_there_and_varied(device: str) -> None:
    names = defaults.default_models(device)
    specs = [catalog.find_model(name) for name in names]
    assert [spec.name for spec in specs] == names  # full names, with their tags
    assert len({spec.pretrained_on for spec in specs}) >= 3
    assert all(spec.flops is not None and spec.licence for spec in specs)
    assert not any("-nc-" in (spec.licence or "") for spec in specs)  # nobody should be led into one unasked
    if device == "cpu":
        assert max(spec.flops or 0 for spec in specs) < 10e9
        assert sum(spec.download_bytes for spec in specs) < 400e6


def test_what_needs_a_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("resnet50.a1_in1k", "gcvit_base.in1k", "torchvision/resnet18"):
        assert not defaults.is_on_disk(catalog.find_model(name))
    for name in ("tiny_cnn", "majority", "pixels"):
        assert defaults.is_on_disk(catalog.find_model(name))
    snapshot = tmp_path / "models--timm--resnet50.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert not defaults.is_on_disk(catalog.find_model("resnet50.a1_in1k"))  # of no known revision
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert defaults.is_on_disk(catalog.find_model("resnet50.a1_in1k"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    assert defaults.is_on_disk(catalog.find_model("torchvision/resnet18"))
