"""Run folders: the only code that writes and reads them.

A run folder holds `record.json`, `predictions.npz` and `manifest.json`. It is written aside and moved into
place in one step (atomic); a record is never changed afterwards. Failures are records too, in their own folders
(`<run_id>.failed-1`, ...).

`openings.jsonl` beside the run folders logs test-set evaluations; see `openings`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from backbench.config import digest_json
from backbench.documents import parse_json
from backbench.errors import ConfigError, ModelError, StorageError
from backbench.npz import read_npz
from backbench.progress import SILENT, Progress
from backbench.records.recompute import correct_figures, is_consistent
from backbench.records.schema import (
    BUNDLE_SUFFIX,
    FIRST_VERSION,
    SCHEMA_VERSION,
    Predictions,
    RunRecord,
    StoredRun,
)
from backbench.storage import (
    digest_file,
    open_file,
    read_file,
    storage_error,
    sync_file,
    sync_folder,
    write_synced,
)
from backbench.wording import did_you_mean

RECORD_FILE = "record.json"
PREDICTIONS_FILE = "predictions.npz"
HISTORY_FILE = "history.json"
MANIFEST_FILE = "manifest.json"
OPENINGS_FILE = "openings.jsonl"
CUT, FAILED = ".cut-", ".failed-"
"""Suffix after the id of a run that the budget ended (with its steps), or of a failed one (with its number)."""
ORPHAN_AGE_SECONDS = 24 * 3600.0


def write_run(
    root: Path,
    record: RunRecord,
    predictions: Predictions | None,
    write_manifest: Callable[[Path], None],
    more: Mapping[str, bytes] | None = None,
) -> tuple[RunRecord, Path]:
    """Write one run folder below `root` atomically.

    Args:
        root: the folder of all runs; created if missing.
        record: its `files` are set here.
        predictions: None for a failure.
        write_manifest: writes the manifest to the path it is given. Runs with the
            same manifest share one copy by hard links.
        more: other files of the run, by name.

    Returns:
        The record as written, and its folder. If another process finished the same run first, its record.

    Raises:
        StorageError: the folder can't be written; existing files are unchanged.
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
        record = _sealed(record.model_copy(update={"files": digests}))
        write_synced(aside / RECORD_FILE, (record.model_dump_json(indent=1) + "\n").encode())
        sync_folder(aside)
        aside.rename(root / name)
        sync_folder(root)
    except OSError as error:
        if (root / name / RECORD_FILE).is_file():  # another process was first with the same run
            return read_record(root / name), root / name
        raise storage_error(root, error) from error
    finally:  # also after a full disk or an interrupt
        shutil.rmtree(aside, ignore_errors=True)
    return record, root / name


def _sealed(record: RunRecord) -> RunRecord:
    """The record with a checksum of its content, independent of the layout of its JSON."""
    document = json.loads(record.model_dump_json(exclude={"checksum"}))
    return record.model_copy(update={"checksum": digest_json(document)})


def read_record(folder: Path) -> RunRecord:
    """Read and verify the record in a run folder, without its predictions; see `read_whole`.

    Raises:
        ConfigError: no record. StorageError: the record is unreadable or was changed after it was written.
    """
    path = folder / RECORD_FILE
    try:
        text = read_file(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is not a run folder: it has no {RECORD_FILE}.") from error
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    try:
        document = parse_json(text)
        version = document.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise StorageError(
                f"{path} was written by a newer backbench (schema {version}; this one reads up to "
                f"{SCHEMA_VERSION}). Update backbench to read it."
            )
        record = RunRecord.model_validate(document)
        checksum = document.pop("checksum", None)
        if (checksum is not None or version != FIRST_VERSION) and checksum != digest_json(document):
            raise _changed(path)
        return record
    except (ValidationError, ValueError, AttributeError, OverflowError) as error:
        raise StorageError(
            f"{path} is damaged: {str(error).splitlines()[0]}. Delete {folder} to run it again."
        ) from error


def _changed(path: Path) -> StorageError:
    return StorageError(
        f"{path} was changed after it was written: its checksum does not match. Restore it, or delete "
        f"{path.parent} to run it again."
    )


def read_whole(folder: Path) -> tuple[RunRecord, Predictions | None]:
    """The record of a run folder and, of a finished run, its predictions: both verified.

    If a record has no checksum or disagrees with its predictions, its metrics are recomputed. If they differ, the
    record's first warning says so.

    Raises:
        ConfigError: no record. StorageError: a file is damaged or was changed after it was written.
    Cost: about a millisecond for 10,000 images of ten classes; several for a record without a digest.
    """
    record = read_record(folder)
    if record.status != "done":
        return record, None
    path = folder / PREDICTIONS_FILE
    predictions = _read_known_predictions(path, record)
    try:
        if len(predictions.ids) != record.data.num_test:
            raise ValueError(f"{len(predictions.ids):,} predictions for {record.data.num_test:,} test images")
        if record.checksum is None or not is_consistent(record, predictions):
            record = correct_figures(record, predictions)
    except (ModelError, ValueError, IndexError) as error:
        raise StorageError(
            f"{path} does not belong to its record: {error}. Delete {folder} to run it again."
        ) from error
    return record, predictions


def read_answers(folder: Path) -> tuple[RunRecord, Predictions]:
    """As `read_whole`, for finished runs; ConfigError for a failed run."""
    record, predictions = read_whole(folder)
    if predictions is None:
        raise ConfigError(f"{folder} failed, so it has no predictions. Give a finished run.")
    return record, predictions


def read_unchanged(path: Path, record: RunRecord) -> bytes:
    """The bytes of a file beside the record; StorageError if it was changed."""
    try:
        content = read_file(path)
    except OSError as error:
        raise StorageError(
            f"{path} can't be read: {error.strerror}. Delete {path.parent} to run it again."
        ) from error
    if hashlib.sha256(content).hexdigest() != record.files.get(path.name):
        raise _changed(path)
    return content


def read_predictions(folder: Path) -> Predictions:
    """The predictions in a run folder, without its record. StorageError if they are missing or damaged."""

    def load(stream: BufferedReader) -> Mapping[str, np.ndarray]:
        with np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)

    return _read_predictions(folder / PREDICTIONS_FILE, load)


