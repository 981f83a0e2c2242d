"""Commands for users to copy: on one line, quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from backbench.config import DataConfig
from backbench.errors import printable
from backbench.records.schema import BUNDLE_SUFFIX

_NOT_OF_COMMANDS = ("source", "split_seed", "limit", "train_limit", "max_pixels")
"""Fields given as DATA and --seed, or only in Python and studies."""


def write_command(words: Sequence[str]) -> str:
    """`backbench WORDS...` quoted for a shell."""
    return printable(shlex.join(["backbench", *words]))


def show_command(run: Path) -> str:
    """The command that shows the run in this folder."""
    return write_command(["show", _argument(run)])


def keep_command(run: Path) -> str:
    """The command that saves the model of the run in this folder beside it."""
    return write_command(["keep", _argument(run)])


def predict_command(bundle: Path) -> str:
    """The command that predicts with the model in this folder; IMAGE is a file or a folder."""
    return write_command(["predict", _argument(bundle), "IMAGE"])


def report_command(out: Path) -> str:
    """The command that makes the report of all runs in this folder."""
    return write_command(["report", _argument(out)])


def data_options(data: DataConfig) -> list[str]:
    """The data options of `backbench rank` that differ from the defaults."""
    usual = DataConfig(source=data.source).model_dump(mode="json")
    words: list[str] = []
    for name, value in data.model_dump(mode="json").items():
        option = f"--{name.replace('_', '-')}"
        if value == usual[name] or name in _NOT_OF_COMMANDS:
            continue
        if name == "split_folders":
            words += [option, ",".join(f"{folder}={part}" for folder, part in value.items()) or "none"]
        elif isinstance(value, list):
            words += [word for each in value for word in (option, str(each))]
        else:
            words += [option] if value is True else [option, str(value)]
    return words


def name_root(runs: Iterable[Path]) -> str | None:
    """The common folder of these runs, relative to the current folder if it is inside; None for several.

    Args:
        runs: full paths of their folders.
    """
    roots = {run.parent for run in runs}
    if len(roots) != 1:
        return None
    (root,) = roots
    here = Path.cwd().resolve()
    return str(root.relative_to(here)) if root.is_relative_to(here) else str(root)


def bundle_of(run: Path) -> Path:
    """The bundle folder of a run, which may not exist."""
    return run.with_name(f"{run.name}{BUNDLE_SUFFIX}")


def _argument(path: Path) -> str:
    """The path, written so that a shell command does not read it as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
