"""Checkpoints as trainers write them: which tensors are taken, and what is said of those that are not."""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pathlib
import sys
import types
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbench.backbones import card
from backbench.errors import BackbenchError, ConfigError, ModelError

CARD = """
name = "it"
architecture = "{architecture}"
weights = "{weights}"
{more}
[preprocess]
size = {size}
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def _network(name: str = "test_resnet", seed: int = 0, **options: Any) -> Any:
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(name, pretrained=False, **options)
        for key, buffer in network.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Any:
    return _network(num_classes=7)


@pytest.fixture(scope="module")
def state(network: Any) -> dict[str, Any]:
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def other() -> dict[str, Any]:
    return dict(_network(num_classes=7, seed=1).state_dict())


def _pre(prefix: str, state: dict[str, Any]) -> OrderedDict[str, Any]:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def _write(
    folder: Path,
    content: object,
    *,
    name: str = "w.pth",
    architecture: str = "timm/test_resnet",
    more: str = "",
    size: int = 64,
) -> str:
    import torch

    if content is not None:
        torch.save(content, folder / name)
    text = CARD.format(architecture=architecture, weights=name, more=more, size=size)
    (folder / "it.toml").write_text(text)
    return str(folder / "it.toml")


def _load(path: str) -> Any:
    spec = card.resolve(path)
    assert spec is not None
    assert spec.load is not None
    assert spec.check is not None
    spec.check()  # as a ranking does before any work
    return spec.load(0)


def _complaint(path: str, kind: type[BackbenchError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        _load(path)
    message = str(caught.value)
    assert "\x1b" not in message
    assert "Weights only load failed" not in message
    return message


def _holds(backbone: Any, state: dict[str, Any]) -> bool:
    """Whether the backbone runs with these tensors."""
    own = backbone.body.state_dict()
    return all(bool((own[name] == state[name].to(own[name].dtype)).all()) for name in own if name in state)


WRAPPED = {
    "plain": lambda s: s,
    "parallel": lambda s: {"state_dict": _pre("module.", s), "epoch": 3, "arch": "x"},
    "compiled": lambda s: _pre("_orig_mod.", s),
    "compiled parallel": lambda s: _pre("_orig_mod.module.", s),
    "parallel of compiled": lambda s: _pre("module._orig_mod.", s),
    "compiled layers": lambda s: {
        name.replace("layer1.0.", "layer1.0._orig_mod."): each for name, each in s.items()
    },
    "lightning": lambda s: {
        "state_dict": _pre("model.", s) | {"loss.weight": s["bn1.weight"]},
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1, "args": argparse.Namespace(lr=0.1)},
    },
    "nested prefixes": lambda s: {"state_dict": _pre("module.model.backbone.", s)},
    "module.model": lambda s: {"model": _pre("module.model.", s)},
    "mmpretrain": lambda s: {
        "meta": {"epoch": 3},
        "state_dict": _pre("backbone.", s) | {"head.fc.weight": s["fc.weight"], "head.fc.bias": s["fc.bias"]},
    },
    "moco v2": lambda s: {
        "state_dict": _pre("module.encoder_q.", s)
        | _pre("module.encoder_k.", {name: each * 0 for name, each in s.items()})
        | {"module.queue": s["fc.weight"]}
    },
    "moco v3": lambda s: {
        "state_dict": _pre("module.base_encoder.", s)
        | _pre("module.momentum_encoder.", {name: each * 0 for name, each in s.items()})
    },
    "timm": lambda s: {
        "state_dict": s,
        "optimizer": {"state": {0: {"exp_avg": s["conv1.0.weight"]}}, "param_groups": [{"lr": 0.1}]},
        "amp_scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=0.1, model="test_resnet", output=pathlib.PurePosixPath("/out")),
        "epoch": 9,
        "metric": np.float64(80.1),
    },
    "tutorial": lambda s: {"model_state_dict": s, "optimizer_state_dict": {}, "epoch": 1, "loss": 0.2},
    "net": lambda s: {"net": s, "acc": 90.0, "epoch": 5},
    "deep": lambda s: {"checkpoint": {"models": {"classifier": _pre("net.", s)}}},
    "timm wrapper": lambda s: _pre("timm_model.", s),
    "encoder": lambda s: {"model": _pre("encoder.", s) | {"decoder.0.weight": s["fc.weight"]}},
    "only a teacher": lambda s: {"teacher": _pre("backbone.", s) | {"head.mlp.0.weight": s["fc.weight"]}},
    "figures beside the tensors": lambda s: s | {"epoch": 3, "best": 0.9},
    "no counters": lambda s: {name: each for name, each in s.items() if "num_batches" not in name},
    "no head": lambda s: {name: each for name, each in s.items() if not name.startswith("fc.")},
    "a deeper head": lambda s: {
        **{name: each for name, each in s.items() if not name.startswith("fc.")},
        "fc.0.weight": s["fc.weight"],
        "fc.3.weight": s["fc.weight"],
    },
    "half": lambda s: {name: each.half() if each.is_floating_point() else each for name, each in s.items()},
    "double": lambda s: {name: each.double() if each.is_floating_point() else each for name, each in s.items()},
    "ordered groups": lambda s: {"state_dict": s, "log": collections.defaultdict(list, {"loss": [1.0, 2.0]})},
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrapped_weights_are_read(tmp_path: Path, state: dict[str, Any], wrap: str) -> None:
    backbone = _load(_write(tmp_path, WRAPPED[wrap](state), name="w.ckpt"))
    if wrap == "half":
        state = {name: each.half() if each.is_floating_point() else each for name, each in state.items()}
    assert _holds(backbone, state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors"])
def test_suffixes(tmp_path: Path, state: dict[str, Any], suffix: str) -> None:
    from safetensors.torch import save_file

    if suffix == ".safetensors":
        save_file(_pre("module.", state), tmp_path / f"w{suffix}")
    path = _write(tmp_path, None if suffix == ".safetensors" else _pre("module.", state), name=f"w{suffix}")
    backbone = _load(path)
    assert _holds(backbone, state)
    assert backbone.facts.checkpoint == "prefix 'module.' removed, classifier of 7 classes not used"


def test_the_content_and_not_the_name_says_what_a_file_is(tmp_path: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(state, tmp_path / "w.bin")
    assert _holds(_load(_write(tmp_path, None, name="w.bin")), state)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_parts(tmp_path: Path, state: dict[str, Any], kind: str) -> None:
    import torch
    from safetensors.torch import save_file

    names = list(state)
    halves = {"a": names[: len(names) // 2], "b": names[len(names) // 2 :]}
    for part, held in halves.items():
        tensors = {name: state[name].contiguous() for name in held}
        if kind == "bin":
            torch.save(tensors, tmp_path / f"{part}.bin")
        else:
            save_file(tensors, tmp_path / f"{part}.safetensors")
    index = tmp_path / f"model.{kind}.index.json"
    parts = {name: f"{part}.{kind}" for part, held in halves.items() for name in held}
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    path = _write(tmp_path, None, name=index.name)
    first = card.resolve(path)
    assert first is not None
    assert _holds(_load(path), state)
    (tmp_path / f"b.{kind}").write_bytes((tmp_path / f"a.{kind}").read_bytes())
    again = card.resolve(path)
    assert again is not None
    assert again.identity != first.identity  # a part counts as the whole file does
    (tmp_path / f"b.{kind}").unlink()
    assert f"b.{kind}" in _complaint(path)
    for bad in ('{"weight_map": {"x": "../a.bin"}}', '{"weight_map": {"x": 3}}', "[]", "{", '{"weight_map": []}'):
        index.write_text(bad)
        assert "model." in _complaint(path)


def test_averaged_weights_are_taken_and_said(tmp_path: Path, state: dict[str, Any], other: dict[str, Any]) -> None:
    for raw, averaged in (("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema")):
        path = _write(tmp_path, {raw: state, averaged: _pre("module.", other) | {"n_averaged": state["fc.bias"]}})
        backbone = _load(path)
        assert _holds(backbone, other)
        assert backbone.facts.checkpoint == (
            f"averaged weights (the raw ones, under '{raw}', are not used), key '{averaged}', prefix 'module.' "
            "removed, classifier of 7 classes not used"
        )
        backbone = _load(_write(tmp_path, {raw: state, averaged: other}, more=f'key = "{raw}"'))
        assert _holds(backbone, state)
        assert f"key '{raw}' of the card" in backbone.facts.checkpoint
    backbone = _load(_write(tmp_path, {"state_dict": _pre("model.", state) | _pre("ema_model.module.", other)}))
    assert _holds(backbone, other)


def test_averages_that_are_not_whole_are_not_taken(tmp_path: Path, state: dict[str, Any]) -> None:
    part = {name: each * 0 for name, each in state.items() if "running" not in name}
    backbone = _load(_write(tmp_path, {"state_dict": state, "state_dict_ema": part}))
    assert _holds(backbone, state)
    assert "raw weights (the averaged ones, under 'state_dict_ema', lack" in backbone.facts.checkpoint


def test_of_two_networks_the_card_chooses(tmp_path: Path, state: dict[str, Any], other: dict[str, Any]) -> None:
    both = {"student": _pre("backbone.", state), "teacher": _pre("backbone.", other)}
    assert 'key = "teacher"' in _complaint(_write(tmp_path, both))
    for key, expected in (("student", state), ("teacher", other)):
        assert _holds(_load(_write(tmp_path, both, more=f'key = "{key}"')), expected)
    one = {"state_dict": _pre("online.net.", state) | _pre("target.net.", other)}
    assert 'prefix = "online.net."' in _complaint(_write(tmp_path, one))
    for prefix in ("target.net.", "target.net"):
        assert _holds(_load(_write(tmp_path, one, more=f'prefix = "{prefix}"')), other)


def test_a_key_or_prefix_that_is_not_there(tmp_path: Path, state: dict[str, Any]) -> None:
    message = _complaint(_write(tmp_path, {"a": {"net": state}}, more='key = "nett"'))
    assert "There are tensors under 'a.net'" in message
    assert "leave 'key' out" in _complaint(_write(tmp_path, state, more='key = "x"'))
    message = _complaint(_write(tmp_path, _pre("net.", state), more='prefix = "nett."'))
    assert "Names start with 'net'" in message
    assert "missing" in _complaint(_write(tmp_path, _pre("a.", state), more='prefix = ""'))


def test_a_larger_network_behind_a_prefix_does_not_pass(tmp_path: Path) -> None:
    deeper = dict(_network("test_vit", num_classes=7, depth=8).state_dict())
    path = _write(tmp_path, _pre("backbone.", deeper), architecture="timm/test_vit", size=160)
    assert "It has 8 blocks and the network has" in _complaint(path)


def _vit(seed: int = 0, **options: Any) -> dict[str, Any]:
    return dict(_network("test_vit", seed=seed, num_classes=7, **options).state_dict())


def _without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: each for name, each in state.items() if not name.startswith(names)}


def _blocks_of_transformers(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "vit.embeddings.cls_token": state["cls_token"],
        "vit.embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        **{
            f"vit.encoder.layer.{n}.attention.attention.query.weight": state["cls_token"]
            for n in range(3)
        },
    }  # fmt: skip


def _torchvision_vit() -> dict[str, Any]:
    from torchvision.models import VisionTransformer

    return dict(VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=3).state_dict())


MISFITS = {
    "another grid": (lambda: _vit(img_size=96), "write options.img_size = 96 and preprocess.size = 96"),
    "grey stem": (lambda: _vit(in_chans=1), "write in_chans = 1 under [options]"),
    "four channels": (lambda: _vit(in_chans=4), "takes images of 4 channels"),
    "transformers": (lambda: _blocks_of_transformers(_vit()), "hf/FOLDER"),
    "torchvision": (_torchvision_vit, "architecture = 'torchvision/...'"),
    "average": (lambda: _vit(global_pool="avg"), "options.global_pool = 'avg'"),
    "depth": (lambda: _vit(depth=3), "It has 3 blocks and the network has"),
    "width": (lambda: _vit(embed_dim=128), "another size"),
    "registers": (lambda: _vit(reg_tokens=2), "It has 2 register tokens"),
    "adapters": (lambda: {f"base_model.model.blocks.0.attn.qkv.lora_{side}.weight": each
                          for side, each in zip("AB", _vit().values(), strict=False)}, "merge_and_unload"),
    "merged names": (lambda: {f"base_model.model.{name.replace('qkv', 'qkv.base_layer')}": each
                              for name, each in _vit().items()}, "merge_and_unload"),
    "bitsandbytes": (lambda: _vit() | {"blocks.0.attn.qkv.weight.absmax": _vit()["cls_token"]}, "It is quantized"),
    "clip": (lambda: {"visual.conv1.weight": _vit()["cls_token"], "visual.proj": _vit()["cls_token"]}, "CLIP"),
    "parametrised": (
        lambda: {name.replace("attn.qkv.weight", "attn.qkv.parametrizations.weight.original0"): each
                 for name, each in _vit().items()},
        "remove_parametrizations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_names_the_cause(tmp_path: Path, kind: str) -> None:
    make, expected = MISFITS[kind]
    # type: ignore[operator]
    message = _complaint(_write(tmp_path, make(), architecture="timm/test_vit", size=160))
    assert expected in message


def test_the_size_that_the_message_names_is_right(tmp_path: Path) -> None:
    state = _vit(img_size=96)
    path = _write(tmp_path, state, architecture="timm/test_vit", more="options = { img_size = 96 }", size=96)
    assert _holds(_load(path), state)


def test_timm_names_under_a_card_of_torchvision(tmp_path: Path) -> None:
    path = _write(tmp_path, _vit(), architecture="torchvision/vit_b_16", size=224)
    assert "architecture = 'timm/...', here 'vit_base_patch16_224'" in _complaint(path)


def test_names_of_the_original_code_are_converted(tmp_path: Path) -> None:
    """DINOv2's own file: a mask token, and timm's names otherwise; ConvNeXt's: other names throughout."""
    import torch

    vit = _vit()
    width = vit["cls_token"].shape[-1]
    path = _write(tmp_path, vit | {"mask_token": torch.zeros(1, width)}, architecture="timm/test_vit", size=160)
    assert _holds(_load(path), vit)
    ours = dict(_network("convnext_atto", num_classes=7).state_dict())
    theirs = {}
    for name, each in ours.items():
        old = name.replace("stem.", "downsample_layers.0.").replace(".conv_dw.", ".dwconv.")
        old = old.replace(".mlp.fc1.", ".pwconv1.").replace(".mlp.fc2.", ".pwconv2.").replace(".blocks.", ".")
        parts = old.split(".")
        if "downsample" in parts:
            old = ".".join(["downsample_layers", parts[1], *parts[3:]])
        theirs[old.replace("head.norm.", "norm.").replace("head.fc.", "head.")] = each
    assert not theirs.keys() >= {name for name in ours if "blocks" in name}
    backbone = _load(_write(tmp_path, {"model": theirs}, architecture="timm/convnext_atto", size=64))
    assert "converted by timm" in backbone.facts.checkpoint
    images = torch.rand(2, 3, 64, 64)
    network = _network("convnext_atto", num_classes=0)
    network.load_state_dict(ours, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), network(images))


