"""The solver, and logistic regression against scikit-learn, autograd and finite differences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from backbench.errors import DataError
from backbench.heads import lbfgs, logistic, standardise
from backbench.heads.lbfgs import Diverged, minimise
from backbench.heads.logistic import fit_logistic
from backbench.heads.standardise import Rows, Scale, measure_scale


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices: threads that wait for one another would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_examples(
    num: int, dim: int, num_classes: int, *, separation: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((num_classes, dim))
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num - num_classes)])
    mixing = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    values = (separation * means[labels] + rng.standard_normal((num, dim))) / np.sqrt(np.arange(1, dim + 1))
    return (values @ mixing + rng.standard_normal(dim)).astype(np.float32), labels


def standardise_reference(values: np.ndarray) -> np.ndarray:
    exact = values.astype(np.float64)
    std = exact.std(axis=0)
    return (exact - exact.mean(axis=0)) / np.where(std > 0, std, 1)


def loss_reference(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: np.ndarray, C: float
) -> float:
    """Mean cross-entropy + |W|^2 / (2 n C), twice the penalty for two classes, in plain float64."""
    logits = values @ weights.astype(np.float64).T + bias
    top = logits.max(axis=1, keepdims=True)
    log_norm = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    penalty = (weights.astype(np.float64) ** 2).sum() / (2 * len(values) * C)
    entropy = np.mean(log_norm - logits[np.arange(len(labels)), labels])
    return float(entropy + (2 if logits.shape[1] == 2 else 1) * penalty)


def sklearn_loss(values: np.ndarray, labels: np.ndarray, num_classes: int, C: float) -> float:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=C, tol=1e-6, max_iter=20_000).fit(values, labels)
    weights, bias = model.coef_, model.intercept_
    if len(weights) == 1:  # its one vector of two classes is the difference of ours
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return loss_reference(values, labels, weights, bias, C)


CASES = {
    "n > dim, 10 classes": make_examples(600, 40, 10),
    "n < dim, 10 classes": make_examples(80, 200, 10),
    "two classes": make_examples(300, 30, 2),
    "two classes, n < dim": make_examples(40, 100, 2),
    "100 classes": make_examples(1000, 30, 100, separation=1.0),
    "separable": make_examples(300, 60, 5, separation=4.0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_solution_is_scikit_learns(case: str) -> None:
    values, labels = CASES[case]
    num_classes = int(labels.max()) + 1
    strengths = [1e-4, 1e-2, 0.3, 10.0]
    scale = measure_scale([values])
    fits = fit_logistic(Rows([values], scale, "cpu"), labels, num_classes=num_classes, strengths=strengths)
    assert fits.converged.all()
    exact = standardise_reference(values)
    for i, strength in enumerate(strengths):
        theirs = sklearn_loss(exact, labels, num_classes, strength)
        ours = loss_reference(exact, labels, fits.weights[i], fits.bias[i], strength)
        assert ours == pytest.approx(fits.losses[i], rel=1e-5, abs=1e-7)
        assert ours <= theirs * (1 + 1e-4)  # where it is lower, scikit-learn stopped early: see the next test
        assert abs(ours - theirs) <= 1e-4 * max(theirs, 0.1)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("case", ["n > dim, 10 classes", "n < dim, 10 classes", "two classes"])
def test_the_loss_is_within_a_hundred_thousandth_of_its_minimum(case: str, strength: float) -> None:
    values, labels = CASES[case]
    exact = torch.from_numpy(standardise_reference(values))
    num_classes = int(labels.max()) + 1
    fits = fit_logistic(
        Rows([values], measure_scale([values]), "cpu"), labels, num_classes=num_classes, strengths=[strength]
    )
    theta = torch.from_numpy(np.column_stack([fits.weights[0], fits.bias[0]]).astype(np.float64))
    theta.requires_grad_()
    doubled = 2 if num_classes == 2 else 1

    def loss() -> torch.Tensor:
        logits = exact @ theta[:, :-1].T + theta[:, -1]
        entropy = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        return entropy + doubled * theta[:, :-1].square().sum() / (2 * len(exact) * strength)

    first = float(loss().detach())
    solver = torch.optim.LBFGS(
        [theta], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    solver.step(closure)
    best = float(loss().detach())
    assert first - best <= 1e-5 * max(best, logistic.LOSS_FLOOR)


def test_a_sweep_gives_what_each_strength_gives_alone() -> None:
    values, labels = CASES["n > dim, 10 classes"]
    rows = Rows([values], measure_scale([values]), "cpu")
    strengths = np.logspace(-5, 2, 24).tolist()
    together = fit_logistic(rows, labels, num_classes=10, strengths=strengths)
    assert together.converged.all()
    for i in (0, 7, 13, 23):
        alone = fit_logistic(rows, labels, num_classes=10, strengths=[strengths[i]])
        assert together.losses[i] == pytest.approx(alone.losses[0], rel=2e-5, abs=2e-7)


def test_the_gradient_is_autograds_and_that_of_finite_differences() -> None:
    values, labels = make_examples(70, 6, 4)
    rows = Rows([values], measure_scale([values]), "cpu")
    strengths = [0.01, 1.0, 30.0]
    objective = logistic._Objective(rows, labels, 4, strengths, logistic.measure_spectrum(rows))
    points = torch.randn(3, 4 * 7, generator=torch.Generator().manual_seed(0))
    found_values, found_gradients = objective.evaluate(points, torch.arange(3))
    exact = torch.from_numpy(standardise_reference(values))
    for i, strength in enumerate(strengths):
        theta = points[i].double().view(4, 7).requires_grad_()
        logits = exact @ theta[:, :6].T + theta[:, 6]
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        loss = loss + theta[:, :6].square().sum() / (2 * 70 * strength)
        loss.backward()
        assert theta.grad is not None
        assert float(found_values[i]) == pytest.approx(float(loss.detach()), rel=1e-6)
        np.testing.assert_allclose(found_gradients[i].view(4, 7), theta.grad, rtol=1e-4, atol=1e-6)
        direction = np.random.default_rng(i).standard_normal((4, 7))
        sides = [theta.detach().numpy() + sign * 1e-5 * direction for sign in (1, -1)]
        high, low = (loss_reference(exact.numpy(), labels, side[:, :6], side[:, 6], strength) for side in sides)
        slope = float((found_gradients[i].view(4, 7).numpy() * direction).sum())
        assert slope == pytest.approx((high - low) / 2e-5, rel=1e-4)


def test_some_of_the_problems_can_be_evaluated_alone() -> None:
    values, labels = make_examples(70, 6, 4)
    rows = Rows([values], measure_scale([values]), "cpu")
    objective = logistic._Objective(rows, labels, 4, [0.01, 1.0, 30.0], logistic.measure_spectrum(rows))
    points = torch.randn(3, 28, generator=torch.Generator().manual_seed(0))
    all_values, all_gradients = objective.evaluate(points, torch.arange(3))
    some_values, some_gradients = objective.evaluate(points[[2, 0]], torch.tensor([2, 0]))
    torch.testing.assert_close(some_values, all_values[[2, 0]])
    torch.testing.assert_close(some_gradients, all_gradients[[2, 0]], rtol=1e-5, atol=1e-7)


def test_a_class_without_examples_is_never_likely_and_changes_nothing_else() -> None:
    values, labels = CASES["n > dim, 10 classes"]
    rows = Rows([values], measure_scale([values]), "cpu")
    plain = fit_logistic(rows, labels, num_classes=10, strengths=[0.1])
    wider = fit_logistic(rows, np.where(labels >= 4, labels + 1, labels), num_classes=12, strengths=[0.1])
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    np.testing.assert_array_equal(wider.weights[0][kept], plain.weights[0])
    logits = standardise_reference(values) @ wider.weights[0].T + wider.bias[0]
    assert (logits[:, [4, 11]] <= logits.max(axis=1, keepdims=True) - 20 + 1e-3).all()


def test_one_class_alone_is_certain() -> None:
    values, _ = make_examples(20, 5, 2)
    fits = fit_logistic(
        Rows([values], measure_scale([values]), "cpu"), np.full(20, 1), num_classes=3, strengths=[1.0]
    )
    assert fits.bias[0].argmax() == 1
    assert not fits.weights.any()


def test_duplicate_and_constant_columns_do_no_harm() -> None:
    values, labels = make_examples(200, 10, 3)
    odd = np.column_stack([values, values, np.full(200, 7.25), np.zeros(200)]).astype(np.float32)
    fits = fit_logistic(Rows([odd], measure_scale([odd]), "cpu"), labels, num_classes=3, strengths=[0.1, 10.0])
    assert fits.converged.all()
    exact = standardise_reference(odd)
    for i, strength in enumerate([0.1, 10.0]):
        ours = loss_reference(exact, labels, fits.weights[i], fits.bias[i], strength)
        assert ours == pytest.approx(sklearn_loss(exact, labels, 3, strength), rel=1e-4)
    np.testing.assert_allclose(fits.weights[:, :, :10], fits.weights[:, :, 10:20], atol=1e-3)
    assert not fits.weights[:, :, 20:].any()


def test_a_hundred_classes_and_hardly_a_penalty_settle_from_nothing() -> None:
    """From weights at 0 this took hundreds of passes, hence the approach over stronger penalties."""
    values, labels = make_examples(1500, 200, 100, separation=1.0)
    rows = Rows([values], measure_scale([values]), "cpu")
    fits = fit_logistic(rows, labels, num_classes=100, strengths=[1.0], max_evaluations=100)
    assert fits.converged.all()
    assert fits.num_evaluations < 150


def test_a_start_near_the_solution_saves_passes() -> None:
    values, labels = CASES["n > dim, 10 classes"]
    rows = Rows([values], measure_scale([values]), "cpu")
    cold = fit_logistic(rows, labels, num_classes=10, strengths=[1.0])
    warm = fit_logistic(rows, labels, num_classes=10, strengths=[1.0], start=(cold.weights[0], cold.bias[0]))
    assert warm.num_evaluations <= 3 < cold.num_evaluations
    assert warm.losses[0] == pytest.approx(cold.losses[0], rel=1e-5)


def test_the_covariance_preconditions() -> None:
    """On features of very different spread the spectrum must save most passes."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((500, 60)) / np.arange(1, 61) ** 1.5
    values = (values @ np.linalg.qr(rng.standard_normal((60, 60)))[0]).astype(np.float32)
    labels = (values @ rng.standard_normal((60, 4))).argmax(axis=1)
    rows = Rows([values], measure_scale([values]), "cpu")
    flat = logistic.Spectrum(torch.zeros(60, 0), torch.zeros(0), 1.0)
    plain = fit_logistic(rows, labels, num_classes=4, strengths=[1.0], spectrum=flat)
    ours = fit_logistic(rows, labels, num_classes=4, strengths=[1.0])
    assert ours.num_evaluations < 0.6 * plain.num_evaluations
    assert ours.losses[0] == pytest.approx(plain.losses[0], rel=2e-5)


