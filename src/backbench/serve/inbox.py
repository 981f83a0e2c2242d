"""Right, wrong, which?: what a person says of an answer, kept with the image, to learn from later.

A folder with two files for each entry: the image as it was sent, and a JSON file that says where it comes from.
Only the press of a button writes there. What is in it was chosen by hand, often because the model failed: it is
for training, never for a test split.
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
    """One answer that a person judged."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    saved: str = Field(description="UTC, ISO 8601")
    image: str = Field(description="the file beside it", pattern=r"^[0-9a-f]{32}\.[a-z]{3,4}$")
    name: str = Field(description="what its sender called it")
    sha256: str
    model: str
    run_id: str | None = None
    weights_digest: str
    answer: str
    confidence: float
    verdict: Verdict
    label: str | None = Field(description="what it truly shows, if that was said")
    part: Literal["train"] = "train"


def check_inbox(folder: Path) -> None:
    """StorageError where nothing could be kept in this folder, which need not be there yet; nothing is written."""
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise storage_error(folder, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)), IN_INBOX)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise storage_error(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), IN_INBOX)


def save_entry(folder: Path, data: bytes, image_format: str, said: dict[str, Any]) -> Entry:
    """Keep an image and what was said of it; the folder is made with the first.

    Args:
        said: the fields of `Entry` that the caller knows.

    Raises:
        StorageError: it can't be written, or the inbox is full.
    """
    if count_entries(folder) >= MAX_ENTRIES:
        raise StorageError(
            f"the inbox {folder} holds {MAX_ENTRIES:,} images, and takes no more. Export and empty it."
        )
    name = secrets.token_hex(16)
    image = name + SUFFIXES[image_format]
    saved = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # of two in one second the last counts
    entry = Entry(id=name, saved=saved, image=image, sha256=hashlib.sha256(data).hexdigest(), **said)
    write_atomically(folder / image, data, IN_INBOX)
    write_atomically(folder / f"{name}.json", entry.model_dump_json(indent=1).encode(), IN_INBOX)
    return entry


def remove_entry(folder: Path, entry: Entry) -> None:
    """Take one back; nothing happens if it is gone already."""
    try:
        (folder / f"{entry.id}.json").unlink(missing_ok=True)
        (folder / entry.image).unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder, error, IN_INBOX) from error


def count_entries(folder: Path) -> int:
    """How many entries there are; 0 without a folder."""
    return sum(1 for _ in folder.glob("*.json"))


def list_entries(folder: Path, progress: Progress = SILENT) -> list[Entry]:
    """All entries that can be read, the oldest first; `progress` is told of each that can't.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"there is no inbox '{folder}'. It is made when someone presses Right or Wrong on the page of "
            "backbench serve; give another folder with --inbox."
        )
    entries = []
    for path in sorted(folder.glob("*.json")):
        try:
            entries.append(_read(path))
        except StorageError as error:
            progress.warn(f"left out: {error}")
    return sorted(entries, key=lambda entry: (entry.saved, entry.id))


def latest_entries(folder: Path, progress: Progress = SILENT) -> list[Entry]:
    """One entry for each image, the oldest first: the one that judged it last. Raises what `list_entries` does."""
    latest: dict[str, Entry] = {}
    for entry in list_entries(folder, progress):
        latest.pop(entry.sha256, None)  # so that the order is that of the judgements that count
        latest[entry.sha256] = entry
    return list(latest.values())


def export_entries(folder: Path, target: Path, progress: Progress = SILENT) -> list[Entry]:
    """Write the entries whose true class is known as a labelled data set: images and a table.

    What is damaged is left out, and `progress` is told. The same image judged twice is written once, as it was
    judged last; not at all if that left its class open.

    Args:
        target: must not exist.

    Raises:
        ConfigError: no inbox, or nothing in it has a label. StorageError: the target exists or can't be written.
    """
    labelled = [entry for entry in latest_entries(folder, progress) if entry.label is not None]
    entries = [entry for entry in labelled if _has_image(folder, entry, progress)]
    if not entries:
        raise ConfigError(f"nothing in '{folder}' has a label yet: say Right, or which class it is, on the page.")
    if target.exists():
        raise StorageError(f"{target} exists already and is not written over. Choose another folder.")
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
    """Whether the image that was judged is there, as it was."""
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
        raise StorageError(f"{path} is no entry of an inbox, or a damaged one.") from error
