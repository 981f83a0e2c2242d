"""Methods that train: nothing frozen moves, cuts leave no trace, and what comes out is what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from torch import nn

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.weights import digest_weights
from backbench.classifier.bundle import load_bundle
from backbench.classifier.classifier import Classifier
from backbench.cli.adapt import parse_settings
from backbench.config import Augment, DataConfig, MethodConfig, Recipe, RunConfig
from backbench.data.load import load_data
from backbench.errors import BudgetExceeded, ConfigError, Interrupted, TrainingDiverged
from backbench.heads.head_modules import HeadModule, make_linear
from backbench.inference import features
from backbench.records import folders
from backbench.records.folders import read_run
from backbench.records.resume import find_unfinished
from backbench.registry import find_method, find_model, list_methods, resolve_options
from backbench.report.figures.of_run import draw_run
from backbench.report.page.render import render_report
from backbench.report.ranked import rank_runs
from backbench.report.rows import make_rows
from backbench.runs import identity
from backbench.runs.context import RunContext
from backbench.runs.run import adapt
from backbench.runtime import make_torch_rng
from backbench.task import Features, ImageTask, Part
from backbench.training import batches, phases
from backbench.training.augment.batch import augment_batch
from backbench.training.batches import FeatureBatches, ImageBatches
from backbench.training.checkpoint import Workspace
from backbench.training.optimise import Phase
from backbench.training.phases import Standardised, family_of, last_stages, make_phase
from backbench.training.train import FitResult, fit
from conftest import make_photos

TRAINING = sorted(spec.name for spec in list_methods() if spec.trains)
QUICK: dict[str, dict[str, Any]] = {
    "head": {"recipe": {"epochs": 2}},
    "mlp-head": {"hidden": 16, "recipe": {"epochs": 2}},
    "last-blocks": {"blocks": 2, "recipe": {"epochs": 2, "ema_decay": 0.9, "augment": {"flip": True}}},
    "parts": {"parts": ["conv", "norm"], "recipe": {"epochs": 2, "augment": {"crop": "pad"}}},
    "full": {"recipe": {"epochs": 2, "micro_batch_size": 20, "augment": {"mixup": 0.3, "erasing": 0.2}}},
    "two-phase": {"recipe": {"epochs": 2, "learning_rate": 1e-4}},
    "scratch": {"recipe": {"epochs": 2, "learning_rate": 0.01, "augment": {"flip": True}}},
    "lora": {"rank": 2, "targets": "auto", "recipe": {"epochs": 2}},
    "gradual": {"steps": 2, "recipe": {"epochs": 1}},
    "quantized": {"qat_epochs": 2, "recipe": {"augment": {"flip": True}}},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("train") / "photos", num=24)


def config_for(photos: Path, method: str, model: str = "tiny_cnn") -> RunConfig:
    return RunConfig(
        data=DataConfig(source=str(photos)), model=model, method=MethodConfig(name=method, options=QUICK[method])
    )


def stop_after(calls: int) -> Callable[[], int]:
    asked = 0

    def signal() -> int:
        nonlocal asked
        asked += 1
        return 15 if asked == calls else 0

    return signal


def outcome(out: Path, run_id: str) -> dict[str, Any]:
    """Everything a cut must not change: figures, choices, predictions, weights, training log."""
    record = json.loads((out / run_id / "record.json").read_text())
    history = json.loads((out / run_id / "history.json").read_text())
    for phase in history.values():
        phase.pop("epoch_seconds")
    return {
        "metrics": record["metrics"],
        "choices": {
            name: value
            for name, value in record["method"]["choices"].items()
            if not name.endswith("images_per_second")
        },
        "predictions": record["files"]["predictions.npz"],
        "history": history,
        "weights": digest_weights(load_bundle(out / f"{run_id}.bundle")),
    }


def test_every_training_method_is_tried_here() -> None:
    assert set(TRAINING) == set(QUICK)


@pytest.mark.parametrize("method", TRAINING)
def test_a_cut_run_ends_as_if_it_had_not_been_cut(method: str, photos: Path, tmp_path: Path) -> None:
    config = config_for(photos, method)
    whole = adapt(config, RunContext(tmp_path / "whole"))
    asked = 0

    def count() -> int:
        nonlocal asked
        asked += 1
        return 0

    adapt(config, RunContext(tmp_path / "counted", stop_signal=count))
    assert asked >= 4
    for cut in sorted({1, 2, asked // 2, asked - 1}):
        out = tmp_path / f"cut {cut}"
        with pytest.raises(Interrupted):
            adapt(config, RunContext(out, stop_signal=stop_after(cut)))
        assert not (out / whole.record.run_id).exists()
        run_id, config_found = find_unfinished(out, whole.record.run_id[:-2])
        resumed = adapt(config_found, RunContext(out), resume=run_id)
        assert outcome(out, resumed.record.run_id) == outcome(tmp_path / "whole", whole.record.run_id)
        assert not (out / ".working" / whole.record.run_id).exists()


@pytest.mark.parametrize("method", TRAINING)
def test_the_bundle_answers_as_the_record_says(method: str, photos: Path, tmp_path: Path) -> None:
    adapted = adapt(config_for(photos, method), RunContext(tmp_path))
    assert (
        adapt(config_for(photos, method), RunContext(tmp_path)).record == adapted.record
    )  # nothing is done twice
    predictions = folders.read_predictions(adapted.run)
    classifier = load_bundle(adapted.bundle)
    assert classifier.class_names == ("circle", "cross", "stripes")
    answers = classifier.predict([photos / name for name in predictions.ids])
    said = [classifier.class_names[index] for index in predictions.probabilities.argmax(axis=1)]
    assert [answer.label for answer in answers] == said
    sharpened = predictions.probabilities ** (1 / classifier.temperature)
    expected = (sharpened / sharpened.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose([answer.confidence for answer in answers], expected, atol=1e-5)


def test_a_probe_can_be_walked_away_with_too(photos: Path, tmp_path: Path) -> None:
    for method in ("logistic", "knn", "centroid", "ridge"):
        config = RunConfig(data=DataConfig(source=str(photos)), model="pixels", method=MethodConfig(name=method))
        adapted = adapt(config, RunContext(tmp_path))
        predictions = folders.read_predictions(adapted.run)
        answers = load_bundle(adapted.bundle).predict([photos / name for name in predictions.ids])
        classes = predictions.classes
        assert [answer.label for answer in answers] == [
            classes[index] for index in predictions.probabilities.argmax(axis=1)
        ]


def test_training_a_head_on_features_equals_training_it_through_the_frozen_network(
    photos: Path, tmp_path: Path
) -> None:
    data = load_data(DataConfig(source=str(photos)))
    spec = find_model("tiny_vit")
    assert spec.load is not None
    backbone = spec.load(0)
    parts = []
    for name in ("train", "val"):
        rows = data.manifest.part_rows(name)
        parts.append(Part(rows, data.manifest.labels[rows], tuple(data.manifest.ids[row] for row in rows)))
    images = ImageBatches(data.read, *parts, 3, backbone.preprocess, Augment(), 0.0, 0, "cpu")
    extracted = []
    for part in parts:
        everything = ImageBatches(data.read, part, part, 3, backbone.preprocess, Augment(), 0.0, 0, "cpu")
        with torch.no_grad():
            values = torch.cat([backbone(batch) for batch, _ in everything.validation()]).numpy()
        extracted.append(Features(values, part.labels, part.ids))
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=0.01)
    heads = []
    for number, examples in enumerate((FeatureBatches(*extracted, 3, 0.0, "cpu"), images)):
        head = make_linear(backbone.facts.dim, 3, make_torch_rng(0, "head"))
        network = head if number == 0 else torch.nn.Sequential(backbone, head)
        prefix = "" if number == 0 else "1."
        phase = Phase("head", frozenset({f"{prefix}weight", f"{prefix}bias"}), recipe)
        before = digest_weights(backbone)
        fit(
            network,
            examples,
            phase,
            class_names=data.manifest.classes,
            workspace=Workspace(tmp_path / str(number)),
        )
        assert digest_weights(backbone) == before
        heads.append(head)
    for first, second in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=2e-5)


def test_standardisation_is_folded_into_the_head() -> None:
    from backbench.heads.head_modules import make_mlp
    from backbench.heads.standardise import measure_scale

    rng = np.random.default_rng(0)
    values = (rng.normal(size=(50, 5)) * [1, 10, 100, 1e-3, 0] + 3).astype(np.float32)
    for head in (make_linear(5, 3, make_torch_rng(0, "a")), make_mlp(5, 7, 3, 0.0, make_torch_rng(0, "b"))):
        wrapped = Standardised(head, measure_scale([values])).eval()
        before = wrapped(torch.from_numpy(values))
        torch.testing.assert_close(wrapped.fold()(torch.from_numpy(values)), before, rtol=1e-3, atol=1e-4)


def test_families_and_stages() -> None:
    specs = [find_model(name).load for name in ("tiny_cnn", "tiny_vit")]
    bodies = [load(0).body for load in specs if load is not None]
    assert [family_of(body) for body in bodies] == ["convnet", "transformer"]
    assert set(last_stages(bodies[1], 1)) < set(last_stages(bodies[1], 3))
    with pytest.raises(ConfigError, match="Choose 1 to"):
        last_stages(bodies[0], 99)


def test_stages_near_the_input_learn_more_slowly() -> None:
    from backbench.classifier.classifier import Classifier

    load = find_model("tiny_vit").load
    assert load is not None
    backbone = load(0)
    classifier = Classifier(backbone, make_linear(192, 3, make_torch_rng(0, "h")), ("a", "b", "c"))
    names = [name for name, _ in backbone.body.named_parameters()]
    phase = make_phase("full", classifier, names, Recipe(layer_decay=0.5), fresh_head=True)
    rates = [phase.rates[f"backbone.body.{last_stages(backbone.body, number)[0]}"] for number in (1, 2, 3)]
    assert rates == [1.0, 0.5, 0.25]
    assert phase.rates["head.weight"] == pytest.approx(10.0)
    assert phase.recipe.learning_rate == pytest.approx(5e-5)


@pytest.mark.parametrize(
    ("method", "model", "options", "message"),
    [
        ("full", "pixels", {}, "has none"),
        ("two-phase", "pixels", {}, "has none"),
        ("last-blocks", "tiny_cnn", {"blocks": 50}, "Choose 1 to"),
        ("parts", "tiny_cnn", {"parts": ["atention"]}, "attention"),
        ("parts", "tiny_cnn", {"parts": ["attention"]}, "has no attention"),
        ("head", "tiny_cnn", {"recipe": {"epoch": 3}}, "epoch"),
        ("head", "tiny_cnn", {"recipe": {"epochs": "many"}}, "many"),
        ("two-phase", "tiny_cnn", {"probe": "knn"}, "not give a linear head"),
        ("two-phase", "tiny_cnn", {"probe": "logisic"}, "in options.probe"),
        ("quantized", "tiny_cnn", {"recipe": {"learning_rate": 1e-3}}, "needs options.qat_epochs"),
        ("lora", "pixels", {}, "has none"),
        ("lora", "tiny_cnn", {"targets": "atention"}, "attention"),
        ("head", "majority", {}, "control"),
    ],
)
def test_a_method_that_does_not_fit_says_why(
    method: str, model: str, options: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    config = RunConfig(
        data=DataConfig(source=str(photos)), model=model, method=MethodConfig(name=method, options=options)
    )
    with pytest.raises(ConfigError, match=message):
        adapt(config, RunContext(tmp_path))


def test_resuming_what_is_finished_or_was_never_begun_is_said(photos: Path, tmp_path: Path) -> None:
    run_id = adapt(config_for(photos, "head"), RunContext(tmp_path)).record.run_id
    with pytest.raises(ConfigError, match="finished"):
        find_unfinished(tmp_path, run_id)
    with pytest.raises(ConfigError, match="no unfinished run"):
        find_unfinished(tmp_path, "nothing")


@pytest.mark.parametrize("kept", [True, False])
def test_two_phase_goes_on_with_the_statistics_the_head_was_solved_with(
    kept: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_classifier: object, _task: object, phase: Phase, _training: object) -> None:
        assert phase.keeps_statistics is kept
        raise Interrupted(15)

    monkeypatch.setattr(phases, "train_phase", look)
    options = {} if kept else {"keep_statistics": False}
    config = config_for(photos, "two-phase").model_copy(
        update={"method": MethodConfig(name="two-phase", options=options)}
    )
    with pytest.raises(Interrupted):
        adapt(config, RunContext(tmp_path))


def fold_norms(body: nn.Module) -> None:
    """The same function, with batch norms of mean 0 and variance 1: what exports for inference leave."""
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.no_grad():
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                norm.bias.sub_(norm.running_mean * scale)
                norm.weight.copy_(scale * (1 + norm.eps) ** 0.5)
                norm.running_mean.zero_()
                norm.running_var.fill_(1)


@pytest.mark.parametrize("method", ["full", "last-blocks", "parts", "gradual", "two-phase", "scratch", "head"])
@pytest.mark.parametrize("folded", [True, False])
def test_norms_that_were_folded_away_do_not_begin_to_go_by_each_batch(
    method: str, folded: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Phase] = []
    train_phase = phases.train_phase

    def look(classifier: Classifier, task: ImageTask, phase: Phase, training: phases.Training) -> FitResult:
        seen.append(phase)
        return train_phase(classifier, task, phase, training)

    def load(seed: int) -> Backbone:
        assert spec.load is not None
        backbone = spec.load(seed)
        fold_norms(backbone.body)
        return backbone

    spec = find_model("tiny_cnn.cifar100")
    if folded:
        monkeypatch.setattr(identity, "find_model", lambda *_: replace(spec, load=load))
    monkeypatch.setattr(phases, "train_phase", look)
    record = adapt(config_for(photos, method, model="tiny_cnn.cifar100"), RunContext(tmp_path)).record
    keeps = method == "two-phase" or (folded and method != "scratch")
    assert {phase.keeps_statistics for phase in seen} == {keeps}
    says = any("folded" in warning for warning in record.warnings)
    assert says is (folded and method not in ("scratch", "head", "two-phase"))


def test_two_phase_keeps_the_probe_where_fine_tuning_does_not_beat_it(photos: Path, tmp_path: Path) -> None:
    hopeless = {"recipe": {"epochs": 2, "learning_rate": 0.5, "augment": {"crop": "none"}}}
    config = config_for(photos, "two-phase", model="tiny_vit")
    config = config.model_copy(update={"method": MethodConfig(name="two-phase", options=hopeless)})
    record = adapt(config, RunContext(tmp_path)).record
    assert record.method is not None
    assert record.method.choices["two-phase_best_epoch"] == 0
    assert any("the probe was kept" in warning for warning in record.warnings)


def test_scratch_forgets_what_was_learned(shared: Path, photos: Path, tmp_path: Path) -> None:
    card = shared / "weights" / "squeezenet1_1.toml"
    model = find_model(str(card))
    options = {"recipe": {"epochs": 1, "learning_rate": 1e-9, "warmup_epochs": 0}}
    config = RunConfig(
        data=DataConfig(source=str(photos)),
        model=model.name,
        model_file=model.file,
        method=MethodConfig(name="scratch", options=options),
    )
    adapted = adapt(config, RunContext(tmp_path))
    assert model.load is not None
    trained = load_bundle(adapted.bundle).backbone.body.state_dict()
    assert all(not torch.equal(trained[name], tensor) for name, tensor in model.load(0).body.state_dict().items())


@pytest.mark.parametrize("method", TRAINING)
def test_one_changed_option_leaves_the_others_of_the_method_as_they_are(method: str) -> None:
    spec = find_method(method)
    plain = resolve_options(spec, MethodConfig(name=method)).model_dump()
    changed = resolve_options(spec, MethodConfig(name=method, options={"recipe": {"epochs": 77}})).model_dump()
    assert changed["recipe"].pop("epochs") == 77
    plain["recipe"].pop("epochs")
    assert changed == plain


@pytest.mark.parametrize("method", [name for name in TRAINING if name != "mlp-head"])
def test_the_dropout_of_the_recipe_reaches_the_head(
    method: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(classifier: Any, *_: object) -> None:
        heads = [module for module in classifier.head.modules() if isinstance(module, HeadModule)]
        assert {head.spec.dropout for head in heads} == {0.5}
        raise Interrupted(15)

    monkeypatch.setattr(phases, "train_phase", look)
    options = QUICK[method] | {"recipe": QUICK[method].get("recipe", {}) | {"dropout": 0.5}}
    config = config_for(photos, method)
    with pytest.raises(Interrupted):
        adapt(
            config.model_copy(update={"method": MethodConfig(name=method, options=options)}), RunContext(tmp_path)
        )


def test_a_head_with_a_hidden_layer_has_one_dropout() -> None:
    options = {"recipe": {"dropout": 0.5}}
    with pytest.raises(ConfigError, match=r"Set options\.dropout=0\.5"):
        resolve_options(find_method("mlp-head"), MethodConfig(name="mlp-head", options=options))


def test_a_run_cut_by_the_budget_says_so_and_goes_on_as_if_it_had_not_been(photos: Path, tmp_path: Path) -> None:
    config = config_for(photos, "two-phase")  # its probe is of use however short the budget
    whole = adapt(config, RunContext(tmp_path / "whole"))
    cut = adapt(config, RunContext(tmp_path / "cut", deadline=0.0))
    assert cut.record.run_id != whole.record.run_id
    assert any("cut by the budget" in warning for warning in cut.record.warnings)
    assert cut.bundle.is_dir()
    on = adapt(config, RunContext(tmp_path / "cut"))
    assert outcome(tmp_path / "cut", on.record.run_id) == outcome(tmp_path / "whole", whole.record.run_id)


@pytest.mark.parametrize("method", ["logistic", "two-phase"])
def test_features_too_have_to_be_there_within_the_budget(
    method: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "decide_batch_size", lambda *_: 4)  # else all are done at once
    data = DataConfig(source=str(photos))
    config = RunConfig(data=data, model="tiny_cnn", method=MethodConfig(name=method))
    with pytest.raises(BudgetExceeded, match="Give more time"):
        adapt(config, RunContext(tmp_path, deadline=0.0))
    assert not list(tmp_path.glob("*/record.json"))


def test_a_budget_that_ends_before_anything_is_learnt_leaves_no_model(photos: Path, tmp_path: Path) -> None:
    config = config_for(photos, "full")
    with pytest.raises(BudgetExceeded, match="before anything was learnt"):
        adapt(config, RunContext(tmp_path, deadline=0.0))
    assert not list(tmp_path.glob("[!.]*"))  # no record, no bundle, and no test image was looked at
    assert list(tmp_path.glob(".working/*/config.json"))
    assert adapt(config, RunContext(tmp_path)).bundle.is_dir()


def test_what_is_refused_leaves_nothing_behind(photos: Path, tmp_path: Path) -> None:
    config = config_for(photos, "full", model="pixels")
    with pytest.raises(ConfigError, match="has none"):
        adapt(config, RunContext(tmp_path))
    assert not list(tmp_path.glob("[!.]*"))
    assert not list(tmp_path.glob(".working/*"))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "full",
            ("recipe=3",),
            "'recipe' .* can't be 3: .*Set the options inside it, as in: --set recipe.optimizer=",
        ),
        ("full", ("recipe.epochs=3", "options.recipe={}"), "options inside 'recipe' already have values"),
        (
            "full",
            ("recipe.class_weights=autoo",),
            "option 'recipe.class_weights' of method 'full' can't be 'autoo'",
        ),
        ("parts", ("parts=mlp",), r"can't be 'mlp': .* Write a list as in: --set 'parts=\[...\]'"),
        ("last-blocks", ("blocks=three",), "option 'blocks' of .* can't be 'three': .*integer"),
        (
            "full",
            ("recipe.epochs=true",),
            "option 'recipe.epochs' of .* can't be True: .*a boolean is not allowed",
        ),
        ("full", ("recipe.learning_rate=true",), "option 'recipe.learning_rate' of .* can't be True"),
    ],
)
def test_options_of_a_wrong_kind_are_answered_with_the_right_one(
    method: str, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_options(find_method(method), MethodConfig(name=method, options=parse_settings(settings)))


def test_a_rate_named_twice_is_found_with_the_options() -> None:
    options = {"rates": [0.1], "recipe": {"learning_rate": 0.01}}
    with pytest.raises(ConfigError, match=r"options\.rates is \[0\.1\].*leave one of them out"):
        resolve_options(find_method("head"), MethodConfig(name="head", options=options))
    options = {"recipe": {"learning_rate": 0.01, "head_learning_rate": 0.1}}
    with pytest.raises(ConfigError, match=r"only the head is trained here: leave one of them out"):
        resolve_options(find_method("head"), MethodConfig(name="head", options=options))


def test_a_run_is_not_resumed_on_other_images(photos: Path, tmp_path: Path) -> None:
    config = config_for(photos, "full")
    with pytest.raises(Interrupted):
        adapt(config, RunContext(tmp_path, stop_signal=stop_after(2)))
    run_id, found = find_unfinished(tmp_path, "")
    assert Path(found.data.source).is_absolute()
    changed = found.model_copy(update={"seed": 5})
    with pytest.raises(ConfigError, match="have changed"):
        adapt(changed, RunContext(tmp_path), resume=run_id)


def test_an_augmentation_preset_goes_by_its_name() -> None:
    options = resolve_options(
        find_method("full"), MethodConfig(name="full", options={"recipe": {"augment": "strong"}})
    )
    assert options.model_dump()["recipe"]["augment"]["mixup"] > 0
    with pytest.raises(ConfigError, match="strong"):
        resolve_options(find_method("full"), MethodConfig(name="full", options={"recipe": {"augment": "stron"}}))


def _phase_of(
    photos: Path, tmp_path: Path, method: str, options: dict[str, Any], model: str = "tiny_cnn"
) -> Phase:
    """The phase that the method would train."""

    class Found(Exception):
        pass

    def stop(classifier: Any, task: Any, phase: Phase, training: Any) -> None:
        raise Found(phase)

    data = DataConfig(source=str(photos))
    config = RunConfig(data=data, model=model, method=MethodConfig(name=method, options=options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "train_phase", stop)
        with pytest.raises(Found) as found:
            adapt(config, RunContext(tmp_path))
    phase = found.value.args[0]
    assert isinstance(phase, Phase)
    return phase


@pytest.mark.parametrize(
    ("recipe", "body", "head"),
    [
        ({}, 3e-3, 3e-3),
        ({"head_learning_rate": 0.1}, 3e-3, 0.1),
        ({"learning_rate": 3e-3}, 3e-3, 3e-3),
        ({"learning_rate": 0.4, "head_learning_rate": 0.02}, 0.4, 0.02),
    ],
)
def test_from_scratch_the_head_learns_as_fast_as_the_body_unless_told(
    recipe: dict[str, float], body: float, head: float, photos: Path, tmp_path: Path
) -> None:
    phase = _phase_of(photos, tmp_path, "scratch", {"recipe": recipe})
    assert phase.recipe.learning_rate == body
    assert phase.rates["head.weight"] * body == pytest.approx(head)


def test_tokens_and_position_embeddings_are_not_decayed(photos: Path, tmp_path: Path) -> None:
    phase = _phase_of(photos, tmp_path, "full", {}, model="tiny_vit")
    undecayed = {name.removeprefix("backbone.body.") for name, decay in phase.decays.items() if not decay}
    assert undecayed == {"cls_token", "pos_embed"}


def test_no_two_epochs_of_a_run_see_the_same_versions_of_an_image(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phases begin to count their epochs again, their augmentation does not."""
    versions: dict[int, list[bytes]] = {}

    def watch(images: Any, *arguments: Any, indices: np.ndarray, **more: Any) -> Any:
        inputs, targets = augment_batch(images, *arguments, indices=indices, **more)
        for index, pixels in zip(indices.tolist(), inputs, strict=True):
            versions.setdefault(index, []).append(pixels.numpy().tobytes())
        return inputs, targets

    monkeypatch.setattr(batches, "augment_batch", watch)
    options = {"steps": 2, "recipe": {"epochs": 2, "augment": {"crop": "random-resized", "scale": [0.3, 0.6]}}}
    data = DataConfig(source=str(photos))
    adapt(
        RunConfig(data=data, model="tiny_cnn", method=MethodConfig(name="gradual", options=options)),
        RunContext(tmp_path),
    )
    assert {len(seen) for seen in versions.values()} == {6}
    assert {len(set(seen)) for seen in versions.values()} == {6}


