"""Cards are read strictly, and their weights must fit; every mistake is named."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from backbench.backbones import card
from backbench.errors import BackbenchError, ConfigError, ModelError

CARD = """
name = "small"
architecture = "torchvision/squeezenet1_1"
weights = "{weights}"
pretrained_on = "nothing"
{more}
[preprocess]
size = {size}
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    import torch
    from torchvision import models

    torch.manual_seed(0)
    return models.squeezenet1_1(weights=None).state_dict()


def _write(folder: Path, state: dict[str, Any] | None, more: str = "", size: str = "64", name: str = "w") -> str:
    from safetensors.torch import save_file

    if state is not None:
        save_file(state, folder / f"{name}.safetensors")
    (folder / "small.toml").write_text(CARD.format(weights=f"{name}.safetensors", more=more, size=size))
    return str(folder / "small.toml")


def _load(path: str) -> Any:
    spec = card.resolve(path)
    assert spec is not None
    assert spec.load is not None
    return spec.load(0)


def _complaint(path: str, kind: type[BackbenchError]) -> str:
    with pytest.raises(kind) as caught:
        _load(path)
    return str(caught.value)


def test_a_card_loads(tmp_path: Path, state: dict[str, Any]) -> None:
    from backbench.backbones.core.selftest import check_backbone

    backbone = _load(_write(tmp_path, {name: tensor.half() for name, tensor in state.items()}))
    check_backbone(backbone)
    assert backbone.facts.dim == 512
    assert backbone.facts.preprocess.size == (64, 64)
    assert backbone.facts.pretrained_on == "nothing"
    assert next(backbone.parameters()).dtype.is_floating_point
    assert {str(tensor.dtype) for tensor in backbone.state_dict().values()} == {"torch.float32"}


def test_height_and_width(tmp_path: Path, state: dict[str, Any]) -> None:
    assert _load(_write(tmp_path, state, size="[64, 96]")).facts.preprocess.size == (64, 96)


def test_names_that_are_no_card() -> None:
    assert card.resolve("resnet18") is None
    assert card.resolve("small.toml.txt") is None


def test_a_path_is_relative_to_where_the_user_is(
    tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cards").mkdir()
    _write(tmp_path / "cards", state)
    monkeypatch.chdir(tmp_path)
    assert card.resolve("cards/small.toml") is not None


def test_a_typo_in_the_path_names_the_nearest(tmp_path: Path, state: dict[str, Any]) -> None:
    path = _write(tmp_path, state)
    assert f"Did you mean '{path}'?" in _complaint(str(tmp_path / "smal.toml"), ConfigError)
    assert f"no folder '{tmp_path / 'no'}'" in _complaint(str(tmp_path / "no" / "small.toml"), ConfigError)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("pretrained_on", "pretraind_on", "unknown key 'pretraind_on', did you mean 'pretrained_on'?"),
        ("mean = ", "means = ", "did you mean 'mean'?"),
        ("name = ", "nam = ", "'name' is missing"),
        ("[preprocess]", "[preproces]", "did you mean 'preprocess'?"),
        ("size = 64", "size = true", "preprocess.size"),
        ("size = 64", "size = 0", "1 to 4096"),
        ("size = 64", "size = [1, 2, 3]", "preprocess.size"),
        ("[0.25, 0.25, 0.25]", "[0.25, 0.25, 0.0]", "above 0"),
        ("[0.25, 0.25, 0.25]", "[0.25, 0.25]", "preprocess.std"),
        ("[0.5, 0.5, 0.5]", "[nan, 0.5, 0.5]", "preprocess.mean"),
        ("torchvision/squeezenet1_1", "squeezenet1_1", "without a tag, as in 'timm/resnet18'"),
        ("torchvision/squeezenet1_1", "timm/hf-hub:x", "without a tag, as in 'timm/resnet18'"),
        ("torchvision/squeezenet1_1", "torchvision/../x", "without a tag, as in 'timm/resnet18'"),
        ("w.safetensors", "w.onnx", ".safetensors, .pth"),
        ('"nothing"', '"\\u001b[31mred"', "printable"),
        ('name = "small"', 'name = "../small"', "name"),
        ('name = "small"', 'name = "small', "not valid TOML"),
        ("[preprocess]", '[options]\npretrained = true\n[preprocess]', "unknown key 'options.pretrained'"),
        ("[preprocess]", '[options]\ncheckpoint_path = "x"\n[preprocess]', "unknown key 'options.checkp"),
        ("[preprocess]", "[options]\nnum_clases = 3\n[preprocess]", "did you mean 'num_classes'?"),
    ],
)  # fmt: skip
def test_a_card_that_does_not_say_what_it_must(
    tmp_path: Path, state: dict[str, Any], old: str, new: str, expected: str
) -> None:
    path = Path(_write(tmp_path, state))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    message = _complaint(str(path), ConfigError)
    assert expected in message
    assert "\x1b" not in message


