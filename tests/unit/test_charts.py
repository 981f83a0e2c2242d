"""What charts show, before page or figure draws them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backbench.report.charts.chart import make_axis, make_log_axis, place_names
from backbench.report.charts.confidence import coverage_chart, measure_coverage, reliability_chart
from backbench.report.charts.cost import SECONDS, Point, cost_chart
from backbench.report.charts.feature_map import middles
from backbench.report.charts.matrix import error_steps
from backbench.report.charts.training import (
    epoch_axis,
    kept_phases,
    read_phases,
    training_chart,
    value_axis,
)
from backbench.stats.reliability import reliability_bins


def _epochs(losses: list[float]) -> list[dict[str, float]]:
    return [
        {
            "epoch": place,
            "train_loss": loss,
            "val_loss": loss,
            "train_accuracy": 0.5,
            "val_accuracy": 0.4 + place / 10,
        }
        for place, loss in enumerate(losses, start=1)
    ]


def _points(*costs_and_values: tuple[float, float]) -> list[Point]:
    return [
        Point(f"row {number}", number, cost, value, value - 0.05, value + 0.05, "other", is_important=number == 1)
        for number, (cost, value) in enumerate(costs_and_values, start=1)
    ]


def test_an_axis_keeps_values_beyond_it_at_its_ends() -> None:
    axis = make_axis([0.8, 0.9])
    assert (axis.at(0.0), axis.at(2.0)) == (0.0, 100.0)
    assert len(axis.texts) == len(axis.ticks)


def test_equal_ratios_are_equal_distances_on_a_log_axis() -> None:
    axis = make_log_axis([1.0, 100.0], str)
    assert axis.at(10.0) - axis.at(1.0) == pytest.approx(axis.at(100.0) - axis.at(10.0), abs=0.02)
    assert axis.at(10.0) == pytest.approx(50.0, abs=0.01)


def test_the_front_climbs_in_steps_to_the_end_of_the_axis() -> None:
    chart = cost_chart(_points((1.0, 0.6), (10.0, 0.9), (5.0, 0.5)), SECONDS)
    (line,) = chart.lines
    assert line.points[:3] == ((1.0, 0.6), (10.0, 0.6), (10.0, 0.9))
    assert line.points[-1] == (chart.x.high, 0.9)
    assert [name.number for name in chart.names] == ["1", "2", "3"], "the important first, then by accuracy"


def test_names_keep_clear_of_whiskers_while_there_is_room() -> None:
    chart = cost_chart(_points((1.0, 0.6), (10.0, 0.9)), SECONDS)
    size = (400.0, 300.0)
    boxes = place_names(chart, [60.0, 60.0], size, height=15, num_needed=2, bounds=(0, 0, *size))
    for box in boxes:
        assert box is not None
        for dot in chart.dots:
            x = chart.at(dot.x, dot.y)[0] * size[0] / 100
            assert not box[0] < x < box[2]


def test_bins_of_few_images_are_rings() -> None:
    confidence = np.concatenate([np.full(9, 0.55), np.full(10, 0.95)])
    chart = reliability_chart(reliability_bins(confidence, np.ones(19, bool)))
    assert [dot.kind for dot in chart.dots] == ["other", "best"]


def test_the_band_leaves_out_what_few_images_say_and_the_scale_follows_it() -> None:
    rng = np.random.default_rng(0)
    confidence, right = rng.random(500), rng.random(500) < 0.9
    right[confidence.argmax()] = False  # the surest is wrong: the curve begins at 0
    curve = measure_coverage(confidence, right, 0.5)
    assert curve.points[0][1] == 0
    assert min(share for share, _, _ in curve.band) >= 20 / 500
    assert all(low <= high for _, low, high in curve.band)
    chart = coverage_chart([curve])
    assert 0 < chart.y.low <= min(low for _, low, _ in curve.band)
    assert len(curve.points) <= 200
    answered = confidence >= 0.5
    assert curve.at_threshold == pytest.approx((answered.mean(), right[answered].mean()))


def test_a_threshold_that_nothing_reaches_has_no_mark() -> None:
    curve = measure_coverage(np.array([0.2, 0.3]), np.array([True, False]), 0.9)
    assert curve.at_threshold is None
    assert coverage_chart([curve]).dots == ()


def test_phases_follow_one_another_and_only_bettered_ones_are_marked() -> None:
    one = {"history": _epochs([2.0, 1.0]), "best_epoch": 2, "ended": "epochs"}
    phases = read_phases({"a": one, "b": one | {"best_epoch": 0, "best_accuracy": 0.6, "best_loss": 1.0}})
    assert [phase.start for phase in phases] == [0, 2]
    assert phases[0].best_values == {"loss": 1.0, "accuracy": pytest.approx(0.6)}
    assert kept_phases(phases) == phases[:1]
    chart = training_chart(phases, "loss", epoch_axis(4, has_beginning=False), value_axis(phases, "loss"))
    assert [(dot.x, dot.y) for dot in chart.dots] == [(2, 1.0)]
    assert [line.points[0][0] for line in chart.lines] == [1, 3, 1, 3]


def test_what_was_not_measured_is_neither_a_line_nor_a_mark() -> None:
    epochs = [{"epoch": 1, "train_loss": 1.0, "val_loss": None, "train_accuracy": math.nan}]
    phases = read_phases({"a": {"history": epochs, "best_epoch": 1, "best_accuracy": 0.5, "ended": "epochs"}})
    assert phases[0].best_values == {}
    chart = training_chart(phases, "accuracy", epoch_axis(1, has_beginning=False), value_axis(phases, "accuracy"))
    assert chart.lines == ()
    assert chart.dots == ()


@pytest.mark.parametrize(("losses", "is_log"), [([2.0, 1.0], False), ([3.0, 0.01], True), ([1.0, 0.0], False)])
def test_losses_that_span_much_are_shown_by_logarithm(losses: list[float], is_log: bool) -> None:
    phases = read_phases({"a": {"history": _epochs(losses), "best_epoch": 1, "ended": "epochs"}})
    assert value_axis(phases, "loss").is_log is is_log


@pytest.mark.parametrize("num", [1, 2, 7, 40, 300])
def test_ticks_of_epochs_are_whole_and_few(num: int) -> None:
    axis = epoch_axis(num, has_beginning=False)
    assert 1 <= len(axis.ticks) <= 10
    assert all(tick == round(tick) for tick in axis.ticks)
    assert axis.low < 1 <= num < axis.high


def test_the_paler_steps_are_left_out_of_large_matrices() -> None:
    small, large = np.diag([98, 98]), np.diag([98] * 61)
    small[0, 1] = large[0, 1] = 1
    assert error_steps(small).max() == 1
    assert error_steps(large).max() == 3
    assert not error_steps(large).diagonal().any()


def test_classes_without_points_have_no_middle() -> None:
    points = np.array([[0.0, 0.0], [2.0, 4.0], [np.nan, np.nan]])
    assert middles(np.array([0, 0, 1]), points, [0, 1, 2]) == [(0, 1.0, 2.0)]
