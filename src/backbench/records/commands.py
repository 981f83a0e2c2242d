"""Commands to copy and run: quoted for a shell, on one line, whatever the paths are called."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from backbench.config import DataConfig
from backbench.errors import printable
from backbench.records.schema import BUNDLE_SUFFIX

_NOT_OF_COMMANDS = ("source", "split_seed", "limit", "train_limit", "max_pixels")
"""Said as DATA and --seed, or for Python and studies alone."""


def write_command(words: Sequence[str]) -> str:
    """`backbench WORDS...` as a shell reads it."""
    return printable(shlex.join(["backbench", *words]))


def show_command(run: Path) -> str:
    """Shows the run in this folder."""
    return write_command(["show", _argument(run)])


def keep_command(run: Path) -> str:
    """Writes the model of the run in this folder beside it."""
    return write_command(["keep", _argument(run)])


def predict_command(bundle: Path) -> str:
    """Asks the model in this folder; for IMAGE a file or a folder."""
    return write_command(["predict", _argument(bundle), "IMAGE"])


def report_command(out: Path) -> str:
    """Makes the page of all runs in this folder."""
    return write_command(["report", _argument(out)])


def data_options(data: DataConfig) -> list[str]:
    """The options of `backbench rank` that say which images these are, where they are not the default."""
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
    """The folder of these runs, from where we are if it lies there, else in full; None of several.

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
    """Where the model of a run lies, if it is kept."""
    return run.with_name(f"{run.name}{BUNDLE_SUFFIX}")


def _argument(path: Path) -> str:
    """The path, so that it is not taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
