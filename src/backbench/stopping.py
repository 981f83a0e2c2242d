"""SIGTERM stops work as Ctrl-C does: results so far are printed, half-written files are removed."""

from __future__ import annotations

import signal
import threading
import time

REPEAT_SECONDS = 1.0
"""Supervisors send SIGTERM twice, to the process and to its group; both count as one."""
_received = signal.SIGINT
_is_ours = False


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def note_signal(number: int) -> None:
    """Remember the signal that stopped this process."""
    global _received
    _received = signal.Signals(number)


def stop_status() -> int:
    """The exit status of an interrupted process: 143 after SIGTERM, else 130."""
    return 128 + _received


def raise_on_sigterm() -> None:
    """Make SIGTERM raise Terminated (Ctrl-C raises KeyboardInterrupt), unless SIGTERM is ignored.

    Has no effect outside the main thread, where Python allows no handlers.
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
    """From here on SIGTERM no longer changes the exit status while the interpreter exits."""
    if _is_ours and _received == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