def _read_known_predictions(path: Path, record: RunRecord) -> Predictions:
    """The verified predictions; StorageError if they were changed."""

    def load(stream: BufferedReader) -> Mapping[str, np.ndarray]:
        arrays = read_npz(stream, record.files.get(path.name))
        if arrays is None:
            raise _changed(path)
        return arrays

    return _read_predictions(path, load)


def _read_predictions(path: Path, load: Callable[[BufferedReader], Mapping[str, np.ndarray]]) -> Predictions:
    try:
        with open_file(path) as stream:
            arrays = load(stream)
        labels, probabilities = arrays["labels"], arrays["probabilities"]
        if labels.dtype.kind != "i" or probabilities.dtype.kind != "f":
            raise ValueError(f"labels are {labels.dtype}, probabilities are {probabilities.dtype}")
        return Predictions(
            ids=tuple(arrays["ids"].tolist()),
            labels=labels,
            probabilities=probabilities,
            classes=tuple(arrays["classes"].tolist()),
        )
    except (MemoryError, StorageError):
        raise
    except Exception as error:  # zipfile and numpy raise many kinds of errors with the same meaning
        raise StorageError(
            f"{path} is damaged or missing ({error}). Delete {path.parent} to run it again."
        ) from error


def find_finished(root: Path, run_id: str, *, progress: Progress = SILENT) -> RunRecord | None:
    """As `find_whole`, but only the record."""
    found = find_whole(root, run_id, progress=progress)
    return None if found is None else found.record


def find_whole(root: Path, run_id: str, *, progress: Progress = SILENT) -> StoredRun | None:
    """A finished run whose files are all as they were written, see `read_run`; None: it has to be run (again).

    A folder that is damaged is renamed to `<run_id>.damaged-<time>`, with a warning.
    """
    folder = root / run_id
    if not folder.is_dir():
        return None
    try:
        run = read_run(folder)
        for name in {MANIFEST_FILE, *run.record.files} - {PREDICTIONS_FILE}:
            read_unchanged(folder / Path(name).name, run.record)
        if run.record.run_id == run_id:
            return run
        reason = f"{folder / RECORD_FILE} is of another run, '{run.record.run_id}'."
    except (ConfigError, StorageError, OSError) as error:
        reason = str(error)
    aside = root / f"{run_id}.damaged-{time.time_ns()}"
    with contextlib.suppress(OSError):
        folder.rename(aside)
    told = re.split(" (?=Delete |Restore )", reason)[0]
    progress.warn(f"{told} The folder is kept as {aside.name}, and the run starts again")
    return None


def find_run(root: Path, given: str) -> Path:
    """Find a run folder by its path or run id, or a unique beginning of either; else ConfigError.

    A bundle `RUN.bundle` means the run beside it that wrote it.
    """
    if given.rstrip("/").endswith(BUNDLE_SUFFIX):
        given = given.rstrip("/").removesuffix(BUNDLE_SUFFIX)
    path = Path(given)
    if (path / RECORD_FILE).is_file():
        return path
    if path.name == RECORD_FILE and path.is_file():
        return path.parent
    if path.name and path.parent != Path() and path.parent.is_dir():  # a path with the beginning of an id
        root, given = path.parent, path.name
    names = [entry.name for entry in root.iterdir() if (entry / RECORD_FILE).is_file()] if root.is_dir() else []
    matching = [name for name in names if name.startswith(given)] if given else []
    if given in names or len(matching) == 1:
        return root / (given if given in names else matching[0])
    if matching:
        raise ConfigError(
            f"'{given}' is the beginning of {len(matching)} runs in {root}: {', '.join(sorted(matching)[:5])}. "
            "Give more characters."
        )
    hint = did_you_mean(given, names, otherwise=f"{root} holds {len(names)} runs.")
    raise ConfigError(f"no run '{given}': not a run folder or a run id in {root}.{hint}")