@pytest.mark.parametrize("size", [160, 96])
def test_conversion_never_resizes(tmp_path: Path, size: int) -> None:
    """Of DINOv2 with registers, as its authors name them. timm would resize the positions without a word."""
    import torch

    state = _vit(img_size=size, reg_tokens=2, no_embed_class=True)
    width = state["cls_token"].shape[-1]
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, width)
    state["pos_embed"] = torch.cat([torch.ones(1, 1, width), state["pos_embed"]], dim=1)
    more = "options = { reg_tokens = 2, no_embed_class = true }"
    path = _write(tmp_path, state, architecture="timm/test_vit", size=160, more=more)
    if size == 160:
        body = _load(path).body.state_dict()
        assert bool((body["pos_embed"] == state["pos_embed"][:, 1:]).all())
        assert bool((body["cls_token"] == state["cls_token"] + 1).all())
        assert bool((body["reg_token"] == state["register_tokens"]).all())
    else:
        assert "pos_embed is for another image size" in _complaint(path)


@pytest.mark.parametrize(
    ("architecture", "name"), [("timm/test_vit", "test_vit"), ("timm/test_resnet", "test_resnet")]
)
def test_weights_for_grey_images_see_the_grey_value(tmp_path: Path, architecture: str, name: str) -> None:
    import torch

    size = 160
    grey = _network(name, num_classes=0, in_chans=1)
    path = _write(
        tmp_path, dict(grey.state_dict()), architecture=architecture, more="options = { in_chans = 1 }", size=size
    )
    path_text = Path(path).read_text()
    backbone = _load(path)
    images = torch.rand(2, 3, size, size)
    shares = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(images), grey((images * shares).sum(1, keepdim=True)), atol=1e-4, rtol=1e-4
        )
    assert "grey" in backbone.facts.checkpoint
    assert backbone.build.options.in_chans is None  # in a bundle it is a network for coloured images
    Path(path).write_text(path_text.replace("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.4, 0.5]"))
    assert "must be the same" in _complaint(path, ConfigError)
    Path(path).write_text(path_text.replace("in_chans = 1", "in_chans = 4"))
    assert "options.in_chans" in _complaint(path, ConfigError)
    coloured = _write(tmp_path, dict(_network(name).state_dict()), architecture=architecture, size=size)
    Path(coloured).write_text(path_text)
    assert "takes grey images" in _complaint(coloured)


