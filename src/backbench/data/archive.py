"""Unpacks tar, tar.gz and zip archives from strangers: nothing outside the target, nothing unbounded, all or none.

Written by hand rather than left to `tarfile.extractall`, whose defences differ from one Python to the next, and
which takes a damaged header in mid-archive for its end. Only plain files and folders are taken; times, owners and
permissions (setuid among them) are not.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import secrets
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn, Protocol

from backbench.errors import DownloadError, StorageError
from backbench.progress import format_bytes
from backbench.storage import IN_CACHE, advise

MAX_RATIO = 50  # unpacked to packed; photographs hardly shrink, text shrinks tenfold
MIN_SUSPECT_BYTES = 1_000_000  # less than this unpacked is no bomb at any ratio
MAX_HEADER_BYTES = 1_000_000
MAX_NAME_BYTES = 255  # of one part of a path: what file systems take
CHUNK_BYTES = 1 << 20
BLOCK = 512

_DRIVE = re.compile(r"[A-Za-z]:")
_BROKEN = (
    EOFError,
    ValueError,  # UnicodeDecodeError and seeks to nowhere among them
    OverflowError,
    NotImplementedError,
    zlib.error,
    struct.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def extract_archive(archive: Path, target: Path, *, max_bytes: int, max_members: int) -> None:
    """Unpack `archive` into the new folder `target`, wholly or not at all.

    The kind of archive is told by its content. Work is done in a hidden folder beside `target`, which is renamed
    at the end, and removed on any failure.

    Args:
        archive: a tar, tar.gz or zip file.
        target: a folder that does not exist yet; its parent does.
        max_bytes: of all unpacked files together.
        max_members: files and folders.

    Raises:
        DownloadError: the archive is damaged, cut short, too large, packed too densely, or holds anything but
            plain files and folders with plain, distinct names.
        StorageError: `target` exists, or its disk is full or can't be written.

    Cost: one pass; memory of some MB (for zip, its table of contents).
    """
    if os.path.lexists(target):
        raise StorageError(f"'{target}' exists already; archives are only unpacked into a new folder")
    work = target.with_name(f".{target.name}.unpacking-{secrets.token_hex(4)}")
    out = _Output(archive.name, work, max_bytes, max_members)
    try:
        out.num_packed_bytes = archive.stat().st_size
        work.mkdir()
        with open(archive, "rb") as packed, _as_damage(out):
            _unpack(packed, out)
        work.rename(target)
    except OSError as error:
        where = error.filename or work.parent
        raise StorageError(
            f"can't unpack '{archive}' into '{target}': {where}: {error.strerror or error}. "
            f"{advise(target, error, IN_CACHE)}"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass
class _Output:
    """The folder that is being filled, and what may still go into it."""

    archive: str
    folder: Path
    max_bytes: int
    max_members: int
    num_packed_bytes: int = 0
    num_members: int = 0
    num_bytes: int = 0
    spelling: dict[str, str] = field(default_factory=dict)  # folded path -> the path as first met
    files: set[str] = field(default_factory=set)

    def refuse(self, why: str) -> NoReturn:
        raise DownloadError(f"'{self.archive}' is refused: {why}. Nothing was unpacked.")

    def count_member(self) -> None:
        self.num_members += 1
        if self.num_members > self.max_members:
            self.refuse(f"it has more than the {self.max_members:,} members allowed")

    def check_size(self, num_bytes: int) -> None:
        """Whether as many bytes may come out of this archive."""
        if num_bytes > self.max_bytes:
            self.refuse(f"it unpacks to more than the {format_bytes(self.max_bytes)} allowed")
        if num_bytes > max(MIN_SUSPECT_BYTES, MAX_RATIO * self.num_packed_bytes):
            self.refuse(f"it unpacks to more than {MAX_RATIO} times its own size, as a bomb would")


@contextmanager
def _as_damage(out: _Output) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        out.refuse(f"it is damaged or cut short ({error or type(error).__name__})")
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place that can't be, in the archive or as a name; else the disk's
            raise
        out.refuse(f"it is damaged ({error})")


def _unpack(packed: IO[bytes], out: _Output) -> None:
    start = packed.read(BLOCK)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        with gzip.open(packed) as stream:
            _unpack_tar(stream, out)
    elif start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        _unpack_zip(packed, out)
    elif start[257:262] == b"ustar" or _is_tar_header(start):
        _unpack_tar(packed, out)
    elif start.lstrip()[:1] == b"<":
        out.refuse("it is a web page, not an archive")
    else:
        out.refuse("it is not a tar, tar.gz or zip archive")


# Names


def _add_path(out: _Output, name: str, *, is_folder: bool) -> Path | None:
    """Where a member goes, or None for the top folder itself; refuses every name that is not plain and new."""
    out.count_member()
    if "\0" in name or "\\" in name or name.startswith("/") or _DRIVE.match(name):
        out.refuse(f"a member has an absolute or foreign path: {name[:200]!a}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        out.refuse(f"a member leads out of its folder: {name[:200]!a}")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        out.refuse(f"a member has a name of more than {MAX_NAME_BYTES} bytes: {name[:60]!a}...")
    if not parts and is_folder:
        return None
    if not parts or (name.endswith("/") and not is_folder):
        out.refuse(f"a file has no name: {name[:200]!a}")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        is_new = folded not in out.spelling
        first = out.spelling.setdefault(folded, path)
        if first != path:
            out.refuse(f"two members differ only in case or Unicode normalisation: {first!a} and {path!a}")
        is_file = depth == len(parts) and not is_folder
        if path in out.files or (is_file and not is_new):
            out.refuse(f"two members have one path: {path!a}")
        if is_file:
            out.files.add(path)
    return out.folder / path


def _write_file(out: _Output, path: Path, source: _Readable, num_bytes: int | None) -> None:
    """Copy `num_bytes` (all there are, if None) to a new file, never more than is allowed in all.

    A source that ends too early shows in what the caller reads next: padding of a tar, size of a zip's member.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    left = num_bytes
    with open(path, "xb") as file:
        while left is None or left > 0:
            chunk = source.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
            if not chunk:
                break
            out.num_bytes += len(chunk)
            out.check_size(out.num_bytes)
            file.write(chunk)
            left = None if left is None else left - len(chunk)


