"""A folder of class folders -> every image in it, once, in an order that depends on names alone.

Two layouts are known: class folders, or `train/` with class folders, beside it `val/` and `test/` where wanted.
Folders below a class folder belong to that class. No file with an image's suffix is opened here: what it holds is
decided later. Of others the first bytes are read, as a picture may have lost its suffix.
"""

# Strings, not Paths, while walking: a tree may hold a million files.
# ruff: noqa: PTH100, PTH112, PTH114, PTH116, PTH118

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from backbench.data.file_kinds import HIDDEN, IMAGE_SUFFIXES, find_suffix, is_litter, judge_other
from backbench.data.left_out import warn_of_lost
from backbench.data.listing import PARTS, Ignored, Loss
from backbench.errors import DataError, nearest

PART_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LINK_OUT = "a link that leads out of the folder, not followed"
COPY_LINKS = (
    "Give a folder that holds both, or copy what the links lead to ('cp -rL FOLDER COPY'), or make hard links."
)
OTHER_LAYOUTS = (
    "One folder for each class is expected (FOLDER/class/image.jpg), or FOLDER/train/class/image.jpg with val/ "
    "and test/ beside train/. Labels in a table instead? Give a CSV file with the columns 'file' and 'label'."
)


@dataclass(frozen=True)
class Tree:
    """What a folder holds. `ids`, `labels`, `parts` and `files` have one entry for each image, in the same order.

    Args:
        ids: path of the image relative to the root, '/'-separated, as the names stand on disk (bytes that are
            not text are kept as surrogates).
        labels: name of the class folder, as on disk.
        parts: 'train', 'val' or 'test' where the folder says so, else None.
        files: absolute path of each image, through links as found.
        class_names: all class folders, empty ones too, in the same order of names.
        ignored: what was found and left out, and empty class folders, with the reason; ordered by path.
        nested: folders below a class folder whose images were counted for that class.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[str | None, ...]
    files: tuple[Path, ...]
    class_names: tuple[str, ...]
    ignored: tuple[Ignored, ...] = ()
    nested: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Folder:
    """One class folder: where it is and whose images it holds."""

    id: str
    label: str
    part: str | None
    path: str


@dataclass
class _Walk:
    """What one scan has seen so far; real files and folders are known by (device, inode).

    is_labelled: every real file counts once; else under each of its names.
    """

    root: str
    real_root: str
    follow_outside: bool
    is_labelled: bool = True
    files: dict[str, tuple[str, _Folder]] = field(default_factory=dict)  # id -> (path, class folder)
    ignored: dict[str, Ignored] = field(default_factory=dict)  # by id
    links: list[tuple[str, str, _Folder]] = field(default_factory=list)  # (id, path, class folder), for later
    seen: dict[tuple[int, int], str] = field(default_factory=dict)  # (device, inode) -> id
    suffixes: Counter[str] = field(default_factory=Counter)

    def leave_out(self, entry_id: str, reason: str, loss: Loss = "other") -> None:
        """Note what is not used, and why."""
        self.ignored[entry_id] = Ignored(entry_id, reason, loss)

    @property
    def left_out(self) -> tuple[Ignored, ...]:
        """All of it, in the order of its names."""
        return tuple(self.ignored[name] for name in sorted(self.ignored, key=sort_key))


def scan_folder(root: str | os.PathLike[str], *, follow_outside: bool = False) -> Tree:
    """All images below `root`, each real file once, with its class and part.

    Links to files and folders inside `root` are followed, where what they lead to was not reached without them;
    links that lead out of it are left out unless `follow_outside`. Loops end. Hidden files, litter of operating
    systems, files that are no images and images outside any class folder are left out and reported.

    Args:
        root: the folder.
        follow_outside: follow links that lead out of `root`.

    Raises:
        DataError: no such folder, not a folder, no images, no class folders, parts without `train/`, or two
            class folders whose names differ only in case or Unicode normalisation.

    Cost: one `scandir` for each folder and one `stat` for each image; about a second for 100,000 images.
    """
    path = os.path.abspath(os.fspath(root))
    _check_root(path, os.fspath(root))
    walk = _Walk(path, os.path.realpath(path), follow_outside)
    status = os.stat(path)
    walk.seen[status.st_dev, status.st_ino] = "the folder itself"
    class_folders = _find_class_folders(walk)
    _check_twins(class_folders)
    for folder in class_folders:
        if os.path.islink(folder.path):
            walk.links.append((folder.id, folder.path, folder))
        else:
            _walk_folder(walk, folder.id, folder.path, folder)
    _follow_links(walk)
    return _make_tree(walk, class_folders)


def scan_pictures(root: str | os.PathLike[str]) -> tuple[list[Path], tuple[Ignored, ...]]:
    """All images below a folder without labels, in the order of their names, and what was left out.

    The law is that of `scan_folder`, but for a file with several names, which counts under each.

    Raises:
        DataError: the folder itself can't be read.
    """
    path = os.fspath(root)
    walk = _Walk(path, os.path.realpath(path), follow_outside=False, is_labelled=False)
    top = _Folder("", "", None, path)
    _walk_folder(walk, "", path, top)
    _follow_links(walk)
    if "" in walk.ignored:
        raise DataError(f"folder '{path}' {walk.ignored[''].reason}.")
    ids = sorted(walk.files, key=lambda name: [sort_key(part) for part in name.split("/")])
    return [Path(walk.files[name][0]) for name in ids], walk.left_out


def _follow_links(walk: _Walk) -> None:
    """What is real was met before, so that a link never stands for the file it leads to."""
    while walk.links:
        links, walk.links = sorted(walk.links, key=lambda link: sort_key(link[0])), []
        for link in links:
            _follow_link(walk, *link)


def sort_key(name: str) -> tuple[str, str]:
    """Orders names by code points of their composed form: the same in every locale and on every file system."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name), name)


