"""CIFAR archives in the published format, small: from a server, packed, unpacked, damaged and hostile."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from backbench.config import DataConfig
from backbench.data.load import load_data, load_listing
from backbench.data.sources import cifar
from backbench.data.sources.cifar import CIFAR10, CIFAR100, Archive, load_named, read_archive
from backbench.errors import DataError, DownloadError
from backbench.progress import SILENT

CONFIG = DataConfig(source="cifar10")
SMALL10 = replace(CIFAR10, per_class={"train": 5, "test": 2})
SMALL100 = replace(CIFAR100, per_class={"train": 2, "test": 1})


def make_members(archive: Archive, seed: int = 0) -> dict[str, bytes]:
    """Name -> pickle, as published: protocol 2, byte strings as keys, rows of 3,072 bytes."""
    rng = np.random.default_rng(seed)
    content: dict[str, bytes] = {}
    for part, per_class in archive.per_class.items():
        members = [name for name, (of, _) in archive.members.items() if of == part]
        labels = rng.permutation(np.repeat(np.arange(archive.num_classes), per_class))
        for name, chunk in zip(members, np.array_split(labels, len(members)), strict=True):
            batch = {
                b"batch_label": name.encode(),
                archive.label_key: chunk.tolist(),
                b"data": rng.integers(0, 256, (len(chunk), 3072), dtype=np.uint8),
                b"filenames": [b"x.png"] * len(chunk),
            }
            if archive.coarse_key is not None:
                batch[archive.coarse_key] = (chunk // 5).tolist()
            content[name] = pickle.dumps(batch, 2)
    meta = {archive.names_key: [f"class {number}".encode() for number in range(archive.num_classes)]}
    if archive.coarse_names_key is not None:
        meta[archive.coarse_names_key] = [f"coarse {number}".encode() for number in range(20)]
    return content | {archive.meta[0]: pickle.dumps(meta, 2)}


def pack(archive: Archive, members: dict[str, bytes], folder: Path) -> Path:
    path = folder / archive.file_name
    with tarfile.open(path, "w:gz") as packed:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"{archive.folder}/{name}")
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return path


def unpack(archive: Archive, members: dict[str, bytes], folder: Path) -> Path:
    target = folder / archive.folder
    target.mkdir()
    for name, data in members.items():
        (target / name).write_bytes(data)
    return target


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=service.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}", folder
    service.shutdown()
    thread.join()
    service.server_close()


def served(archive: Archive, url: str, folder: Path) -> Archive:
    data = pack(archive, make_members(archive), folder).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    return replace(archive, url=f"{url}/{archive.file_name}", sha256=sha256, num_bytes=len(data))


def test_an_archive_is_fetched_once_checked_and_read(server: tuple[str, Path]) -> None:
    url, folder = server
    archive = served(SMALL10, url, folder)
    first = load_named(archive, CONFIG, SILENT)
    (folder / archive.file_name).unlink()
    again = load_named(archive, CONFIG, SILENT)
    assert len(first) == 70
    assert first.parts.count("train") == 50
    assert np.array_equal(first.pixels, again.pixels)
    assert first.class_names == tuple(f"class {number}" for number in range(10))


def test_other_bytes_than_published_are_never_read(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    archive = replace(served(SMALL10, url, folder), sha256="0" * 64)
    with pytest.raises(DownloadError):
        load_named(archive, CONFIG, SILENT)
    cache = cifar.cache_folder() / "downloads"
    assert not (cache / archive.file_name).exists()


@pytest.mark.parametrize("archive", [SMALL10, SMALL100])
def test_packed_and_unpacked_archives_give_the_same(archive: Archive, tmp_path: Path) -> None:
    members = make_members(archive)
    packed = read_archive(archive, pack(archive, members, tmp_path))
    unpacked = read_archive(archive, unpack(archive, members, tmp_path))
    assert packed.ids == unpacked.ids
    assert packed.labels == unpacked.labels
    assert np.array_equal(packed.pixels, unpacked.pixels)


def test_pixels_and_labels_are_those_of_the_rows(tmp_path: Path) -> None:
    members = make_members(SMALL10)
    listing = read_archive(SMALL10, pack(SMALL10, members, tmp_path))
    batch = pickle.loads(members["data_batch_2"])
    row = listing.ids.index(f"train/{10:05d}")
    image = np.stack([batch[b"data"][0][1024 * c : 1024 * (c + 1)].reshape(32, 32) for c in range(3)], axis=2)
    assert np.array_equal(listing.pixels[row], image)
    assert listing.labels[row] == f"class {batch[b'labels'][0]}"
    assert len(set(listing.ids)) == len(listing)


def test_coarse_labels_are_kept(tmp_path: Path) -> None:
    listing = read_archive(SMALL100, pack(SMALL100, make_members(SMALL100), tmp_path))
    assert listing.facts["coarse_classes"]["class 7"] == "coarse 1"
    assert len(listing.facts["coarse_classes"]) == 100


def test_a_local_copy_that_is_not_the_published_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "ARCHIVES", (SMALL10, SMALL100))
    path = pack(SMALL10, make_members(SMALL10), tmp_path)
    for source in (path, unpack(SMALL10, make_members(SMALL10), tmp_path)):
        data = load_data(DataConfig(source=str(source)))
        assert data.manifest.counts == {"train": 40, "val": 10, "test": 20}
        assert any("differs from the published" in warning for warning in data.warnings)
    members = make_members(SMALL10)
    known = {name: (part, hashlib.md5(members[name]).hexdigest()) for name, (part, _) in SMALL10.members.items()}
    meta = (SMALL10.meta[0], hashlib.md5(members[SMALL10.meta[0]]).hexdigest())
    assert "warnings" not in read_archive(replace(SMALL10, members=known, meta=meta), path).facts


def test_other_counts_than_published_are_refused(tmp_path: Path) -> None:
    path = pack(SMALL10, make_members(SMALL10), tmp_path)
    with pytest.raises(DataError, match=r"numbers of images differ.*5 instead of 5,000"):
        read_archive(CIFAR10, path)
    with pytest.raises(DataError, match="numbers of images differ"):
        read_archive(replace(SMALL10, per_class={"train": 5, "test": 3}), path)


def test_labels_moved_between_classes_are_refused(tmp_path: Path) -> None:
    members = make_members(SMALL10)
    batch = pickle.loads(members["test_batch"])
    batch[b"labels"][0] = (batch[b"labels"][0] + 1) % 10
    members["test_batch"] = pickle.dumps(batch, 2)
    with pytest.raises(DataError, match="numbers of images differ"):
        read_archive(SMALL10, pack(SMALL10, members, tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (b"labels", [0] * 3, "'labels' does not have one entry for each image"),
        (b"labels", [10] * 20, "invalid class"),
        (b"labels", [-1] * 20, "invalid class"),
        (b"labels", ["0"] * 20, "invalid class"),
        (b"labels", None, "'labels' does not have one entry for each image"),
        (b"data", np.zeros((20, 3071), np.uint8), "rows of 3,072"),
        (b"data", [1, 2], "rows of 3,072"),
    ],
)
def test_a_batch_of_another_shape_is_refused(key: bytes, value: object, message: str, tmp_path: Path) -> None:
    members = make_members(SMALL10)
    members["test_batch"] = pickle.dumps(pickle.loads(members["test_batch"]) | {key: value}, 2)
    with pytest.raises(DataError, match=message):
        read_archive(SMALL10, pack(SMALL10, members, tmp_path))


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    members = make_members(SMALL10)
    del members["data_batch_3"]
    with pytest.raises(DataError, match="data_batch_3"):
        read_archive(SMALL10, pack(SMALL10, members, tmp_path))


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("member", ["data_batch_1", "batches.meta"])
@pytest.mark.parametrize("form", ["packed", "unpacked"])
def test_code_in_an_archive_never_runs(member: str, form: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    members = make_members(SMALL10)
    members[member] = pickle.dumps(pickle.loads(members[member]) | {b"more": Canary(canary)}, 2)
    path = (pack if form == "packed" else unpack)(SMALL10, members, tmp_path)
    with pytest.raises(DataError, match="None of its code was run"):
        read_archive(SMALL10, path)
    assert not canary.exists()


def test_damaged_archives_are_data_errors(tmp_path: Path, test_scale: float) -> None:
    whole = pack(SMALL10, make_members(SMALL10), tmp_path).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.tar.gz"
    for case in range(round(20 * test_scale)):
        data = bytearray(whole)
        if case % 2:
            del data[int(rng.integers(len(data))) :]
        else:
            where = int(rng.integers(len(data) - 100))
            data[where : where + 100] = bytes(100)
        path.write_bytes(data)
        with pytest.raises(DataError):
            read_archive(SMALL10, path)
    for text in (b"", b"<html>not found</html>"):
        path.write_bytes(text)
        with pytest.raises(DataError, match="damaged"):
            read_archive(SMALL10, path)


def test_a_member_too_large_or_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(SMALL10, make_members(SMALL10), tmp_path)
    monkeypatch.setattr(cifar, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(DataError, match="too many or too large"):
        read_archive(SMALL10, path)
    with pytest.raises(DataError, match="larger than any file"):
        read_archive(SMALL10, unpack(SMALL10, make_members(SMALL10), tmp_path))
    monkeypatch.setattr(cifar, "MAX_MEMBER_BYTES", 1000_000)
    monkeypatch.setattr(cifar, "MAX_MEMBERS", 3)
    with pytest.raises(DataError, match="too many or too large"):
        read_archive(SMALL10, path)


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        entry = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(entry)
    with pytest.raises(DataError, match="lacks 'data_batch_1'"):
        read_archive(SMALL10, path)


def test_an_ordinary_folder_is_not_taken_for_an_archive(tmp_path: Path) -> None:
    for name in CIFAR100.members:
        (tmp_path / name).mkdir()
    assert not cifar.accepts(tmp_path)


def test_the_published_facts() -> None:
    assert CIFAR10.counts == {"train": 50_000, "test": 10_000}
    assert CIFAR100.counts == {"train": 50_000, "test": 10_000}
    assert [spec.num_images for spec in cifar.SPECS] == [60_000, 60_000]


def test_a_damaged_archive_by_path_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="backbench rank cifar10"):
        load_listing(DataConfig(source=str(tmp_path / "cifar-10-python.tar.gz")))