def test_wide_features_use_a_sample_for_the_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = make_examples(300, 64, 3)
    rows = Rows([values], measure_scale([values]), "cpu")
    whole = fit_logistic(rows, labels, num_classes=3, strengths=[0.1])
    monkeypatch.setattr(logistic, "MAX_RANK", 16)
    assert logistic.measure_spectrum(rows).vectors.shape == (64, 17)
    part = fit_logistic(rows, labels, num_classes=3, strengths=[0.1])
    assert part.losses[0] == pytest.approx(whole.losses[0], rel=2e-5)


def test_features_that_are_not_finite_are_refused() -> None:
    values, labels = make_examples(50, 5, 2)
    broken = values.copy()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="1 of 5 features hold values that are not finite"):
        measure_scale([broken])
    with pytest.raises(Diverged, match="not finite"):
        fit_logistic(Rows([broken], measure_scale([values]), "cpu"), labels, num_classes=2, strengths=[1.0])
    with pytest.raises(DataError, match="no training images"):
        measure_scale([values[:0]])


@pytest.mark.parametrize("size", [1e20, 1e30, 3.4e38])
def test_large_features_are_finite(size: float) -> None:
    values, labels = make_examples(50, 5, 2)
    values[3, 2], values[7, 2] = size, -size
    scale = measure_scale([values[:20], values[20:]])
    assert scale.inverse_std[2] == pytest.approx(1 / values[:, 2].astype(np.float64).std(), rel=1e-6)
    fits = fit_logistic(Rows([values], scale, "cpu"), labels, num_classes=2, strengths=[1.0])
    assert np.isfinite(fits.losses).all()
    values[0, 4] = np.inf
    with pytest.raises(DataError, match="1 of 5 features hold values that are not finite"):
        measure_scale([values])


