"""Which models go on to fine-tuning: the front of accuracy against cost on validation, each family once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backbench.stats.metric import Metric
from backbench.studies.analysis.facts import Candidate
from backbench.studies.analysis.front import select_front


def cell(model: str, accuracy: float, flops: float | None, test: float = 0.5, method: str = "logistic") -> Any:
    figures = {"val_accuracy": accuracy, "val_nll": 1.0, "accuracy": test}
    return SimpleNamespace(
        group="one",
        data="d",
        seed=0,
        model=model,
        method=method,
        record=SimpleNamespace(num_val_seen=0, model=SimpleNamespace(flops=flops)),
        figure=lambda name: Metric(value=figures[name], n=100),
    )


# Caltech-256 of the published study, accuracy as it states, with each network's GFLOPs.
PUBLISHED = [
    ("efficientnetv2_m", 0.9300, 49e9, "EfficientNet"),
    ("regnety_040", 0.8586, 8e9, "RegNet"),
    ("resnet50", 0.8209, 8.2e9, "ResNet"),
    ("convnext_base", 0.8230, 31e9, "ConvNeXt"),
    ("resnet152", 0.7869, 23e9, "ResNet"),
    ("pvt_v2_b3", 0.7718, 14e9, "stages"),
    ("resnet18", 0.7573, 3.6e9, "ResNet"),
    ("swin_base", 0.7375, 31e9, "stages"),
    ("vit_base", 0.1447, 35e9, "plain"),
    ("deit3_base", 0.1222, 35e9, "plain"),
    ("mixer_b16", 0.0646, 25e9, "mixer"),
]


def test_on_the_published_figures_the_front_comes_first_and_each_family_once() -> None:
    cells = [cell(model, accuracy, flops) for model, accuracy, flops, _ in PUBLISHED]
    families = {model: family for model, *_, family in PUBLISHED}
    found = select_front(cells, families, 5)
    taken = {one.model: one for one in found.taken}
    left = {one.model: one for one in found.left}
    assert list(taken) == ["efficientnetv2_m", "regnety_040", "resnet18", "convnext_base", "pvt_v2_b3"]
    assert taken["regnety_040"] == Candidate("regnety_040", "RegNet", 0.8586, 8e9, beaten_by=None)
    assert (taken["pvt_v2_b3"].family, taken["pvt_v2_b3"].beaten_by) == ("stages", "regnety_040")
    assert left["resnet50"].beaten_by == "regnety_040"
    assert found.first_of(left["resnet50"].family) == taken["resnet18"]
    assert found.first_of(left["vit_base"].family) is None
    every = select_front(cells, families, 7)
    assert {one.family for one in every.taken} == set(families.values())


@pytest.mark.parametrize("seed", range(20))
def test_what_is_chosen_keeps_the_rule_whatever_the_figures(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = [cell(f"m{n}", float(rng.integers(1, 8)) / 10, float(rng.integers(1, 8)) * 1e9) for n in range(12)]
    families = {f"m{n}": f"f{rng.integers(4)}" for n in range(11)}  # the last is one of its own
    most = int(rng.integers(1, 13))
    found = select_front(cells, families, most)
    assert len(found.taken) == most
    every = (*found.taken, *found.left)
    assert sorted(one.model for one in every) == sorted(each.model for each in cells)
    assert all(one.family == families.get(one.model, one.model) for one in every)
    num_families = len({one.family for one in found.taken})
    assert num_families == min(most, len({one.family for one in every}))
    best = max(each.figure("val_accuracy").value for each in cells)
    by_name = {each.model: each for each in cells}
    assert found.taken[0].accuracy == best
    for one in every:
        mine = by_name[one.model]
        is_beaten = any(
            other.figure("val_accuracy").value >= mine.figure("val_accuracy").value
            and other.record.model.flops <= mine.record.model.flops
            and (other.figure("val_accuracy").value, other.record.model.flops)
            != (mine.figure("val_accuracy").value, mine.record.model.flops)
            for other in cells
        )
        assert (one.beaten_by is not None) == is_beaten
    assert select_front(cells[::-1], families, most) == found


def test_test_images_have_no_say_and_the_best_method_stands_for_its_model() -> None:
    cells = [
        cell("a", 0.5, 1e9, test=0.9),
        cell("b", 0.4, 1e9, test=1.0),
        cell("b", 0.6, 1e9, test=0.0, method="knn"),
    ]
    assert [one.model for one in select_front(cells, {}, 1).taken] == ["b"]


def test_a_model_of_unknown_cost_is_taken_for_its_accuracy_alone() -> None:
    cells = [cell("a", 0.5, 1e9), cell("b", 0.6, None), cell("c", 0.4, None)]
    found = select_front(cells, {}, 2)
    assert [(one.model, one.accuracy, one.flops) for one in found.taken] == [("b", 0.6, None), ("a", 0.5, 1e9)]
    assert [(one.model, one.beaten_by) for one in found.left] == [("c", "b")]
