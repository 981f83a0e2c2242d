"""What is taken for what: counts, the pairs most often confused, an order that puts like beside like."""

from __future__ import annotations

import numpy as np
import pytest

from backbench.stats.confusion import ConfusedPair, cluster_order, count_confusion, most_confused
from backbench.stats.reliability import at_temperature, reliability_bins


def test_counts_have_true_classes_in_rows_and_answers_in_columns() -> None:
    counts = count_confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_counts_of_nothing_are_zeros() -> None:
    assert count_confusion(np.array([]), np.array([]), 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("labels", "answers"), [([0, 3], [0, 0]), ([0, 0], [0, -1]), ([0], [0, 0])])
def test_counts_refuse_what_does_not_fit(labels: list[int], answers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"classes|lengths"):
        count_confusion(np.array(labels), np.array(answers), 3)


def test_pairs_count_both_ways_and_name_the_commoner_way_first() -> None:
    counts = np.array([[5, 1, 0], [3, 4, 0], [0, 2, 6]])
    pairs = most_confused(counts, ["ant", "bee", "cat"], 5)
    assert pairs[0] == ConfusedPair("bee", "ant", 3, 1, num_first=7, num_second=6)
    assert pairs[1] == ConfusedPair("cat", "bee", 2, 0, num_first=8, num_second=7)
    assert len(pairs) == 2
    assert pairs[0].num_wrong == 4


def test_pairs_are_at_most_as_many_as_asked_and_none_where_all_is_right() -> None:
    counts = np.ones((6, 6), dtype=np.int64)
    assert [pair.first + pair.second for pair in most_confused(counts, "abcdef", 2)] == ["ab", "ac"]
    assert most_confused(np.eye(4, dtype=np.int64), "abcd", 3) == []
    assert most_confused(counts, "abcdef", 0) == []


def test_order_brings_scattered_groups_together() -> None:
    groups = np.arange(12) % 3
    counts = np.where(groups[:, None] == groups[None], 2, 0) + 10 * np.eye(12, dtype=np.int64)
    order = cluster_order(counts)
    assert sorted(order.tolist()) == list(range(12))
    assert (np.diff(groups[order]) != 0).sum() == 2


def test_order_lays_a_chain_out_in_a_line() -> None:
    shuffled = np.random.default_rng(0).permutation(9)
    chain = 20 * np.eye(9, dtype=np.int64)
    for place, strength in enumerate((9, 3, 8, 2, 7, 1, 6, 4)):
        chain[place, place + 1] = strength
    counts = np.zeros_like(chain)
    counts[np.ix_(shuffled, shuffled)] = chain
    places = np.argsort(shuffled)[cluster_order(counts)]
    assert places.tolist() in (list(range(9)), list(range(9))[::-1])


def test_order_keeps_classes_that_are_never_confused_last_and_as_they_were() -> None:
    counts = 5 * np.eye(6, dtype=np.int64)
    counts[4, 1] = 3
    assert cluster_order(counts).tolist() == [1, 4, 0, 2, 3, 5]
    assert cluster_order(np.zeros((3, 3), dtype=np.int64)).tolist() == [0, 1, 2]
    assert cluster_order(np.array([[7]])).tolist() == [0]


def test_order_is_the_same_every_time_and_of_500_classes_a_permutation() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(0.01, (500, 500)) + 9 * np.eye(500, dtype=np.int64)
    order = cluster_order(counts)
    assert sorted(order.tolist()) == list(range(500))
    assert (order == cluster_order(counts.copy())).all()


def test_matrices_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="classes, classes"):
        cluster_order(np.zeros((2, 3)))


def test_bins_hold_every_image_once_and_certainty_lies_in_the_last() -> None:
    bins = reliability_bins(np.array([0.05, 0.11, 0.19, 1.0, 0.9]), np.array([False, True, False, True, True]))
    assert [each.n for each in bins] == [1, 2, 2]
    assert [each.left for each in bins] == [0.0, 0.1, 0.9]
    assert [each.accuracy for each in bins] == [0.0, 0.5, 1.0]
    np.testing.assert_allclose([each.confidence for each in bins], [0.05, 0.15, 0.95])
    assert all(each.low <= each.accuracy <= each.high for each in bins)


def test_no_images_make_no_bins() -> None:
    assert reliability_bins(np.array([]), np.array([])) == ()


def test_a_temperature_changes_probabilities_as_it_changes_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 4)) * 3
    plain = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    warm = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(at_temperature(plain, 2.0), warm, rtol=1e-6)
    np.testing.assert_allclose(at_temperature(plain, 1.0), plain, rtol=1e-6)


def test_a_probability_of_zero_survives_a_temperature() -> None:
    given = at_temperature(np.array([[1.0, 0.0]]), 0.5)
    assert np.isfinite(given).all()
    np.testing.assert_allclose(given, [[1.0, 0.0]], atol=1e-12)
