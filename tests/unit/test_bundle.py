"""Bundles: what is written comes back as it was, offline; what is damaged or contradictory is refused by name."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import backbench
from backbench.backbones.core.base import Backbone
from backbench.backbones.core.build import Build
from backbench.backbones.core.model_index import rows_of
from backbench.classifier import bundle
from backbench.classifier.bundle import digest_record, load_bundle, read_facts, write_bundle
from backbench.classifier.classifier import Classifier
from backbench.config import DataConfig, MethodConfig, RunConfig, digest_json
from backbench.errors import BackbenchError, ConfigError, ModelError, StorageError
from backbench.heads.head_modules import make_linear, make_mlp, to_module
from backbench.heads.heads import NeighbourHead
from backbench.records.schema import DataFacts, MethodFacts, RunRecord
from backbench.registry import find_model
from backbench.stats.metric import Metric

NAMES = ("ant", "bee", "naïve <b>`x`|")


def make_classifier(model: str = "tiny_cnn", **arguments: float) -> Classifier:
    backbone = find_model(model).load(0)
    head = make_linear(backbone.facts.dim, len(NAMES), torch.Generator().manual_seed(1))
    return Classifier(backbone, head, NAMES, **arguments)


def make_record() -> RunRecord:
    return RunRecord(
        run_id="photos-tiny_cnn-full-0123456789",
        status="done",
        started="2026-11-20T15:04:05Z",
        config=RunConfig(
            data=DataConfig(source="photos", split_seed=4), model="tiny_cnn", method=MethodConfig(name="full")
        ),
        data=DataFacts(
            name="photos",
            classes=NAMES,
            num_train=60,
            num_val=20,
            num_test=20,
            manifest_digest="m" * 64,
            image_digest="i" * 64,
        ),
        method=MethodFacts(name="full"),
        metrics={"accuracy": Metric(value=0.85, low=0.64, high=0.95, n=20)},
        warnings=("few images",),
    )


def make_images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(3)]


def check_round_trip(classifier: Classifier, folder: Path) -> Classifier:
    again = load_bundle(write_bundle(folder, classifier))
    for one, two in zip(classifier.predict(make_images()), again.predict(make_images()), strict=True):
        assert one.label == two.label
        assert abs(one.confidence - two.confidence) <= 1e-6
    assert again.backbone.build == classifier.backbone.build
    assert again.preprocess == classifier.preprocess
    assert not any(parameter.requires_grad for parameter in again.backbone.parameters())
    assert not again.training
    return again


@pytest.mark.parametrize("model", ["pixels", "tiny_cnn", "tiny_vit", "cnn", "backbench/vit_tiny_patch16_32"])
def test_own_networks_come_back(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a bundle must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    again = check_round_trip(make_classifier(model, temperature=1.7, threshold=0.4), tmp_path / "made")
    assert (again.temperature, again.threshold, again.class_names) == (1.7, 0.4, NAMES)


@pytest.mark.parametrize("card", ["resnet18_to_layer3", "mobilenetv2_100"])
def test_cards_come_back_cut_or_whole(card: str, shared: Path, tmp_path: Path) -> None:
    check_round_trip(make_classifier(str(shared / "weights" / f"{card}.toml")), tmp_path / "made")


def test_other_heads_come_back(tmp_path: Path) -> None:
    backbone = find_model("pixels").load(0)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 768)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    zeros, ones = np.zeros(768, np.float32), np.ones(768, np.float32)
    neighbours = to_module(NeighbourHead(rows, rng.integers(0, 3, 9), zeros, ones, 3, 4, 0.07))
    check_round_trip(Classifier(backbone, neighbours, NAMES), tmp_path / "neighbours")
    mlp = make_mlp(768, 8, 3, 0.5, torch.Generator().manual_seed(0))
    check_round_trip(Classifier(backbone, mlp.train(), NAMES), tmp_path / "mlp")


def test_every_published_model_has_a_description_that_stands_in_a_bundle() -> None:
    for name in rows_of("timm"):
        Build(architecture=f"timm/{name}")
    for name in rows_of("torchvision"):
        Build(architecture=f"torchvision/{name}")


def test_what_is_written_is_said(tmp_path: Path) -> None:
    record = make_record()
    folder = write_bundle(tmp_path / "deep" / "made", make_classifier(threshold=0.5), record=record)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "weights.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["made"]  # nothing is left aside
    facts = read_facts(folder)
    assert facts.training is not None
    assert facts.training.record_digest == digest_record(record.model_copy(update={"files": {"a": "b"}}))
    assert (facts.training.run_id, facts.training.split_seed) == (record.run_id, 4)
    card = (folder / "README.md").read_text()
    for said in (
        "0.850 | 0.640 to 0.950 | 20",
        "few images",
        "60 images",
        "Apache-2.0",
        "backbench.load",
        "0.500",
    ):
        assert said in card
    assert "<b>" not in card
    (folder / "README.md").write_text("my own words")
    assert load_bundle(folder).class_names == NAMES
    assert backbench.load(str(folder)).class_names == NAMES


def test_the_folder_of_a_run_stands_for_its_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path / "run.bundle", make_classifier("pixels"))
    assert load_bundle(tmp_path / "run").class_names == NAMES


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        write_bundle(tmp_path / "made", make_classifier("pixels"))
    assert list((tmp_path / "made").iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "write_synced", fail)
    with pytest.raises(StorageError, match="No space left"):
        write_bundle(tmp_path / "made", make_classifier("pixels"))
    assert list(tmp_path.iterdir()) == []


def wrap_last_stage(classifier: Classifier) -> None:
    body: Any = classifier.backbone.body
    body.stage3 = nn.Sequential(body.stage3)


def swap_activation(classifier: Classifier) -> None:
    body: Any = classifier.backbone.body
    body.stage3[2] = nn.Tanh()


def forget_build(classifier: Classifier) -> None:
    classifier.backbone.build = None


def plain_head(classifier: Classifier) -> None:
    classifier.head = nn.Linear(192, 3)


def damage_weights(classifier: Classifier) -> None:
    with torch.no_grad():
        next(classifier.backbone.parameters()).fill_(float("nan"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (wrap_last_stage, "wrapped or replaced"),
        (swap_activation, "predictions differ"),
        (forget_build, "the architecture of this backbone is unknown"),
        (plain_head, "type Linear can't be saved"),
        (damage_weights, "not finite"),
    ],
)
def test_what_can_not_come_back_is_not_written(
    change: Callable[[Classifier], None], said: str, tmp_path: Path
) -> None:
    classifier = make_classifier()
    change(classifier)
    with pytest.raises(ModelError, match=said):
        write_bundle(tmp_path / "made", classifier)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "made", make_classifier())


def copy_with(written: Path, folder: Path, change: Callable[[dict[str, Any]], None], *, sign: bool = True) -> Path:
    """A copy of the bundle whose model.json is changed, with or without a checksum that fits."""
    folder.mkdir()
    for path in written.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    document = json.loads((folder / "model.json").read_text())
    change(document)
    if sign:
        document.pop("digest")
        document["digest"] = digest_json(document)
    (folder / "model.json").write_text(json.dumps(document))
    return folder


def set_at(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda document: document.pop("preprocess"), ModelError, "has no preprocessing"),
        (set_at("preprocess", value=None), ModelError, "has no preprocessing"),
        (set_at("preprocess", "size", value=[0]), ModelError, "preprocess.size"),
        (
            set_at("preprocess", "size", value=[20_000, 20_000]),
            ModelError,
            "': each side must be 1 to 4096 pixels",
        ),
        (set_at("preprocess", "size", value=[32, 0]), ModelError, "each side must be 1 to 4096 pixels"),
        (set_at("preprocess", "std", value=[0.5, 0.0, 0.5]), ModelError, "above 0"),
        (set_at("build", "options", value={"img_size": 20_000}), ModelError, "build.options.img_size"),
        (set_at("build", "options", value={"depth": 10**9}), ModelError, "build.options.depth"),
        (set_at("class_names", value=["a", "b"]), ModelError, "has 2 class names, but its head gives 3"),
        (set_at("class_names", value=["a", "b", "a"]), ModelError, "'a' twice"),
        (set_at("schema", value=2), StorageError, "newer backbench"),
        (set_at("schema", value="x"), ModelError, "'schema' is 'x'"),
        (
            set_at("build", "architecture", value="timm/resnet999"),
            ModelError,
            "no architecture 'resnet999'. Nearest",
        ),
        (set_at("build", "architecture", value="backbench/nothing"), ModelError, "no network 'backbench/nothing'"),
        (set_at("build", "architecture", value="timm/local-dir:/etc"), ModelError, "build.architecture"),
        (set_at("build", "options", value={"pretrained": True}), ModelError, "pretrained"),
        (set_at("build", "architecture", value="backbench/tiny_vit"), ModelError, "does not fit the network"),
        (set_at("head", "kind", value="mlp"), ModelError, "needs a hidden layer"),
        (set_at("head", "dim", value=5), ModelError, "a head for 5 features"),
        (set_at("temperature", value=0), ModelError, "temperature"),
        (set_at("files", value={}), StorageError, "is damaged"),
        (lambda document: document.pop("head"), ModelError, "'head' is missing"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(
    written: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], error: type, said: str
) -> None:
    with pytest.raises(error, match=said):
        load_bundle(copy_with(written, tmp_path / "other", change))


HUGE_VIT = {
    "model_type": "vit",
    "hidden_size": 16_384,
    "intermediate_size": 65_536,
    "num_hidden_layers": 12,
    "num_attention_heads": 64,
}


@pytest.mark.parametrize(
    "build",
    [
        {"architecture": "timm/vit_giant_patch14_dinov2"},  # 1.1 G parameters
        {"architecture": "timm/vit_base_patch16_224", "options": {"embed_dim": 12_288}},
        {"architecture": "torchvision/vit_h_14"},
        {"architecture": "timm/convnext_xxlarge", "feature_layer": "stages.2"},
        {"architecture": "transformers/vit", "config": HUGE_VIT},
        {"architecture": "open_clip/ViT-bigG-14", "config": {}},
    ],
)
def test_what_does_not_fit_is_never_made(
    written: Path, tmp_path: Path, build: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only without memory: some of these would take tens of gigabytes."""
    pytest.importorskip(
        {"transformers": "transformers", "open_clip": "open_clip"}.get(build["architecture"].split("/")[0], "timm")
    )
    made: list[str] = []
    register = nn.Module.register_parameter

    def note(self: nn.Module, name: str, given: nn.Parameter | None) -> None:
        if given is not None:
            made.append(given.device.type)
        register(self, name, given)

    monkeypatch.setattr(nn.Module, "register_parameter", note)
    folder = copy_with(written, tmp_path / "made", set_at("build", value=build))
    with pytest.raises(ModelError, match="does not fit the network"):
        load_bundle(folder)
    assert set(made) == {"meta"}


