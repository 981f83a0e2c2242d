"""The four probes one by one, and what they share: heads, choice on validation, ridge in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from backbench.heads.choose import Score, choose_best, fit_scale, is_beyond_edge, score_logits
from backbench.heads.heads import CosineHead, LinearHead, NeighbourHead, normalise_rows, spread_classes
from backbench.heads.ridge import decompose, unfold
from backbench.heads.standardise import Rows, measure_scale
from backbench.methods import centroid, knn, logistic, ridge
from backbench.task import Features, Task


def make_features(num: int, dim: int, classes: int, *, seed: int = 0, separation: float = 0.7) -> Features:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, num - classes)])
    means = np.random.default_rng(50).standard_normal((classes, dim))
    values = (separation * means[labels] + rng.standard_normal((num, dim))).astype(np.float32)
    return Features(values, labels.astype(np.int64), tuple(map(str, range(num))))


def make_task(num_train: int = 100, num_val: int = 50, dim: int = 12, classes: int = 4) -> Task:
    train = make_features(num_train, dim, classes)
    val = make_features(num_val, dim, classes, seed=1)
    return Task(train, val, tuple(f"c{i}" for i in range(classes)))


def standardised(values: np.ndarray) -> np.ndarray:
    exact = values.astype(np.float64)
    return (exact - exact.mean(axis=0)) / exact.std(axis=0)


# Ridge


def fit_ridge(values: np.ndarray, labels: np.ndarray, *, num_classes: int, l2: float) -> np.ndarray:
    """(classes, dim + 1) weights on the features as given, the last column the intercept."""
    scale = measure_scale([values])
    path = decompose(Rows([values], scale, "cpu"), labels, num_classes)
    return np.column_stack(unfold(*path.solve(l2), scale))


@pytest.mark.parametrize(("num", "dim"), [(80, 10), (30, 60)])
@pytest.mark.parametrize("l2", [1e-3, 0.5, 20.0])
def test_ridge_is_least_squares_with_penalty_rows(num: int, dim: int, l2: float) -> None:
    part = make_features(num, dim, 3)
    found = fit_ridge(part.values, part.labels, num_classes=4, l2=l2)
    rows = np.column_stack([standardised(part.values), np.ones(num)])
    penalty = np.sqrt(num * l2) * np.eye(dim + 1)[:-1]
    targets = np.where(part.labels[:, None] == np.arange(4), 1.0, -1.0)
    expected = np.linalg.lstsq(np.vstack([rows, penalty]), np.vstack([targets, np.zeros((dim, 4))]), rcond=None)[0]
    ours = part.values.astype(np.float64) @ found[:, :-1].T + found[:, -1]
    np.testing.assert_allclose(ours, rows @ expected, atol=2e-4)
    assert found.shape == (4, dim + 1)
    np.testing.assert_allclose(found[3], np.append(np.zeros(dim), -1.0), atol=1e-6)


def test_ridge_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    part = make_features(90, 20, 3)
    targets = np.where(part.labels[:, None] == np.arange(3), 1.0, -1.0)
    theirs = Ridge(alpha=90 * 0.3).fit(standardised(part.values), targets)
    path = decompose(Rows([part.values], measure_scale([part.values]), "cpu"), part.labels, 3)
    weights, bias = path.solve(0.3)
    np.testing.assert_allclose(weights, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(bias, theirs.intercept_, atol=1e-6)


@pytest.mark.parametrize(("num", "dim"), [(50, 20), (20, 50), (30, 30)])
@pytest.mark.parametrize("l2", [1e-4, 1.0, 100.0])
def test_primal_and_dual_ridge_agree(num: int, dim: int, l2: float) -> None:
    part = make_features(num, dim, 3)
    rows = Rows([part.values], measure_scale([part.values]), "cpu")
    primal = decompose(rows, part.labels, 3, dual=False).solve(l2)
    dual = decompose(rows, part.labels, 3, dual=True).solve(l2)
    np.testing.assert_allclose(primal[0], dual[0], atol=1e-4)
    np.testing.assert_array_equal(primal[1], dual[1])
    assert decompose(rows, part.labels, 3).vectors.shape[1] <= min(num, dim)


def test_ridge_without_penalty_is_least_squares_of_smallest_norm() -> None:
    part = make_features(12, 30, 3)
    weights, _ = decompose(Rows([part.values], measure_scale([part.values]), "cpu"), part.labels, 3).solve(0.0)
    targets = np.where(part.labels[:, None] == np.arange(3), 1.0, -1.0)
    expected = np.linalg.pinv(standardised(part.values), rcond=1e-6) @ (targets - targets.mean(axis=0))
    np.testing.assert_allclose(weights.T, expected, atol=1e-3)


def test_any_scale_of_features_will_do_for_ridge() -> None:
    part = make_features(60, 5, 3)
    plain = fit_ridge(part.values, part.labels, num_classes=3, l2=0.1)
    large = fit_ridge(part.values * 2**20, part.labels, num_classes=3, l2=0.1)
    np.testing.assert_allclose(large[:, :-1] * 2**20, plain[:, :-1], rtol=1e-5, atol=1e-7)


# Choice on validation


def test_scores_are_accuracy_and_mean_log_loss() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]], dtype=np.float32))
    score = score_logits(logits, np.array([0, 1]))
    assert score.accuracy == 0.5
    assert score.nll == pytest.approx(-(np.log(0.7) + np.log(0.4)) / 2, rel=1e-6)
    assert np.isfinite(score_logits(np.array([[1e30, -1e30]], dtype=np.float32), np.array([0])).nll)


def test_the_most_accurate_wins_then_the_likelier_then_the_first() -> None:
    assert choose_best([Score(0.8, 1.0), Score(0.9, 9.0), Score(0.9, 2.0), Score(0.9, 2.0)], 1000) == 2
    # 0.88 is within one standard error (0.05) of 0.9 on 40 images, but not (0.003) on 10,000
    assert choose_best([Score(0.9, 2.0), Score(0.88, 1.0)], 40) == 1
    assert choose_best([Score(0.9, 2.0), Score(0.88, 1.0)], 10_000) == 0
    assert choose_best([Score(1.0, 2.0), Score(0.99, 1.0)], 100) == 1


def test_an_edge_is_told_only_where_it_wins() -> None:
    rising = [Score(0.7, 1.0), Score(0.8, 1.0), Score(0.9, 1.0)]
    assert is_beyond_edge(rising, 2)
    assert not is_beyond_edge(rising, 1)
    assert is_beyond_edge(rising[::-1], 0)
    assert not is_beyond_edge([Score(0.9, 1.0), Score(0.9, 0.5)], 1)
    assert not is_beyond_edge([Score(0.9, 1.0)], 0)


def test_the_scale_is_the_likeliest() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((500, 5))
    shares = np.exp(3.0 * scores)
    shares /= shares.sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in shares])
    found = fit_scale(scores, labels)
    assert found == pytest.approx(3.0, rel=0.15)
    best = score_logits(found * scores, labels).nll
    assert all(
        best <= score_logits(factor * found * scores, labels).nll + 1e-3 for factor in (0.8, 0.95, 1.05, 1.25)
    )
    assert fit_scale(1e-6 * scores, labels) == pytest.approx(1e6 * found, rel=1e-3)


def test_the_scale_is_finite_where_all_is_right_and_small_where_all_is_wrong() -> None:
    scores = np.eye(4)[np.arange(40) % 4]
    assert 1 < fit_scale(scores, np.arange(40) % 4) < 100
    assert 0 < fit_scale(scores, (np.arange(40) + 1) % 4) < 0.01
    assert fit_scale(np.zeros((4, 3)), np.zeros(4, dtype=np.int64)) == 1.0


def test_logistic_chooses_the_best_of_its_sweep_and_tells_of_an_edge() -> None:
    task = make_task()
    fitted = logistic.adapt(task, logistic.LogisticOptions())
    for strength in (1e-5, 1e-2, 1.0, 100.0):
        one = logistic.LogisticOptions(min_strength=strength, max_strength=strength)
        alone = logistic.adapt(task, one)
        assert alone.choices["num_values"] == 1
        assert alone.choices["val_accuracy"] <= fitted.choices["val_accuracy"]
    narrow = logistic.LogisticOptions(min_strength=1e-9, max_strength=1e-6, num_values=3)
    scores = [Score(0.5, 1.0), Score(0.6, 1.0), Score(0.7, 1.0)]
    told = logistic.adapt(task, narrow)
    assert (told.warnings != ()) == ("at the edge" in " ".join(told.warnings))
    assert is_beyond_edge(scores, 2)


@pytest.mark.parametrize("classes", [4, 50])
def test_a_sweep_ends_where_weaker_penalties_only_overfit(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train = make_features(12 * classes, 60, classes, separation=0.2)
    val = make_features(6 * classes, 60, classes, seed=1, separation=0.2)
    task = Task(train, val, tuple(map(str, range(classes))))
    ended = logistic.adapt(task, logistic.LogisticOptions()).choices
    assert ended["num_values"] < 24
    monkeypatch.setattr(logistic, "PATIENCE", 24)
    whole = logistic.adapt(task, logistic.LogisticOptions()).choices
    assert whole["num_values"] == 24
    assert {**ended, "num_values": 0, "evaluations": 0} == {**whole, "num_values": 0, "evaluations": 0}
    assert ended["evaluations"] < 0.9 * whole["evaluations"]


def test_sweeps_are_told_when_their_edge_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backbench.heads.choose.is_beyond_edge", lambda *_: True)
    task = make_task()
    assert "C, " in logistic.adapt(task, logistic.LogisticOptions(num_values=3)).warnings[0]
    assert "penalty, " in ridge.adapt(task, ridge.RidgeOptions(num_values=3)).warnings[0]


def test_logistic_that_runs_out_of_passes_says_so() -> None:
    task = make_task(num_train=400, dim=60)
    options = logistic.LogisticOptions(max_evaluations=10, min_strength=1e3, max_strength=1e3, tolerance=1e-8)
    (warning,) = logistic.adapt(task, options).warnings
    assert "stopped after 10 passes" in warning


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (logistic.LogisticOptions, {"min_strength": 0.0}),
        (logistic.LogisticOptions, {"min_strength": 1.0, "max_strength": 0.1}),
        (logistic.LogisticOptions, {"num_values": 0}),
        (logistic.LogisticOptions, {"tolerance": float("nan")}),
        (ridge.RidgeOptions, {"min_l2": -1.0}),
        (ridge.RidgeOptions, {"min_l2": 2.0, "max_l2": 1.0}),
        (knn.KnnOptions, {"ks": ()}),
        (knn.KnnOptions, {"ks": (0,)}),
        (knn.KnnOptions, {"temperature": 0.0}),
        (centroid.CentroidOptions, {"distance": "manhattan"}),
    ],
)
def test_options_out_of_range_are_refused(options: type, values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        options(**values)


# Heads


def test_neighbours_vote_with_the_exponential_of_their_cosine() -> None:
    stored = make_features(30, 6, 3)
    head = NeighbourHead(
        normalise_rows(stored.values, 0.0, 1.0), stored.labels, np.zeros(6, "f4"), np.ones(6, "f4"), 3, 7, 0.07
    )
    queries = make_features(9, 6, 3, seed=4).values
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, stored.values)]
    cosines = units[0] @ units[1].T
    prior = np.bincount(stored.labels) / 30
    for row, found in zip(cosines, head.logits(queries), strict=True):
        nearest = np.argsort(-row)[:7]
        votes = np.bincount(stored.labels[nearest], weights=np.exp(row[nearest] / 0.07), minlength=3)
        expected = (7 * votes / votes.sum() + prior) / 8
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4)


def test_several_k_at_once_are_each_k_alone_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    heads = {k: knn._store([task.train.values], task.train.labels, task, "plain", k, 0.07) for k in (1, 5, 50)}
    expected = {k: head.logits(task.val.values) for k, head in heads.items()}
    monkeypatch.setattr("backbench.heads.heads.SIMILARITIES_PER_BLOCK", 700)
    for k, found in zip((1, 5, 50), heads[1].logits_for(task.val.values, (1, 5, 50)), strict=True):
        np.testing.assert_allclose(found, expected[k], rtol=1e-5, atol=1e-6)


def test_no_more_neighbours_are_asked_than_there_are() -> None:
    assert knn.decide_ks((1, 5, 10, 20), 12) == [1, 5, 10]
    assert knn.decide_ks((5, 10), 3) == [3]


def test_the_nearest_centroid_by_angle_and_by_distance() -> None:
    task = make_task()
    means = np.stack([task.train.values[task.train.labels == c].mean(axis=0) for c in range(4)]).astype(np.float64)
    centre = task.train.values.mean(axis=0, dtype=np.float64)
    parts = [task.train.values[:33], task.train.values[33:]]
    cosine = centroid._fit_cosine(parts, task.train.labels, 4, 2.0)
    queries = task.val.values.astype(np.float64) - centre
    angles = queries @ (means - centre).T
    angles /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(means - centre, axis=1)
    np.testing.assert_allclose(cosine.logits(task.val.values), 2 * angles, atol=1e-5)
    within = ((task.train.values - means[task.train.labels]) ** 2).mean(axis=0)
    distances = (((task.val.values[:, None] - means) ** 2) / within).sum(axis=2)
    found = centroid._fit_euclidean(parts, task.train.labels, 4, 3.0).logits(task.val.values)
    expected = -1.5 * distances
    np.testing.assert_allclose(found, expected - expected.mean(axis=1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_nearest_centroid_never_says_a_class_without_examples(distance: str) -> None:
    task = make_task()
    fit = {"cosine": centroid._fit_cosine, "euclidean": centroid._fit_euclidean}[distance]
    logits = fit([task.train.values], np.where(task.train.labels == 2, 1, task.train.labels), 4, 5.0).logits(
        task.val.values
    )
    assert (logits[:, 2] <= logits.max(axis=1) - 19.9).all()


def test_a_class_without_examples_gets_a_constant_far_below() -> None:
    rng = np.random.default_rng(0)
    weights, bias = rng.standard_normal((3, 5)), rng.standard_normal(3)
    wide = LinearHead(*spread_classes(weights, bias, np.array([0, 2, 3]), 5))
    values = rng.standard_normal((40, 5))
    plain, spread = values @ weights.T + bias, wide.logits(values)
    kept = spread[:, [0, 2, 3]]
    np.testing.assert_allclose(kept - kept[:, :1], plain - plain[:, :1], atol=1e-9)
    assert (spread[:, [1, 4]] == -20).all()
    assert (kept.max(axis=1) >= 0).all()


def test_a_row_of_zeros_and_extreme_rows_have_a_direction() -> None:
    rows = np.array([[0, 0], [3e30, 4e30], [3e-30, 4e-30]], dtype=np.float32)
    np.testing.assert_allclose(normalise_rows(rows, 0.0, 1.0), [[0, 0], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
    head = CosineHead(np.zeros(2, "f4"), np.eye(2, dtype="f4"), np.zeros(2, "f4"), 2.0)
    np.testing.assert_allclose(head.logits(rows), [[0, 0], [1.2, 1.6], [1.2, 1.6]], rtol=1e-5)
