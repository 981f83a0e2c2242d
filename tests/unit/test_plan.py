"""What a ranking says of its cost before it begins."""

from __future__ import annotations

from typing import Any

import pytest

from backbench.catalog import ModelSpec, find_method, list_methods
from backbench.config import MethodConfig
from backbench.plan import Plan, count_passes, estimate_training, remember_speed
from backbench.run import resolve_options

CHEAP, DEAR = ModelSpec("cheap", "", flops=1e9), ModelSpec("dear", "", flops=4e9)


def estimate(top: int | None = None, num_passes: int = 45) -> float | None:
    return estimate_training((CHEAP, DEAR), num_passes, 200, top=top, device="cpu", precision="fp32")


def test_training_is_estimated_from_the_speed_seen_here() -> None:
    assert estimate() is None
    remember_speed("cpu", "bf16", 1e12, 1.0)
    assert estimate() is None
    remember_speed("cpu", "fp32", 3e12, 1.0)
    assert estimate() == pytest.approx((1e9 + 4e9) * 200 * 45 / 3e12)
    assert estimate(top=1) == pytest.approx(4e9 * 200 * 45 / 3e12)


def test_the_sentence_says_what_is_known_of_training() -> None:
    plan = Plan({"cheap": 10.0, "dear": 20.0}, 0)
    assert plan.sentences(1) == ["2 models x 1 method, nothing to download, about 30 s in all."]
    assert "training, which is not estimated" in plan.sentences(2, trains=True)[0]
    assert plan.sentences(1, trains=True, training_seconds=0.0)[0].endswith("about 30 s in all.")
    assert "up to about 2 min 0 s of training" in plan.sentences(2, trains=True, training_seconds=120.0)[0]


def passes(method: str, **options: Any) -> int:
    spec = find_method(method)
    return count_passes(spec, resolve_options(spec, MethodConfig(name=method, options=options)))


def test_every_method_says_what_its_training_is_worth() -> None:
    for method in list_methods():
        num = passes(method.name)
        assert num == 0 if method.kind == "probe" else num >= 0, method.name
    assert passes("full", recipe={"epochs": 7}) == 21
    assert passes("gradual", steps=2, recipe={"epochs": 4}) == 36
    assert passes("quantized", qat_epochs=2) == 6


def test_heads_alone_run_the_backbone_forward_only_and_once_without_augmentation() -> None:
    still, moving = {"epochs": 7, "augment": {"crop": "none"}}, {"epochs": 7, "augment": {"flip": True}}
    for method in ("head", "mlp-head"):
        assert passes(method, recipe=still) == 0
        assert passes(method, recipe=moving) == 7
    assert estimate(num_passes=0) == 0.0  # known, though no speed is
