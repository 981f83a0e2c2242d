"""Files that are whole or absent: write aside, sync, move into place; and errors that name path and space."""

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
"""Of any file that is read as one piece."""
IN_OUT = "choose another folder with --out"
IN_CACHE = "set BACKBENCH_CACHE to another folder"
UNSUPPORTED = frozenset((errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.ENOTTY))
"""What file systems answer that lack a call, though nothing has failed."""


def write_atomically(path: Path, data: bytes, elsewhere: str = IN_OUT) -> None:
    """Write `data` so that `path` holds all of it or what it held before, also after a kill or a power cut.

    Args:
        elsewhere: see `storage_error`.

    Raises:
        StorageError: it can't be written; names the path, the reason and the free space.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(aside, data)
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error, elsewhere) from error
    finally:  # whatever ended it, an interrupt too
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as stream:
        stream.write(data)
        sync_file(stream)


def sync_file(stream: IO[bytes]) -> None:
    """Wait until what was written is on the disk, where its file system can tell; OSError if that failed."""
    stream.flush()
    with _unless_unsupported(UNSUPPORTED):
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut, where the system can; OSError if the disk failed.

    Network shares, FUSE and some systems can't sync a folder, or not even open one: nothing is wrong then.
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
    """A regular file for reading; OSError at once for a folder, a pipe or a device, which could block for ever."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(handle, "rb")
    os.close(handle)
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"
    raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_file(path: Path | str, max_bytes: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file; OSError as `open_file`, and for one that is larger than `max_bytes`."""
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
    """A StorageError that names the path and the reason, and says what to do about that reason.

    Args:
        elsewhere: how the user names another place, where one would help.
    """
    place = error.filename or path
    if str(place).endswith(TEMPORARY):  # of no meaning to anyone: it is gone by now
        place = path
    told = f"can't write {place}: {error.strerror or error}."
    return StorageError(f"{told} {advise(path, error, elsewhere)} Nothing that was there is lost.")


def advise(path: Path, error: OSError, elsewhere: str = IN_OUT) -> str:
    """What to do about `path`, which can't be written, in a sentence that fits the reason."""
    # unlike Path.exists, this one never raises
    existing = next((place for place in (path, *path.parents) if os.path.exists(place)), Path("/"))  # noqa: PTH110
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"Make room ({_describe_room(existing)}), or {elsewhere}."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"You have no permission to write in {existing}: get it, or {elsewhere}."
    if error.errno == errno.EROFS:
        return f"Nothing can be written on that disk: {elsewhere}."
    if error.errno in (errno.ENOTDIR, errno.EEXIST) and existing.is_file():
        return f"{existing} is a file where a folder is needed: {elsewhere}."
    if error.errno == errno.EISDIR:
        return f"{existing} is a folder where a file is needed: choose another name."
    if error.errno == errno.ENAMETOOLONG:
        return "A name in that path is longer than the file system allows: choose a shorter one."
    return f"Look after that disk ({_describe_room(existing)}), or {elsewhere}."


def _describe_room(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free there"
    except OSError:
        return "free space unknown"
