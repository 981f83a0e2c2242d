"""A folder of weights is looked into by the names that folders have; a folder of cards stands for its cards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backbench.backbones import weights_folder
from backbench.backbones.card_folders import expand_cards
from backbench.backbones.core.fetch import ask_hub, fetch_from_address
from backbench.config import DataConfig
from backbench.errors import ConfigError, ModelError
from backbench.registry import find_model
from backbench.runs.rank import RankRequest, rank

NAME = "test_resnet.r160_in1k"
REVISION = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
CARD = """
name = "{name}"
architecture = "timm/test_resnet"
weights = "w.safetensors"
[preprocess]
size = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    import timm

    return {key: tensor.contiguous() for key, tensor in timm.create_model("test_resnet").state_dict().items()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BACKBENCH_WEIGHTS", str(tmp_path))
    return tmp_path


def _save(state: dict[str, Any], path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize(
    "place",
    [
        f"{NAME}.safetensors",
        f"{NAME}.pth",
        "test_resnet.bin",
        f"{NAME}/model.safetensors",
        "test_resnet/pytorch_model.bin",
        f"models--timm--{NAME}/snapshots/{REVISION}/model.safetensors",
        f"hub/models--timm--{NAME}/snapshots/{REVISION}/pytorch_model.bin",
    ],
)
def test_weights_are_found_as_they_lie(folder: Path, state: dict[str, Any], place: str) -> None:
    _save(state, folder / place)
    for name in (NAME, "test_resnet"):
        spec = find_model(name)
        assert spec.identity
        assert spec.download_bytes == 0
        assert spec.load is not None
        body = spec.load(0).body.state_dict()
        assert all(bool((body[key] == state[key]).all()) for key in body)
    (folder / place).unlink()
    assert not find_model(NAME).identity


def test_of_several_revisions_the_main_one_is_taken(folder: Path, state: dict[str, Any]) -> None:
    repo = folder / f"models--timm--{NAME}"
    for revision in (REVISION, OTHER):
        _save(
            {key: tensor + (revision == OTHER) for key, tensor in state.items()},
            repo / "snapshots" / revision / "model.safetensors",
        )
    (repo / "snapshots" / "another").mkdir()
    without = find_model(NAME).identity
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(REVISION)
    main = find_model(NAME).identity
    assert main != without
    for content in ("../../..", "\0", "0" * 40, ""):
        (repo / "refs" / "main").write_text(content)
        assert find_model(NAME).identity == without


@pytest.mark.parametrize(
    "place",
    [
        "resnet18-f37072fd.pth",
        "checkpoints/resnet18-f37072fd.pth",
        "hub/checkpoints/resnet18-f37072fd.pth",
        "torchvision--resnet18/model.safetensors",
    ],
)
def test_files_of_torch_hub(folder: Path, place: str) -> None:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert find_model("torchvision/resnet18").identity


@pytest.mark.parametrize(
    "place",
    [
        "hf--org--mine",
        "org--mine",
        "org/mine",
        f"models--org--mine/snapshots/{REVISION}",
        f"hub/models--org--mine/snapshots/{OTHER}",
    ],
)
def test_models_of_transformers(folder: Path, place: str) -> None:
    assert weights_folder.find_repo("org/mine") is None
    (folder / place).mkdir(parents=True)
    assert weights_folder.find_repo("org/mine") == folder / place


def test_names_never_leave_the_folder(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.setenv("BACKBENCH_WEIGHTS", str(inner))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "x.toml").write_text("x")
    for name in ("..", ".", "../x", "/", "", f"{tmp_path}/x"):
        assert weights_folder.resolve(name) is None


def test_what_was_looked_for_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "test_resnet_r160.pth").write_bytes(b"x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        ask_hub(f"timm/{NAME}", NAME)
    message = str(caught.value)
    for part in (
        f"looked in: {folder} (BACKBENCH_WEIGHTS) for {NAME}.toml, {NAME}.safetensors",
        f"{NAME}/model.safetensors",
        f"models--timm--{NAME}/snapshots/*/model.safetensors",
        "nearest file: test_resnet_r160.pth",
    ):
        assert part in message
    with pytest.raises(ModelError, match=r"looked in: .*resnet18-f37072fd\.pth"):
        fetch_from_address(
            "http://127.0.0.1:9/resnet18-f37072fd.pth", "torchvision/resnet18", folder / "a" / "b.pth"
        )
    monkeypatch.setenv("BACKBENCH_WEIGHTS", str(folder / "none"))
    with pytest.raises(ModelError, match=r"none \(BACKBENCH_WEIGHTS\), which can't be read: No such file"):
        ask_hub(f"timm/{NAME}", NAME)
    monkeypatch.delenv("BACKBENCH_WEIGHTS")
    with pytest.raises(ModelError) as caught:
        ask_hub(f"timm/{NAME}", NAME)
    assert "BACKBENCH_WEIGHTS" not in str(caught.value)


def _write_cards(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.toml").write_text(CARD.format(name=name))
    return folder


def test_a_folder_or_pattern_stands_for_its_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = _write_cards(tmp_path / "cards", "b", "a")
    (cards / ".hidden.toml").write_text("")
    (cards / "notes.txt").write_text("")
    expected = (str(cards / "a.toml"), str(cards / "b.toml"))
    monkeypatch.chdir(tmp_path)
    assert expand_cards(["resnet50", str(cards), "x"]) == ("resnet50", *expected, "x")
    assert expand_cards([f"{cards}/*.toml"]) == expected
    assert expand_cards(["cards/[b]*"]) == ("cards/b.toml",)
    assert expand_cards(["cards", "cards/"]) == ("cards/a.toml", "cards/b.toml") * 2
    assert expand_cards(["nowhere", "nowhere/", "tiny_cnn"]) == ("nowhere", "nowhere/", "tiny_cnn")
    _write_cards(tmp_path / "tiny_cnn", "c")
    assert expand_cards(["tiny_cnn", "./tiny_cnn"]) == (
        "tiny_cnn",
        "tiny_cnn/c.toml",
    )  # a model's name comes first
    for kind in ("model.json", "config.json", "record.json"):  # a bundle, a model of transformers, a run
        (_write_cards(tmp_path / kind[:5], "d") / kind).write_text("{}")
        assert expand_cards([f"./{kind[:5]}"]) == (f"./{kind[:5]}",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"'empty' in --models holds no card"):
        expand_cards(["empty"])
    with pytest.raises(ConfigError, match=r"no card matches 'empty/\*\.toml' in --models"):
        expand_cards(["empty/*.toml"])


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("model.pth", "It holds 'model.pth': write a card beside it"),
        ("adapter_config.json", "merge_and_unload"),
        ("checkpoint-500/config.json", "Did you mean the model 'it/checkpoint-500'"),
    ],
)
def test_a_folder_without_cards_says_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it" / file).parent.mkdir(parents=True)
    (tmp_path / "it" / file).write_text("{}")
    with pytest.raises(ConfigError, match=f"'it' in --models holds no card.*{told}"):
        expand_cards(["it"])


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model.onnx"])
def test_a_weights_file_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match="is a weights file, not a model: write a card beside it"):
        find_model(str(tmp_path / name))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="For a model of transformers, give its folder"):
        find_model(str(tmp_path / name))


