"""What the verbs share: where results go, and how wide and colourful the terminal is."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import IO, Any


def print_json(document: dict[str, Any]) -> None:
    """Exactly one JSON document on stdout; plain ASCII, so that no name and no terminal can break it."""
    print(json.dumps(document, indent=1, allow_nan=False))


def is_colourful(stream: IO[str] | None = None) -> bool:
    """Whether colour is welcome: a terminal, not `dumb`, and NO_COLOR is not set."""
    stream = stream if stream is not None else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_line_drawing() -> bool:
    """Whether stdout can take characters beyond ASCII."""
    return "utf" in (sys.stdout.encoding or "").lower()


def wrap_lines(text: str, indent: str = "") -> str:
    """`text` in lines that fit the terminal, broken at spaces alone; in a pipe or a file as it is."""
    return _fit(text, terminal_width(), indent) if _is_wrapped() else text


def as_called(command: str) -> str:
    """A command that begins with 'backbench', as this terminal finds it: by the path it was called by, where the
    shell would not find this installation by its name alone. Other text stays as it is."""
    if not command.startswith("backbench "):
        return command
    called = Path(sys.argv[0])
    found = shutil.which("backbench")
    if called.stem != "backbench" or not called.is_file() or (found is not None and called.samefile(found)):
        return command
    return shlex.quote(str(called)) + command.removeprefix("backbench")


def print_error(text: str) -> None:
    """On stderr, wrapped where that is a terminal; names in it that could move its cursor are written out."""
    from backbench.errors import printable_lines

    text = printable_lines(text)
    if sys.stderr.isatty():
        text = _fit(text, max(60, os.get_terminal_size(sys.stderr.fileno()).columns), "  ")
    print(text, file=sys.stderr)


def _fit(text: str, width: int, indent: str) -> str:
    from backbench.report.text import wrap

    return "\n".join(line for given in text.split("\n") for line in wrap(given, width, indent))


def _is_wrapped() -> bool:
    return sys.stdout.isatty() or "COLUMNS" in os.environ


def terminal_width() -> int:
    """Columns of the terminal; 200 for a pipe or a file, where nothing wraps."""
    if _is_wrapped():
        return max(60, shutil.get_terminal_size((100, 24)).columns)
    return 200