def test_own_networks_unwrap_too(tmp_path: Path) -> None:
    from backbench.backbones.loaders.own import make_untrained_body

    for name, size in (("cnn_small", 32), ("vit_tiny_patch16_32", 32)):
        state = dict(make_untrained_body(name, 0).state_dict())
        content = {"state_dict": _pre("model.", state), "args": argparse.Namespace(lr=1)}
        backbone = _load(_write(tmp_path, content, architecture=f"backbench/{name}", size=size))
        assert _holds(backbone, state)
        assert "prefix 'model.'" in backbone.facts.checkpoint


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


class _Settings(dict):
    """Stands for a class of another library, under whose name it is pickled."""


def _as_class_of(monkeypatch: pytest.MonkeyPatch, module: str, name: str, base: type = object) -> Any:
    made = types.ModuleType(module)
    kind = type(name, (base,), {"__module__": module})
    setattr(made, name, kind)
    parts = module.split(".")
    for end in range(1, len(parts)):
        parent = ".".join(parts[:end])
        if parent not in sys.modules:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, module, made)
    return kind


@pytest.mark.parametrize(
    "place", ["alone", "args", "in a namespace", "hyper_parameters", "as a tensor", "in a path", "in a scalar"]
)
def test_code_is_never_run(tmp_path: Path, state: dict[str, Any], place: str) -> None:
    canary = _Canary(tmp_path / "canary")

    class _Path(pathlib.PurePosixPath):
        def __reduce__(self) -> Any:
            return pathlib.PurePosixPath, (canary,)

    content: object = {
        "alone": canary,
        "args": {"state_dict": state, "args": canary},
        "in a namespace": {"state_dict": state, "args": argparse.Namespace(run=canary)},
        "hyper_parameters": {"state_dict": state, "hyper_parameters": {"x": [canary]}},
        "as a tensor": state | {"x": canary},
        "in a path": {"state_dict": state, "args": _Path("x")},
        "in a scalar": {"state_dict": state, "metric": np.array([canary], dtype=object)},
    }[place]
    assert "can run code" in _complaint(_write(tmp_path, content))
    assert not (tmp_path / "canary").exists()


