"""What a ranking says of its cost before it begins."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from backbench.config import DataConfig, MethodConfig, Precision, RunConfig
from backbench.errors import ConfigError
from backbench.registry import ModelSpec, find_method, find_model, list_methods, resolve_options
from backbench.runs import speeds
from backbench.runs.context import RunContext
from backbench.runs.estimate import (
    START_SECONDS,
    Plan,
    count_passes,
    describe_guessed,
    describe_power,
    estimate_training,
    guess_seconds,
)
from backbench.runs.run import adapt
from backbench.runs.speeds import (
    FORWARD_SHARE,
    SPEED_FILE,
    UNKNOWN_FLOPS,
    UNMEASURED,
    list_guessed,
    remember_speed,
)
from backbench.runtime import cache_folder

CHEAP, DEAR = ModelSpec("cheap", "", flops=1e9), ModelSpec("dear", "", flops=4e9)
ODD = ModelSpec("hf/odd", "")


def estimate(top: int | None = None, num_passes: int = 45) -> float:
    """The training of both models; `num_passes` as many epochs of a head on augmented images are worth."""
    head = find_method("head")
    recipe = {"epochs": num_passes, "augment": {"flip": True}}
    methods = [(head, resolve_options(head, MethodConfig(name="head", options={"recipe": recipe})))]
    return estimate_training((CHEAP, DEAR), methods, 200, top=top, device="cpu", precision="fp32")


def remember(model: ModelSpec, rate: float, precision: Precision = "fp32", flops: float | None = None) -> None:
    flops = flops or model.flops or 1e9
    remember_speed(model, 9000, 9000 * flops / rate, flops=flops, device="cpu", precision=precision)


def guess(*models: ModelSpec) -> list[float]:
    """Seconds for 100,000 images of each, without the constant part."""
    found = guess_seconds(models, 100_000, device="cpu", precision="fp32")
    return [found[model.name] - START_SECONDS for model in models]


def test_training_is_estimated_from_the_speed_seen_here() -> None:
    remember(CHEAP, 1e12)
    assert estimate() == pytest.approx((1e9 + 4e9) * 200 * 45 / 1e12)
    remember(DEAR, 2e12)
    assert estimate() == pytest.approx((1e9 / 1e12 + 4e9 / 2e12) * 200 * 45)
    assert estimate(top=1) == pytest.approx(4e9 / 2e12 * 200 * 45)


def test_another_precision_or_a_quick_timing_stand_in_for_what_was_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speeds, "_measure_matrix_rate", lambda: 3e12)
    share = FORWARD_SHARE["fp32"]
    assert estimate() == pytest.approx((1e9 + 4e9) * 200 * 45 / (3e12 * share))
    remember(CHEAP, 1e12, "bf16")
    scaled = 1e12 * share / FORWARD_SHARE["bf16"]
    assert estimate() == pytest.approx((1e9 + 4e9) * 200 * 45 / scaled)
    remember(DEAR, 2e12)  # of another model what was measured in this precision counts, of this one its own
    assert guess(CHEAP, DEAR) == pytest.approx([1e5 * 1e9 / scaled, 1e5 * 4e9 / 2e12])
    assert guess(ModelSpec("like cheap", "", flops=1e9)) == pytest.approx([1e5 * 1e9 / 2e12])


def test_an_accelerator_is_not_taken_for_this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_measure_matrix_rate", lambda: pytest.fail("the processor was timed"))
    remember(CHEAP, 1e12)  # on the processor
    found = guess_seconds((CHEAP,), 100_000, device="cuda:1", precision="bf16")
    assert found["cheap"] - START_SECONDS == pytest.approx(1e5 * 1e9 / UNMEASURED["cuda"]["bf16"])
    remember_speed(CHEAP, 9000, 1.0, flops=1e9, device="cuda:1", precision="bf16")
    assert guess_seconds((CHEAP,), 9000, device="cuda:1", precision="bf16")["cheap"] == START_SECONDS + 1.0


def test_each_model_is_counted_at_its_own_speed_or_at_that_of_the_nearest_in_cost() -> None:
    remember(CHEAP, 1e12)
    remember(DEAR, 4e12)
    tiny, big = ModelSpec("tiny", "", flops=1.9e9), ModelSpec("big", "", flops=2.1e9)
    assert guess(CHEAP, DEAR, tiny, big) == pytest.approx([100.0, 100.0, 190.0, 52.5])
    assert guess(ModelSpec("pixels", "", flops=0.0)) == [0.0]


def test_a_variant_is_counted_at_the_speed_of_its_model_until_it_has_its_own() -> None:
    remember(DEAR, 4e12)
    remember(CHEAP, 1e12)
    small = ModelSpec("dear@64", "", flops=1e9)  # as dear as cheap is, but of the kind of dear
    assert guess(small, ModelSpec("odd@64", "", flops=1e9)) == pytest.approx([25.0, 100.0])
    remember(small, 2e12)
    assert guess(small, DEAR) == pytest.approx([50.0, 100.0])
    remember(ODD, 2e12, flops=3e9)
    assert list_guessed((ModelSpec("hf/odd@64", ""), ModelSpec("hf/new@64", "")), device="cpu") == ("hf/new@64",)


def test_a_busy_moment_does_not_decide_what_is_expected_of_a_model() -> None:
    remember(CHEAP, 4e12)
    remember(CHEAP, 1e12)
    assert guess(CHEAP) == pytest.approx([1e5 * 1e9 / 2.5e12])
    remember_speed(CHEAP, 1000, 0.4, flops=1e9, device="cpu", precision="fp32")  # too short to count
    remember_speed(CHEAP, 1000, 4.0, flops=None, device="cpu", precision="fp32")
    assert guess(CHEAP) == pytest.approx([1e5 * 1e9 / 2.5e12])


def test_a_model_of_unknown_cost_is_said_to_be_guessed_until_it_has_run_here() -> None:
    remember(CHEAP, 1e12)
    assert list_guessed((CHEAP, ODD), device="cpu") == ("hf/odd",)
    assert guess(ODD) == pytest.approx([1e5 * UNKNOWN_FLOPS / 1e12])
    (sentence,) = describe_guessed(("hf/odd",))
    assert "cost of hf/odd is unknown" in sentence
    assert "5 GFLOPs" in sentence
    assert Plan({"hf/odd": 1.0}, 0, ("hf/odd",)).sentences(1)[1:] == [sentence]
    remember(ODD, 2e12, "bf16", flops=3e9)
    assert list_guessed((CHEAP, ODD), device="cpu") == ()
    scaled = 2e12 * FORWARD_SHARE["fp32"] / FORWARD_SHARE["bf16"]
    assert guess(ODD) == pytest.approx([1e5 * 3e9 / scaled])
    assert describe_guessed(()) == []


@pytest.mark.parametrize("method", ["ridge", "full"])
def test_runs_leave_the_speed_of_their_models(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds, "MIN_SECONDS", 0.0)
    options: dict[str, Any] = {"recipe": {"epochs": 1}} if method == "full" else {}
    config = RunConfig(
        data=DataConfig(source="digits", limit=60),
        model="tiny_cnn",
        method=MethodConfig(name=method, options=options),
    )
    adapt(config, RunContext(tmp_path, device="cpu"))
    kept = json.loads((cache_folder() / SPEED_FILE).read_text())
    ((flops, rate),) = (kept["cpu/fp32"][name] for name in kept["cpu/fp32"] if name.startswith("tiny_cnn"))
    assert flops == find_model("tiny_cnn").flops
    assert rate > 0


@pytest.mark.parametrize(
    "text", ["", "[]", '{"cpu/fp32": 1e12}', '{"cpu/fp32": {"cheap": 3}}', '{"cpu/fp32": {"cheap": [0, 0]}}']
)
def test_a_file_of_speeds_that_is_not_as_it_should_be_counts_as_none(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds, "_measure_matrix_rate", lambda: 3e12)
    before = estimate()
    (cache_folder() / SPEED_FILE).parent.mkdir(parents=True, exist_ok=True)
    (cache_folder() / SPEED_FILE).write_text(text)
    assert estimate() == before
    remember(CHEAP, 1e12)
    assert estimate() == pytest.approx((1e9 + 4e9) * 200 * 45 / 1e12)


def test_the_sentence_says_what_is_known_of_training() -> None:
    plan = Plan({"cheap": 10.0, "dear": 20.0}, 0)
    assert plan.sentences(1) == ["2 models x 1 method, nothing to download, about 30 s in all."]
    assert "up to about 2 min 0 s of training" in plan.sentences(2, 120.0)[0]


def test_an_option_of_a_group_is_looked_for_in_that_group() -> None:
    full = find_method("full")
    with pytest.raises(
        ConfigError, match=r"no option 'recipe.lr'. Allowed: recipe.optimizer, recipe.learning_rate, "
    ):
        resolve_options(full, MethodConfig(name="full", options={"recipe": {"lr": 0.1}}))
    with pytest.raises(ConfigError, match=r"Did you mean 'recipe.learning_rate'"):
        resolve_options(full, MethodConfig(name="full", options={"recipe": {"learnin_rate": 0.1}}))


def passes(method: str, model: str = "resnet18.a1_in1k", **options: Any) -> float:
    spec = find_method(method)
    return count_passes(find_model(model), spec, resolve_options(spec, MethodConfig(name=method, options=options)))


def test_every_method_says_what_its_training_is_worth() -> None:
    free = {method.name for method in list_methods() if not passes(method.name)}
    probes = {method.name for method in list_methods() if method.kind == "probe"}
    assert free - probes == {"head", "mlp-head", "quantized"}  # as they are by default; see below
    assert probes <= free
    assert passes("full", recipe={"epochs": 7}) == 21
    assert passes("gradual", steps=2, recipe={"epochs": 4}) == 24
    assert passes("quantized", qat_epochs=2) == 6


def test_heads_alone_run_the_backbone_forward_only_and_once_without_augmentation() -> None:
    still, moving = {"epochs": 7, "augment": {"crop": "none"}}, {"epochs": 7, "augment": {"flip": True}}
    for method in ("head", "mlp-head"):
        assert passes(method, recipe=still) == 0
        assert passes(method, recipe=moving) == 7
    methods = [(find_method("head"), resolve_options(find_method("head"), MethodConfig(name="head")))]
    assert estimate_training((CHEAP,), methods, 200, top=None, device="cpu", precision="fp32") == 0.0  # no speed


@pytest.mark.parametrize(
    ("model", "learning", "blocks"),
    [
        ("vit_base_patch14_dinov2.lvd142m@224", 3, 12),
        ("vit_base_patch14_dinov2.lvd142m", 3, 12),
        ("torchvision/vit_b_16", 2, 12),
        ("resnet50.a1_in1k@64", 1, 4),
        ("resnet50@random", 1, 4),
    ],
)
def test_nothing_goes_backward_through_frozen_blocks(model: str, learning: int, blocks: int) -> None:
    forward, backward = 10, 20 * learning / blocks
    for method in ("last-blocks", "two-phase"):
        found = passes(method, model, blocks=learning, recipe={"epochs": 10})
        assert found == pytest.approx(forward + backward)
    assert passes("last-blocks", model, blocks=1000, recipe={"epochs": 10}) == 30
    assert passes("full", model, recipe={"epochs": 10}) == 30


def test_where_the_blocks_are_not_known_before_all_are_counted_as_learning() -> None:
    assert passes("last-blocks", "hf/some/one", blocks=1, recipe={"epochs": 10}) == 30


@pytest.mark.parametrize(("num_test", "gaps"), [(72, ["12.8", "18.5"]), (500, ["2.9", "7.0"]), (24, [])])
def test_what_can_be_detected_is_a_range_that_names_its_assumption(num_test: int, gaps: list[str]) -> None:
    """How often two models disagree is not known before: one share was assumed once, others were seen."""
    said = describe_power(num_test)
    assert re.findall(r"[\d.]+(?= points)", said) == gaps
    assert "30 %" in said
