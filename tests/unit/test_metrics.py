"""Figures of one run: as scikit-learn computes them, and safe where it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from backbench.errors import ModelError
from backbench.stats.intervals import wilson_interval
from backbench.stats.metrics import confusion_counts, per_class_recall, score


def _case(seed: int, n: int = 200, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    labels = rng.integers(0, classes, n)
    logits[np.arange(n), labels] += rng.normal(1.5, 1, n)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed: int) -> None:
    probabilities, labels = _case(seed)
    predicted = probabilities.argmax(axis=1)
    found = score(probabilities, labels)
    names = list(range(7))
    expected = {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "per_class_mean": oracle.balanced_accuracy_score(labels, predicted),
        "macro_f1": oracle.f1_score(labels, predicted, average="macro", zero_division=0),
        "nll": oracle.log_loss(labels, probabilities, labels=names),
        "top5": oracle.top_k_accuracy_score(labels, probabilities, k=5, labels=names),
        "brier": float(((probabilities - np.eye(7)[labels]) ** 2).sum(axis=1).mean()),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-9), name
    counts = confusion_counts(labels, predicted, 7)
    assert (counts == oracle.confusion_matrix(labels, predicted, labels=names)).all()


def test_every_interval_brackets_its_value() -> None:
    for seed in range(20):
        for name, metric in score(*_case(seed, n=3 + seed * 5)).items():
            if metric.low is not None and metric.high is not None:
                assert metric.low <= metric.value <= metric.high, name


def test_top5_only_with_more_than_five_classes() -> None:
    assert "top5" not in score(*_case(0, classes=5))
    assert "top5" in score(*_case(0, classes=6))


def test_a_class_without_test_images_does_not_count() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    labels = np.array([0, 1, 1])
    found = score(probabilities, labels)
    assert found["per_class_mean"].value == pytest.approx((1 + 0.5) / 2)
    assert found["per_class_mean"].n == 2
    recalls = per_class_recall(probabilities, labels, ("ant", "bee", "fly"))
    assert set(recalls) == {"ant", "bee"}
    assert (recalls["bee"].value, recalls["bee"].n) == (0.5, 2)


def test_ties_count_once() -> None:
    """Equal probabilities: the first class is the answer, for top-1 and top-5 alike."""
    probabilities = np.full((8, 8), 1 / 8)
    found = score(probabilities, np.arange(8))
    assert found["accuracy"].value == pytest.approx(1 / 8)
    assert found["top5"].value == pytest.approx(5 / 8)


def test_certain_and_wrong_is_finite() -> None:
    found = score(np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32), np.array([1, 0]))
    assert found["nll"].value == pytest.approx(-math.log(1e-12) / 2)
    assert found["brier"].value == pytest.approx(1.0)
    assert found["ece"].value == pytest.approx(0.5)


def test_ece_is_zero_when_confidence_is_honest_and_order_free() -> None:
    confidence = np.repeat([0.6, 0.7, 0.8, 0.9, 1.0], 100)
    right = np.concatenate([np.arange(100) < share for share in (60, 70, 80, 90, 100)])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(right, 0, 1)
    assert score(probabilities, labels)["ece"].value == pytest.approx(0, abs=1e-12)
    order = np.random.default_rng(0).permutation(500)
    assert score(probabilities[order], labels[order])["ece"].value == pytest.approx(0, abs=1e-12)


def test_ece_of_an_overconfident_classifier() -> None:
    probabilities = np.tile([0.95, 0.05], (1000, 1))
    labels = (np.arange(1000) % 10 >= 7).astype(int)
    assert score(probabilities, labels)["ece"].value == pytest.approx(0.25)


def test_groups_widen_the_interval() -> None:
    right = np.repeat(np.arange(20) % 4 > 0, 15)
    probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    labels = np.zeros(300, dtype=int)
    alone, grouped = score(probabilities, labels), score(probabilities, labels, list(np.arange(300) // 15))
    assert alone["accuracy"].value == grouped["accuracy"].value
    assert grouped["accuracy"].high - grouped["accuracy"].low > 2 * (  # type: ignore[operator]
        alone["accuracy"].high - alone["accuracy"].low  # type: ignore[operator]
    )
    assert score(probabilities, labels, list(range(300))) == alone


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.array([[np.nan, 1.0], [0.5, 0.5]]), "non-finite probabilities for 1 of 2"),
        (np.array([[np.inf, 0.0], [0.5, 0.5]]), "non-finite probabilities for 1 of 2"),
        (np.array([[0.9, 0.2], [0.5, 0.5]]), "do not sum to 1 for 1 of 2"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), "negative"),
    ],
)
def test_refuses_what_are_no_probabilities(probabilities: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        score(probabilities, np.array([0, 1]))


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int)),
        (np.full((2, 2), 0.5), np.array([0, 2])),
        (np.full((2, 2), 0.5), np.array([0, -1])),
        (np.full((2, 2), 0.5), np.array([0])),
        (np.full((2, 2), 0.5), np.array([0.0, 1.0])),
    ],
)
def test_refuses_labels_that_do_not_fit(probabilities: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError):
        score(probabilities, labels)


def test_class_names_must_fit() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        per_class_recall(np.full((2, 2), 0.5), np.array([0, 1]), ("ant",))


@pytest.mark.parametrize(
    ("recalls", "sizes"),
    [
        ([0.99, 0.95, 0.9, 0.8, 0.6], [5, 60, 10, 20, 8]),
        ([0.9] * 4, [4] * 4),
        ([0.95] * 10, [2] * 10),
        ([0.8, 0.99], [12, 300]),
    ],
)
def test_class_mean_interval_covers(recalls: list[float], sizes: list[int], test_scale: float) -> None:
    """Of simulated test sets with classes of unequal size and difficulty, about 95 % bracket the truth."""
    rng = np.random.default_rng(1)
    labels, truth = np.repeat(np.arange(len(sizes)), sizes), np.array(recalls)
    draws, covered = int(400 * test_scale), 0
    for _ in range(draws):
        answers = np.where(rng.random(len(labels)) < truth[labels], labels, (labels + 1) % len(sizes))
        metric = score(np.eye(len(sizes))[answers], labels)["per_class_mean"]
        covered += metric.low <= truth.mean() <= metric.high  # type: ignore[operator]
    assert covered / draws >= 0.90


def test_a_small_perfect_class_is_not_certain() -> None:
    """3 of 3 and 270 of 300: the class of three decides the width."""
    answers = np.repeat([0, 1, 0], [3, 270, 30])
    metric = score(np.eye(2)[answers], np.repeat([0, 1], [3, 300]))["per_class_mean"]
    assert metric.value == pytest.approx(0.95)
    assert metric.low is not None
    assert metric.low < 0.85
    perfect = score(np.eye(2), np.arange(2))["per_class_mean"]  # as for two images without classes
    assert (perfect.low, perfect.high) == wilson_interval(2, 2)
