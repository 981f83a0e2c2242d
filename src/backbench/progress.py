"""Messages and progress bars on stderr: bars on a terminal, plain lines elsewhere, nothing when quiet.

stdout belongs to results. Library functions take a `Progress` and stay silent by default.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol, Self

from backbench.errors import Interrupted, printable_lines

PLAIN_INTERVAL_SECONDS = 5.0


class Bar(Protocol):
    """One long piece of work; `advance` may be called from any thread."""

    def advance(self, num: int = 1) -> None: ...


class _NoBar:
    def advance(self, num: int = 1) -> None:
        pass


class Progress:
    """Silent: the default of every library function."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Print one line."""

    def warn(self, text: str) -> None:
        """Print one line that needs attention."""

    def show(self, line: str, table: Callable[[int], str]) -> None:
        """Show the state of a ranking: `line` in a log, `table(columns)` on a terminal."""

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "images") -> Iterator[Bar]:
        """Show work on `total` units, with units/s and time left, until the block ends."""
        yield _NoBar()


SILENT = Progress()
STEPS = "steps"
"""The unit of training, which checks for signals itself because it saves first."""


class Stoppable(Progress):
    """Wrap a progress so that long work (except training) stops after a signal.

    Args:
        told: the progress to wrap.
        stop_signal: returns the signal's number, or 0. Checked when a bar advances, which then raises Interrupted.
    """

    def __init__(self, told: Progress, stop_signal: Callable[[], int]) -> None:
        self.told, self.stop_signal = told, stop_signal
        self.say, self.warn, self.show = told.say, told.warn, told.show  # type: ignore[method-assign]

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "images") -> Iterator[Bar]:
        with self.told.bar(label, total, unit) as bar:
            yield bar if unit == STEPS else _StoppableBar(bar, self.stop_signal)


class _StoppableBar:
    def __init__(self, told: Bar, stop_signal: Callable[[], int]) -> None:
        self.told, self.stop_signal = told, stop_signal

    def advance(self, num: int = 1) -> None:
        self.told.advance(num)
        if (signal := self.stop_signal()) != 0:
            raise Interrupted(signal)


class _PlainBar:
    def __init__(self, stream: IO[str], label: str, total: int, unit: str) -> None:
        self.stream, self.label, self.total, self.unit = stream, label, total, unit
        self.done = 0
        self.started = self.told = time.monotonic()

    def advance(self, num: int = 1) -> None:
        self.done += num
        now = time.monotonic()
        if now - self.told >= PLAIN_INTERVAL_SECONDS and self.done < self.total:
            self.told = now
            rate = self.done / max(now - self.started, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            print(
                f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {format_rate(rate)}, "
                f"{format_seconds(left)} left",
                file=self.stream,
                flush=True,
            )


class PlainProgress(Progress):
    """Plain lines, for logs and pipes: at most one line per bar every five seconds."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr

    def say(self, text: str) -> None:
        print(printable_lines(text), file=self.stream, flush=True)

    def warn(self, text: str) -> None:
        print(f"warning: {printable_lines(text)}", file=self.stream, flush=True)

    def show(self, line: str, table: Callable[[int], str]) -> None:
        print(line, file=self.stream, flush=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "images") -> Iterator[Bar]:
        yield _PlainBar(self.stream, label, total, unit)


class _RichBar:
    def __init__(self, bars: Any, task: Any) -> None:
        self.bars, self.task = bars, task

    def advance(self, num: int = 1) -> None:
        self.bars.advance(self.task, num)


class RichProgress(Progress):
    """Bars on a terminal, below a table that fills; both vanish at the end, messages stay."""

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        class Speed(ProgressColumn):
            def render(self, task: Any) -> Text:
                unit = task.fields["unit"]
                return Text(format_rate(task.speed, f" {unit}") if task.speed else unit)

        self.console = Console(stderr=True, highlight=False)
        label = TextColumn("{task.description}", markup=False)
        self.bars = Bars(
            label, BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn(), console=self.console
        )
        self.table = Text()
        self.live = Live(Group(self.table, self.bars), console=self.console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}", "yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        """Break lines at spaces only, so that a path stays whole and can be copied."""
        self.console.print(printable_lines(text), style=style, markup=False, overflow="ignore", crop=False)

    def show(self, line: str, table: Callable[[int], str]) -> None:
        from rich.text import Text

        self.table.plain = ""
        self.table.append_text(Text.from_ansi(table(self.console.width)))
        self.table.append(f"\n{line}\n")

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "images") -> Iterator[Bar]:
        task = self.bars.add_task(label, total=total, unit=unit)
        try:
            yield _RichBar(self.bars, task)
        finally:
            self.bars.remove_task(task)


def make_progress(*, quiet: bool = False) -> Progress:
    """Choose the progress for this process: silent, plain lines, or bars (rich respects NO_COLOR)."""
    if quiet:
        # the hub's client reads this at its first import
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        return SILENT
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return RichProgress()
    return PlainProgress()


def format_rate(rate: float, unit: str = "") -> str:
    """'1,234/s', and '0.4/s' below ten."""
    return f"{rate:,.0f}{unit}/s" if rate >= 9.95 else f"{rate:.1f}{unit}/s"


def format_seconds(seconds: float) -> str:
    """A duration for people: '0.4 s', '13 s', '2 min 15 s', '3 h 5 min', '5 days'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes >= 3 * 24 * 60:
        return f"{round(minutes / 24 / 60):,} days"
    return f"{minutes // 60} h {minutes % 60} min"


def format_bytes(num_bytes: float) -> str:
    """A size for people, in powers of 1000: '512 B', '5.3 MB', '1.2 GB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "B" or num_bytes >= 10 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
