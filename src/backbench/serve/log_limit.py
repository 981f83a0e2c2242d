"""A limit on log messages per minute, so that requests can't fill the disk or hide important messages."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

MAX_LINES = 10
"""Messages of one kind per minute."""
MAX_KINDS = 50
SECONDS = 60.0
_OTHER = "other messages"


class LogLimit(logging.Filter):
    """Passes a few messages of each kind per minute, and counts the others for one line at the end.

    A kind is a message without its arguments. Call `tick` often.

    Args:
        now: a clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._started = now()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        if record.name == __name__:
            return True
        kind = str(record.msg)
        with self._lock:
            if kind not in self._counts and len(self._counts) >= MAX_KINDS:
                kind = _OTHER
            self._counts[kind] += 1
            return self._counts[kind] <= MAX_LINES

    def tick(self) -> None:
        """Call `sum_up` after each minute."""
        if self._now() - self._started >= SECONDS:
            self.sum_up()

    def sum_up(self) -> None:
        """Log the number of hidden messages, and start a new minute."""
        with self._lock:
            counts, self._counts, self._started = self._counts, Counter(), self._now()
        for kind, count in counts.items():
            if count > MAX_LINES:
                said = kind.strip()
                logging.getLogger(__name__).warning("%s: %s more times, not shown", said, f"{count - MAX_LINES:,}")
