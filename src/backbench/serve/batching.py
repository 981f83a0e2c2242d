"""Batch concurrent requests to one model: a thread, a bounded queue, and a short wait for more requests."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

MAX_TOGETHER = 16
WAIT_SECONDS = 0.005
MAX_WAITING = 64

Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """The queue is full; try again in a second."""


class Batcher(Generic[Item, Result]):
    """Processes items in order of arrival, several at a time, in its own thread.

    Args:
        answer: items -> results, one for each; called only from that thread. Its errors go to all callers of
            that batch; later batches are not affected.
        most_together: maximum number of items in one call.
        wait_seconds: time that the first item of a batch waits for others.
        most_waiting: maximum length of the queue; more items are refused.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        most_together: int = MAX_TOGETHER,
        wait_seconds: float = WAIT_SECONDS,
        most_waiting: int = MAX_WAITING,
    ) -> None:
        self._answer = answer
        self._most_together = most_together
        self._wait_seconds = wait_seconds
        self._queue: queue.Queue[tuple[Item, Future[Result]] | None] = queue.Queue(most_waiting)
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="answer", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """Add an item to the queue; a future cancelled before its turn costs nothing.

        Raises:
            Busy: the queue is full, or closed.
        """
        future: Future[Result] = Future()
        if self._is_closed:
            raise Busy
        try:
            self._queue.put_nowait((item, future))
        except queue.Full:
            raise Busy from None
        return future

    def close(self) -> None:
        """Process waiting items, refuse new ones, and wait for the thread to end."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while True:
            batch, is_last = self._gather()
            waiting = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
            if waiting:
                self._settle(waiting)
            if is_last:
                return

    def _gather(self) -> tuple[list[tuple[Item, Future[Result]]], bool]:
        """The next batch, and whether the queue was closed after it."""
        batch: list[tuple[Item, Future[Result]]] = []
        entry = self._queue.get()
        deadline = time.monotonic() + self._wait_seconds
        while entry is not None:
            batch.append(entry)
            if len(batch) == self._most_together:
                return batch, False
            try:
                entry = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return batch, False
        return batch, True

    def _settle(self, waiting: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._answer([item for item, _ in waiting])
            for (_, future), result in zip(waiting, results, strict=True):
                future.set_result(result)
        except Exception as error:  # all callers of the batch get the error; the thread continues
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
