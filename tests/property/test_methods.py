"""One battery of contracts over every probe the catalogue finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from backbench.errors import DataError
from backbench.heads import standardise
from backbench.heads.choose import score_logits
from backbench.heads.heads import Fitted
from backbench.registry import MethodSpec, list_methods
from backbench.task import Features, Task

METHODS = [method for method in list_methods() if method.kind == "probe" and not method.needs_head]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices: threads that wait for one another would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_features(labels: np.ndarray, dim: int, *, size: float, seed: int) -> Features:
    means = np.random.default_rng(99).standard_normal((100, dim))
    noise = np.random.default_rng(seed).standard_normal((len(labels), dim))
    values = (size * (0.8 * means[labels] + noise + 1.0)).astype(np.float32)
    return Features(values, labels.astype(np.int64), tuple(f"{seed}-{i}" for i in range(len(labels))))


def make_task(
    num_train: int = 120,
    num_val: int = 40,
    *,
    classes: int = 4,
    dim: int = 16,
    size: float = 1.0,
    absent: int = -1,
) -> tuple[Task, Features]:
    """A task and a test split; class `absent` has no training image."""
    rng = np.random.default_rng(7)

    def draw(num: int) -> np.ndarray:
        return np.concatenate([np.arange(classes), rng.integers(0, classes, max(0, num - classes))])[:num]

    labels = draw(num_train)
    labels[labels == absent] = (absent + 1) % classes
    train, val, test = (
        make_features(part, dim, size=size, seed=seed)
        for seed, part in enumerate((labels, draw(num_val), draw(400)))
    )
    return Task(train, val, tuple(f"class {i}" for i in range(classes)), seed=3), test


def fit(method: MethodSpec, task: Task) -> Fitted:
    return method.adapt(task, method.options())


def probabilities(fitted: Fitted, values: np.ndarray) -> np.ndarray:
    logits = fitted.head.logits(values).astype(np.float64)
    assert np.isfinite(logits).all()
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_the_four_probes_are_found() -> None:
    assert {"knn", "centroid", "ridge", "logistic"} <= {method.name for method in METHODS}


@every_method
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("classes", "dim"), [(4, 16), (2, 16), (4, 200)])
def test_it_beats_chance_on_features_of_any_size(method: MethodSpec, size: float, classes: int, dim: int) -> None:
    task, test = make_task(classes=classes, dim=dim, size=size)
    fitted = fit(method, task)
    score = score_logits(fitted.head.logits(test.values), test.labels)
    assert score.accuracy > 0.75
    assert score.nll < np.log(classes)
    assert fitted.warnings == ()


@every_method
def test_size_does_not_matter(method: MethodSpec) -> None:
    plain, test = make_task()
    large, _ = make_task(size=2.0**20)
    small, _ = make_task(size=2.0**-20)
    expected = probabilities(fit(method, plain), test.values)
    np.testing.assert_allclose(probabilities(fit(method, large), test.values * 2**20), expected, atol=2e-3)
    np.testing.assert_allclose(probabilities(fit(method, small), test.values / 2**20), expected, atol=2e-3)


@every_method
def test_the_same_task_gives_the_same_result_bit_for_bit(method: MethodSpec) -> None:
    task, test = make_task()
    first, second = fit(method, task), fit(method, task)
    np.testing.assert_array_equal(first.head.logits(test.values), second.head.logits(test.values))
    np.testing.assert_array_equal(first.val_logits, second.val_logits)
    assert first.choices == second.choices


@every_method
def test_the_task_is_left_as_it_was(method: MethodSpec) -> None:
    task, _ = make_task()
    copies = [part.copy() for part in (task.train.values, task.train.labels, task.val.values, task.val.labels)]
    originals = (task.train.values, task.train.labels, task.val.values, task.val.labels)
    fit(method, task)
    for original, copy in zip(originals, copies, strict=True):
        np.testing.assert_array_equal(original, copy)


@every_method
def test_features_that_may_not_be_written_to_will_do(method: MethodSpec) -> None:
    """They may be a view of the cache file."""
    task, test = make_task()
    for part in (task.train, task.val, test):
        part.values.flags.writeable = False
        part.labels.flags.writeable = False
    fit(method, task).head.logits(test.values)


@every_method
def test_threads_and_random_state_are_left_as_they_were(method: MethodSpec) -> None:
    task, _ = make_task()
    torch.manual_seed(5)
    np.random.seed(5)
    threads, before = torch.get_num_threads(), (torch.get_rng_state(), np.random.get_state()[1].copy())  # type: ignore[index, union-attr]
    fit(method, task)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]


@every_method
def test_the_validation_logits_come_from_a_head_that_has_not_seen_validation(method: MethodSpec) -> None:
    """Other labels on validation change the choice and the final head, but not what the heads of train say."""
    task, _ = make_task()
    fitted = fit(method, task)
    assert fitted.fitted_on == "train+val"
    assert fitted.val_logits is not None
    assert fitted.val_logits.shape == (len(task.val), task.num_classes)
    assert fitted.val_logits.dtype == np.float32
    score = score_logits(fitted.val_logits, task.val.labels)
    assert score.accuracy == pytest.approx(fitted.choices["val_accuracy"])
    assert score.nll == pytest.approx(fitted.choices["val_nll"], rel=1e-4)
    rng = np.random.default_rng(0)
    random_val = replace(task.val, labels=rng.permutation(task.val.labels))
    leaked = fit(method, replace(task, val=random_val))
    assert leaked.val_logits is not None
    assert score_logits(leaked.val_logits, random_val.labels).accuracy < 0.6


@every_method
def test_the_final_head_has_seen_validation(method: MethodSpec) -> None:
    """With 5 images in train and 300 in validation, most of what it knows must come from validation."""
    task, test = make_task(num_train=5, num_val=300)
    fitted = fit(method, task)
    assert fitted.val_logits is not None
    before = score_logits(fitted.val_logits, task.val.labels).accuracy
    assert score_logits(fitted.head.logits(test.values), test.labels).accuracy > before + 0.1


@every_method
def test_without_validation_there_are_defaults(method: MethodSpec) -> None:
    task, test = make_task(num_val=0)
    fitted = fit(method, task)
    assert fitted.val_logits is None
    assert fitted.fitted_on == "train"
    json.dumps(fitted.choices, allow_nan=False)
    assert score_logits(fitted.head.logits(test.values), test.labels).accuracy > 0.75


@every_method
@pytest.mark.parametrize("num_val", [0, 1, 4])
def test_one_example_of_each_class_is_enough(method: MethodSpec, num_val: int) -> None:
    task, test = make_task(num_train=4, num_val=num_val)
    score = score_logits(fit(method, task).head.logits(test.values), test.labels)
    assert score.accuracy > 0.35
    assert np.isfinite(score.nll)


@every_method
def test_a_class_missing_from_train_is_never_likely(method: MethodSpec) -> None:
    task, test = make_task(absent=2)
    has_none = replace(task, val=task.val if (task.val.labels != 2).all() else _without(task.val, 2))
    fitted = fit(method, has_none)
    assert probabilities(fitted, test.values)[:, 2].max() < 1e-3
    seen = test.labels != 2
    assert score_logits(fitted.head.logits(test.values[seen]), test.labels[seen]).accuracy > 0.75


@every_method
def test_a_class_that_only_validation_has_is_learned_in_the_end(method: MethodSpec) -> None:
    task, test = make_task(num_val=160, absent=2)
    fitted = fit(method, task)
    assert fitted.val_logits is not None
    assert np.isfinite(fitted.choices["val_nll"])
    assert (fitted.val_logits.argmax(axis=1) != 2).all()
    rare = test.labels == 2
    assert (fitted.head.logits(test.values[rare]).argmax(axis=1) == 2).mean() > 0.5


@every_method
@pytest.mark.parametrize("dim", [1, 5])
def test_features_that_are_all_the_same_give_the_shares_of_the_classes(method: MethodSpec, dim: int) -> None:
    task, _ = make_task(dim=dim)
    constant = [
        replace(part, values=np.full((len(part), dim), 0.1, dtype=np.float32)) for part in (task.train, task.val)
    ]
    fitted = fit(method, replace(task, train=constant[0], val=constant[1]))
    labels = np.concatenate([task.train.labels, task.val.labels])
    shares = np.bincount(labels, minlength=4) / len(labels)
    found = probabilities(fitted, np.full((3, dim), 0.1, dtype=np.float32))
    np.testing.assert_allclose(found, np.tile(shares, (3, 1)), atol=1e-5)
    assert fitted.val_logits is not None
    json.dumps(fitted.choices, allow_nan=False)


@every_method
def test_a_constant_column_a_copy_and_one_dimension_will_do(method: MethodSpec) -> None:
    task, test = make_task()

    def widen(part: Features) -> Features:
        constant = np.full((len(part), 1), 3.3, dtype=np.float32)
        return replace(part, values=np.column_stack([part.values, part.values[:, :2], constant]))

    fitted = fit(method, replace(task, train=widen(task.train), val=widen(task.val)))
    assert score_logits(fitted.head.logits(widen(test).values), test.labels).accuracy > 0.75
    narrow, one = make_task(dim=1, classes=2)
    assert np.isfinite(fit(method, narrow).head.logits(one.values)).all()


@every_method
def test_images_are_judged_one_by_one(method: MethodSpec) -> None:
    """Logits of a batch are those of its rows, in their order, whatever the blocks."""
    task, test = make_task()
    head = fit(method, task).head
    together = head.logits(test.values)
    assert together.shape == (400, 4)
    assert together.dtype == np.float32
    order = np.random.default_rng(0).permutation(400)
    np.testing.assert_allclose(head.logits(test.values[order]), together[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(head.logits(test.values[5:6]), together[5:6], rtol=1e-4, atol=1e-4)
    assert head.logits(test.values[:0]).shape == (0, 4)


@every_method
def test_the_order_of_training_images_hardly_matters(method: MethodSpec) -> None:
    task, test = make_task()
    order = np.random.default_rng(1).permutation(len(task.train))
    shuffled = Features(
        task.train.values[order], task.train.labels[order], tuple(task.train.ids[i] for i in order)
    )
    expected = probabilities(fit(method, task), test.values)
    found = probabilities(fit(method, replace(task, train=shuffled)), test.values)
    np.testing.assert_allclose(found, expected, atol=5e-3)


@every_method
def test_what_was_chosen_can_be_stored(method: MethodSpec) -> None:
    task, _ = make_task()
    choices = fit(method, task).choices
    assert json.loads(json.dumps(choices, allow_nan=False)) == choices
    assert {"val_accuracy", "val_nll", "num_values"} <= set(choices)


@every_method
def test_features_that_are_not_finite_are_refused(method: MethodSpec) -> None:
    task, _ = make_task()
    for value in (np.nan, np.inf):
        broken = task.train.values.copy()
        broken[0, 0] = value
        with pytest.raises(DataError, match="not finite"):
            method.adapt(replace(task, train=replace(task.train, values=broken)), method.options())


@every_method
def test_unknown_options_are_refused_and_options_are_frozen(method: MethodSpec) -> None:
    with pytest.raises(ValidationError):
        method.options(no_such_option=1)
    options = method.options()
    with pytest.raises(ValidationError):
        setattr(options, next(iter(type(options).model_fields)), 1)
    json.dumps(options.model_dump(mode="json"), allow_nan=False)


@every_method
def test_large_sets_that_are_not_copied_give_the_same(method: MethodSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    task, test = make_task()
    expected = probabilities(fit(method, task), test.values)
    monkeypatch.setitem(standardise.MAX_COPY_BYTES, "cpu", 0)
    monkeypatch.setattr(standardise, "BLOCK_ROWS", 50)
    np.testing.assert_allclose(probabilities(fit(method, task), test.values), expected, atol=5e-3)


def _without(part: Features, label: int) -> Features:
    kept = np.flatnonzero(part.labels != label)
    return Features(part.values[kept], part.labels[kept], tuple(part.ids[i] for i in kept))
