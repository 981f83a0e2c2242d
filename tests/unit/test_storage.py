"""Files are whole or absent, at every point at which the system can fail."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backbench import storage
from backbench.backbones.core.bundle_files import check_file
from backbench.backbones.shards import list_parts
from backbench.data.manifest import read_manifest
from backbench.data.tables import read_table
from backbench.data.trained_on import read_seen
from backbench.errors import BackbenchError, StorageError
from backbench.heads.class_mapping import read_map
from backbench.registry import find_model
from backbench.studies.schema import read_study


def fail_at(monkeypatch: pytest.MonkeyPatch, point: str, number: int) -> None:
    """Make one system call fail: the write, the sync or the move."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "the file")

    if point == "open":
        monkeypatch.setattr("builtins.open", fail)
    elif point == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)


ADVICE = {
    errno.ENOSPC: "Make room .*MB free",
    errno.EDQUOT: "Make room .*MB free",
    errno.EACCES: "no permission to write in .*--out",
    errno.EROFS: "The disk is read-only.*--out",
    errno.EIO: "Check the disk",
    errno.ENAMETOOLONG: "choose a shorter one",
}


@pytest.mark.parametrize("number", ADVICE)
@pytest.mark.parametrize("point", ["open", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, number: int
) -> None:
    path = tmp_path / "kept"
    storage.write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        fail_at(patch, point, number)
        with pytest.raises(StorageError, match=f"can't write the file: {os.strerror(number)}. .*{ADVICE[number]}"):
            storage.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    storage.write_atomically(path, b"a long first content")
    storage.write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert storage.digest_file(path) == hashlib.sha256(b"short").hexdigest()


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"/file is a file where a folder is needed.*--out"):
        storage.write_atomically(tmp_path / "file" / "deep" / "x", b"")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"/folder is a folder where a file is needed"):
        storage.write_atomically(tmp_path / "folder", b"")
    with pytest.raises(StorageError, match=r"longer than the file system allows"):
        storage.write_atomically(tmp_path / ("x" * 300), b"")


UNSUPPORTED = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF]


def refuse_folders(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Let a system call answer so for folders alone, as SMB, FUSE and network homes do."""
    whole = getattr(os, call)

    def answer(target: Any, *rest: Any, **named: Any) -> Any:
        is_folder = Path(target).is_dir() if call == "open" else stat.S_ISDIR(os.fstat(target).st_mode)
        if is_folder:
            raise OSError(number, os.strerror(number))
        return whole(target, *rest, **named)

    monkeypatch.setattr(os, call, answer)


@pytest.mark.parametrize("number", [*UNSUPPORTED, errno.EACCES, errno.EPERM, errno.EISDIR])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_file_system_that_cannot_sync_folders_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    refuse_folders(monkeypatch, call, number)
    storage.write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_folder_that_fails_to_be_synced_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_folders(monkeypatch, "fsync", number)
    with pytest.raises(StorageError, match=os.strerror(number)):
        storage.write_atomically(tmp_path / "file", b"content")


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_file_system_that_cannot_sync_at_all_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
    storage.write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_whatever_ends_a_write_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def end(*_: object) -> None:
        raise stop

    monkeypatch.setattr(Path, "replace", end)
    with pytest.raises(stop):
        storage.write_atomically(tmp_path / "file", b"content")
    assert not list(tmp_path.iterdir())


def _not_files(folder: Path, suffix: str) -> list[Path]:
    """What has a file's name and is none: reading a pipe would wait for ever, a device would never end."""
    pipe, inner, device = (folder / f"{kind}{suffix}" for kind in ("pipe", "folder", "device"))
    os.mkfifo(pipe)
    inner.mkdir()
    device.symlink_to("/dev/zero")
    return [pipe, inner, device]


@pytest.fixture
def never_waits() -> Iterator[None]:
    """Ends a call that waits for a pipe."""

    def end(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("never_waits")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe, inner, device = _not_files(tmp_path, "")
    for path, kind in ((pipe, "a pipe"), (inner, "a folder"), (device, "a device")):
        for read in (storage.read_file, storage.open_file, storage.digest_file):
            with pytest.raises(OSError, match=f"it is {kind}, not a file"):
                read(path)
    with pytest.raises(FileNotFoundError):
        storage.read_file(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"12345")
    assert storage.read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        storage.read_file(tmp_path / "file", 4)
    open_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(5):
        with pytest.raises(OSError, match="it is"):
            storage.open_file(pipe)
    assert not open_files or len(list(Path("/proc/self/fd").iterdir())) == open_files


def _read_bundle(path: Path) -> object:
    from backbench.backbones.core.bundle_files import read_document

    return read_document(path.parent)


def _read_record(path: Path) -> object:
    from backbench.records.folders import read_record

    return read_record(path.parent)


def _read_classes(path: Path) -> object:
    from backbench.backbones.core.original_head import read_head_classes

    return read_head_classes(path.name, path.parent, "the card")


DOORS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "card": (".toml", lambda path: find_model(str(path))),
    "study": (".toml", lambda path: read_study(path)),
    "bundle": ("model.json", _read_bundle),
    "record": ("record.json", _read_record),
    "manifest": (".json", lambda path: read_manifest(path)),
    "table": (".csv", lambda path: read_table(path)),
    "seen images": (".safetensors", lambda path: read_seen(path)),
    "a file of a bundle": (".safetensors", lambda path: check_file(path, "")),
    "map of classes": (".csv", lambda path: read_map(path)),
    "classes of a head": (".txt", _read_classes),
    "index of weights": (".index.json", lambda path: list_parts(path)),
}


@pytest.mark.usefixtures("never_waits")
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_file_is_told_at_once(tmp_path: Path, door: str) -> None:
    name, read = DOORS[door]
    for path in _not_files(tmp_path, name if name.startswith(".") else ".x"):
        if not name.startswith("."):
            (path.parent / f"in_{path.name}").mkdir()
            path = path.rename(path.parent / f"in_{path.name}" / name)
        with pytest.raises(BackbenchError, match=r"pipe|folder|device|record\.json|model\.json|head_classes"):
            read(path)
