"""What the verbs print fits the terminal, and is broken at spaces alone."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from backbench.cli.output import as_called, wrap_lines


def _run_in_terminal(width: int, *arguments: str) -> list[str]:
    """What a terminal of so many columns is sent, line by line."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "backbench", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        sent += piece
    process.wait()
    os.close(ours)
    return sent.decode().splitlines()


@pytest.mark.parametrize("width", [60, 100])
def test_errors_break_at_spaces_alone(tmp_path: Path, width: int) -> None:
    path = str(tmp_path / "no_such_folder_with_a_name_that_is_longer_than_any_terminal_is_wide" / "photos")
    lines = _run_in_terminal(width, "scan", path)
    assert any(path in line for line in lines)
    assert all(" " not in line.strip() or len(line) <= width for line in lines)
    assert lines[0].startswith("error: ")
    assert len(lines) > 1


def test_results_are_wrapped_in_a_terminal_and_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "  one: " + "word " * 30 + "\n  two"
    monkeypatch.setenv("COLUMNS", "80")
    lines = wrap_lines(text, "    ").splitlines()
    assert lines[-1] == "  two"
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith("    word") for line in lines[1:-1])
    monkeypatch.delenv("COLUMNS")
    assert wrap_lines(text) == text


def test_a_command_to_paste_names_the_program_as_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, other = tmp_path / "my venv" / "bin" / "backbench", tmp_path / "other" / "backbench"
    for program in (inside, other):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(inside), "rank", "photos/"])
    for folders, told in (
        ("/nowhere", f"'{inside}' keep runs/x"),
        (str(other.parent), f"'{inside}' keep runs/x"),  # another installation may not know this run
        (str(inside.parent), "backbench keep runs/x"),
    ):
        monkeypatch.setenv("PATH", folders)
        assert as_called("backbench keep runs/x") == told
        assert as_called("runs/x.bundle") == "runs/x.bundle"  # the model of `rank --keep` is a path, no command
    monkeypatch.setattr(sys, "argv", ["/usr/lib/pytest/__main__.py"])
    assert as_called("backbench keep runs/x") == "backbench keep runs/x"
