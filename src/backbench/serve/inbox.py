"""The inbox: predictions that people mark right or wrong, stored with the image for later training.

A folder with two files for each entry: the uploaded image, and a JSON file with its origin. Only a button
writes there. People choose these images, often because the model failed, so they are for training, never for a
test split.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from backbench.config import Frozen
from backbench.documents import parse_json
from backbench.errors import ConfigError, StorageError
from backbench.progress import SILENT, Progress
from backbench.report.text import in_csv
from backbench.storage import digest_file, read_file, storage_error, write_atomically

SCHEMA_VERSION = 1
IN_INBOX = "choose another folder with --inbox, or --no-inbox"
IN_TARGET = "export to another folder"
MAX_ENTRIES = 10_000
TABLE_FILE = "labels.csv"
Verdict = Literal["right", "wrong", "unsure"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
    "AVIF": ".avif",
    "HEIF": ".heic",
}


class Entry(Frozen):
    """One prediction that a person judged."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    saved: str = Field(description="UTC, ISO 8601")
    image: str = Field(description="the file beside it", pattern=r"^[0-9a-f]{32}\.[a-z]{3,4}$")
    name: str = Field(description="name given by the sender")
    sha256: str
    model: str
    run_id: str | None = None
    weights_digest: str
    answer: str
    confidence: float
    verdict: Verdict
    label: str | None = Field(description="the true class, if given")
    part: Literal["train"] = "train"


def check_inbox(folder: Path) -> None:
    """Raise StorageError if this folder (which may not exist yet) is not writable; writes nothing."""
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise storage_error(folder, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), IN_INBOX)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise storage_error(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), IN_INBOX)


def save_entry(folder: Path, data: bytes, image_format: str, said: dict[str, Any]) -> Entry:
    """Store an image with its verdict; creates the folder if necessary.

    Args:
        said: the fields of `Entry` that the caller knows.

    Raises:
        StorageError: the folder can't be written, or the inbox is full.
    """
    if count_entries(folder) >= MAX_ENTRIES:
        raise StorageError(f"the inbox {folder} is full ({MAX_ENTRIES:,} images). Export and empty it.")
    name = secrets.token_hex(16)
    image = name + SUFFIXES[image_format]
    saved = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # fractions decide which of two is later
    entry = Entry(id=name, saved=saved, image=image, sha256=hashlib.sha256(data).hexdigest(), **said)
    write_atomically(folder / image, data, IN_INBOX)
    write_atomically(folder / f"{name}.json", entry.model_dump_json(indent=1).encode(), IN_INBOX)
    return entry


def remove_entry(folder: Path, entry: Entry) -> None:
    """Remove an entry; no error if it is missing."""
    try:
        (folder / f"{entry.id}.json").unlink(missing_ok=True)
        (folder / entry.image).unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder, error, IN_INBOX) from error


def count_entries(folder: Path) -> int:
    """The number of entries; 0 without a folder."""
    return sum(1 for _ in folder.glob("*.json"))


def list_entries(folder: Path, progress: Progress = SILENT) -> list[Entry]:
    """All readable entries, oldest first; `progress` gets a warning for each unreadable one.

    Raises:
        ConfigError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"no inbox '{folder}'. It is created when someone presses Right or Wrong on the page of backbench "
            "serve. Give another folder with --inbox."
        )
    entries = []
    for path in sorted(folder.glob("*.json")):
        try:
            entries.append(_read(path))
        except StorageError as error:
            progress.warn(f"left out: {error}")
    return sorted(entries, key=lambda entry: (entry.saved, entry.id))


def latest_entries(folder: Path, progress: Progress = SILENT) -> list[Entry]:
    """The last entry of each image, oldest first. Raises as `list_entries`."""
    latest: dict[str, Entry] = {}
    for entry in list_entries(folder, progress):
        latest.pop(entry.sha256, None)  # so that the order is that of the last judgements
        latest[entry.sha256] = entry
    return list(latest.values())


def export_entries(folder: Path, target: Path, progress: Progress = SILENT) -> list[Entry]:
    """Write the entries whose true class is known as a labelled data set: images and a table.

    Damaged entries are left out with a warning. An image with several judgements is written once with the last
    one, or not at all if that gives no class.

    Args:
        target: must not exist.

    Raises:
        ConfigError: no inbox, or nothing in it has a label. StorageError: the target exists or can't be written.
    """
    labelled = [entry for entry in latest_entries(folder, progress) if entry.label is not None]
    entries = [entry for entry in labelled if _has_image(folder, entry, progress)]
    if not entries:
        raise ConfigError(f"nothing in '{folder}' has a label yet: press Right, or choose the class, on the page.")
    if target.exists():
        raise StorageError(f"{target} exists already and is not overwritten. Choose another folder.")
    try:
        target.mkdir(parents=True)
        for entry in entries:
            shutil.copyfile(folder / entry.image, target / entry.image)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise storage_error(target, error, IN_TARGET) from error
    write_atomically(target / TABLE_FILE, _table(entries).encode("utf-8", "surrogateescape"), IN_TARGET)
    return entries


def _has_image(folder: Path, entry: Entry, progress: Progress) -> bool:
    """Whether the judged image exists unchanged."""
    path = folder / entry.image
    try:
        if digest_file(path) == entry.sha256:
            return True
        progress.warn(f"left out: {path} was changed after it was judged")
    except OSError as error:
        progress.warn(f"left out: {path} can't be read: {error.strerror}")
    return False


def _table(entries: Sequence[Entry]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "label", "part", "answer", "confidence", "model", "name", "saved"])
    for entry in entries:
        seen = [entry.answer, f"{entry.confidence:.6f}", entry.model, entry.name, entry.saved]
        cells = [entry.image, str(entry.label), entry.part, *seen]
        writer.writerow([cells[0], cells[1], *map(in_csv, cells[2:])])  # the first two are read back
    return text.getvalue()


def _read(path: Path) -> Entry:
    try:
        document = parse_json(read_file(path))
        return Entry.model_validate(document)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, ValidationError) as error:
        raise StorageError(f"{path} is not an inbox entry, or is damaged.") from error