def test_a_card_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in _complaint(str(path), ConfigError)
    path.write_bytes(b"#" * 200_000)
    assert "larger" in _complaint(str(path), ConfigError)


def test_missing_weights_say_where_they_should_be(tmp_path: Path) -> None:
    message = _complaint(_write(tmp_path, None, 'source = "some/repository"'), ModelError)
    assert str(tmp_path / "w.safetensors") in message
    assert "some/repository" in message
    (tmp_path / "v.safetensors").touch()
    assert f"Did you mean '{tmp_path / 'v.safetensors'}'?" in _complaint(str(tmp_path / "small.toml"), ModelError)


def test_weights_of_another_shape(tmp_path: Path, state: dict[str, Any]) -> None:
    import torch

    names = [name for name in state if name.endswith("squeeze.weight")]
    wrong = {name: torch.zeros(2, 3) if name in names else tensor for name, tensor in state.items()}
    message = _complaint(_write(tmp_path, wrong), ModelError)
    told = [name for name in names if name in message]
    assert told == names[:3]
    assert f"{names[0]} is 2x3 in the file and 16x64x1x1 in the network" in message
    assert f"{len(names) - 3} more shapes differ" in message


def test_missing_and_unexpected_tensors(tmp_path: Path, state: dict[str, Any]) -> None:
    renamed = {("zz" if name == "features.0.weight" else name): tensor for name, tensor in state.items()}
    message = _complaint(_write(tmp_path, renamed), ModelError)
    assert "missing: features.0.weight" in message
    assert "unexpected: zz" in message


def test_the_head_in_the_file_is_left_aside(tmp_path: Path, state: dict[str, Any]) -> None:
    import torch

    kept = _load(_write(tmp_path, state)).facts.weights_digest
    other = {name: torch.zeros(7) if name.startswith("classifier") else tensor for name, tensor in state.items()}
    assert _load(_write(tmp_path, other)).facts.weights_digest == kept
    none = {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}
    assert _load(_write(tmp_path, none)).facts.weights_digest == kept


def test_a_cut_needs_what_runs_and_nothing_else(tmp_path: Path, state: dict[str, Any]) -> None:
    more = 'feature_layer = "features.7"'
    whole = _load(_write(tmp_path, state)).facts
    front = {name: t for name, t in state.items() if int(name.split(".")[1]) < 8 and name.startswith("features")}
    cut = _load(_write(tmp_path, front, more)).facts
    assert cut.dim == 256
    assert cut.num_parameters < whole.num_parameters
    assert cut.num_parameters == sum(tensor.numel() for tensor in front.values())
    assert cut.flops < whole.flops
    assert _load(_write(tmp_path, state, more)).facts.weights_digest == cut.weights_digest
    del front["features.6.squeeze.weight"]
    assert "missing: features.6.squeeze.weight" in _complaint(_write(tmp_path, front, more), ModelError)


def test_a_feature_layer_that_is_not_there(tmp_path: Path, state: dict[str, Any]) -> None:
    assert "Nearest: features" in _complaint(_write(tmp_path, state, 'feature_layer = "feature"'), ModelError)