def test_a_folder_of_transformers_without_weights_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match=r"has no model.safetensors.*save_pretrained"):
        find_model(str(tmp_path))


def test_two_cards_of_one_name_are_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    cards = _write_cards(tmp_path / "cards", "a", "b")
    _save(state, cards / "w.safetensors")
    (cards / "b.toml").write_text(CARD.format(name="a").replace("64", "32"))
    request = RankRequest(data=DataConfig(source="digits"), models=(str(cards),), out=tmp_path / "runs")
    with pytest.raises(
        ConfigError, match=r"'a' is the name of two different models in --models: .*a\.toml and .*b\.toml"
    ):
        rank(request)


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", [NAME, "torchvision/squeezenet1_1"])
def test_code_in_a_file_of_the_folder_is_never_run(folder: Path, state: dict[str, Any], name: str) -> None:
    import torch

    torch.save(state | {"x": _Canary(folder / "canary")}, folder / f"{name.replace('/', '--')}.pth")
    spec = find_model(name)
    assert spec.load is not None
    assert spec.check is not None
    for use in (spec.check, lambda: spec.load(0)):  # type: ignore[misc]
        with pytest.raises(ModelError, match="can run code"):
            use()
    assert not (folder / "canary").exists()


def test_a_file_of_another_model_names_the_cause(folder: Path) -> None:
    import timm
    import torch

    torch.save(timm.create_model("test_vit", depth=3).state_dict(), folder / "test_vit.r160_in1k.pth")
    spec = find_model("test_vit")
    assert spec.load is not None
    with pytest.raises(ModelError, match="It has 3 blocks and the network has"):
        spec.load(0)