def _check_root(path: str, given: str) -> None:
    if os.path.isdir(path):
        return
    if os.path.lexists(path):
        raise DataError(f"'{given}' is not a folder. {OTHER_LAYOUTS}")
    parent, name = os.path.split(path)
    while parent and not os.path.isdir(parent):
        parent, name = os.path.split(parent)
    try:
        close = nearest(name, [entry.name for entry in os.scandir(parent) if entry.is_dir()])
    except OSError:
        close = []
    advice = " or ".join(f"'{os.path.join(parent, other)}'" for other in close)
    suggestion = f"Did you mean {advice}?" if close else f"There is no '{name}' in '{parent}'."
    raise DataError(f"there is no folder '{given}'. {suggestion}")


def _find_class_folders(walk: _Walk) -> list[_Folder]:
    """The class folders of either layout, those of train, val and test in this order, then by name."""
    top = _list_top(walk, walk.root, "")
    parts = _find_parts(walk, top)
    if not parts:
        found = [_Folder(name, name, None, path) for name, path in top.items()]
    else:
        found = []
        for name in sorted(parts, key=lambda name: PARTS.index(parts[name])):
            below = _list_top(walk, top[name], name + "/")
            found += [_Folder(f"{name}/{label}", label, parts[name], path) for label, path in below.items()]
            if not below and parts[name] == "train":
                raise DataError(f"'{top[name]}' holds no class folders. {OTHER_LAYOUTS}")
        for name in top.keys() - parts.keys():
            walk.leave_out(name, "lies beside train/, not in train/, val/ or test/")
    if not found:
        raise _no_images(walk, "no class folders")
    return found