def cut_id(run_id: str, num_steps: int) -> str:
    """The id of a run that the budget ended after this number of steps."""
    return f"{run_id}{CUT}{num_steps}"


def how_far(folder_name: str) -> tuple[str, tuple[int, float]]:
    """The id of the complete run, and the progress of this attempt (larger is further); see `is_whole`."""
    for order, mark in ((1, CUT), (0, FAILED)):
        base, there, number = folder_name.rpartition(mark)
        if there and number.isdecimal():
            return base, (order, float(number))
    return folder_name, (2, 0.0)


def find_attempt(root: Path, run_id: str, *, has_failed: bool) -> Path:
    """The folder of the run, or of its last failure; that of the run if there is none."""
    failures = sorted(root.glob(f"{run_id}{FAILED}*"), key=lambda path: how_far(path.name)) if has_failed else []
    return failures[-1] if failures else root / run_id


def is_whole(folder_name: str) -> bool:
    """Whether the run neither failed nor was ended early by the budget."""
    return how_far(folder_name)[0] == folder_name


def prepare_root(root: Path) -> None:
    """Create the folder of all runs, and check before any work that it is writable.

    Removes half-written files of killed processes after a day.

    Raises:
        StorageError: the folder can't be created or written.
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
        sync_file(stream)


def _link_manifest(root: Path, target: Path, digest: str, write_manifest: Callable[[Path], None]) -> None:
    """Write the manifest, as a hard link to an equal manifest of earlier runs if possible."""
    kept = root / ".manifests" / f"{digest[:32]}.json"
    write_manifest(target)
    link = target.with_name(f".{target.name}.link")
    with contextlib.suppress(OSError):  # the file system has no hard links
        kept.parent.mkdir(exist_ok=True)
        if kept.is_file() and digest_file(kept) == digest_file(target):
            os.link(kept, link)
            link.replace(target)
        else:
            kept.unlink(missing_ok=True)
            os.link(target, kept)


def _free_failure_name(root: Path, run_id: str) -> str:
    number = 1
    while (root / f"{run_id}{FAILED}{number}").exists():
        number += 1
    return f"{run_id}{FAILED}{number}"


MAX_HISTORY_BYTES = 8_000_000


_OWN_FILES = (".working", ".manifests")


def find_run_folders(given: Sequence[str], out: Path) -> list[Path]:
    """Find run folders: all in a folder of runs, or by run folder, run id or its beginning.

    In a folder of runs, an interrupted or failed attempt is skipped if a later one got further.

    Raises:
        ConfigError: no such run; the message gives the nearest names.
    """
    found: list[Path] = []
    runs = [text for text in given if Path(text).name != OPENINGS_FILE]  # which is part of `RUNS/*`
    for text in runs or given:
        path = Path(text)
        inside = _runs_inside(path)
        if inside and not (path / RECORD_FILE).is_file():
            found += inside
        elif path.is_dir() and not (path / RECORD_FILE).is_file() and path.suffix != BUNDLE_SUFFIX:
            raise ConfigError(
                f"the folder {text} holds no runs: no folder in it has a {RECORD_FILE}. Give the folder of --out "
                "in `backbench rank`, or run folders."
            )
        else:
            found.append(find_run(out, text))
    return list(dict.fromkeys(folder.resolve() for folder in found))


def _runs_inside(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    found = sorted(
        entry
        for entry in path.iterdir()
        if entry.name not in _OWN_FILES and ".damaged-" not in entry.name and (entry / RECORD_FILE).is_file()
    )
    furthest = dict(sorted(how_far(entry.name) for entry in found))
    return [entry for entry in found if how_far(entry.name) in furthest.items()]


def read_run(folder: Path) -> StoredRun:
    """Read a run folder. ConfigError if it is not one; StorageError if a file in it is damaged."""
    record, predictions = read_whole(folder)
    history: dict[str, Any] | None = None
    path = folder / HISTORY_FILE
    if path.is_file() and path.stat().st_size <= MAX_HISTORY_BYTES:
        try:
            history = _checked_history(parse_json(read_unchanged(path, record)))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise StorageError(f"{path} is damaged: {error}. Delete {folder} to run it again.") from error
    return StoredRun(record, predictions, history, folder)


def _checked_history(document: Any) -> dict[str, Any]:
    """The training history by phase, with metrics as numbers; raises an error if its form is wrong."""
    figures = ("epoch", "train_accuracy", "train_loss", "val_accuracy", "val_loss")
    return {
        str(phase): {
            "best_epoch": int(result["best_epoch"]),
            "ended": str(result["ended"]),
            **{key: _number(result.get(key)) for key in ("best_accuracy", "best_loss")},
            "history": [{key: _number(epoch[key]) for key in figures} for epoch in result["history"]],
        }
        for phase, result in document.items()
    }


def _number(value: Any) -> float:
    """The number; NaN for a missing value."""
    return math.nan if value is None else float(value)
