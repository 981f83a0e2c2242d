"""List every image in a folder of class folders, once, in an order that depends only on names.

Three layouts are known: class folders; `train/` with class folders and optional `val/` and `test/` beside it; or
class folders with `train/` and `test/` in each. `class_folders` decides which, and skips single folders around
them. Folders below a class folder belong to that class. Files with an image suffix are not opened here. The first
bytes of other files are read, because a picture may have lost its suffix.
"""

# Strings, not Paths, while walking: a tree may hold a million files.
# ruff: noqa: PTH100, PTH112, PTH114, PTH116

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backbench.data.class_folders import check_parts, find_class_folders
from backbench.data.file_kinds import IMAGE_SUFFIXES, PACKED, find_suffix, judge_other
from backbench.data.layout import OTHER_LAYOUTS
from backbench.data.left_out import warn_of_lost
from backbench.data.listing import Ignored
from backbench.data.walk import LINK_OUT, ClassFolder, Walk, leads_out, scan_entries
from backbench.data.walk import sort_key as sort_key
from backbench.errors import ConfigError, DataError
from backbench.wording import did_you_mean, list_some, quote

COPY_LINKS = (
    "Follow them with --follow-links, give a folder that holds both, or copy the files behind the links ('cp -rL "
    "FOLDER COPY')."
)