def _list_top(walk: _Walk, path: str, prefix: str) -> dict[str, str]:
    """Name -> path of the folders that may be classes or parts, in order; files are noted as ignored."""
    folders: dict[str, str] = {}
    for entry in _scan(walk, path, prefix):
        entry_id = prefix + entry.name
        if is_litter(entry.name):
            walk.leave_out(entry_id, HIDDEN, "litter")
        elif not _is_folder(entry):
            suffix = _count_suffix(walk, entry.name)
            if suffix in IMAGE_SUFFIXES:
                walk.leave_out(entry_id, "an image outside any class folder", "picture")
            else:
                walk.leave_out(entry_id, *judge_other(entry.path, suffix))
        elif entry.is_symlink() and _leads_out(walk, entry.path):
            walk.leave_out(entry_id, LINK_OUT, "unread")
        else:
            folders[entry.name] = entry.path
    return folders


def _find_parts(walk: _Walk, top: dict[str, str]) -> dict[str, str]:
    """Folder name -> 'train', 'val' or 'test' if this is the layout with parts, else {}.

    A class may be called "train": where no folder with a part's name holds folders, and others lie beside it,
    they are classes.
    """
    named = {name: PART_OF_FOLDER[name.casefold()] for name in top if name.casefold() in PART_OF_FOLDER}
    others = [name for name in top if name not in named]
    if not named or (others and not any(_holds(top[name], folders=True) for name in named)):
        return {}
    first = next(iter(named))
    if len(named) == 1 and any(_holds(top[name], folders=False) for name in others):
        raise DataError(
            f"'{walk.root}' can be read in two ways: '{first}/' holds folders, as a part does, and "
            f"'{others[0]}/' beside it holds images, as a class does. Move one of them elsewhere."
        )
    for part in PARTS:
        same = [name for name in named if named[name] == part]
        if len(same) > 1:
            raise DataError(f"'{walk.root}' has two folders for {part}: '{same[0]}/' and '{same[1]}/'. Keep one.")
    if "train" not in named.values():
        raise DataError(
            f"'{walk.root}' has '{first}/' but no 'train/' beside it. Add train/ with class folders, or give the "
            f"class folders alone and let the split be made: '{top[first]}'."
        )
    return named


def _check_twins(class_folders: Iterable[_Folder]) -> None:
    known: dict[str, _Folder] = {}
    for folder in class_folders:
        composed = unicodedata.normalize("NFC", folder.label)
        twin = known.setdefault(unicodedata.normalize("NFC", composed.casefold()), folder)
        if twin.label == folder.label:
            continue
        is_same_text = unicodedata.normalize("NFC", twin.label) == composed
        what = "Unicode normalisation" if is_same_text else "upper and lower case"
        raise DataError(
            f"two class folders differ only in {what}: {twin.id!a} and {folder.id!a}. "
            "They would be one class on some systems and two on others: merge or rename them."
        )


def _walk_folder(walk: _Walk, folder_id: str, path: str, owner: _Folder) -> None:
    """Notes every real image below `path`; links are kept for later."""
    waiting = [(folder_id, path)]
    while waiting:
        folder_id, path = waiting.pop()
        if not _enter(walk, folder_id, path):
            continue
        below: list[tuple[str, str]] = []
        prefix = f"{folder_id}/" if folder_id else ""
        for entry in _scan(walk, path, prefix):
            entry_id = prefix + entry.name
            if is_litter(entry.name):
                walk.leave_out(entry_id, HIDDEN, "litter")
            elif entry.is_symlink():
                walk.links.append((entry_id, entry.path, owner))
            elif entry.is_dir(follow_symlinks=False):
                below.append((entry_id, entry.path))
            else:
                _add_file(walk, entry_id, entry.path, owner, entry)
        waiting += reversed(below)


def _enter(walk: _Walk, folder_id: str, path: str) -> bool:
    """Whether this folder is met for the first time."""
    try:
        status = os.stat(path)
    except OSError as error:
        walk.leave_out(folder_id, f"can't be opened: {error.strerror}", "unread")
        return False
    before = walk.seen.setdefault((status.st_dev, status.st_ino), folder_id)
    if before != folder_id:
        walk.leave_out(folder_id, f"leads to a folder that was read already: {before or 'the folder itself'}")
    return before == folder_id


