"""Runtime settings of a run; none of them changes the run's id."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from backbench.progress import SILENT, Progress, Stoppable
from backbench.runtime import catch_signals


@dataclass(frozen=True)
class RunContext:
    """Runtime settings of a run.

    Args:
        out: folder of all runs.
        deadline: `time.monotonic()` at which training ends with the best weights so far; features must exist by
            then. None: no limit.
        stop_signal: see `training.train.fit`; None: only an exception stops the run.
        with_gallery: put small training and test images into the bundle; see `classifier.gallery`.
        keeps_probes: also save the bundle of a probe; a method that trains always saves one.
    """

    out: Path = Path("runs")
    device: str = "cpu"
    deadline: float | None = None
    stop_signal: Callable[[], int] | None = None
    with_gallery: bool = True
    keeps_probes: bool = False
    progress: Progress = SILENT


def deadline_after(seconds: float | None) -> float | None:
    """The deadline of a budget that starts now; None without one."""
    return None if seconds is None else time.monotonic() + seconds


@contextmanager
def stoppable(context: RunContext) -> Iterator[RunContext]:
    """Within the block the first Ctrl-C or SIGTERM lets a run save its state and stop; see `catch_signals`."""
    with catch_signals() as stop_signal:
        progress = Stoppable(context.progress, stop_signal)
        yield replace(context, stop_signal=stop_signal, progress=progress)
