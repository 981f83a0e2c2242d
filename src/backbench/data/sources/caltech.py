"""Caltech-101 and Caltech-256 from their official archives: downloaded, or found on disk, packed or unpacked.

A subset or a modified copy of such a set is read as an ordinary folder of class folders: nothing is renamed or
left out.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backbench.config import DataConfig
from backbench.data.archive import extract_archive
from backbench.data.fetch import fetch_file
from backbench.data.listing import Ignored, Listing
from backbench.data.scanner import sort_key
from backbench.errors import DataError, DownloadError
from backbench.locks import make_folder_once
from backbench.progress import Progress
from backbench.registry import SourceSpec
from backbench.runtime import cache_folder
from backbench.storage import IN_CACHE, unreadable_as
from backbench.wording import count, list_some, quote

LICENCE = "CC BY 4.0"
MAX_UNPACKED_RATIO = 3  # JPEG files hardly shrink
MARGIN_MEMBERS = 2_000  # class folders, outlines and other files beside the images
MARGIN_BYTES = 10_000_000
KEEP_CLUTTER = "+clutter"


@dataclass(frozen=True)
class Archive:
    """One published archive.

    Args:
        md5: published MD5 of the file at `url`.
        folder: the folder of the class folders in the archive.
        inner: the inner archive that holds `folder`, and its MD5.
        class_pattern: one group: the name of the class in the name of its folder.
        image_pattern: matches the names of images in a class folder; the archives hold some other files.
        clutter: folder of the class that stands for "none of these".
        num_images, num_classes, num_clutter: as published; clutter counts in the first two.
        class_counts: minimum, median and maximum number of images of a class, without clutter.
    """

    name: str
    title: str
    url: str
    md5: str
    num_bytes: int
    folder: str
    class_pattern: str
    image_pattern: str
    clutter: str
    num_images: int
    num_classes: int
    num_clutter: int
    class_counts: tuple[int, int, int]
    citation: str
    inner: tuple[str, str] | None = None

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]


CALTECH101 = Archive(
    name="caltech101",
    title="Caltech-101",
    url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
    md5="3138e1922a9193bfa496528edbbc45d0",
    num_bytes=137_414_764,
    folder="101_ObjectCategories",
    class_pattern=r"(.+)",
    image_pattern=r"image_\d{4}\.jpg",
    clutter="BACKGROUND_Google",
    num_images=9_144,
    num_classes=102,
    num_clutter=467,
    class_counts=(31, 59, 800),
    citation="L. Fei-Fei, R. Fergus, P. Perona: Learning generative visual models from few training examples. "
    "CVPR Workshop on Generative-Model Based Vision, 2004. doi:10.22002/D1.20086",
    inner=("101_ObjectCategories.tar.gz", "b224c7392d521a49829488ab0f1120d9"),
)
CALTECH256 = Archive(
    name="caltech256",
    title="Caltech-256",
    url="https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
    md5="67b4f42ca05d46448c6bb8ecd2220f6d",
    num_bytes=1_183_006_720,
    folder="256_ObjectCategories",
    class_pattern=r"\d{3}\.(.+)",
    image_pattern=r"\d{3}_\d{4}\.jpg",
    clutter="257.clutter",
    num_images=30_607,
    num_classes=257,
    num_clutter=827,
    class_counts=(80, 100, 800),
    citation="G. Griffin, A. Holub, P. Perona: Caltech-256 Object Category Dataset. California Institute of "
    "Technology, Technical Report CNS-TR-2007-001, 2007. doi:10.22002/D1.20087",
)
ARCHIVES = (CALTECH101, CALTECH256)


def load_named(archive: Archive, keep_clutter: bool, config: DataConfig, progress: Progress) -> Listing:
    """Download and unpack the archive if necessary, then list its images.

    The archive is deleted after unpacking; the unpacked files are counted at each use.

    Raises:
        DownloadError: the archive can't be downloaded or unpacked, or is not the published one.
        DataError: see `list_images`. StorageError: the cache can't be written.
    """
    root = _named_folder(archive)
    if not root.is_dir():
        packed = cache_folder() / "downloads" / archive.file_name
        fetch_file(archive.url, packed, md5=archive.md5, progress=progress)
        _unpack(archive, packed, root, progress)
        packed.unlink(missing_ok=True)
    return list_images(archive, root / archive.folder, keep_clutter=keep_clutter, advice=_advise_again(root))


def accepts(path: Path) -> bool:
    """Whether the path is one of the archives, or a complete unpacked one."""
    return _find_archive(path) is not None or _is_unpacked(path)


def load_path(config: DataConfig, path: Path, progress: Progress) -> Listing:
    """Unpack an archive on disk into the cache and list its images; clutter is left out.

    Raises:
        DataError: the archive is damaged; see also `list_images`. StorageError: the cache can't be written.
    """
    if path.is_dir():
        unpacked = _with_clutter(path)
        assert unpacked is not None  # `accepts` returned True
        return list_images(unpacked, path, keep_clutter=False, advice=f"It should be {unpacked.title}, unpacked.")
    archive = _find_archive(path)
    assert archive is not None  # as above
    with unreadable_as(DataError, path), open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    root = cache_folder() / "datasets" / f"{archive.name}-{digest[:16]}"
    if not root.is_dir():
        try:
            _unpack(archive, path, root, progress)
        except DownloadError as error:
            raise DataError(
                f"{path}: {error} Get the archive from {archive.url}; `backbench rank {archive.name}` fetches it."
            ) from error
    published = {archive.file_name: archive.md5, **({archive.inner[0]: archive.inner[1]} if archive.inner else {})}
    if published[path.name] == digest:
        return list_images(archive, root / archive.folder, keep_clutter=False, advice=_advise_again(root))
    notes = [f"{path} differs from the published {archive.title}, but its counts are right"]
    advice = (
        f"{path} is not the published archive: its MD5 is {digest}, not {published[path.name]}. Get the published "
        f"one from {archive.url}; `backbench rank {archive.name}` fetches it."
    )
    return list_images(archive, root / archive.folder, keep_clutter=False, notes=notes, advice=advice)


def list_images(
    archive: Archive, top: Path, *, keep_clutter: bool, advice: str, notes: Sequence[str] = ()
) -> Listing:
    """The images below `top`, labelled by class folder without its number; no split is fixed.

    Only files named like published images count; other files are ignored and reported.

    Args:
        top: the folder of the class folders.
        advice: remedy for an unreadable folder or wrong counts.
        notes: warnings to hand on.

    Raises:
        DataError: a folder can't be read, or the numbers of images or classes differ from the published ones.
    """
    try:
        found, ignored, sizes = _walk(archive, top)
    except OSError as error:
        raise DataError(f"{error.filename or top}: can't be read: {error.strerror}. {advice}") from error
    if not _is_whole(archive, sizes):
        raise DataError(
            f"{top}: the counts differ from the published {archive.title}: {sizes.total():,} images instead of "
            f"{archive.num_images:,}, {len(sizes)} classes instead of {archive.num_classes}, "
            f"{sizes[archive.clutter]:,} images in {archive.clutter} instead of {archive.num_clutter:,}. {advice}"
        )
    names = _name_classes(archive, sizes, top)
    kept = [entry for entry in found if keep_clutter or entry[0] != archive.clutter]
    facts: dict[str, Any] = {"licence": LICENCE, "citation": archive.citation, "source": archive.url}
    warnings = list(notes)
    if not keep_clutter:
        facts["left_out"] = {names[archive.clutter]: archive.num_clutter}
        warnings.append(
            f"{archive.title} is used without its class {quote(names[archive.clutter])} ({archive.num_clutter:,} "
            f"background images); use {archive.name}{KEEP_CLUTTER} to keep it"
        )
    return Listing(
        name=archive.name + (KEEP_CLUTTER if keep_clutter else ""),
        ids=tuple(f"{folder}/{file.name}" for folder, file in kept),
        labels=tuple(names[folder] for folder, _ in kept),
        files=tuple(file for _, file in kept),
        ignored=ignored,
        class_names=tuple(names[folder] for folder in sizes if keep_clutter or folder != archive.clutter),
        facts=facts | ({"warnings": warnings} if warnings else {}),
    )


def _is_whole(archive: Archive, sizes: Counter[str]) -> bool:
    """Whether there are as many images and classes as were published."""
    return (sizes.total(), len(sizes), sizes[archive.clutter]) == (
        archive.num_images,
        archive.num_classes,
        archive.num_clutter,
    )


def _walk(archive: Archive, top: Path) -> tuple[list[tuple[str, Path]], tuple[Ignored, ...], Counter[str]]:
    """(class folder, image) in the order of names; other files; images of each class folder."""
    found: list[tuple[str, Path]] = []
    ignored: list[Ignored] = []
    sizes: Counter[str] = Counter()
    folders = sorted(top.iterdir(), key=lambda path: sort_key(path.name))
    for folder in folders:
        if folder.name.startswith("."):
            continue
        if not folder.is_dir() or not re.fullmatch(archive.class_pattern, folder.name):
            ignored.append(Ignored(folder.name, "not a class folder of this data set"))
            continue
        sizes[folder.name] = 0
        for file in sorted(folder.iterdir(), key=lambda path: sort_key(path.name)):
            if re.fullmatch(archive.image_pattern, file.name) and file.is_file():
                found.append((folder.name, file))
                sizes[folder.name] += 1
            else:
                ignored.append(Ignored(f"{folder.name}/{file.name}", "not an image of this data set"))
    return found, tuple(ignored), sizes


def _name_classes(archive: Archive, folders: Sequence[str] | Counter[str], top: Path) -> dict[str, str]:
    """Class folder -> class name: the folder's without its number."""
    names: dict[str, str] = {}
    for folder in folders:
        match = re.fullmatch(archive.class_pattern, folder)
        assert match is not None  # only such folders were counted
        names[folder] = match[1]
    twice = sorted(name for name, num in Counter(names.values()).items() if num > 1)
    if twice:
        raise DataError(f"{top}: several class folders have the same name: {list_some(map(quote, twice))}")
    return names


