"""Order and chance as functions: nothing here has a state, so nothing can get out of step.

A number depends on (seed, use, epoch, index) alone: never on the batch an image is in, on the worker or process
that works on it, or on what was drawn before. A run that is cut and resumed at any step draws the same numbers.
"""

from __future__ import annotations

import numpy as np

from backbench.runtime import stream_seed

_GOLDEN = 0x9E3779B97F4A7C15
_SIGNIFICANT_BITS = 53  # of a float64


def epoch_order(seed: int, epoch: int, num: int) -> np.ndarray:
    """The order in which `num` training images are seen: (num,) int64, a permutation of 0..num-1.

    A function of its arguments alone, on any machine and with any version of NumPy. Cost: 0.1 s for a million.
    """
    return np.argsort(_hash(seed, "order", epoch, np.arange(num)), kind="stable")


def num_pieces(num: int, size: int) -> int:
    """How many pieces of `size` training images make `num`; at least 1.

    The last one may be smaller, but is no single image: that one joins the piece before it. Batch norm can't learn
    from one.
    """
    whole, left = divmod(num, size)
    return max(1, whole + (left > 1))


def piece_at(number: int, num: int, size: int) -> slice:
    """The places of piece `number` among 0..num-1; see `num_pieces`."""
    is_last = number + 1 >= num_pieces(num, size)
    return slice(number * size, num if is_last else (number + 1) * size)


def draw_uniforms(seed: int, epoch: int, indices: np.ndarray, num: int, use: str) -> np.ndarray:
    """(b, num) float64 in [0, 1), row i a function of (seed, use, epoch, indices[i]) alone.

    Args:
        seed, epoch: at least 0.
        indices: (b,) whole numbers, at least 0: what the numbers belong to, as an image's place in the training
            part (the same in every epoch), or the number of a step.
        num: numbers wanted for each index; asking for more leaves the first ones as they are.
        use: a name for what they decide, so that one use never shifts another's.

    Source: SplitMix64 (Steele, Lea, Flood 2014), split by use, epoch and index. Cost: 10 ns a number.
    """
    states = _hash(seed, use, epoch, indices)
    counters = np.arange(1, num + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _scramble(states[:, None] + counters[None])
    return (bits >> np.uint64(64 - _SIGNIFICANT_BITS)) * 2.0**-_SIGNIFICANT_BITS


def _hash(seed: int, use: str, epoch: int, indices: np.ndarray) -> np.ndarray:
    """(b,) uint64; different for different indices of one (seed, use, epoch), since every step is a bijection."""
    state = _split(np.array([stream_seed(seed, use)], dtype=np.uint64), np.array([epoch]))
    return _split(state, np.asarray(indices))


def _split(states: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return _scramble(states + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))


def _scramble(values: np.ndarray) -> np.ndarray:
    """SplitMix64's mixing of (...,) uint64: a bijection in which each input bit flips half of the output's."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
