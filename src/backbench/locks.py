"""A lock between processes: the system's own, or a file that names its owner if the file system has no locks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from backbench.documents import parse_json
from backbench.storage import read_file, storage_error

POLL_SECONDS = 0.05
UNWRITTEN_SECONDS = 10.0
"""An owner file that stays empty for so long was left by a killed process."""
MAX_OWNER_BYTES = 10_000
NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))
"""Error codes of network shares, FUSE and the like that have no locks although the file can be written."""


class Lock:
    """A lock that one process holds at a time; it ends with its process, even if that is killed.

    On a file system without locks the owner is named in `<path>.owner`, which only one process can create. A file
    left by a dead process of this machine is taken over; an owner on another machine is assumed to be alive.

    Args:
        path: path of the lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._native = _make_native(path)
        self._owner_file = path.with_name(path.name + ".owner")
        self._is_native = True
        self._token = ""

    def acquire(self, seconds: float | None = None) -> bool:
        """Wait up to `seconds` (None: for ever) for the lock; True if it is held now.

        Raises:
            OSError: the lock file can't be written.
        """
        if self._is_native:
            try:
                self._native.acquire(timeout=-1 if seconds is None else seconds)
                return True
            except Timeout:
                return False
            except NotImplementedError:  # older versions of filelock report ENOSYS so
                self._is_native = False
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                self._is_native = False
        end = None if seconds is None else time.monotonic() + seconds
        while not self._take():
            if end is not None and time.monotonic() >= end:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def release(self) -> None:
        """Release the lock."""
        if self._is_native:
            self._native.release()
        elif self._token and _read_owner(self._owner_file).get("token") == self._token:
            self._owner_file.unlink(missing_ok=True)
            self._token = ""

    @property
    def owner(self) -> str:
        """Describe the holder of the lock; '' if unknown."""
        owner = {} if self._is_native else _read_owner(self._owner_file)
        if not owner:
            return ""
        return f"process {owner['pid']} on {owner['host']}; if that process has ended, delete {self._owner_file}"

    def _take(self) -> bool:
        token = uuid.uuid4().hex
        content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": token}).encode()
        try:
            handle = os.open(self._owner_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            _remove_stale(self._owner_file)
            return False
        try:
            os.write(handle, content)
        finally:
            os.close(handle)
        self._token = token
        return True

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def make_folder_once(folder: Path, make: Callable[[Path], None], elsewhere: str) -> None:
    """Have `make` fill a new folder, wholly or not at all, by one process alone; one that is there stays.

    Args:
        make: gets the path of the folder to make; it may make it itself.
        elsewhere: see `storage.storage_error`.

    Raises:
        StorageError: it can't be written; or what `make` raises.
    """
    work = folder.with_name(f".{folder.name}.making")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Lock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():  # another process was faster
                return
            shutil.rmtree(work, ignore_errors=True)
            try:
                make(work)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise storage_error(folder, error, elsewhere) from error


def _make_native(path: Path) -> Any:
    try:
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # versions without this argument
        return FileLock(path)


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        owner = parse_json(read_file(path, MAX_OWNER_BYTES))
        return {"host": str(owner["host"]), "pid": int(owner["pid"]), "token": str(owner["token"])}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _remove_stale(path: Path) -> None:
    """Remove the file of a dead process; of several processes that try, exactly one removes it."""
    owner = _read_owner(path)
    if owner and (owner["host"] != socket.gethostname() or _is_alive(owner["pid"])):
        return
    try:
        if not owner and time.time() - path.stat().st_mtime < UNWRITTEN_SECONDS:
            return
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        path.rename(aside)
        if _read_owner(aside) != owner:  # another process was faster and holds the lock
            os.link(aside, path)
        aside.unlink()
    except OSError:  # gone meanwhile
        return


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # on Windows os.kill would end the process; its file systems have locks
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
