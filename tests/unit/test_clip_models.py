"""Models of images and texts: a small one of open_clip, or a stand-in where that is not installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from backbench.backbones import clip_models
from backbench.backbones.core.original_head import TextHead
from backbench.backbones.core.rebuild import make_random, rebuild
from backbench.backbones.loaders import clip as clip_body
from backbench.config import MethodConfig, Preprocess
from backbench.errors import ConfigError, MissingExtra, ModelError
from backbench.heads.class_mapping import describe_classes
from backbench.methods.zeroshot import TEMPLATES, map_classes
from backbench.registry import find_method, find_model, resolve_options

SIDE, DIM = 16, 8
TINY = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class _Network(nn.Module):
    """Of the form that open_clip gives its networks."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, DIM))
        self.visual.preprocess_cfg = {  # type: ignore[assignment]
            "size": SIDE,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        }
        self.words = nn.Embedding(256, DIM)
        self.logit_scale = nn.Parameter(torch.tensor(np.log(100.0), dtype=torch.float32))

    def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
        assert normalize
        return functional.normalize(self.words(tokens).mean(dim=1), dim=-1)


def _stand_in() -> Any:
    """A module with what is used of open_clip."""

    def create_model(name: str, pretrained: str | None = None, **more: Any) -> _Network:
        network = _Network()
        if pretrained is not None:
            from safetensors.torch import load_file

            network.load_state_dict(load_file(pretrained))
        return network

    def get_tokenizer(name: str) -> Any:
        return lambda texts: torch.tensor([[ord(each) % 256 for each in f"{text:<64}"[:64]] for text in texts])

    return SimpleNamespace(
        create_model=create_model,
        get_tokenizer=get_tokenizer,
        list_models=lambda: ["tiny", "ViT-B-32"],
        list_pretrained_tags_by_model=lambda model: ["laion2b_s34b_b79k"] if model == "ViT-B-32" else [],
        get_pretrained_cfg=lambda model, tag: (
            {"hf_hub": "timm/a_clip/", "quick_gelu": True} if tag == "laion2b_s34b_b79k" else {}
        ),
    )


