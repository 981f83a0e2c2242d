"""Files that are whole or absent: write aside, sync, move into place; and errors that name path and space."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from backbench.errors import StorageError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds all of it or what it held before, also after a kill or a power cut.

    Raises:
        StorageError: it can't be written; names the path, the reason and the free space.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(aside, data)
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def storage_error(path: Path, error: OSError) -> StorageError:
    """A StorageError that names the path, the reason and the space that is left."""
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    try:
        room = f"{shutil.disk_usage(existing).free / 1e6:,.0f} MB free there"
    except OSError:
        room = "free space unknown"
    reason = error.strerror or str(error)
    where = error.filename or path
    return StorageError(
        f"can't write {where}: {reason} ({room}). Nothing that was there is lost. "
        f"Make room, or choose another folder with --out."
    )
