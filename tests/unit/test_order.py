"""Order and chance depend on (seed, use, epoch, index) alone, and look like chance."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy import stats

from backbench.runtime import stream_seed
from backbench.training.order import draw_uniforms, epoch_order, num_pieces, piece_at

MIN_P = 1e-4  # seeds are fixed, so this fails by a change of the code alone
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(value: int) -> int:
    """The published mixing step, in whole numbers without a size."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def expected_uniform(seed: int, use: str, epoch: int, index: int, number: int) -> float:
    state = stream_seed(seed, use)
    for part in (epoch, index, number):
        state = splitmix((state + (part + 1) * GOLDEN) & MASK)
    return (state >> 11) / 2**53


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (1, 7), (2**40, 10**6)])
def test_numbers_are_those_of_the_published_generator(seed: int, epoch: int) -> None:
    indices = np.array([0, 1, 5, 2**33])
    drawn = draw_uniforms(seed, epoch, indices, 3, "flip")
    for row, column in itertools.product(range(4), range(3)):
        assert drawn[row, column] == expected_uniform(seed, "flip", epoch, int(indices[row]), column)


def test_a_stored_value_so_that_old_runs_resume() -> None:
    assert draw_uniforms(0, 0, np.array([0]), 2, "flip").tolist() == [[0.6338108861166878, 0.041325913716872886]]
    assert epoch_order(0, 0, 8).tolist() == [1, 6, 3, 7, 2, 5, 4, 0]


def test_a_row_depends_on_its_index_alone() -> None:
    whole = draw_uniforms(3, 2, np.arange(1000), 7, "crop")
    shuffled = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(draw_uniforms(3, 2, shuffled, 7, "crop"), whole[shuffled])
    for index in (0, 17, 999):
        assert np.array_equal(draw_uniforms(3, 2, np.array([index]), 7, "crop")[0], whole[index])


def test_asking_for_more_leaves_the_first_as_they_are() -> None:
    many = draw_uniforms(3, 2, np.arange(50), 40, "crop")
    for num in (0, 1, 2, 39):
        assert np.array_equal(draw_uniforms(3, 2, np.arange(50), num, "crop"), many[:, :num])


def test_every_part_of_the_key_counts() -> None:
    first = draw_uniforms(0, 0, np.arange(500), 4, "crop")
    for seed, epoch, use in [(1, 0, "crop"), (0, 1, "crop"), (0, 0, "flip"), (1, 1, "crop")]:
        other = draw_uniforms(seed, epoch, np.arange(500), 4, use)
        assert not (first == other).any()


def test_numbers_are_uniform() -> None:
    drawn = draw_uniforms(0, 0, np.arange(25_000), 4, "crop")
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert drawn.shape == (25_000, 4)
    for column in (*drawn.T, drawn.ravel()):
        assert stats.kstest(column, "uniform").pvalue > MIN_P
    bits = (drawn.ravel() * 2**53).astype(np.uint64)
    for place in range(53):
        ones = int(((bits >> np.uint64(place)) & np.uint64(1)).sum())
        assert stats.binomtest(ones, bits.size).pvalue > MIN_P


def test_numbers_do_not_know_of_one_another() -> None:
    num = 40_000
    base = draw_uniforms(0, 0, np.arange(num + 1), 2, "crop")
    others = {
        "next index": base[1:, 0],
        "next number": base[:-1, 1],
        "next epoch": draw_uniforms(0, 1, np.arange(num), 1, "crop")[:, 0],
        "next seed": draw_uniforms(1, 0, np.arange(num), 1, "crop")[:, 0],
        "other use": draw_uniforms(0, 0, np.arange(num), 1, "flip")[:, 0],
    }
    for name, other in others.items():
        assert stats.pearsonr(base[:-1, 0], other).pvalue > MIN_P, name
        cells = np.histogram2d(base[:-1, 0], other, bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(cells.ravel()).pvalue > MIN_P, name


def test_epochs_of_one_image_are_uniform() -> None:
    drawn = np.array([draw_uniforms(0, epoch, np.array([5]), 1, "crop")[0, 0] for epoch in range(4000)])
    assert stats.kstest(drawn, "uniform").pvalue > MIN_P
    assert stats.pearsonr(drawn[1:], drawn[:-1]).pvalue > MIN_P


@pytest.mark.parametrize("num", [0, 1, 2, 1000])
def test_order_is_a_permutation(num: int) -> None:
    order = epoch_order(0, 3, num)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(num))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {epoch_order(seed, epoch, 100).tobytes() for seed in range(20) for epoch in range(50)}
    assert len(orders) == 1000
    assert np.array_equal(epoch_order(4, 7, 100), epoch_order(4, 7, 100))


def test_every_order_is_as_likely() -> None:
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for epoch in range(4800):
        counts[tuple(epoch_order(0, epoch, 4).tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > MIN_P


def test_no_generator_is_moved() -> None:
    before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state())
    draw_uniforms(0, 0, np.arange(10), 3, "crop")
    epoch_order(0, 0, 10)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_pieces_are_all_there_is_and_none_is_a_single_one() -> None:
    for num, size in itertools.product(range(1, 40), range(1, 12)):
        pieces = [piece_at(number, num, size) for number in range(num_pieces(num, size))]
        assert [place for piece in pieces for place in range(piece.start, piece.stop)] == list(range(num))
        lengths = [piece.stop - piece.start for piece in pieces]
        assert set(lengths[:-1]) <= {size}
        assert num == 1 or size == 1 or 2 <= lengths[-1] <= size + 1