# tar


class _Stream:
    """The blocks of a tar, counted: headers and padding of a bomb cost time and memory too."""

    def __init__(self, source: _Readable, out: _Output) -> None:
        self.source, self.out = source, out
        self.num_bytes = 0

    def read(self, size: int, /) -> bytes:
        data = self.source.read(size)
        self.num_bytes += len(data)
        self.out.check_size(self.num_bytes - self.out.num_members * 2 * BLOCK - 40 * BLOCK)
        return data

    def read_exactly(self, size: int) -> bytes:
        data = self.read(size)
        while len(data) < size:
            more = self.read(size - len(data))
            if not more:
                raise EOFError(f"{size - len(data)} bytes are missing")
            data += more
        return data


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _unpack_tar(source: _Readable, out: _Output) -> None:
    stream = _Stream(source, out)
    extended: dict[str, str] = {}  # what an extension header says of the member after it
    while True:
        block = stream.read_exactly(BLOCK)
        if not block.strip(b"\0"):
            break
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
            out.count_member()
            extended |= _read_extension(stream, member, out)
            continue
        name, num_bytes = extended.get("path", member.name), int(extended.get("size", member.size))
        extended = {}
        _check_tar_member(member, name, num_bytes, out)
        path = _add_path(out, name, is_folder=member.isdir())
        if path is None or member.isdir():
            (path or out.folder).mkdir(parents=True, exist_ok=True)
            continue
        _write_file(out, path, stream, num_bytes)
        stream.read_exactly(-num_bytes % BLOCK)
    while stream.read(CHUNK_BYTES):  # to the end, where gzip keeps its checksum
        pass


def _check_tar_member(member: tarfile.TarInfo, name: str, num_bytes: int, out: _Output) -> None:
    if member.issym() or member.islnk():
        out.refuse(f"a member is a link: {name[:200]!a}")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        out.refuse(f"a member is neither a file nor a folder: {name[:200]!a}")
    if num_bytes < 0 or (member.isdir() and num_bytes):
        out.refuse(f"a member has an impossible size: {name[:200]!a}")
    out.check_size(out.num_bytes + num_bytes)


def _read_extension(stream: _Stream, member: tarfile.TarInfo, out: _Output) -> dict[str, str]:
    """The path and size in a GNU long name or pax header; all else there is of no use here."""
    if not 0 <= member.size <= MAX_HEADER_BYTES:
        out.refuse(f"a header claims {member.size:,} bytes")
    data = stream.read_exactly(member.size)
    stream.read_exactly(-member.size % BLOCK)
    if member.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    found: dict[str, str] = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(data):
            raise tarfile.HeaderError("a pax header is garbled")
        record, data = data[len(length) + 1 : int(length) - 1], data[int(length) :]
        key, _, value = record.decode("utf-8", "surrogateescape").partition("=")
        if key.startswith("GNU.sparse."):
            out.refuse("a member is a sparse file")
        if key == "path" or (key == "size" and value.isascii() and value.isdigit()):
            found[key] = value
    if found and member.type == tarfile.XGLTYPE:
        out.refuse("a header gives one path or size to all members")
    return found


# zip


def _unpack_zip(packed: IO[bytes], out: _Output) -> None:
    _check_contents_size(packed, out)
    with zipfile.ZipFile(packed) as container:
        members = container.infolist()
        for member in members:
            _check_zip_member(member, out)
        out.check_size(sum(member.file_size for member in members))
        out.folder.mkdir(exist_ok=True)
        for member in members:
            # orig_filename: the name before Python cut it at a NUL
            path = _add_path(out, member.orig_filename, is_folder=member.is_dir())
            if path is None or member.is_dir():
                (path or out.folder).mkdir(parents=True, exist_ok=True)
                continue
            with container.open(member) as source:
                _write_file(out, path, source, None)
            if path.stat().st_size != member.file_size:
                raise zipfile.BadZipFile("a file has another size than announced")


def _check_contents_size(packed: IO[bytes], out: _Output) -> None:
    """Refuse a table of contents that is too long, before Python reads all of it."""
    num_bytes = packed.seek(0, os.SEEK_END)
    packed.seek(max(0, num_bytes - 65557))
    tail = packed.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise EOFError("its table of contents is missing")
    contents_bytes = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, end)  # the zip64 record of the same, for counts that need it
    if wide >= 0 and len(tail) - wide >= 56:
        contents_bytes = max(contents_bytes % 0xFFFFFFFF, int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    # each entry takes 46 bytes, its name and some more; a name of 255 bytes is rare
    if contents_bytes > out.max_members * 320 + MAX_HEADER_BYTES:
        out.refuse(f"it has more than the {out.max_members:,} members allowed")
    packed.seek(0)


def _check_zip_member(member: zipfile.ZipInfo, out: _Output) -> None:
    name = member.orig_filename[:200]
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        out.refuse(f"a member is a link: {name!a}")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        out.refuse(f"a member is neither a file nor a folder: {name!a}")
    if member.flag_bits & 1:
        out.refuse(f"a member is encrypted: {name!a}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        out.refuse(f"a member is packed by an uncommon method ({member.compress_type}): {name!a}")