def test_a_head_that_does_not_fit_is_never_made(written: Path, tmp_path: Path) -> None:
    head = read_facts(written).head.model_dump() | {"kind": "mlp", "hidden": 10**7}
    folder = copy_with(written, tmp_path / "made", set_at("head", value=head))
    with pytest.raises(ModelError, match="does not fit the network"):
        load_bundle(folder)


def test_a_changed_class_list_is_noticed(written: Path, tmp_path: Path) -> None:
    other = copy_with(written, tmp_path / "other", set_at("class_names", value=["bee", "ant", "cow"]), sign=False)
    with pytest.raises(StorageError, match="was changed after it was written"):
        load_bundle(other)


@pytest.mark.parametrize("place", [0, 100, 5000, -1])
def test_a_flipped_byte_in_the_weights_is_noticed(written: Path, tmp_path: Path, place: int) -> None:
    other = copy_with(written, tmp_path / "other", lambda document: None)
    data = bytearray((other / "weights.safetensors").read_bytes())
    data[place] ^= 1
    (other / "weights.safetensors").write_bytes(data)
    with pytest.raises(StorageError, match="checksum"):
        load_bundle(other)


def test_weights_with_other_shapes_are_refused_even_with_a_checksum_that_fits(
    written: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from backbench.storage import digest_file

    state = load_file(written / "weights.safetensors")
    state["head.weight"] = state["head.weight"][:, :-1].contiguous()
    save_file(state, tmp_path / "changed")
    digest = digest_file(tmp_path / "changed")
    other = copy_with(written, tmp_path / "other", set_at("files", "weights.safetensors", value=digest))
    (tmp_path / "changed").replace(other / "weights.safetensors")
    with pytest.raises(ModelError, match=r"weight is 3x191 in the file and 3x192"):
        load_bundle(other)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\0", "[" * 100_000])
def test_a_damaged_description_is_refused(written: Path, tmp_path: Path, text: str) -> None:
    other = copy_with(written, tmp_path / "other", lambda document: None)
    (other / "model.json").write_text(text)
    with pytest.raises(StorageError, match="damaged"):
        load_bundle(other)


def test_missing_parts_and_typos(written: Path, tmp_path: Path) -> None:
    other = copy_with(written, tmp_path / "flowers", lambda document: None)
    with pytest.raises(ConfigError, match=r"Did you mean '.*flowers'\?"):
        load_bundle(tmp_path / "flwers")
    with pytest.raises(ConfigError, match="is not a bundle"):
        load_bundle(tmp_path)
    (other / "weights.safetensors").unlink()
    with pytest.raises(StorageError, match="is missing"):
        load_bundle(other)


def test_a_backbone_made_by_hand_has_no_description() -> None:
    facts = find_model("pixels").load(0).facts
    assert Backbone(nn.Flatten(), facts).build is None


def test_importing_backbench_does_not_import_torch() -> None:
    code = "import backbench, sys; backbench.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_are_for_users(tmp_path: Path) -> None:
    with pytest.raises(BackbenchError):
        backbench.load(tmp_path / "nowhere")
