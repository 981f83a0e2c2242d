"""Atomic writes (write aside, sync, move into place), and errors that name the path and the free space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO

from backbench.errors import BackbenchError, StorageError

TEMPORARY = ".tmp"
MAX_BYTES = 4_000_000_000
"""Maximum size of a file that is read whole."""
IN_OUT = "choose another folder with --out"
IN_CACHE = "set BACKBENCH_CACHE to another folder"
UNSUPPORTED = frozenset((errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.ENOTTY))
"""Error codes of file systems that lack a call; nothing has failed."""


def write_atomically(path: Path, data: bytes, elsewhere: str = IN_OUT) -> None:
    """Write `data` atomically: after a kill or a power cut `path` holds either the old or the new content.

    Args:
        elsewhere: see `storage_error`.

    Raises:
        StorageError: the write failed; the message names the path, the reason and the free space.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(aside, data)
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error, elsewhere) from error
    finally:  # also after an interrupt
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as stream:
        stream.write(data)
        sync_file(stream)


def sync_file(stream: IO[bytes]) -> None:
    """Flush a file to disk, if its file system supports it; OSError if that failed."""
    stream.flush()
    with _unless_unsupported(UNSUPPORTED):
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, if the system can; OSError if the disk failed.

    Network shares, FUSE and some systems can't sync or open a folder; that is not an error.
    """
    if os.name == "nt":
        return
    with _unless_unsupported(UNSUPPORTED | {errno.EACCES, errno.EPERM, errno.EISDIR}):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _unless_unsupported(numbers: frozenset[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def open_file(path: Path | str) -> BufferedReader:
    """Open a regular file for reading; OSError for a folder, a pipe or a device, which could block for ever."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(handle, "rb")
    os.close(handle)
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
    raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_file(path: Path | str, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file; OSError as `open_file`, and if it is larger than `max_bytes`."""
    with open_file(path) as stream:
        if os.fstat(stream.fileno()).st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes", str(path))
        return stream.read()


@contextlib.contextmanager
def unreadable_as(kind: type[BackbenchError], path: Path) -> Iterator[None]:
    """Turn an OSError within into an error of that kind, which names the path and the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} can't be read: {error.strerror or error}.") from error


def digest_file(path: Path | str) -> str:
    """SHA-256 of a regular file, in hex; OSError as `open_file`."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def storage_error(path: Path, error: OSError, elsewhere: str = IN_OUT) -> StorageError:
    """Make a StorageError with the path, the reason and the remedy.

    Args:
        elsewhere: how the user can choose another place.
    """
    place = error.filename or path
    if str(place).endswith(TEMPORARY):  # a temporary file means nothing to the user
        place = path
    told = f"can't write {place}: {error.strerror or error}."
    return StorageError(f"{told} {advise(path, error, elsewhere)} Existing files are unchanged.")


def advise(path: Path, error: OSError, elsewhere: str = IN_OUT) -> str:
    """One sentence with the remedy for a `path` that can't be written."""
    # unlike Path.exists, this one never raises
    existing = next((place for place in (path, *path.parents) if os.path.exists(place)), Path("/"))  # noqa: PTH110
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Make room ({_describe_room(existing)}), or {elsewhere}."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"You have no permission to write in {existing}: change the permission, or {elsewhere}."
    if error.errno == errno.EROFS:
        return f"The disk is read-only: {elsewhere}."
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and existing.is_file():
        return f"{existing} is a file where a folder is needed: {elsewhere}."
    if error.errno == errno.EISDIR:
        return f"{existing} is a folder where a file is needed: choose another name."
    if error.errno == errno.ENAMETOOLONG:
        return "A name in that path is longer than the file system allows: choose a shorter one."
    return f"Check the disk ({_describe_room(existing)}), or {elsewhere}."


def _describe_room(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free"
    except OSError:
        return "free space unknown"