def test_settings_stand_for_nothing(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that is let through by name is never the class of that name."""
    import torch

    ran: list[object] = []
    before = set(torch.serialization.get_safe_globals())

    def note(self: object, given: object) -> None:
        ran.append(given)

    monkeypatch.setattr(argparse.Namespace, "__setstate__", note, raising=False)
    content = {"state_dict": state, "args": argparse.Namespace(lr=0.1)}
    assert _holds(_load(_write(tmp_path, content)), state)
    assert not ran
    assert set(torch.serialization.get_safe_globals()) == before  # nothing is let through for others


def test_settings_of_other_libraries(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = _as_class_of(monkeypatch, "lightning_fabric.utilities.data", "AttributeDict", dict)
    content = {"state_dict": _pre("model.", state), "hyper_parameters": kind(lr=0.1, root=pathlib.PosixPath("/x"))}
    assert _holds(_load(_write(tmp_path, content)), state)
    kind = _as_class_of(monkeypatch, "omegaconf.dictconfig", "DictConfig")
    message = _complaint(_write(tmp_path, {"state_dict": state, "hyper_parameters": kind()}))
    assert "omegaconf.dictconfig.DictConfig" in message
    assert 'torch.save(checkpoint["state_dict"]' in message
    kind = _as_class_of(monkeypatch, "ultralytics.nn.tasks", "DetectionModel")
    message = _complaint(_write(tmp_path, {"model": kind(), "ema": None}))
    assert "ultralytics" in message
    assert "state_dict()" in message


def test_whole_models_and_programs_are_named(tmp_path: Path, network: Any, state: dict[str, Any]) -> None:
    import torch

    message = _complaint(_write(tmp_path, network))
    assert "whole model (timm.models.resnet.ResNet)" in message
    assert 'torch.load("w.pth", map_location="cpu", weights_only=False)' in message
    layer = torch.nn.Linear(2, 2)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(layer, torch.zeros(1, 2)), tmp_path / "w.pth")
    message = _complaint(_write(tmp_path, None))
    assert "TorchScript" in message
    assert "torch.jit.load" in message
    for start, expected in (
        (b"\x08\x08\x12\x07pytorch", "ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"<!DOCTYPE html>", "web page"),
    ):
        (tmp_path / "w.pth").write_bytes(start + b"\0" * 100)
        assert expected in _complaint(_write(tmp_path, None))
    (tmp_path / "w.onnx").write_bytes(b"x")
    assert "an ONNX graph" in _complaint(_write(tmp_path, None, name="w.onnx"), ConfigError)


def test_damaged_archives_are_told_in_whole_sentences(tmp_path: Path, state: dict[str, Any]) -> None:
    path = _write(tmp_path, state)
    whole = (tmp_path / "w.pth").read_bytes()
    for cut in (100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "w.pth").write_bytes(whole[:cut])
        assert _complaint(path).count("w.pth") >= 1
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\n(S'false'\ntR.")
        archive.writestr("archive/version", b"3\n")
    (tmp_path / "w.pth").write_bytes(packed.getvalue())
    assert "can run code" in _complaint(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Run 'git lfs pull'"),
        (b"<html>sign in</html>", "a web page"),
        (b"", "an empty file. Download it again"),
        (b"\x1f\x8b" + bytes(50), "compressed with gzip. Unpack it"),
        (b"model.pth" + bytes(248) + b"ustar" + bytes(1000), "a tar archive. Unpack it"),
    ],
)
def test_what_is_no_weights_file_is_named_whatever_its_suffix(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in _complaint(_write(tmp_path, None, name=name))


def test_archives_that_are_no_checkpoint_and_cut_ones(tmp_path: Path, state: dict[str, Any]) -> None:
    path = _write(tmp_path, state)
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in _complaint(path)
    for inner, expected in (
        ("deep/model.pth", "a zip archive. Unpack it"),
        ("model.weights.h5", "a file of Keras"),
    ):
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr(inner, b"x")
        assert expected in _complaint(path)


def test_a_checkpoint_called_safetensors_is_read_by_its_content(tmp_path: Path, state: dict[str, Any]) -> None:
    assert _holds(_load(_write(tmp_path, state, name="w.safetensors")), state)


def test_one_part_of_weights_in_parts_names_the_index(tmp_path: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    name = "model-00001-of-00002.safetensors"
    save_file(state, tmp_path / name)
    path = _write(tmp_path, None, name=name)
    assert "is shard 1 of 2 of the weights. Put all shards" in _complaint(path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "Write weights = 'model.safetensors.index.json' into the card" in _complaint(path)
    save_file(state, tmp_path / "model-00001-of-00001.safetensors")
    assert _holds(_load(_write(tmp_path, None, name="model-00001-of-00001.safetensors")), state)


def test_weights_without_values_and_quantized_ones(tmp_path: Path, state: dict[str, Any]) -> None:
    import torch

    first = next(iter(state))
    path = _write(tmp_path, state | {first: state[first].to("meta")})
    assert f"no values, for example {first}" in _complaint(path)
    assert "is quantized" in _complaint(_write(tmp_path, state | {first: state[first].to(torch.int8)}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = torch.quantize_per_tensor(state[first], 0.1, 0, torch.qint8)
    assert "is quantized" in _complaint(_write(tmp_path, state | {first: small}))


def test_a_file_that_holds_itself(tmp_path: Path, state: dict[str, Any]) -> None:
    content: dict[str, Any] = {"state_dict": state}
    content["again"] = content
    content["more"] = [content]
    assert _holds(_load(_write(tmp_path, content)), state)


def test_networks_that_do_not_fit_are_never_made(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from backbench.backbones.loaders import timm as timm_body

    made = []
    make = timm_body.make_network

    def note(name: str, options: Any) -> Any:
        network = make(name, options)
        made.append(next(network.parameters()).device.type)
        return network

    monkeypatch.setattr(timm_body, "make_network", note)
    before = torch.get_rng_state()
    assert "does not fit" in _complaint(_write(tmp_path, state, architecture="timm/vit_giant_patch14_224"))
    assert made == ["meta"]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_classifier_behind_a_prefix_is_used(tmp_path: Path) -> None:
    state = dict(_network(num_classes=3).state_dict())
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    more = 'head_classes = "classes.txt"\noptions = { num_classes = 3 }'
    content = {"state_dict": _pre("module.", state)}
    path = _write(tmp_path, content, more=more)
    spec = card.resolve(path)
    assert spec is not None
    assert spec.load_head is not None
    head = spec.load_head()
    assert (head.weights == state["fc.weight"].numpy()).all()
    Path(path).write_text(Path(path).read_text().replace("num_classes = 3", "num_classes = 4"))
    spec = card.resolve(path)
    assert spec is not None
    assert spec.load_head is not None
    with pytest.raises(ModelError, match="it has 3 classes"):
        spec.load_head()
    spec = card.resolve(_write(tmp_path, _without(state, "fc."), more=more))
    assert spec is not None
    assert spec.load_head is not None
    with pytest.raises(ModelError, match="no classifier of its own"):
        spec.load_head()
