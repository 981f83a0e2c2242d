"""Temperature and threshold against grids that try every value."""

from __future__ import annotations

import numpy as np
import pytest

from backbench.stats.calibrate import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibrate,
    choose_threshold,
    coverage_curve,
    fit_temperature,
    softmax,
)


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]).mean())


def make_logits(seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Honest logits of random images, multiplied by `scale`, which is then the temperature that undoes it."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(400, 5)) * 2
    labels = (honest + rng.gumbel(size=honest.shape)).argmax(axis=1)  # drawn with the softmax's probabilities
    return honest * scale, labels


@pytest.mark.parametrize("scale", [0.2, 0.7, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("seed", range(4))
def test_temperature_is_the_best_of_a_fine_grid(seed: int, scale: float) -> None:
    logits, labels = make_logits(seed, scale)
    grid = np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 4001)
    losses = [nll(logits, labels, temperature) for temperature in grid]
    best = grid[int(np.argmin(losses))]
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(best, rel=2e-3)
    assert nll(logits, labels, found) <= min(losses) + 1e-12
    assert found == pytest.approx(scale, rel=0.3)


def test_temperature_at_its_bounds_and_where_it_can_not_be_known() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1])) == 1.0  # all right: sharper is always better
    assert fit_temperature(np.zeros((3, 2)), np.array([0, 1, 1])) == 1.0
    assert fit_temperature(logits, np.array([1, 0])) == HIGHEST_TEMPERATURE  # all wrong: flatter is better
    tiny = np.array([[1e-3, 0.0]] * 99 + [[0.0, 1e-3]])
    assert fit_temperature(tiny, np.zeros(100, dtype=int)) == LOWEST_TEMPERATURE


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((2, 3)), np.array([0])),
        (np.zeros((0, 3)), np.array([], dtype=int)),
        (np.zeros((1, 3)), np.array([3])),
        (np.array([[np.nan, 0.0]]), np.array([0])),
    ],
)
def test_temperature_refuses_what_makes_no_sense(logits: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError):
        fit_temperature(logits, labels)


def best_by_trying(confidence: np.ndarray, correct: np.ndarray, target: float) -> np.ndarray:
    """The accepted images of the rule in the docstring, by trying every threshold."""
    tries = [(confidence >= value, value) for value in sorted(set(confidence.tolist()))]
    good = [kept for kept, _ in tries if correct[kept].mean() >= target]
    if good:
        return good[0]
    top = max(correct[kept].mean() for kept, _ in tries)
    return next(kept for kept, _ in tries if correct[kept].mean() == top)


@pytest.mark.parametrize("seed", range(60))
def test_threshold_accepts_what_the_rule_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    confidence = rng.integers(1, 12, n) / 12  # many ties
    correct = rng.random(n) < confidence * rng.choice([0.5, 1.0])
    for target in (0.5, 0.95, 1.0):
        threshold = choose_threshold(confidence, correct, target)
        np.testing.assert_array_equal(confidence >= threshold, best_by_trying(confidence, correct, target))
        kept = confidence[confidence >= threshold]
        assert threshold == 0.0 or threshold < kept.min()  # rounding can't move an image across


def test_coverage_curve_counts_equal_confidences_together() -> None:
    curve = coverage_curve(np.array([0.5, 0.9, 0.5, 0.7]), np.array([True, True, False, False]))
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.5]
    assert curve.coverage.tolist() == [0.25, 0.5, 1.0]
    assert curve.accuracy.tolist() == [1.0, 0.5, 0.5]


def test_calibrate_gives_both_and_is_neutral_without_images() -> None:
    logits, labels = make_logits(0, 3.0)
    found = calibrate(logits, labels)
    probabilities = softmax(logits, found.temperature)
    kept = probabilities.max(axis=1) >= found.threshold
    assert found.accuracy == (probabilities.argmax(axis=1) == labels)[kept].mean() >= 0.95
    assert found.coverage == kept.mean()
    empty = calibrate(np.zeros((0, 3)), np.zeros(0, dtype=int))
    assert (empty.temperature, empty.threshold) == (1.0, 0.0)


def test_softmax_of_a_temperature() -> None:
    logits = np.array([[1000.0, 998.0, -1000.0]], dtype=np.float32)
    expected = np.exp([0.0, -1.0]) / np.exp([0.0, -1.0]).sum()
    np.testing.assert_allclose(softmax(logits, 2.0)[0, :2], expected, rtol=1e-6)
