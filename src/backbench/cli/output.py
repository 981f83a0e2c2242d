"""Output shared by all verbs: results, messages, and width and colours of the terminal."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import IO, Any


def print_json(document: dict[str, Any]) -> None:
    """Exactly one JSON document on stdout; plain ASCII, so that it works with any name and terminal."""
    print(json.dumps(document, indent=1, allow_nan=False))


def is_colourful(stream: IO[str] | None = None) -> bool:
    """Whether to use colour: on a terminal that is not `dumb`, without NO_COLOR."""
    stream = stream if stream is not None else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_line_drawing() -> bool:
    """Whether stdout supports characters beyond ASCII."""
    return "utf" in (sys.stdout.encoding or "").lower()


def wrap_lines(text: str, indent: str = "") -> str:
    """`text` wrapped at spaces to fit the terminal; unchanged in a pipe or a file."""
    return _fit(text, terminal_width(), indent) if _is_wrapped() else text


def as_called(command: str) -> str:
    """A command that starts with 'backbench', with the path of this call if the shell would not find this
    installation by name. Other text is unchanged."""
    if not command.startswith("backbench "):
        return command
    called = Path(sys.argv[0])
    found = shutil.which("backbench")
    if called.stem != "backbench" or not called.is_file() or (found is not None and called.samefile(found)):
        return command
    return shlex.quote(str(called)) + command.removeprefix("backbench")


def print_error(text: str) -> None:
    """Print to stderr, wrapped on a terminal; control characters in names are escaped."""
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
    """Columns of the terminal; 200 for a pipe or a file, which do not wrap."""
    if _is_wrapped():
        return max(60, shutil.get_terminal_size((100, 24)).columns)
    return 200
