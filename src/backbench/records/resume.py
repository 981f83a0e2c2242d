"""Resumable runs: their working folders, locks, and how to find them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backbench.config import RunConfig
from backbench.errors import BudgetExceeded, ConfigError, Interrupted, StorageError
from backbench.locks import Lock
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.records.commands import show_command
from backbench.records.schema import BUNDLE_SUFFIX
from backbench.storage import read_file, storage_error
from backbench.wording import did_you_mean

FOLDER = ".working"
CONFIG = "config"
WAIT_SECONDS = 0.2


def working_folder(out: Path, run_id: str) -> Path:
    """The folder with the state of an unfinished run; `out` is the folder of all runs."""
    return out / FOLDER / run_id


def lock_path(out: Path, run_id: str) -> Path:
    """The lock file of a run; its lock ends with the process, even if that is killed."""
    return out / FOLDER / f"{run_id}.lock"


@contextmanager
def hold_run(
    out: Path,
    run_id: str,
    *,
    deadline: float | None = None,
    stop_signal: Callable[[], int] | None = None,
    progress: Progress = SILENT,
) -> Iterator[None]:
    """Hold the lock of this run within the block; waits, with a message, for another process that holds it.

    The lock file stays beside the state of a run that has any, and goes with it.

    Raises:
        Interrupted: `stop_signal` gave a signal while waiting.
        BudgetExceeded: `deadline`, of `time.monotonic()`, passed while waiting.
        StorageError: the lock can't be created.
    """
    path = lock_path(out, run_id)
    lock = Lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, run_id, deadline, stop_signal, progress)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield
    finally:
        if not working_folder(out, run_id).is_dir():
            path.unlink(missing_ok=True)  # a waiting process finds the finished run
        lock.release()


def _acquire(
    lock: Lock, run_id: str, deadline: float | None, stop_signal: Callable[[], int] | None, progress: Progress
) -> None:
    if lock.acquire(0):
        return
    owner = f" ({lock.owner})" if lock.owner else ""
    progress.say(f"{run_id}: another process works on this run; waiting for it to end{owner}")
    while True:
        if stop_signal is not None and (signal := stop_signal()) != 0:
            raise Interrupted(signal)
        if deadline is not None and time.monotonic() > deadline:
            raise BudgetExceeded(f"the budget ended while another process works on '{run_id}'")
        if lock.acquire(WAIT_SECONDS):
            return


def forget_refused(out: Path, run_id: str) -> None:
    """Remove the files of a run that was refused before its first checkpoint: it has no state to resume.

    Call this only while holding the run's lock.
    """
    folder = working_folder(out, run_id)
    if any(folder.glob("*.ckpt")):
        return
    shutil.rmtree(folder, ignore_errors=True)


def find_unfinished(out: Path, given: str) -> tuple[str, RunConfig]:
    """Find an unfinished run by its id, the beginning of its id, or its folder: its id and config.

    Raises:
        ConfigError: none or several, or the run is finished.
    """
    folder, wanted = out / FOLDER, Path(given).name.removesuffix(BUNDLE_SUFFIX)
    names = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}.json"))
    matching = _select(names, wanted)
    if len(matching) == 1:
        path = folder / matching[0] / f"{CONFIG}.json"
        try:
            return matching[0], RunConfig.model_validate_json(read_file(path))
        except (OSError, ValueError) as error:
            raise StorageError(f"{path} is damaged: start the run again with `backbench adapt`.") from error
    if matching:
        few = ", ".join(matching[:5])
        raise ConfigError(f"'{given}' is the beginning of {len(matching)} unfinished runs: {few}.")
    finished = _select(sorted(path.parent.name for path in out.glob(f"*/{folders.RECORD_FILE}")), wanted)
    if len(finished) > 1 and wanted:
        raise ConfigError(
            f"'{given}' is the beginning of {len(finished)} runs, all of them finished: there is nothing to "
            "resume."
        )
    if finished and wanted:
        raise ConfigError(
            f"run '{finished[0]}' is finished: there is nothing to resume. See: {show_command(out / finished[0])}"
        )
    if not out.is_dir():
        raise ConfigError(f"no unfinished run '{given}': no folder {out}. Give the folder of the runs with --out.")
    there = f"Unfinished runs in {out}: {', '.join(names[:5]) or 'none'}."
    raise ConfigError(f"no unfinished run '{given}'.{did_you_mean(wanted, names, otherwise=there, limit=1)}")


def _select(names: list[str], wanted: str) -> list[str]:
    """The exact name, or else all names with this beginning."""
    return [name for name in names if name == wanted] or [name for name in names if name.startswith(wanted)]