@dataclass(frozen=True)
class Tree:
    """The content of a folder. `ids`, `labels`, `parts` and `files` have one entry for each image, in the same
    order.

    Args:
        ids: path of the image relative to the root, '/'-separated, as on disk (bytes that are not
            text are kept as surrogates).
        labels: name of the class folder, as on disk.
        parts: 'train', 'val' or 'test' if the folder gives it, else None.
        files: absolute path of each image, through links as found.
        class_names: all class folders, empty ones too, in the same order of names.
        ignored: entries that were left out, and empty class folders, with the reason; ordered by path.
        nested: folders below a class folder whose images were counted for that class.
        part_folders: folder -> the split of its images.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[str | None, ...]
    files: tuple[Path, ...]
    class_names: tuple[str, ...]
    ignored: tuple[Ignored, ...] = ()
    nested: tuple[str, ...] = ()
    part_folders: dict[str, str] = field(default_factory=dict)


def scan_folder(
    root: str | os.PathLike[str],
    *,
    follow_outside: bool = False,
    ignore: Sequence[str] = (),
    split_folders: Mapping[str, str] | None = None,
    has_split: bool = False,
) -> Tree:
    """All images below `root`, each real file once, with its class and split.

    Links to files and folders inside `root` are followed if their target was not reached directly. Links that lead
    out of it are left out unless `follow_outside`. Loops are detected. Hidden files, system files, files that are
    not images, and images outside any class folder are left out and reported.

    Args:
        root: the folder.
        follow_outside: follow links that lead out of `root`.
        ignore: paths below `root` of files and folders to leave out.
        split_folders: split of each folder that is one; {}: none is a split; None: decided by names and contents.
        has_split: the split is given elsewhere, so folders that look like splits are not ambiguous.

    Raises:
        DataError: no such folder, not a folder, no images, no class folders, splits without `train/`, two
            class folders whose names differ only in case or Unicode normalisation, or an unusable split, see
            `layout`.
        ConfigError: `ignore` or `split_folders` names a missing entry.

    Cost: one `scandir` for each folder and one `stat` for each image; about a second for 100,000 images.
    """
    path = os.path.abspath(os.fspath(root))
    _check_root(path, os.fspath(root))
    unwanted = frozenset(name.removeprefix(path + "/").removeprefix("./").rstrip("/") for name in ignore)
    walk = Walk(path, os.path.realpath(path), follow_outside, unwanted=unwanted)
    status = os.stat(path)
    walk.seen[status.st_dev, status.st_ino] = "the folder itself"
    class_folders = find_class_folders(walk, split_folders, has_split=has_split)
    if not class_folders:
        raise _no_images(walk, "no class folders")
    _check_twins(class_folders)
    for folder in class_folders:
        if os.path.islink(folder.path):
            walk.links.append((folder.id, folder.path, folder))
        else:
            _walk_folder(walk, folder.id, folder.path, folder)
    _follow_links(walk)
    _check_unwanted(walk)
    tree = _make_tree(walk, class_folders)
    if not has_split:
        check_parts(walk)
    return tree


def scan_pictures(root: str | os.PathLike[str]) -> tuple[list[Path], tuple[Ignored, ...]]:
    """All images below a folder without labels, in the order of their names, and the entries that were left out.

    The rules of `scan_folder` apply, except that a file with several names counts under each.

    Raises:
        DataError: the folder itself can't be read.
    """
    path = os.fspath(root)
    walk = Walk(path, os.path.realpath(path), follow_outside=False, is_labelled=False)
    top = ClassFolder("", "", None, path)
    _walk_folder(walk, "", path, top)
    _follow_links(walk)
    if "" in walk.ignored:
        raise DataError(f"folder '{path}' {walk.ignored[''].reason}.")
    ids = sorted(walk.files, key=lambda name: [sort_key(part) for part in name.split("/")])
    return [Path(walk.files[name][0]) for name in ids], walk.left_out


def _follow_links(walk: Walk) -> None:
    """Follow links after all real files, so that a link never replaces the real file."""
    while walk.links:
        links, walk.links = sorted(walk.links, key=lambda link: sort_key(link[0])), []
        for link in links:
            _follow_link(walk, *link)


def _check_root(path: str, given: str) -> None:
    if os.path.isdir(path):
        return
    if os.path.lexists(path):
        raise DataError(f"'{given}' is not a folder. {OTHER_LAYOUTS}")
    parent, name = os.path.split(path)
    while parent and not os.path.isdir(parent):
        parent, name = os.path.split(parent)
    try:
        there = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:
        there = []
    hint = did_you_mean(name, there, otherwise=f"'{parent}' has no '{name}'.", folder=Path(parent))
    raise DataError(f"there is no folder '{given}'.{hint}")


def _check_unwanted(walk: Walk) -> None:
    """Raise ConfigError if --ignore names a missing entry."""
    known = {form for name in walk.ignored for form in (name, name.removeprefix(walk.prefix))}
    missing = sorted(walk.unwanted - known)
    if missing:
        folder = Path(walk.root, missing[0]).parent
        there = [path.name for path in (folder if folder.is_dir() else Path(walk.root)).iterdir()]
        hint = did_you_mean(missing[0].rpartition("/")[2], there, limit=1)
        raise ConfigError(
            f"--ignore {missing[0]}: '{walk.root}' has no such file or folder.{hint} Give its path below the data "
            f"folder. Entries: {list_some(map(quote, sorted(there)), 10)}."
        )


def _check_twins(class_folders: Iterable[ClassFolder]) -> None:
    known: dict[str, ClassFolder] = {}
    for folder in class_folders:
        composed = unicodedata.normalize("NFC", folder.label)
        twin = known.setdefault(unicodedata.normalize("NFC", composed.casefold()), folder)
        if twin.label == folder.label:
            continue
        is_same_text = unicodedata.normalize("NFC", twin.label) == composed
        what = "Unicode normalisation" if is_same_text else "upper and lower case"
        raise DataError(
            f"two class folders differ only in {what}: {twin.id!a} and {folder.id!a}. They are one class on some "
            "systems and two on others: merge or rename them."
        )


def _walk_folder(walk: Walk, folder_id: str, path: str, owner: ClassFolder) -> None:
    """Note every real image below `path`; keep links for later."""
    waiting = [(folder_id, path)]
    while waiting:
        folder_id, path = waiting.pop()
        if not _enter(walk, folder_id, path):
            continue
        below: list[tuple[str, str]] = []
        prefix = f"{folder_id}/" if folder_id else ""
        for entry in scan_entries(walk, path, prefix):
            entry_id = prefix + entry.name
            if walk.is_skipped(entry_id, entry.name):
                continue
            if entry.is_symlink():
                walk.links.append((entry_id, entry.path, owner))
            elif entry.is_dir(follow_symlinks=False):
                below.append((entry_id, entry.path))
            else:
                _add_file(walk, entry_id, entry.path, owner, entry)
        waiting += reversed(below)


def _enter(walk: Walk, folder_id: str, path: str) -> bool:
    """Whether this folder is visited for the first time."""
    try:
        status = os.stat(path)
    except OSError as error:
        walk.leave_out(folder_id, f"can't be opened: {error.strerror}", "unread")
        return False
    before = walk.seen.setdefault((status.st_dev, status.st_ino), folder_id)
    if before != folder_id:
        walk.leave_out(folder_id, f"a link to a folder that was already read: {before or 'the folder itself'}")
    return before == folder_id


def _add_file(
    walk: Walk, file_id: str, path: str, owner: ClassFolder, entry: os.DirEntry[str] | None = None
) -> None:
    suffix = walk.count_suffix(file_id)
    if suffix not in IMAGE_SUFFIXES:
        walk.leave_out(file_id, *judge_other(path, suffix))
        return
    try:  # a DirEntry on Windows knows no inode
        status = os.stat(path) if entry is None or os.name == "nt" else entry.stat(follow_symlinks=False)
    except OSError as error:
        walk.leave_out(file_id, f"can't be accessed: {error.strerror}", "unread")
        return
    if not stat.S_ISREG(status.st_mode):
        walk.leave_out(file_id, "a pipe, socket or device, not a file")
        return
    before = walk.seen.setdefault((status.st_dev, status.st_ino), file_id)
    if before != file_id and walk.is_labelled:
        first = walk.files[before][1]
        if (first.label, first.part) == (owner.label, owner.part):
            walk.leave_out(file_id, f"the same file as {before}")
        else:  # it would leak between splits or have two labels
            walk.leave_out(file_id, f"the same file as {before}, which is in another class or split", "picture")
    else:
        walk.files[file_id] = (path, owner)


def _follow_link(walk: Walk, link_id: str, path: str, owner: ClassFolder) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        is_loop = error.errno == errno.ELOOP
        reason = "a link that leads in a circle" if is_loop else f"a dead link: {error.strerror}"
        walk.leave_out(link_id, reason, "unread")
        return
    if leads_out(walk, path):
        walk.leave_out(link_id, LINK_OUT, "unread")
    elif stat.S_ISDIR(status.st_mode):
        _walk_folder(walk, link_id, path, owner)
    else:
        _add_file(walk, link_id, path, owner)


def _make_tree(walk: Walk, class_folders: list[ClassFolder]) -> Tree:
    filled = {owner.id for _, owner in walk.files.values()}
    class_names: set[str] = set()
    for folder in class_folders:
        is_known = folder.id in walk.ignored and os.path.islink(folder.path)  # links to a known class
        if folder.id in filled or not is_known:
            class_names.add(folder.label)
        if folder.id not in filled:
            walk.ignored.setdefault(folder.id, Ignored(folder.id, "a class folder without images"))
    if not walk.files:
        raise _no_images(walk, "no images")
    ids = sorted(walk.files, key=sort_key)
    rows = [walk.files[file_id] for file_id in ids]
    nested = {
        file_id.rpartition("/")[0]
        for file_id, (_, owner) in walk.files.items()
        if "/" in file_id[len(owner.id) + 1 :]
    }
    return Tree(
        ids=tuple(ids),
        labels=tuple(owner.label for _, owner in rows),
        parts=tuple(owner.part for _, owner in rows),
        files=tuple(Path(path) for path, _ in rows),
        class_names=tuple(sorted(class_names, key=sort_key)),
        ignored=walk.left_out,
        nested=tuple(sorted(nested, key=sort_key)),
        part_folders=walk.part_folders,
    )


def _no_images(walk: Walk, what: str) -> DataError:
    num_files = walk.suffixes.total()
    common = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in walk.suffixes.most_common(5))
    seen = f"It has {num_files:,} files ({common})" if num_files else "It has no files"
    num_links = sum(entry.reason == LINK_OUT for entry in walk.ignored.values())
    links = f" {num_links:,} links lead out of the folder and were not followed. {COPY_LINKS}" if num_links else ""
    num_loose = sum(suffix in IMAGE_SUFFIXES for suffix in walk.suffixes.elements())
    loose = f", {num_loose:,} of them images outside any class folder" if num_loose and not walk.files else ""
    lost = "".join(f" {warning}." for warning in warn_of_lost(walk.left_out)) if not (num_links or loose) else ""
    windows = next((name for name in walk.ignored if "\\" in name), None)
    if windows is not None:
        loose += (
            f". Names such as {quote(windows)} contain backslashes: an archive made on Windows was unpacked "
            "without its folders. Unpack it again with 'unzip' or '7z x', which create them"
        )
    packed = [name for name in walk.ignored if find_suffix(name) in PACKED and not walk.files]
    if packed:
        loose += f". {quote(packed[0])} is an archive: unpack it, and give the unpacked folder"
    tables = [name for name in walk.ignored if find_suffix(name) in (".csv", ".tsv", ".jsonl", ".parquet")]
    table = f" If '{tables[0]}' in it holds the labels, give that file instead of the folder." if tables else ""
    return DataError(f"'{walk.root}' holds {what}. {seen}{loose}.{links}{lost}{table} {OTHER_LAYOUTS}")
