"""SIGTERM ends work as Ctrl-C does: what is finished is told, what is half-written is removed."""

from __future__ import annotations

import signal
import threading
import time

REPEAT_SECONDS = 1.0
"""Supervisors send SIGTERM twice, to the process and to its group: that is one wish."""
_received = signal.SIGINT
_is_ours = False


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def note_signal(number: int) -> None:
    """Remember by which signal this process was asked to stop."""
    global _received
    _received = signal.Signals(number)


def stop_status() -> int:
    """The exit status of a process that was asked to stop: 143 after SIGTERM, else 130."""
    return 128 + _received


def raise_on_sigterm() -> None:
    """From here on SIGTERM raises Terminated, where Ctrl-C raises KeyboardInterrupt, unless it is ignored.

    Does nothing outside the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    last = -REPEAT_SECONDS

    def stop(number: int, _: object) -> None:
        nonlocal last
        if time.monotonic() - last < REPEAT_SECONDS:
            return
        last = time.monotonic()
        note_signal(number)
        raise Terminated

    global _is_ours
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
        _is_ours = True


def end_quietly() -> None:
    """A SIGTERM that comes while the interpreter ends no longer changes the exit status."""
    if _is_ours and _received == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