def test_an_architecture_that_is_not_there(tmp_path: Path, state: dict[str, Any]) -> None:
    path = Path(_write(tmp_path, state))
    for wrong, right in (("timm/resnet81", "timm/resnet18"), ("torchvision/resnet81", "torchvision/resnet18")):
        path.write_text(
            CARD.format(weights="w.safetensors", more="", size=64).replace("torchvision/squeezenet1_1", wrong)
        )
        assert right in _complaint(str(path), ModelError)


def test_an_option_the_architecture_does_not_take(tmp_path: Path, state: dict[str, Any]) -> None:
    message = _complaint(_write(tmp_path, state, "options = { depth = 3 }"), ModelError)
    assert "depth" in message


def test_a_size_the_network_can_not_take(tmp_path: Path, state: dict[str, Any]) -> None:
    assert "8 x 8 pixels" in _complaint(_write(tmp_path, state, size="8"), ModelError)


def test_values_that_are_no_fractions(tmp_path: Path, state: dict[str, Any]) -> None:
    import torch

    for bad in (torch.full((64,), float("nan")), torch.ones(64, dtype=torch.int8)):
        message = _complaint(_write(tmp_path, {**state, "features.0.bias": bad}), ModelError)
        assert "features.0.bias" in message


def test_identity_follows_content(tmp_path: Path, state: dict[str, Any]) -> None:
    def identity() -> str:
        spec = card.resolve(str(tmp_path / "small.toml"))
        assert spec is not None
        return spec.identity

    path = Path(_write(tmp_path, state))
    first = identity()
    assert len(first) == 64
    assert identity() == first
    path.write_text(path.read_text() + "\n# a remark\n")
    second = identity()
    assert second != first
    _write(tmp_path, {**state, "features.0.bias": state["features.0.bias"] + 1})
    path.write_text(path.read_text() + "\n# a remark\n")
    assert identity() not in (first, second)


class _Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def _pth(tmp_path: Path, content: object, name: str = "w.pth") -> str:
    import torch

    torch.save(content, tmp_path / name)
    (tmp_path / "small.toml").write_text(CARD.format(weights=name, more="", size=64))
    return str(tmp_path / "small.toml")


def test_a_pth_file_loads_wrapped_or_not(tmp_path: Path, state: dict[str, Any]) -> None:
    expected = _load(_write(tmp_path, state)).facts.weights_digest
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    for content in (state, {"state_dict": state, "epoch": 3}, {"model": parallel}):
        for name in ("w.pth", "w.pt", "w.bin"):
            assert _load(_pth(tmp_path, content, name)).facts.weights_digest == expected


@pytest.mark.parametrize("wrap", ["alone", "as a tensor", "beside"])
def test_a_pth_file_that_holds_code_is_refused(tmp_path: Path, state: dict[str, Any], wrap: str) -> None:
    canary = _Canary(tmp_path / "canary")
    content: object = {
        "alone": canary,
        "as a tensor": {**state, "x": canary},
        "beside": {"state_dict": state, "x": canary},
    }[wrap]
    assert "can run code" in _complaint(_pth(tmp_path, content), ModelError)
    assert not (tmp_path / "canary").exists()


def test_files_that_are_no_weights(tmp_path: Path, test_scale: float) -> None:
    import torch

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'false'\ntR.")
    bodies = [b"", b"PK\x03\x04", b"<html>not found</html>", b"\x80\x02.", packed.getvalue(), os.urandom(500)]
    for suffix in card.WEIGHTS_SUFFIXES:
        (tmp_path / "small.toml").write_text(CARD.format(weights=f"w{suffix}", more="", size=64))
        for body in bodies:
            (tmp_path / f"w{suffix}").write_bytes(body)
            assert f"w{suffix}" in _complaint(str(tmp_path / "small.toml"), ModelError)
    for content in ([1, 2], {}, {"epoch": 3, "lr": 0.1}, torch.zeros(3)):
        assert "w.pth" in _complaint(_pth(tmp_path, content), ModelError)
