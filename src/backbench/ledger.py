"""Run folders: the only code that writes and reads them.

A run folder holds `record.json`, `predictions.npz` and `manifest.json`. It is serialised aside and moved
into place in one step, so it is whole or absent; a record is never changed afterwards. Failures are
records too, in folders of their own (`<run_id>.failed-1`, ...).

Beside the run folders lies `openings.jsonl`: one line for each time a test part was looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from backbench.errors import ConfigError, StorageError, nearest
from backbench.records import SCHEMA_VERSION, Predictions, RunRecord
from backbench.storage import digest_file, storage_error, sync_folder, write_synced

RECORD_FILE = "record.json"
PREDICTIONS_FILE = "predictions.npz"
MANIFEST_FILE = "manifest.json"
OPENINGS_FILE = "openings.jsonl"
BUNDLE_SUFFIX = ".bundle"
CUT, FAILED = ".cut-", ".failed-"
"""What follows the id of a run that was cut, with the steps it made, or that failed, with which time it is."""
ORPHAN_AGE_SECONDS = 24 * 3600.0


def write_run(
    root: Path,
    record: RunRecord,
    predictions: Predictions | None,
    write_manifest: Callable[[Path], None],
    more: Mapping[str, bytes] | None = None,
) -> tuple[RunRecord, Path]:
    """Write one run folder below `root`, whole or not at all.

    Args:
        root: the folder of all runs; made if absent.
        record: its `files` are filled in here.
        predictions: None for a failure.
        write_manifest: writes the manifest to the path it is given. One copy is kept for each manifest digest
            and linked into every run, so a hundred runs on one data set do not store it a hundred times.
        more: other files of the run, by name.

    Returns:
        The record as written, and its folder. If another process finished the same run first, its record.

    Raises:
        StorageError: the folder can't be written; what was there before is untouched.
    """
    name = record.run_id if record.status == "done" else _free_failure_name(root, record.run_id)
    aside = root / f".writing-{name}-{os.getpid()}"
    try:
        aside.mkdir(parents=True)
        if predictions is not None:
            _write_predictions(aside / PREDICTIONS_FILE, predictions)
        for file, content in (more or {}).items():
            write_synced(aside / file, content)
        _link_manifest(root, aside / MANIFEST_FILE, record.data.manifest_digest, write_manifest)
        digests = {file.name: digest_file(file) for file in sorted(aside.iterdir())}
        record = record.model_copy(update={"files": digests})
        write_synced(aside / RECORD_FILE, (record.model_dump_json(indent=1) + "\n").encode())
        sync_folder(aside)
        aside.rename(root / name)
        sync_folder(root)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if (root / name / RECORD_FILE).is_file():  # another process was first: same run id, same result
            return read_record(root / name), root / name
        raise storage_error(root, error) from error
    return record, root / name


def read_record(folder: Path) -> RunRecord:
    """The record in a run folder. ConfigError if there is none; StorageError if it can't be read as one."""
    path = folder / RECORD_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is not a run folder: it has no {RECORD_FILE}.") from error
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    try:
        version = json.loads(text).get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise StorageError(
                f"{path} was written by a newer backbench (schema {version}; this one reads up to "
                f"{SCHEMA_VERSION}). Update backbench to read it."
            )
        return RunRecord.model_validate_json(text)
    except (ValidationError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{path} is damaged: {str(error).splitlines()[0]}. Delete {folder} to run it again."
        ) from error


def read_predictions(folder: Path) -> Predictions:
    """The prediction ledger of a run folder. StorageError if it is missing or damaged."""
    path = folder / PREDICTIONS_FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Predictions(
                ids=tuple(arrays["ids"].tolist()),
                labels=arrays["labels"],
                probabilities=arrays["probabilities"],
                classes=tuple(arrays["classes"].tolist()),
            )
    except Exception as error:  # zipfile and numpy raise many kinds; all mean the same here
        raise StorageError(f"{path} is damaged or missing ({error}). Delete {folder} to run it again.") from error


def find_finished(root: Path, run_id: str) -> RunRecord | None:
    """The record of a finished run whose files are all as they were written; None: it has to be run (again).

    A folder that is damaged is moved aside to `<run_id>.damaged-<time>`, so that nothing is lost.
    """
    folder = root / run_id
    if not folder.is_dir():
        return None
    try:
        record = read_record(folder)
        if all(digest_file(folder / name) == digest for name, digest in record.files.items()):
            return record
    except (ConfigError, StorageError, OSError):
        pass
    with contextlib.suppress(OSError):
        folder.rename(root / f"{run_id}.damaged-{time.time_ns()}")
    return None