def _add_file(walk: _Walk, file_id: str, path: str, owner: _Folder, entry: os.DirEntry[str] | None = None) -> None:
    suffix = _count_suffix(walk, file_id)
    if suffix not in IMAGE_SUFFIXES:
        walk.leave_out(file_id, *judge_other(path, suffix))
        return
    try:  # a DirEntry on Windows knows no inode
        status = os.stat(path) if entry is None or os.name == "nt" else entry.stat(follow_symlinks=False)
    except OSError as error:
        walk.leave_out(file_id, f"can't be looked at: {error.strerror}", "unread")
        return
    if not stat.S_ISREG(status.st_mode):
        walk.leave_out(file_id, "a pipe, socket or device, not a file")
        return
    before = walk.seen.setdefault((status.st_dev, status.st_ino), file_id)
    if before != file_id and walk.is_labelled:
        walk.leave_out(file_id, f"the same file as {before}")
    else:
        walk.files[file_id] = (path, owner)


def _follow_link(walk: _Walk, link_id: str, path: str, owner: _Folder) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        is_loop = error.errno == errno.ELOOP
        reason = "a link that leads in a circle" if is_loop else f"a dead link: {error.strerror}"
        walk.leave_out(link_id, reason, "unread")
        return
    if _leads_out(walk, path):
        walk.leave_out(link_id, LINK_OUT, "unread")
    elif stat.S_ISDIR(status.st_mode):
        _walk_folder(walk, link_id, path, owner)
    else:
        _add_file(walk, link_id, path, owner)


def _make_tree(walk: _Walk, class_folders: list[_Folder]) -> Tree:
    filled = {owner.id for _, owner in walk.files.values()}
    class_names: set[str] = set()
    for folder in class_folders:
        is_known = folder.id in walk.ignored and os.path.islink(folder.path)  # leads to a class that has a name
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
    )


def _no_images(walk: _Walk, what: str) -> DataError:
    num_files = walk.suffixes.total()
    common = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in walk.suffixes.most_common(5))
    seen = f"{num_files:,} files were seen ({common})" if num_files else "No files were seen"
    num_links = sum(entry.reason == LINK_OUT for entry in walk.ignored.values())
    links = f" {num_links:,} links lead out of the folder and were not followed. {COPY_LINKS}" if num_links else ""
    num_loose = sum(suffix in IMAGE_SUFFIXES for suffix in walk.suffixes.elements())
    loose = f", {num_loose:,} of them images outside any class folder" if num_loose and not walk.files else ""
    lost = "".join(f" {warning}." for warning in warn_of_lost(walk.left_out)) if not (num_links or loose) else ""
    return DataError(f"'{walk.root}' holds {what}. {seen}{loose}.{links}{lost} {OTHER_LAYOUTS}")


def _scan(walk: _Walk, path: str, prefix: str) -> list[os.DirEntry[str]]:
    """The entries of a folder in the order of their names; a folder that can't be opened is noted and empty."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: sort_key(entry.name))
    except OSError as error:
        walk.leave_out(prefix.rstrip("/"), f"can't be opened: {error.strerror}", "unread")
        return []


def _holds(path: str, *, folders: bool) -> bool:
    """Whether there are folders (or else images) right in this folder."""
    try:
        with os.scandir(path) as entries:
            visible = [entry for entry in entries if not is_litter(entry.name)]
    except OSError:
        return False
    if folders:
        return any(_is_folder(entry) for entry in visible)
    return any(find_suffix(entry.name) in IMAGE_SUFFIXES for entry in visible)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads in a circle


def _leads_out(walk: _Walk, path: str) -> bool:
    if walk.follow_outside:
        return False
    real_path = os.path.realpath(path)
    return real_path != walk.real_root and not real_path.startswith(walk.real_root.rstrip(os.sep) + os.sep)


def _count_suffix(walk: _Walk, name: str) -> str:
    suffix = find_suffix(name)
    walk.suffixes[suffix] += 1
    return suffix
