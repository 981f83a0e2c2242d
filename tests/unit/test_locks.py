"""Locks between processes, also where the file system has none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backbench import locks
from backbench.errors import StorageError
from backbench.locks import Lock
from backbench.records.resume import hold_run

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL]


@pytest.fixture
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(request, "param", errno.ENOLCK)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("no_flock", NO_LOCKS, indirect=True)
@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_system_one_alone_holds_it(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "x.lock"), Lock(tmp_path / "x.lock")
    assert first.acquire(0)
    assert not second.acquire(0)
    assert second.owner.startswith(
        f"process {os.getpid()} on {socket.gethostname()}; if that process has ended, delete "
    )
    second.release()  # which it never held
    assert not second.acquire(0.1)
    first.release()
    assert second.acquire(0)
    second.release()
    assert not list(tmp_path.glob("*.owner"))


@pytest.mark.usefixtures("no_flock")
def test_a_run_can_be_held_without_locks_of_the_system(tmp_path: Path) -> None:
    with hold_run(tmp_path, "run"), hold_run(tmp_path, "other"):
        pass
    assert not list((tmp_path / ".working").glob("*.owner"))


@pytest.mark.usefixtures("no_flock")
def test_what_a_dead_process_left_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = tmp_path / "x.lock.owner"
    owner.write_text(json.dumps({"host": socket.gethostname(), "pid": dead.pid, "token": "x"}))
    assert Lock(tmp_path / "x.lock").acquire(5)
    owner.write_text(json.dumps({"host": "another machine", "pid": dead.pid, "token": "x"}))
    assert not Lock(tmp_path / "x.lock").acquire(0)  # who can tell?


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'{"host": 1}', b'{"host": "x", "pid": "y"}'])
def test_a_file_that_names_no_owner_is_waited_for_and_then_removed(tmp_path: Path, content: bytes) -> None:
    owner = tmp_path / "x.lock.owner"
    owner.write_bytes(content)
    assert not Lock(tmp_path / "x.lock").acquire(0)  # it may be being written
    stamp = owner.stat().st_mtime - 2 * locks.UNWRITTEN_SECONDS
    os.utime(owner, (stamp, stamp))
    assert Lock(tmp_path / "x.lock").acquire(5)


@pytest.mark.usefixtures("no_flock")
def test_many_that_want_it_hold_it_one_after_another(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with Lock(tmp_path / "x.lock"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StorageError, match=os.strerror(number)), hold_run(tmp_path, "run"):
        pytest.fail("nothing is held")