def find_run(root: Path, given: str) -> Path:
    """The run folder that `given` means: a path, a run id, or the unique beginning of one; else ConfigError.

    A bundle `RUN.bundle` means the run that wrote it, where that lies beside it.
    """
    if given.rstrip("/").endswith(BUNDLE_SUFFIX):
        given = given.rstrip("/").removesuffix(BUNDLE_SUFFIX)
    path = Path(given)
    if (path / RECORD_FILE).is_file():
        return path
    if path.name == RECORD_FILE and path.is_file():
        return path.parent
    names = [entry.name for entry in root.iterdir() if (entry / RECORD_FILE).is_file()] if root.is_dir() else []
    matching = [name for name in names if name.startswith(given)] if given else []
    if given in names or len(matching) == 1:
        return root / (given if given in names else matching[0])
    if matching:
        raise ConfigError(
            f"'{given}' is the beginning of {len(matching)} runs in {root}: {', '.join(sorted(matching)[:5])}. "
            f"Type more of it."
        )
    close = nearest(given, names)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"{root} holds {len(names)} runs."
    raise ConfigError(f"no run '{given}': neither a run folder nor a run id in {root}. {hint}")


def cut_id(run_id: str, num_steps: int) -> str:
    """The id of what a run was when it was cut after so many steps."""
    return f"{run_id}{CUT}{num_steps}"


def how_far(folder_name: str) -> tuple[str, tuple[int, float]]:
    """The id of the whole run, and how far this attempt at it got: more is further; see `is_whole`."""
    for order, mark in ((1, CUT), (0, FAILED)):
        base, there, number = folder_name.rpartition(mark)
        if there and number.isdecimal():
            return base, (order, float(number))
    return folder_name, (2, 0.0)


def find_attempt(root: Path, run_id: str, *, has_failed: bool) -> Path:
    """The folder of the run, or of its last failure; that of the run where there is none."""
    failures = sorted(root.glob(f"{run_id}{FAILED}*"), key=lambda path: how_far(path.name)) if has_failed else []
    return failures[-1] if failures else root / run_id


def is_whole(folder_name: str) -> bool:
    """Whether the run was neither cut nor failed."""
    return how_far(folder_name)[0] == folder_name


def log_opening(root: Path, manifest_digest: str, run_id: str) -> None:
    """Note that the test part of a manifest was looked at; one write, so that lines of processes never mix."""
    line = json.dumps({"time": utc_now(), "manifest": manifest_digest, "run": run_id}) + "\n"
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / OPENINGS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise storage_error(root, error) from error


def count_openings(root: Path, manifest_digest: str) -> int:
    """How often the test part of a manifest was looked at; a torn last line is passed over."""
    try:
        lines = (root / OPENINGS_FILE).read_text().splitlines()
    except OSError:
        return 0
    count = 0
    for line in lines:
        with contextlib.suppress(ValueError, AttributeError):
            count += json.loads(line).get("manifest") == manifest_digest
    return count


def prepare_root(root: Path) -> None:
    """Make the folder of all runs, and find out before any work whether it can be written.

    What killed processes left half-written there more than a day ago is removed.

    Raises:
        StorageError: it can't be made or written.
    """
    probe = root / f".writing-probe-{os.getpid()}"
    try:
        probe.mkdir(parents=True)
        probe.rmdir()
    except OSError as error:
        raise storage_error(root, error) from error
    for entry in root.glob(".writing-*"):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > ORPHAN_AGE_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)


def utc_now() -> str:
    """Now, as '2026-11-20T15:04:05Z'."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write_predictions(path: Path, predictions: Predictions) -> None:
    with open(path, "wb") as stream:
        np.savez(
            stream,
            ids=np.array(predictions.ids),
            labels=predictions.labels.astype(np.int64),
            probabilities=predictions.probabilities.astype(np.float32),
            classes=np.array(predictions.classes),
        )
        stream.flush()
        os.fsync(stream.fileno())


def _link_manifest(root: Path, target: Path, digest: str, write_manifest: Callable[[Path], None]) -> None:
    kept = root / ".manifests" / f"{digest[:32]}.json"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        write_manifest(kept)
    try:
        os.link(kept, target)
    except OSError:  # no hard links here
        shutil.copyfile(kept, target)


def _free_failure_name(root: Path, run_id: str) -> str:
    number = 1
    while (root / f"{run_id}{FAILED}{number}").exists():
        number += 1
    return f"{run_id}{FAILED}{number}"