def _find_archive(path: Path) -> Archive | None:
    for archive in ARCHIVES:
        names = (archive.file_name, *(archive.inner or ())[:1])
        if path.name in names and path.is_file():
            return archive
    return None


def _with_clutter(path: Path) -> Archive | None:
    """The archive whose clutter is a class folder here."""
    return next((archive for archive in ARCHIVES if (path / archive.clutter).is_dir()), None)


def _is_unpacked(path: Path) -> bool:
    """Whether this folder holds all class folders of an archive with all images, including clutter."""
    archive = _with_clutter(path)
    try:
        return archive is not None and _is_whole(archive, _walk(archive, path)[2])
    except OSError:  # the reader of ordinary folders reports the error
        return False


def _advise_again(root: Path) -> str:
    return f"Delete '{root}'; backbench makes it again from the archive."


def _named_folder(archive: Archive) -> Path:
    return cache_folder() / "datasets" / f"{archive.name}-{archive.md5[:16]}"


def _unpack(archive: Archive, packed: Path, root: Path, progress: Progress) -> None:
    """Unpack into `root`, completely or not at all; one process at a time.

    Raises:
        DownloadError: the archive can't be unpacked or is incomplete. StorageError: the disk failed.
    """

    def extract(work: Path) -> None:
        progress.say(f"unpacking {packed.name}: {count(archive.num_images, 'image')}, once")
        _extract(archive, packed, work)

    make_folder_once(root, extract, IN_CACHE)