@pytest.fixture(params=["installed", "stand-in"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    if request.param == "installed":
        found = pytest.importorskip("open_clip")
        (tmp_path / "tiny.json").write_text(json.dumps(TINY))
        found.add_model_config(tmp_path / "tiny.json")
    else:
        found = _stand_in()
        monkeypatch.setitem(sys.modules, "open_clip", found)
        monkeypatch.setattr(clip_models, "find_spec", lambda name: found)
    return found


@pytest.fixture
def weights(library: Any, tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = library.create_model("tiny").state_dict()
    file = tmp_path / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


def test_a_file_of_weights_gives_embeddings_of_length_one(weights: Path) -> None:
    spec = find_model(f"open_clip/tiny:{weights}")
    assert spec.name == "open_clip/tiny:tiny.safetensors"
    assert spec.file == f"open_clip/tiny:{weights}"
    assert find_model(spec.file).identity == spec.identity
    assert spec.load is not None
    backbone = spec.load(0)
    assert backbone.facts.dim == DIM
    assert backbone.preprocess.size == (SIDE, SIDE)
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    values = backbone(images)
    torch.testing.assert_close(values.norm(dim=1), torch.ones(3))
    assert backbone.build is not None
    again = rebuild(backbone.build, backbone.body.state_dict(), where="the bundle")
    torch.testing.assert_close(again(images), values)
    assert not torch.allclose(make_random(backbone.build, 3)(images), values)


def test_classes_are_told_by_what_is_said_of_them(weights: Path) -> None:
    spec = find_model(f"open_clip/tiny:{weights}")
    options = resolve_options(find_method("zeroshot"), MethodConfig(name="zeroshot"))
    # type: ignore[arg-type]
    original, found = map_classes(["Water_Lilly", "113.hummingbird"], spec.load_head, options)
    assert original.classes == ("Water_Lilly", "113.hummingbird")
    assert {counterpart.source for counterpart in found.values()} == {"text"}
    assert spec.load_head is not None
    head: TextHead = spec.load_head()
    expected = head.embed([template.format("water lilly") for template in TEMPLATES]).mean(axis=0)
    cosine = original.weights[0] @ expected / np.linalg.norm(original.weights[0]) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(original.weights, axis=1) == pytest.approx(head.scale, rel=1e-5)


def test_a_person_may_say_what_a_class_looks_like() -> None:
    asked: list[str] = []

    def embed(texts: Any) -> np.ndarray:
        asked.extend(texts)
        return np.eye(4, dtype=np.float32)[[len(text) % 4 for text in texts]]

    given = {"car side": ("a car", "a car seen from the side"), "clutter": ()}
    original, found = describe_classes(
        ["car side", "cat", "clutter"], TextHead(embed, 10.0), given, ("photo of {}",)
    )
    assert asked == ["photo of a car", "photo of a car seen from the side", "photo of cat"]
    assert original.classes == ("car side", "cat")
    assert [found[name].ids for name in ("car side", "cat", "clutter")] == [("car side",), ("cat",), ()]
    with pytest.raises(ConfigError, match=r"names the class 'kat', which the data does not have\. Nearest: cat"):
        describe_classes(["cat"], TextHead(embed, 1.0), {"kat": ("x",)}, ("{}",))


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0.__class__}", "{name}"])
def test_a_template_without_its_place_is_refused(template: str) -> None:
    method = MethodConfig(name="zeroshot", options={"templates": [template]})
    with pytest.raises(ConfigError, match=r"needs one \{\} for the class"):
        resolve_options(find_method("zeroshot"), method)


@pytest.mark.parametrize("name", ["open_clip/", "open_clip/ViT-B-32", "open_clip/ViT-B-32:", "open_clip/../x:y"])
def test_other_forms_of_name_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected open_clip/MODEL:TAG or open_clip/MODEL:FILE"):
        find_model(name)


def test_mistakes_in_names_are_met_with_the_nearest(library: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean .ViT-B-32"):
        clip_body.fetch_weights("ViT-B-23", "openai", "x")
    with pytest.raises(ConfigError, match=r"Did you mean .laion2b_s34b_b79k"):
        clip_body.fetch_weights("ViT-B-32", "laion2b_s34b_b79", "x")
    with pytest.raises(ConfigError, match=r"no such file '.*none\.safetensors'"):
        find_model(f"open_clip/tiny:{tmp_path}/none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"<html>")
    with pytest.raises(ModelError, match=r"damaged\.safetensors can't be opened as open_clip/tiny"):
        find_model(f"open_clip/tiny:{damaged}").load(0)  # type: ignore[misc]


def test_weights_of_a_folder_come_before_the_hub(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKBENCH_WEIGHTS", str(tmp_path))
    weights.rename(tmp_path / "open_clip--tiny--mine.safetensors")
    spec = find_model("open_clip/tiny:mine")
    assert spec.name == "open_clip/tiny:mine"
    assert spec.identity
    assert spec.load is not None
    assert spec.load(0).facts.dim == DIM


def test_what_is_missing_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_models, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'backbench\[clip\]'"):
        find_model("open_clip/ViT-B-32:openai")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtra, match=r"pip install 'backbench\[clip\]'"):
        clip_body.import_open_clip()


def test_resizing_that_we_do_not_do_is_refused() -> None:
    network = SimpleNamespace(visual=SimpleNamespace(preprocess_cfg={"size": 32, "resize_mode": "longest"}))
    with pytest.raises(ModelError, match="uses resize mode 'longest'"):
        clip_body.read_preprocess(network)
    said = {
        "size": (32, 48),
        "resize_mode": "squash",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "interpolation": "bilinear",
    }
    found = clip_body.read_preprocess(SimpleNamespace(visual=SimpleNamespace(preprocess_cfg=said)))
    assert found == Preprocess(
        size=(32, 48), resize="squash", interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
    )
