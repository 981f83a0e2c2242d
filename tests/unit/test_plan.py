"""What a ranking says of its cost before it begins."""

from __future__ import annotations

import pytest

from backbench.catalog import ModelSpec, find_method, list_methods
from backbench.config import MethodConfig
from backbench.plan import Plan, count_epochs, estimate_training, remember_speed
from backbench.run import resolve_options

CHEAP, DEAR = ModelSpec("cheap", "", flops=1e9), ModelSpec("dear", "", flops=4e9)


def estimate(top: int | None = None) -> float | None:
    return estimate_training((CHEAP, DEAR), (10, 5), 200, top=top, device="cpu", precision="fp32")


def test_training_is_estimated_from_the_speed_seen_here() -> None:
    assert estimate() is None
    remember_speed("cpu", "bf16", 1e12, 1.0)
    assert estimate() is None
    remember_speed("cpu", "fp32", 3e12, 1.0)
    assert estimate() == pytest.approx((1e9 + 4e9) * 3 * 200 * 15 / 3e12)
    assert estimate(top=1) == pytest.approx(4e9 * 3 * 200 * 15 / 3e12)


def test_the_sentence_says_what_is_known_of_training() -> None:
    plan = Plan({"cheap": 10.0, "dear": 20.0}, 0)
    assert plan.sentences(1) == ["2 models x 1 method, nothing to download, about 30 s in all."]
    assert "training, which is not estimated" in plan.sentences(2, trains=True)[0]
    assert "up to about 2 min 0 s of training" in plan.sentences(2, trains=True, training_seconds=120.0)[0]


def test_every_method_that_trains_says_for_how_many_epochs() -> None:
    for method in list_methods():
        if method.kind == "tune":
            assert count_epochs(resolve_options(method, MethodConfig(name=method.name))) >= 0, method.name
    full = MethodConfig(name="full", options={"recipe": {"epochs": 7}})
    assert count_epochs(resolve_options(find_method("full"), full)) == 7
    gradual = MethodConfig(name="gradual", options={"steps": 2, "recipe": {"epochs": 4}})
    assert count_epochs(resolve_options(find_method("gradual"), gradual)) == 12
