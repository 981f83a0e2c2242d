"""A signal ends whatever shows a bar, but for training, which ends where it has saved."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path

import pytest

from backbench.cli.adapt import _run
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.errors import Interrupted
from backbench.progress import SILENT, STEPS, Progress, RichProgress, Stoppable, format_rate
from backbench.runs import context
from backbench.runs.context import RunContext


def test_a_signal_ends_the_work_under_a_bar() -> None:
    signals = iter([0, 15, 15])
    progress = Stoppable(SILENT, lambda: next(signals))
    with progress.bar("reading", 3) as bar:
        bar.advance()
        with pytest.raises(Interrupted) as stopped:
            bar.advance()
    assert stopped.value.exit_status == 143
    with progress.bar("training", 3, STEPS) as bar:
        bar.advance()


def test_what_is_said_is_passed_on() -> None:
    heard: list[str] = []

    class Told(Progress):
        def say(self, text: str) -> None:
            heard.append(text)

        def warn(self, text: str) -> None:
            heard.append(f"warning: {text}")

    progress = Stoppable(Told(), lambda: 0)
    progress.say("a")
    progress.warn("b")
    assert heard == ["a", "warning: b"]


@pytest.mark.parametrize("method", ["logistic", "full"])
def test_adapt_listens_before_it_trains(
    method: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "catch_signals", lambda: nullcontext(lambda: 2))
    config = RunConfig(
        data=DataConfig(source=str(photos)), model="tiny_cnn", method=MethodConfig(name=method, options={})
    )
    given = RunContext(tmp_path / "runs", with_gallery=False)
    with pytest.raises(Interrupted) as stopped:
        _run(config, given, as_json=True, quiet=True)
    assert stopped.value.exit_status == 130
    assert not list((tmp_path / "runs").glob("*"))  # as the images were read


@pytest.mark.parametrize(("rate", "told"), [(0.42, "0.4/s"), (9.94, "9.9/s"), (9.96, "10/s"), (1234, "1,234/s")])
def test_slow_work_is_not_told_as_none(rate: float, told: str) -> None:
    assert format_rate(rate) == told


@pytest.mark.parametrize("width", [60, 80, 100])
def test_messages_in_a_terminal_break_at_spaces_alone(width: int) -> None:
    path = "/home/somebody/pictures/" + "a_long_folder_name/" * 6 + "model.safetensors"
    text = f"the run failed, because there is no file {path}: put it back, or name another folder with --out"
    progress = RichProgress()
    stream = io.StringIO()
    progress.console.file, progress.console._width = stream, width
    progress.say(text)
    progress.warn(text)
    lines = stream.getvalue().splitlines()
    assert " ".join(" ".join(lines).split()) == f"{text} warning: {text}"
    assert sum(f"{path}:" in line for line in lines) == 2
    assert all(path in line or len(line) <= width for line in lines)