def test_exact_resizing_holds_for_training_and_validation(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watch(function: Callable[..., Any], *arguments: Any, exact: bool, **more: Any) -> Any:
        asked.append(exact)
        return function(*arguments, exact=exact, **more)

    for name in ("augment_batch", "prepare_batch"):
        monkeypatch.setattr(batches, name, partial(watch, getattr(batches, name)))
    for exact in (False, True):
        asked.clear()
        config = config_for(photos, "full").model_copy(update={"exact_resize": exact})
        adapt(config, RunContext(tmp_path / str(exact)))
        assert set(asked) == {exact}


def test_training_that_diverges_says_so_in_its_record(photos: Path, tmp_path: Path) -> None:
    recipe = {
        "optimizer": "sgd",
        "learning_rate": 10.0,
        "clip_norm": 0,
        "warmup_epochs": 0,
        "batch_size": 2,
        "epochs": 20,
    }
    config = RunConfig(
        data=DataConfig(source=str(photos)),
        model="tiny_cnn",
        method=MethodConfig(name="full", options={"recipe": recipe}),
    )
    with pytest.raises(TrainingDiverged) as raised:
        adapt(config, RunContext(tmp_path))
    (folder,) = tmp_path.glob("*.failed-*")
    record = folders.read_record(folder)
    assert record.status == "diverged"
    assert record.failure is not None
    assert record.failure.step == raised.value.step
    (row,) = make_rows([record], [None])
    assert (row.status, row.has_failed) == ("diverged", True)


def test_without_validation_the_last_epoch_is_kept_and_that_is_said(tmp_path: Path) -> None:
    few = make_photos(tmp_path / "few", num=2)
    adapted = adapt(config_for(few, "full"), RunContext(tmp_path / "runs"))
    assert adapted.record.data.num_val == 0
    assert any("no validation images" in warning for warning in adapted.record.warnings)
    history = json.loads((adapted.run / "history.json").read_text())["full"]["history"]
    assert [epoch["val_loss"] for epoch in history] == [None, None]
    document = render_report([rank_runs([read_run(adapted.run)])])
    assert '<td class="number">–</td>' in document
    for figure in draw_run(adapted.record, None, {"full": {"history": history, "best_epoch": 2}}).values():
        assert "validation accuracy" not in " ".join(text.get_text() for text in figure.findobj(Text))


def test_others_may_read_all_of_a_bundle(photos: Path, tmp_path: Path) -> None:
    adapted = adapt(config_for(photos, "head"), RunContext(tmp_path))
    modes = {path.name: path.stat().st_mode & 0o777 for path in adapted.bundle.iterdir() if path.is_file()}
    assert len(set(modes.values())) == 1, modes
