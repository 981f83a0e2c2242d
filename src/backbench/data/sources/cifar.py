"""CIFAR-10 and CIFAR-100 from their official Python archives: downloaded, or found on disk, packed or unpacked."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backbench.config import DataConfig
from backbench.data.fetch import fetch_file
from backbench.data.listing import Listing
from backbench.data.unpickle import read_plain_pickle
from backbench.errors import DataError
from backbench.progress import Progress
from backbench.registry import SourceSpec
from backbench.runtime import cache_folder
from backbench.storage import unreadable_as
from backbench.wording import list_some, quote

SIDE = 32
MAX_MEMBER_BYTES = 250_000_000
MAX_MEMBERS = 100
LICENCE = "not stated; free for research by custom"
CITATION = "A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009"


@dataclass(frozen=True)
class Archive:
    """One published archive. MD5 sums of members only show whether a local copy is the published one.

    Args:
        members: name in `folder` -> (part, MD5).
        meta: name and MD5 of the member with the class names.
        label_key, names_key: where labels and class names are in the pickles.
        coarse_key, coarse_names_key: the same for coarse labels, if there are any.
        per_class: published number of images of each class in each split.
    """

    name: str
    title: str
    url: str
    sha256: str
    num_bytes: int
    folder: str
    members: Mapping[str, tuple[str, str]]
    meta: tuple[str, str]
    label_key: bytes
    names_key: bytes
    num_classes: int
    per_class: Mapping[str, int]
    coarse_key: bytes | None = None
    coarse_names_key: bytes | None = None

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def counts(self) -> dict[str, int]:
        """Published number of images of each split."""
        return {part: num * self.num_classes for part, num in self.per_class.items()}


CIFAR10 = Archive(
    name="cifar10",
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    num_bytes=170_498_071,
    folder="cifar-10-batches-py",
    members={
        "data_batch_1": ("train", "c99cafc152244af753f735de768cd75f"),
        "data_batch_2": ("train", "d4bba439e000b95fd0a9bffe97cbabec"),
        "data_batch_3": ("train", "54ebc095f3ab1f0389bbae665268c751"),
        "data_batch_4": ("train", "634d18415352ddfa80567beed471001a"),
        "data_batch_5": ("train", "482c414d41f54cd18b22e5b47cb7c3cb"),
        "test_batch": ("test", "40351d587109b95175f43aff81a1287e"),
    },
    meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    label_key=b"labels",
    names_key=b"label_names",
    num_classes=10,
    per_class={"train": 5000, "test": 1000},
)
CIFAR100 = Archive(
    name="cifar100",
    title="CIFAR-100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    num_bytes=169_001_437,
    folder="cifar-100-python",
    members={
        "train": ("train", "16019d7e3df5f24257cddd939b257f8d"),
        "test": ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    },
    meta=("meta", "7973b15100ade9c7d40fb424638fde48"),
    label_key=b"fine_labels",
    names_key=b"fine_label_names",
    num_classes=100,
    per_class={"train": 500, "test": 100},
    coarse_key=b"coarse_labels",
    coarse_names_key=b"coarse_label_names",
)
ARCHIVES = (CIFAR10, CIFAR100)


def load_named(archive: Archive, config: DataConfig, progress: Progress) -> Listing:
    """Download the archive if the cache has no valid copy, then read it.

    Raises:
        DownloadError: the archive can't be downloaded or is not the published one. DataError: see `read_archive`.
    """
    target = cache_folder() / "downloads" / archive.file_name
    fetch_file(archive.url, target, sha256=archive.sha256, num_bytes=archive.num_bytes, progress=progress)
    return read_archive(archive, target)


def accepts(path: Path) -> bool:
    """Whether the path is one of the archives, packed or unpacked."""
    return _find_archive(path) is not None


def load_path(config: DataConfig, path: Path, progress: Progress) -> Listing:
    """Read an archive on disk, packed or unpacked.

    Raises:
        DataError: see `read_archive`.
    """
    archive = _find_archive(path)
    assert archive is not None  # `accepts` returned True
    return read_archive(archive, path)


def read_archive(archive: Archive, path: Path) -> Listing:
    """All images in memory, in the published order and splits; 184 MB for 60,000 images, about 3 s.

    Raises:
        DataError: the archive is damaged or incomplete, holds anything but plain data, or its number of images
            differs from the published one.
    """
    wanted = {**{name: md5 for name, (_, md5) in archive.members.items()}, archive.meta[0]: archive.meta[1]}
    content = _read_unpacked(path, wanted) if path.is_dir() else _read_packed(archive, path, wanted)
    missing = [name for name in wanted if name not in content]
    if missing:
        raise DataError(
            f"{path}: {archive.title} lacks {list_some(map(quote, missing))}. Get it from {archive.url}"
        )
    is_published = all(
        hashlib.md5(content[name], usedforsecurity=False).hexdigest() == wanted[name] for name in wanted
    )
    meta = read_plain_pickle(content.pop(archive.meta[0]), f"{path}, {archive.meta[0]}")
    names = _read_names(meta, archive.names_key, archive.num_classes, path)
    images: list[np.ndarray] = []
    labels: list[int] = []
    coarse: list[int] = []
    ids: list[str] = []
    parts: list[str] = []
    for member, (part, _) in archive.members.items():
        where = f"{path}, {member}"
        batch = read_plain_pickle(content.pop(member), where)
        pixels = _read_pixels(batch, where)
        images.append(pixels)
        labels += _read_labels(batch, archive.label_key, len(pixels), len(names), where)
        if archive.coarse_key is not None:
            coarse += _read_labels(batch, archive.coarse_key, len(pixels), None, where)
        start = parts.count(part)
        ids += [f"{part}/{start + row:05d}" for row in range(len(pixels))]
        parts += [part] * len(pixels)
    label_names = tuple(names[label] for label in labels)
    _check_counts(archive, path, label_names, parts, names)
    facts: dict[str, Any] = {"licence": LICENCE, "citation": CITATION, "source": archive.url}
    if archive.coarse_key is not None:
        facts["coarse_classes"] = _pair_coarse(archive, meta, label_names, coarse, path)
    if not is_published:
        facts["warnings"] = [f"{path} differs from the published {archive.title}, but its counts are right"]
    return Listing(
        name=archive.name,
        ids=tuple(ids),
        labels=label_names,
        parts=tuple(parts),
        pixels=np.concatenate(images),
        class_names=names,
        facts=facts,
    )


def _find_archive(path: Path) -> Archive | None:
    for archive in ARCHIVES:
        if path.is_dir():
            if all((path / name).is_file() for name in (*archive.members, archive.meta[0])):
                return archive
        elif path.name == archive.file_name and path.is_file():
            return archive
    return None


def _read_unpacked(path: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    for name in wanted:
        file = path / name
        with unreadable_as(DataError, file):
            if file.is_file():
                if file.stat().st_size > MAX_MEMBER_BYTES:
                    raise DataError(f"{file}: larger than any file of this data set")
                content[name] = file.read_bytes()
    return content


def _read_packed(archive: Archive, path: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
    """The wanted members, read in memory: nothing is written to disk, so member names can't do harm."""
    content: dict[str, bytes] = {}
    names = {f"{archive.folder}/{name}": name for name in wanted}
    try:
        with tarfile.open(path, "r|gz") as packed:
            for number, member in enumerate(packed):
                if number >= MAX_MEMBERS or member.size > MAX_MEMBER_BYTES:
                    raise DataError(
                        f"{path}: {quote(member.name)} does not belong to {archive.title}: too many or too large "
                        "members"
                    )
                name = names.get(member.name)
                stream = packed.extractfile(member) if name is not None and member.isreg() else None
                if name is not None and stream is not None:
                    content[name] = stream.read()
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, OSError, ValueError) as error:
        raise DataError(
            f"{path}: damaged, or not an archive: {error}. Delete it; `backbench rank {archive.name}` downloads "
            "it again."
        ) from error
    return content


