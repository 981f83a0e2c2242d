"""Batches: who asks at once is answered together, in order; the queue is bounded; failures stay apart."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from backbench.serve.batching import Batcher, Busy


class Slow:
    """Answers with doubles, once it is let go, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.has_begun = threading.Event()
        self.may_go = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.has_begun.set()
        assert self.may_go.wait(10)
        if -1 in items:
            raise ValueError("no")
        return [2 * item for item in items]


def test_what_waits_is_answered_together_in_order() -> None:
    slow = Slow()
    batcher = Batcher(slow, most_together=4)
    first = batcher.submit(1)
    assert slow.has_begun.wait(10)
    rest = [batcher.submit(item) for item in (2, 3, 4, 5, 6)]
    slow.may_go.set()
    assert [future.result(10) for future in (first, *rest)] == [2, 4, 6, 8, 10, 12]
    assert slow.batches == [[1], [2, 3, 4, 5], [6]]
    batcher.close()


def test_a_full_queue_refuses_and_recovers() -> None:
    slow = Slow()
    batcher = Batcher(slow, most_waiting=2, wait_seconds=0)
    futures = [batcher.submit(1)]
    assert slow.has_begun.wait(10)
    futures += [batcher.submit(2), batcher.submit(3)]
    with pytest.raises(Busy):
        batcher.submit(4)
    slow.may_go.set()
    assert [future.result(10) for future in futures] == [2, 4, 6]
    assert batcher.submit(5).result(10) == 10
    batcher.close()


def test_a_failure_reaches_its_own_batch_alone() -> None:
    slow = Slow()
    batcher = Batcher(slow)
    slow.may_go.set()
    with pytest.raises(ValueError, match="no"):
        batcher.submit(-1).result(10)
    assert batcher.submit(1).result(10) == 2
    batcher.close()


def test_what_was_given_up_is_not_computed() -> None:
    slow = Slow()
    batcher = Batcher(slow, wait_seconds=0)
    first = batcher.submit(1)
    assert slow.has_begun.wait(10)
    given_up, last = batcher.submit(2), batcher.submit(3)
    assert given_up.cancel()
    slow.may_go.set()
    assert (first.result(10), last.result(10)) == (2, 6)
    assert all(2 not in batch for batch in slow.batches)
    batcher.close()


def test_closing_answers_what_waits_and_ends_the_thread() -> None:
    before = threading.active_count()
    slow = Slow()
    slow.may_go.set()
    batcher = Batcher(slow)
    future = batcher.submit(4)
    batcher.close()
    batcher.close()
    assert future.result(0) == 8
    assert threading.active_count() == before
    with pytest.raises(Busy):
        batcher.submit(1)