def _extract(archive: Archive, packed: Path, work: Path) -> None:
    """Unpack the archive, and what is packed in it, into the new folder `work`."""
    limits = {
        "max_bytes": MAX_UNPACKED_RATIO * archive.num_bytes + MARGIN_BYTES,
        "max_members": archive.num_images + MARGIN_MEMBERS,
    }
    extract_archive(packed, work, **limits)
    if archive.inner is not None and packed.name != archive.inner[0]:
        found = sorted(path for path in work.rglob(archive.inner[0]) if path.is_file())
        if not found:
            raise DownloadError(
                f"{packed} holds no {archive.inner[0]}: it is not {archive.title}, or a different edition of it."
            )
        inner = work.with_name(f"{work.name}-inner")
        shutil.rmtree(inner, ignore_errors=True)
        extract_archive(found[0], inner, **limits)
        shutil.rmtree(work)
        inner.rename(work)
    if not (work / archive.folder).is_dir():
        raise DownloadError(
            f"{packed} holds no folder {archive.folder}: it is not {archive.title}, or a different edition of it."
        )


def _make_spec(archive: Archive, keep_clutter: bool) -> SourceSpec:
    low, middle, high = archive.class_counts
    left_out = 0 if keep_clutter else 1
    clutter = f"with the class '{archive.clutter}'" if keep_clutter else "photographs of all sizes"
    return SourceSpec(
        name=archive.name + (KEEP_CLUTTER if keep_clutter else ""),
        summary=f"{archive.title}: {archive.num_classes - 1} kinds of things, {clutter}",
        load=partial(load_named, archive, keep_clutter),
        num_images=archive.num_images - left_out * archive.num_clutter,
        num_classes=archive.num_classes - left_out,
        download_bytes=archive.num_bytes,
        licence=LICENCE,
        citation=archive.citation,
        facts={
            "file_name": archive.file_name,
            "folder": f"datasets/{_named_folder(archive).name}",
            "class_counts": (low, middle, max(high, archive.num_clutter) if keep_clutter else high),
        },
    )


SPECS = tuple(_make_spec(archive, keep_clutter) for archive in ARCHIVES for keep_clutter in (False, True))
