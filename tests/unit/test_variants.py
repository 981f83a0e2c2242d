"""Models at other input sizes, and without their training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backbench.backbones.core import measure
from backbench.backbones.core.base import Backbone
from backbench.backbones.core.build import Build
from backbench.backbones.core.defaults import is_on_disk
from backbench.backbones.core.measure import Origin, make_backbone, measure_body
from backbench.backbones.core.model_index import hub_cache_folder, rows_of, torch_file
from backbench.backbones.core.rebuild import make_random, rebuild
from backbench.backbones.core.resized import at_size
from backbench.backbones.own import GOOGLE_URL
from backbench.config import Preprocess
from backbench.data.survey import Range, Survey
from backbench.errors import ConfigError, ModelError
from backbench.registry import base_name, find_model
from backbench.runs.estimate import make_plan


def make(architecture: str, size: int) -> Backbone:
    build = Build(architecture=architecture)
    return make_backbone(
        make_random(build, 0),
        name="x",
        architecture=architecture,
        preprocess=Preprocess(size=(size, size)),
        origin=Origin("something"),
        build=build,
    )


@pytest.mark.parametrize(
    ("architecture", "own", "size"),
    [
        ("timm/resnet10t", 176, 64),
        ("timm/vit_tiny_patch16_224", 224, 64),
        ("torchvision/vit_b_16", 224, 64),
        ("backbench/vit_tiny_patch16", 224, 64),
        ("timm/vit_small_patch14_dinov2", 518, 56),
        ("timm/swin_tiny_patch4_window7_224", 224, 64),
    ],
)
def test_another_size_can_be_put_into_a_bundle_and_comes_back(architecture: str, own: int, size: int) -> None:
    backbone = make(architecture, own)
    resized = at_size(backbone, f"x@{size}", size)
    assert resized.preprocess.size == (size, size)
    assert resized.facts.name == f"x@{size}"
    assert resized.facts.pretrained_on == "something"
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32))
    assert resized.build is not None
    again = rebuild(resized.build, resized.body.state_dict(), where="here")
    with torch.no_grad():
        torch.testing.assert_close(again(images), resized(images))


def test_a_network_built_for_one_size_is_refused() -> None:
    with pytest.raises(ModelError, match="does not run on images of 64 x 64"):
        at_size(make("timm/mixer_s32_224", 224), "x@64", 64)


def test_an_untrained_network_is_built_for_another_size_instead() -> None:
    spec = find_model("resmlp_12_224.fb_in1k@random@64")
    assert spec.load is not None
    assert spec.load(0).preprocess.size == (64, 64)


@pytest.mark.parametrize(
    "name", ["resnet10t.c3_in1k", "vit_tiny_patch16_224.augreg_in21k", "swin_tiny_patch4_window7_224.ms_in1k"]
)
def test_an_untrained_network_at_another_size_is_the_one_that_is_resized(name: str) -> None:
    whole, small = find_model(f"{name}@random"), find_model(f"{name}@random@64")
    assert whole.load is not None
    assert small.load is not None
    expected = at_size(whole.load(3), small.name, 64)
    given = small.load(3)
    assert given.facts == expected.facts
    assert given.build == expected.build


def test_random_weights_need_no_download_and_follow_the_seed() -> None:
    spec = find_model("resnet18.a1_in1k@random@64")
    assert spec.load is not None
    assert (spec.name, spec.pretrained_on, spec.download_bytes) == ("resnet18.a1_in1k@random@64", None, 0)
    backbones = [spec.load(seed) for seed in (0, 0, 1)]
    digests = [backbone.facts.weights_digest for backbone in backbones]
    assert digests[0] == digests[1] != digests[2]
    assert backbones[0].preprocess.size == (64, 64)
    assert backbones[0].facts.pretrained_on is None
    assert backbones[0].preprocess.mean == pytest.approx((0.485, 0.456, 0.406))


def test_torchvision_too() -> None:
    spec = find_model("torchvision/resnet18@random")
    assert spec.load is not None
    assert spec.load(0).preprocess.crop_fraction == pytest.approx(224 / 256)


def test_what_follows_the_at_is_checked() -> None:
    for name in ("resnet18@", "resnet18@7", "resnet18@sixty", "resnet18@99999"):
        with pytest.raises(ConfigError, match="input size in pixels"):
            find_model(name)
    with pytest.raises(ConfigError, match="baseline"):
        find_model("majority@random")
    with pytest.raises(ConfigError, match="resnet81"):
        find_model("resnet81@random")


def test_what_is_untrained_anyway_stays_itself() -> None:
    assert find_model("tiny_cnn@random").name == "tiny_cnn"


def test_networks_are_measured_once_for_each_size_and_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int]] = []

    def count(body: nn.Module, size: tuple[int, int], name: str) -> tuple[int, float]:
        measured.append(size)
        return measure_body(body, size, name)

    monkeypatch.setattr(measure, "measure_body", count)
    monkeypatch.setattr(measure, "_MEASURED", {})
    names = ("tiny_cnn@16", "tiny_cnn@24", "tiny_cnn@16", "tiny_vit@16")
    found = [find_model(name).load(0) for name in names]  # type: ignore[misc]
    own = find_model("tiny_cnn").load(0).preprocess.size  # type: ignore[misc]
    assert sorted(measured) == sorted([own, (16, 16), (24, 24), own, (16, 16)])
    assert [backbone.facts.flops for backbone in found] == [
        measure_body(backbone.body, backbone.preprocess.size, "x")[1] for backbone in found
    ]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any weights."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "BACKBENCH_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def put_in_hub_cache(repo: str, *files: str) -> None:
    place = hub_cache_folder() / f"models--{repo.replace('/', '--')}"
    for file in ("refs/main", *(f"snapshots/abc/{file}" for file in files)):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_text("abc")


def put_torch_file(url: str) -> None:
    torch_file(url).parent.mkdir(parents=True, exist_ok=True)
    torch_file(url).write_bytes(b"weights")


GCVIT = rows_of("timm")["gcvit_base.in1k"]["url"]
RESNET18 = rows_of("torchvision")["resnet18"]["url"]


@pytest.mark.parametrize("change", ["", "@160", "@random", "@random@160"])
@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "resnet50", "timm/resnet50", "gcvit_base.in1k",
                                  "torchvision/resnet18", "vit_b16", "backbench/vit_base_patch16.in21k",
                                  "hf/google/vit-base-patch16-224"])  # fmt: skip
def test_a_variant_has_the_weights_of_its_model(name: str, change: str, bare: Path) -> None:
    is_made_here = "random" in change and not name.startswith(("hf/", "backbench/"))
    spec = find_model(name + change)
    assert is_on_disk(spec) == is_made_here
    size = find_model(name).download_bytes
    plan = make_plan([spec], SOME_IMAGES, device="cpu", precision="fp32")
    assert plan.download_bytes == (0 if is_made_here else size)
    put_in_hub_cache("timm/resnet50.a1_in1k", "model.safetensors")
    put_in_hub_cache("timm/vit_base_patch16_224.orig_in21k", "pytorch_model.bin")
    put_in_hub_cache("google/vit-base-patch16-224", "config.json", "model.safetensors")
    for url in (GCVIT, RESNET18, GOOGLE_URL):
        put_torch_file(url)
    assert is_on_disk(spec)
    assert make_plan([spec], SOME_IMAGES, device="cpu", precision="fp32").download_bytes == 0


SOME_IMAGES = Survey("some", 10, 2, Range(5, 5, 5), {"train": 6, "val": 2, "test": 2})


def test_weights_that_several_variants_share_are_fetched_once(bare: Path) -> None:
    models = [find_model(f"torchvision/resnet18{change}") for change in ("", "@32", "@64", "@random")]
    plan = make_plan(models, SOME_IMAGES, device="cpu", precision="fp32")
    assert plan.download_bytes == models[0].download_bytes


def test_a_download_of_unknown_size_is_said(bare: Path) -> None:
    models = [find_model(name) for name in ("hf/google/vit@64", "torchvision/resnet18@32", "hf/google/vit")]
    plan = make_plan(models, SOME_IMAGES, device="cpu", precision="fp32")
    assert "47 MB and hf/google/vit (size unknown) to download" in plan.sentences(1)[0]
    put_torch_file(RESNET18)
    plan = make_plan(models, SOME_IMAGES, device="cpu", precision="fp32")
    assert "x 1 method, hf/google/vit (size unknown) to download" in plan.sentences(1)[0]


def test_what_follows_the_at_is_stripped_in_one_place() -> None:
    for name in ("resnet50.a1_in1k", "hf/google/vit", "./my@folder/net", "open_clip/ViT-B-32:laion2b_s34b_b79k"):
        assert {base_name(name + change) for change in ("", "@160", "@random", "@random@64")} == {name}


def test_an_at_in_the_name_of_a_file_is_none_of_a_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my@64").mkdir()
    with pytest.raises(ConfigError, match="'my@64' is not a bundle"):
        find_model("./my@64")
    for name in ("no@card.toml", "no@card.toml@64"):
        with pytest.raises(ConfigError, match=r"card 'no@card\.toml' can't be read"):
            find_model(name)
    for name in ("hf/google/vit@64", "hf/google/vit@random@64"):
        assert find_model(name).name == name
