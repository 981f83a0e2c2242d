"""Unpack untrusted tar, tar.gz and zip archives: nothing outside the target, bounded size, all or nothing.

`tarfile` and `zipfile` read the archive. Names, kinds, sizes and counts are checked here before anything is
written. Only plain files and folders are taken; times, owners and permissions (setuid among them) are not.
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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn, cast

from backbench.errors import DownloadError, StorageError
from backbench.progress import format_bytes
from backbench.storage import IN_CACHE, advise

MAX_RATIO = 50  # unpacked / packed; photographs hardly shrink, text shrinks tenfold
MIN_SUSPECT_BYTES = 1_000_000  # smaller archives are not checked for their ratio
MAX_HEADER_BYTES = 1_000_000
MAX_NAME_BYTES = 255  # of one part of a path: the limit of file systems
CHUNK_BYTES = 1 << 18
BLOCK = 512

_DRIVE = re.compile(r"[A-Za-z]:")
_BROKEN = (
    EOFError,
    ValueError,  # includes UnicodeDecodeError and invalid seeks
    OverflowError,
    RuntimeError,  # NotImplementedError and RecursionError among them
    zlib.error,
    struct.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def extract_archive(archive: Path, target: Path, *, max_bytes: int, max_members: int) -> None:
    """Unpack `archive` into the new folder `target`, completely or not at all.

    The kind of archive is found from its content. Work is done in a hidden folder beside `target`, which is
    renamed at the end and removed after any failure.

    Args:
        archive: a tar, tar.gz or zip file.
        target: a folder that does not exist yet; its parent does.
        max_bytes: of all unpacked files together.
        max_members: files and folders.

    Raises:
        DownloadError: the archive is damaged, truncated, too large, compressed too strongly, or holds anything
            other than plain files and folders with plain, distinct names.
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


@dataclass
class _Output:
    """The folder that is being filled, and the limits on its content."""

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
            self.refuse(f"it has more than {self.max_members:,} members, the maximum allowed")

    def check_size(self, num_bytes: int) -> None:
        """Refuse the archive if it unpacks to more bytes than allowed."""
        if num_bytes > self.max_bytes:
            self.refuse(f"it unpacks to more than {format_bytes(self.max_bytes)}, the maximum allowed")
        if num_bytes > max(MIN_SUSPECT_BYTES, MAX_RATIO * self.num_packed_bytes):
            self.refuse(f"it unpacks to more than {MAX_RATIO} times its own size, like a zip bomb")


@contextmanager
def _as_damage(out: _Output) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        out.refuse(f"it is damaged or truncated ({error or type(error).__name__})")
    except OSError as error:
        if error.errno != errno.EINVAL:  # an invalid offset or name in the archive; other errors are the disk's
            raise
        out.refuse(f"it is damaged ({error})")


def _unpack(packed: IO[bytes], out: _Output) -> None:
    start = packed.read(BLOCK)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        with gzip.open(packed) as stream:
            _unpack_tar(cast(IO[bytes], stream), out)
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
    """The target path of a member, or None for the top folder itself; refuses names that are not plain and new."""
    out.count_member()
    if "\0" in name or "\\" in name or name.startswith("/") or _DRIVE.match(name):
        out.refuse(f"a member has an absolute or foreign path: {name[:200]!a}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        out.refuse(f"a member's path leads out of the archive's folder: {name[:200]!a}")
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
            out.refuse(f"two members have the same path: {path!a}")
        if is_file:
            out.files.add(path)
    return out.folder / path


def _add_member(out: _Output, name: str, source: IO[bytes] | None) -> Path | None:
    """Write `source` to a new file, or make a folder if it is None; never more bytes than allowed in all."""
    path = _add_path(out, name, is_folder=source is None)
    if path is None or source is None:
        (path or out.folder).mkdir(parents=True, exist_ok=True)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "xb") as file:
        while chunk := source.read(CHUNK_BYTES):
            out.num_bytes += len(chunk)
            out.check_size(out.num_bytes)
            file.write(chunk)
    return path


# tar


class _Stream:
    """What `tarfile` reads: forwards only, in pieces of at most MAX_HEADER_BYTES, and counted.

    Headers and padding of a bomb cost time and memory too.
    """

    def __init__(self, source: IO[bytes], out: _Output) -> None:
        self.source, self.out = source, out
        self.position = 0
        self.last = b""

    def tell(self) -> int:
        return self.position

    def read(self, size: int, /) -> bytes:
        if size > MAX_HEADER_BYTES:
            self.out.refuse(f"a header claims {size:,} bytes")
        self.last = self.source.read(size)
        self.position += len(self.last)
        # four blocks for each member: its header, one with its long name, and their padding
        self.out.check_size(self.position - (self.out.num_members * 4 + 40) * BLOCK)
        return self.last

    def seek(self, position: int, /) -> None:
        if position < self.position:
            raise tarfile.ReadError("a header points back")
        while self.position < position and self.read(min(position - self.position, CHUNK_BYTES)):
            pass


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _unpack_tar(source: IO[bytes], out: _Output) -> None:
    stream = _Stream(source, out)
    with tarfile.TarFile(fileobj=cast(IO[bytes], stream), encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            if tar.pax_headers.keys() & {"path", "size"}:
                out.refuse("a header gives one path or size to all members")
            _check_tar_member(member, out)
            content = tar.extractfile(member)
            _add_member(out, member.name, content)
    if stream.last != bytes(BLOCK):  # tarfile takes a damaged header and a missing end for the end
        raise tarfile.ReadError("a header is garbled, or the end is missing")
    while stream.read(CHUNK_BYTES):  # to the end, where gzip keeps its checksum
        pass


def _check_tar_member(member: tarfile.TarInfo, out: _Output) -> None:
    name = member.name[:200]
    if member.issym() or member.islnk():
        out.refuse(f"a member is a link: {name!a}")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        out.refuse(f"a member is neither a file nor a folder: {name!a}")
    if any(key.startswith("GNU.sparse.") for key in member.pax_headers):
        out.refuse("a member is a sparse file")
    if member.size < 0 or (member.isdir() and member.size):
        out.refuse(f"a member has an impossible size: {name!a}")
    out.check_size(out.num_bytes + member.size)


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
            with nullcontext() if member.is_dir() else container.open(member) as source:
                # orig_filename: the name before Python cut it at a NUL
                path = _add_member(out, member.orig_filename, source)
            if source and path and path.stat().st_size != member.file_size:
                raise zipfile.BadZipFile("a file has a different size than announced")


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
        out.refuse(f"it has more than {out.max_members:,} members, the maximum allowed")
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