def _read_names(meta: Mapping[bytes, Any], key: bytes, num: int | None, path: Path) -> tuple[str, ...]:
    names = meta.get(key)
    if not isinstance(names, list) or not all(isinstance(name, (bytes, str)) for name in names):
        raise DataError(f"{path}: the archive has no class names {key.decode()!r}")
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    if len(set(texts)) != len(texts) or (num is not None and len(texts) != num):
        raise DataError(f"{path}: the published archive has {num} class names, this one has {len(set(texts))}")
    return tuple(texts)


def _read_pixels(batch: Mapping[bytes, Any], where: str) -> np.ndarray:
    """(n, 32, 32, 3) uint8 from rows of 1,024 red, 1,024 green and 1,024 blue values."""
    rows = batch.get(b"data")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 3 * SIDE * SIDE:
        raise DataError(f"{where}: the images are not rows of {3 * SIDE * SIDE:,} bytes")
    return rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _read_labels(
    batch: Mapping[bytes, Any], key: bytes, num: int, num_classes: int | None, where: str
) -> list[int]:
    labels = batch.get(key)
    if not isinstance(labels, list) or len(labels) != num:
        raise DataError(f"{where}: {key.decode()!r} does not have one entry for each image")
    if not all(
        type(label) is int and label >= 0 and (num_classes is None or label < num_classes) for label in labels
    ):
        raise DataError(f"{where}: {key.decode()!r} holds an invalid class")
    return labels


def _check_counts(
    archive: Archive, path: Path, labels: tuple[str, ...], parts: list[str], names: tuple[str, ...]
) -> None:
    found = Counter(zip(parts, labels, strict=True))
    wrong = [
        f"{part} {quote(name)}: {found[part, name]:,} instead of {num:,}"
        for part, num in archive.per_class.items()
        for name in names
        if found[part, name] != num
    ]
    if wrong:
        raise DataError(
            f"{path}: the numbers of images differ from the published {archive.title}: {list_some(wrong)}. Get "
            f"the archive from {archive.url}"
        )


def _pair_coarse(
    archive: Archive, meta: Mapping[bytes, Any], labels: tuple[str, ...], coarse: list[int], path: Path
) -> dict[str, str]:
    """Class name -> name of its coarse class."""
    assert archive.coarse_names_key is not None  # goes with coarse_key
    names = _read_names(meta, archive.coarse_names_key, None, path)
    pairs = set(zip(labels, coarse, strict=True))
    if len(pairs) != len(set(labels)) or any(number >= len(names) for _, number in pairs):
        raise DataError(f"{path}: a class belongs to several coarse classes, unlike in the published archive")
    return {label: names[number] for label, number in sorted(pairs)}


def _make_spec(archive: Archive) -> SourceSpec:
    side = f"{SIDE} x {SIDE}"
    return SourceSpec(
        name=archive.name,
        summary=f"{archive.title}: photographs of {archive.num_classes} kinds of things, {side} pixels",
        load=partial(load_named, archive),
        num_images=sum(archive.counts.values()),
        num_classes=archive.num_classes,
        download_bytes=archive.num_bytes,
        licence=LICENCE,
        citation=CITATION,
        facts={"file_name": archive.file_name, "parts": archive.counts, "width": SIDE, "height": SIDE},
    )


SPECS = tuple(_make_spec(archive) for archive in ARCHIVES)