# The solver


def quadratics(num: int = 5, dim: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(num, dim, dim, generator=generator, dtype=torch.float64)
    return factors @ factors.mT + 0.1 * torch.eye(dim, dtype=torch.float64), torch.randn(
        num, dim, generator=generator, dtype=torch.float64
    )


def test_several_functions_at_once_each_reach_their_minimum_and_drop_out() -> None:
    hessians, centres = quadratics()
    asked: list[list[int]] = []

    def evaluate(points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(which.tolist())
        offsets = points - centres[which]
        gradients = torch.einsum("aij,aj->ai", hessians[which], offsets)
        return 1.0 + 0.5 * (offsets * gradients).sum(dim=1), gradients

    start = torch.zeros(5, 12, dtype=torch.float64)
    start[3] = centres[3]
    found = minimise(evaluate, start, lambda v, _: v, tolerance=1e-14, value_floor=0.0, max_evaluations=400)
    assert found.converged.all()
    torch.testing.assert_close(found.points, centres, rtol=1e-5, atol=1e-5)
    assert int(found.evaluations[3]) == 1
    assert all(3 not in which for which in asked[1:])
    assert [sum(i in which for which in asked) for i in range(5)] == found.evaluations.tolist()
    assert not start[0].any()


def test_the_limit_of_evaluations_holds_and_is_told() -> None:
    hessians, centres = quadratics()
    calls = 0

    def evaluate(points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        gradients = torch.einsum("aij,aj->ai", hessians[which], points - centres[which])
        return 1.0 + 0.5 * ((points - centres[which]) * gradients).sum(dim=1), gradients

    found = minimise(
        evaluate, torch.zeros_like(centres), lambda v, _: v, tolerance=1e-14, value_floor=0.0, max_evaluations=4
    )
    assert calls == 4
    assert not found.converged.any()
    assert (found.values < 1.0 + 0.5 * torch.einsum("ai,aij,aj->a", centres, hessians, centres)).all()


def test_a_step_into_the_infinite_is_shortened() -> None:
    """-log(x) + x, whose value is not finite at x <= 0, where the first step of 100 leads."""

    def evaluate(points: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (points - torch.log(points)).sum(dim=1), 1 - 1 / points

    found = minimise(
        evaluate,
        torch.full((1, 1), 3.0, dtype=torch.float64),
        lambda v, _: 150 * v,
        tolerance=1e-12,
        value_floor=0.0,
        max_evaluations=100,
    )
    assert found.converged.all()
    assert float(found.points) == pytest.approx(1.0, abs=1e-5)


def test_a_point_without_a_finite_gradient_is_not_taken() -> None:
    """x^2 - x from 0 with a first step of 8: lower values in between, but no gradient beyond 0.9."""

    def evaluate(points: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gradients = torch.where(points > 0.9, torch.nan, 2 * points - 1)
        return torch.where(points > 0.9, -9.0, points**2 - points).sum(dim=1), gradients

    found = minimise(
        evaluate,
        torch.zeros(1, 1, dtype=torch.float64),
        lambda v, _: 8 * v,
        tolerance=1e-9,
        value_floor=1.0,
        max_evaluations=50,
    )
    assert found.converged.all()
    assert float(found.points) == pytest.approx(0.5, abs=1e-3)


def test_where_no_step_helps_the_search_ends() -> None:
    def evaluate(points: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Finite at the start alone."""
        return torch.where(points.any(dim=1), torch.inf, 1.0).double(), -torch.ones_like(points)

    found = minimise(
        evaluate, torch.zeros(2, 3), lambda v, _: v, tolerance=1e-9, value_floor=0.0, max_evaluations=10_000
    )
    assert not found.converged.any()
    assert (found.evaluations <= lbfgs.MAX_REJECTIONS + 5).all()
    assert not found.points.any()


# Standardised rows


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("is_kept", [True, False])
def test_rows_are_standardised_whatever_their_size_and_parts(
    size: float, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_kept:
        monkeypatch.setitem(standardise.MAX_COPY_BYTES, "cpu", 0)
    values = (size * (make_examples(333, 7, 3)[0] + 2)).astype(np.float32)
    parts = [values[:100], values[100:100], values[100:]]
    rows = Rows(parts, measure_scale(parts), "cpu")
    assert (rows.kept is not None) is is_kept
    assert len(rows) == 333
    firsts, blocks = zip(*rows.blocks(64), strict=True)
    assert list(firsts) == list(np.cumsum([0, *(len(block) for block in blocks)])[:-1])
    np.testing.assert_allclose(torch.cat(blocks), standardise_reference(values), atol=2e-4)
    np.testing.assert_array_equal(rows.sample(100), torch.cat(blocks)[::3])


def test_kept_and_streamed_rows_give_the_same_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    values, labels = CASES["n > dim, 10 classes"]
    scale = measure_scale([values])
    kept = fit_logistic(Rows([values], scale, "cpu"), labels, num_classes=10, strengths=[0.1])
    monkeypatch.setitem(standardise.MAX_COPY_BYTES, "cpu", 0)
    monkeypatch.setattr(logistic, "MAX_BLOCK_ROWS", 77)
    monkeypatch.setattr(logistic, "MIN_BLOCK_ROWS", 77)
    parts = [values[:123], values[123:]]
    streamed = fit_logistic(Rows(parts, scale, "cpu"), labels, num_classes=10, strengths=[0.1])
    assert streamed.losses[0] == pytest.approx(kept.losses[0], rel=1e-5)
    np.testing.assert_allclose(streamed.weights, kept.weights, atol=2e-3)


def test_constant_but_for_rounding_is_constant() -> None:
    noise = np.random.default_rng(0).standard_normal((50, 3))
    values = np.column_stack([1000 + 1e-4 * noise[:, 0], 1000 + noise[:, 1], 1e-12 * noise[:, 2]])
    assert (measure_scale([values.astype(np.float32)]).inverse_std > 0).tolist() == [False, True, True]


def test_the_weights_of_a_scale_unfold() -> None:
    from backbench.heads.ridge import unfold

    scale = Scale(np.array([3.0, -1.0]), np.array([0.5, 0.0]))
    weights, bias = unfold(np.array([[2.0, 9.0]]), np.array([1.0]), scale)
    assert weights.tolist() == [[1.0, 0.0]]
    assert bias.tolist() == [-2.0]
