"""Hostile archives: whatever they hold, nothing changes outside the target, and a refusal leaves nothing."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbench.data import archive as archive_module
from backbench.data.archive import extract_archive
from backbench.errors import DownloadError, StorageError

FILES = {
    "cat/one.jpg": b"1" * 700,
    "cat/two.jpg": random.Random(0).randbytes(512),
    "dog/näme\n.jpg": b"3",
    "empty.txt": b"",
}


def make_member(
    name: str, data: bytes = b"data", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    member.size = len(data) if kind == tarfile.REGTYPE else 0
    return member


def make_tar(*members: tarfile.TarInfo, data: bytes = b"data", form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(data[: member.size]) if member.isreg() else None)
    return out.getvalue()


def make_zip(*names: str | zipfile.ZipInfo, data: bytes = b"data", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as container:
        for name in names:
            container.writestr(name, data)
    return out.getvalue()


def make_zip_member(name: str, mode: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


def rename_in_zip(archive: bytes, old: str, new: str) -> bytes:
    assert len(old) == len(new)
    return archive.replace(old.encode(), new.encode())


def make_plain(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as container:
            container.mkdir("bare")
            for name, data in FILES.items():
                container.writestr(name, data)
        return out.getvalue()
    form = tarfile.GNU_FORMAT if "gnu" in kind else tarfile.PAX_FORMAT
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        tar.addfile(make_member("./", kind=tarfile.DIRTYPE))
        tar.addfile(make_member("bare", kind=tarfile.DIRTYPE))
        for name, data in FILES.items():
            tar.addfile(make_member(f"./{name}", data), io.BytesIO(data))
    return gzip.compress(out.getvalue()) if kind.endswith("tgz") else out.getvalue()


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def extract(tmp_path: Path) -> Callable[..., Path]:
    def run(archive: bytes, max_bytes: int = 10_000_000, max_members: int = 1000) -> Path:
        (tmp_path / "archive").write_bytes(archive)
        target = tmp_path / "inner" / "target"
        target.parent.mkdir(exist_ok=True)
        extract_archive(tmp_path / "archive", target, max_bytes=max_bytes, max_members=max_members)
        return target

    return run


def check_refused(tmp_path: Path, archive: bytes, match: str = "is refused", **limits: Any) -> None:
    (tmp_path / "inner").mkdir(exist_ok=True)
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "archive").write_bytes(archive)
    before = snapshot(tmp_path)
    limits = {"max_bytes": 10_000_000, "max_members": 1000} | limits
    with pytest.raises(DownloadError, match=match):
        extract_archive(tmp_path / "archive", tmp_path / "inner" / "target", **limits)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["tar", "tgz", "gnu-tar", "gnu-tgz", "zip"])
def test_plain_archives(extract: Callable[..., Path], kind: str) -> None:
    target = extract(make_plain(kind))
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == FILES
    assert (target / "bare").is_dir()
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names(extract: Callable[..., Path], form: int) -> None:
    name = "a" * 90 + "/" + "b" * 90
    if form != tarfile.USTAR_FORMAT:
        name = f"{'c' * 200}/{name}/{'ü' * 100}"
    target = extract(make_tar(make_member(name), form=form))
    assert (target / name).read_bytes() == b"data"


BAD_NAMES = {
    "leads out": ["../x", "a/../../x", "a/..", "..", "a/b/../../../victim"],
    "absolute or foreign": ["/tmp/x", "//x", "C:/x", "c:x", "a\\b", "..\\x", "\\\\host\\x"],
    "more than 255 bytes": ["n" * 256, "ü" * 128],
}


@pytest.mark.parametrize(("match", "name"), [(why, name) for why, names in BAD_NAMES.items() for name in names])
@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_bad_names(tmp_path: Path, kind: str, match: str, name: str) -> None:
    tar = make_tar(make_member("good"), make_member(name))
    archive = {"tar": tar, "tgz": gzip.compress(tar), "zip": make_zip("good", name)}[kind]
    check_refused(tmp_path, archive, match)


def test_nul_in_names(tmp_path: Path) -> None:
    check_refused(tmp_path, rename_in_zip(make_zip("good", "evil!name"), "evil!name", "evil\0name"), "foreign")
    member = make_member("good")
    member.pax_headers = {"path": "evil\0name"}
    check_refused(tmp_path, make_tar(member), "foreign")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, ".."),
        (tarfile.SYMTYPE, "good"),
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.LNKTYPE, "../victim"),
        (tarfile.LNKTYPE, "good"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CONTTYPE, ""),
        (b"Z", ""),
    ],
)
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes, link: str) -> None:
    members = [make_member("good"), make_member("odd", kind=kind, link=link), make_member("odd/victim")]
    match = "is a link" if link else "is neither"
    check_refused(tmp_path, make_tar(*members), match)
    check_refused(tmp_path, gzip.compress(make_tar(*members[:2])), match)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_zip(tmp_path: Path, kind: int) -> None:
    match = "is a link" if kind == stat.S_IFLNK else "is neither"
    check_refused(tmp_path, make_zip("good", make_zip_member("odd", kind | 0o777), data=b".."), match)


def test_permissions_of_strangers_are_dropped(extract: Callable[..., Path]) -> None:
    member = make_member("suid")
    member.mode = 0o6777
    assert extract(make_tar(member)).joinpath("suid").stat().st_mode & 0o7111 == 0


def test_permissions_of_strangers_are_dropped_from_zip(extract: Callable[..., Path]) -> None:
    target = extract(make_zip(make_zip_member("suid", stat.S_IFREG | 0o6777)))
    assert (target / "suid").stat().st_mode & 0o7111 == 0


TWINS = [
    ("a.jpg", "a.jpg", "the same path"),
    ("a.jpg", "./a.jpg", "the same path"),
    ("d/a.jpg", "d//a.jpg", "the same path"),
    ("a", "a/b", "the same path"),
    ("a/b", "a", "the same path"),
    ("a.jpg", "A.JPG", "case"),
    ("cat/1.jpg", "Cat/2.jpg", "case"),
    ("caf\u00e9/1.jpg", "cafe\u0301/2.jpg", "normalisation"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("first", "second", "match"), TWINS)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_twins(tmp_path: Path, kind: str, first: str, second: str, match: str) -> None:
    tar = make_tar(make_member(first), make_member(second))
    check_refused(tmp_path, tar if kind == "tar" else make_zip(first, second), match)


def test_folders_may_be_named_twice(extract: Callable[..., Path]) -> None:
    folder = make_member("d", kind=tarfile.DIRTYPE)
    assert (extract(make_tar(folder, folder, make_member("d/a"), folder)) / "d" / "a").is_file()


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_too_many_members(tmp_path: Path, kind: str) -> None:
    names = [f"f{i}" for i in range(40)]
    tar = make_tar(*map(make_member, names))
    archive = {"tar": tar, "tgz": gzip.compress(tar), "zip": make_zip(*names)}[kind]
    check_refused(tmp_path, archive, "the maximum allowed", max_members=39)
    (tmp_path / "archive").write_bytes(archive)
    extract_archive(tmp_path / "archive", tmp_path / "inner" / "target", max_bytes=10**6, max_members=40)


def test_long_table_of_contents_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(*[f"{i:0200}" for i in range(5000)], method=zipfile.ZIP_STORED)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    check_refused(tmp_path, archive, "the maximum allowed", max_members=10)


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_too_many_bytes(tmp_path: Path, kind: str) -> None:
    data = os.urandom(3000)
    tar = make_tar(make_member("a", data), make_member("b", data), data=data)
    archive = {"tar": tar, "tgz": gzip.compress(tar), "zip": make_zip("a", "b", data=data)}[kind]
    check_refused(tmp_path, archive, "unpacks to more than", max_bytes=5999)


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_bombs(tmp_path: Path, kind: str) -> None:
    data = bytes(9_000_000)
    tar = make_tar(make_member("a", data), data=data)
    archive = gzip.compress(tar) if kind == "tgz" else make_zip("a", data=data)
    check_refused(tmp_path, archive, "bomb")


def test_zip_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    archive = make_zip("a", data=bytes(9_000_000))
    size = struct.pack("<L", 9_000_000)
    assert archive.count(size) == 2
    check_refused(tmp_path, archive.replace(size, struct.pack("<L", 100)))


def test_zip_with_a_place_before_its_start(tmp_path: Path) -> None:
    archive = bytearray(make_zip("a"))
    end = archive.index(b"PK\x05\x06")
    archive[end + 16 : end + 20] = struct.pack("<L", 2**31)
    check_refused(tmp_path, bytes(archive), "damaged")


def test_zip_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    archive = make_zip("a", data=bytes(70_001))
    size = struct.pack("<L", 70_001)
    assert archive.count(size) == 2
    check_refused(tmp_path, archive.replace(size, struct.pack("<L", 70_002)), "a different size")


def test_bomb_behind_the_last_member(tmp_path: Path) -> None:
    tar = make_tar(make_member("a")) + bytes(9_000_000)
    check_refused(tmp_path, gzip.compress(tar), "bomb")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_bomb_in_a_header(tmp_path: Path, kind: bytes) -> None:
    member = make_member("x")
    member.type, member.size = kind, 8_000_000
    archive = member.tobuf(tarfile.GNU_FORMAT) + bytes(8_000_000) + make_tar(make_member("a"))
    check_refused(tmp_path, gzip.compress(archive), "a header claims 8,000,000 bytes")


def test_a_member_of_negative_size(tmp_path: Path) -> None:
    member = make_member("a")
    member.pax_headers = {"size": "-512"}
    check_refused(tmp_path, make_tar(member), "impossible size")


def test_a_chain_of_headers_without_end(tmp_path: Path) -> None:
    header = make_member("x", kind=tarfile.GNUTYPE_LONGNAME)
    header.size = 4
    chain = (header.tobuf(tarfile.GNU_FORMAT) + b"abc".ljust(512, b"\0")) * 5000
    check_refused(tmp_path, chain + make_tar(make_member("a")), "damaged")


def test_sparse_files(tmp_path: Path) -> None:
    member = make_member("a")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**40)}
    check_refused(tmp_path, make_tar(member), "sparse")
    check_refused(tmp_path, make_tar(make_member("a", kind=tarfile.GNUTYPE_SPARSE)), "neither")


def test_global_header_with_a_path(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "../x"}) as tar:
        tar.addfile(make_member("a"), io.BytesIO(b"data"))
    check_refused(tmp_path, out.getvalue(), "all members")


@pytest.mark.parametrize("kind", ["tar", "tgz", "gnu-tar", "zip"])
def test_truncated_anywhere(tmp_path: Path, kind: str) -> None:
    archive = make_plain(kind)
    last = len(archive.rstrip(b"\0")) if kind.endswith("tar") else len(archive)
    cuts = {last * i // 40 for i in range(40)} | set(range(0, last, 512)) | {last - 1}
    for cut in sorted(cuts):
        check_refused(tmp_path, archive[:cut])


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_wrong_checksum(tmp_path: Path, kind: str) -> None:
    archive = bytearray(make_plain("tgz") if kind == "tgz" else make_zip("a", method=zipfile.ZIP_STORED))
    where = len(archive) - 6 if kind == "tgz" else archive.index(b"data")
    archive[where] ^= 1
    check_refused(tmp_path, bytes(archive), "damaged")


def test_damaged_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    archive = bytearray(make_tar(make_member("a"), make_member("b"), make_member("c")))
    archive[1024] ^= 1
    check_refused(tmp_path, bytes(archive), "damaged")


def test_encrypted_and_uncommon_zips(tmp_path: Path) -> None:
    archive = bytearray(make_zip("a"))
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    check_refused(tmp_path, bytes(archive), "encrypted")
    check_refused(tmp_path, make_zip("a", method=zipfile.ZIP_LZMA), "uncommon")


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"", "not a tar"),
        (b"text", "not a tar"),
        (random.Random(0).randbytes(2000), "not a tar"),
        (b"\x1f\x8b", "damaged"),
        (b"PK\x03\x04", "damaged"),
        (gzip.compress(b"text", mtime=0), "damaged"),
        (b"\xfd7zXZ\0", "not a tar"),
    ],
    ids=["page", "empty", "text", "noise", "gzip start", "zip start", "gzip of text", "xz"],
)
def test_not_an_archive(tmp_path: Path, body: bytes, match: str) -> None:
    check_refused(tmp_path, body, match)


@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_mutations(tmp_path: Path, kind: str, test_scale: float) -> None:
    """Whatever a flipped byte does, only the named errors come, and nothing is left or changed outside."""
    rng = random.Random(15)
    archive = make_plain(kind)
    (tmp_path / "inner").mkdir()
    for _ in range(int(150 * test_scale)):
        mutant = bytearray(archive)
        for _ in range(rng.choice((1, 1, 3, 20))):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        (tmp_path / "archive").write_bytes(mutant)
        target = tmp_path / "inner" / "target"
        try:
            extract_archive(tmp_path / "archive", target, max_bytes=10**6, max_members=100)
        except DownloadError:
            assert list((tmp_path / "inner").iterdir()) == []
        else:
            assert all(path.is_file() or path.is_dir() for path in target.rglob("*"))
            target.rename(tmp_path / f"done-{len(list(tmp_path.iterdir()))}")
        assert {path.name.split("-")[0] for path in tmp_path.iterdir()} <= {"archive", "inner", "done"}


@pytest.mark.parametrize("existing", ["folder", "file", "link"])
def test_existing_target_is_left_alone(tmp_path: Path, existing: str) -> None:
    target = tmp_path / "target"
    if existing == "folder":
        target.mkdir()
    elif existing == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    (tmp_path / "archive").write_bytes(make_plain("tgz"))
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match="exists already"):
        extract_archive(tmp_path / "archive", target, max_bytes=10**6, max_members=100)
    assert snapshot(tmp_path) == before


def test_missing_archive_and_missing_parent(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        extract_archive(tmp_path / "absent", tmp_path / "target", max_bytes=10**6, max_members=100)
    (tmp_path / "archive").write_bytes(make_plain("tgz"))
    with pytest.raises(StorageError, match="nowhere"):
        extract_archive(tmp_path / "archive", tmp_path / "nowhere" / "t", max_bytes=10**6, max_members=100)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("kind", ["tgz", "zip"])
@pytest.mark.parametrize("step", range(1, 7))
def test_full_disk_at_every_write(tmp_path: Path, kind: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 1 to 3 are the writes of the three files that are not empty, 4 to 6 other things that may fail."""
    (tmp_path / "archive").write_bytes(make_plain(kind))
    num_writes = 0

    class Disk(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal num_writes
            num_writes += 1
            if num_writes == step:
                raise OSError(28, "No space left on device", str(self.name))
            return super().write(data)

    def fail(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    if step <= 3:
        fake = lambda path, mode: (Disk if "x" in mode else open)(path, mode)  # noqa: E731
        monkeypatch.setattr(archive_module, "open", fake, raising=False)
    else:
        monkeypatch.setattr(Path, {4: "mkdir", 5: "rename", 6: "stat"}[step], fail)
    with pytest.raises(StorageError, match="No space left"):
        extract_archive(tmp_path / "archive", tmp_path / "target", max_bytes=10**6, max_members=100)
    assert os.listdir(tmp_path) == ["archive"]  # noqa: PTH208  Path is out of order here
