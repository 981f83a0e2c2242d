"""The state of one scan of a folder, and rules for reading folders: system files, outside links and order."""

# Strings, not Paths, while walking: a tree may hold a million files.
# ruff: noqa: PTH110

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from backbench.data.file_kinds import HIDDEN, IMAGE_SUFFIXES, find_suffix, is_litter, judge_other
from backbench.data.layout import Held
from backbench.data.listing import Ignored, Loss

LINK_OUT = "a link that leads out of the folder, not followed"
DEAD_LINK = "a dead link, or one that leads in a circle"
OUTSIDE = "an image outside any class folder"
LEFT_OUT = "excluded with --ignore"


@dataclass(frozen=True)
class ClassFolder:
    """One class folder: its path and the class of its images."""

    id: str
    label: str
    part: str | None
    path: str


@dataclass
class Walk:
    """The state of one scan; real files and folders are identified by (device, inode).

    is_labelled: count every real file once; else once for each name.
    unwanted: ids, or paths below `prefix`, to leave out.
    prefix: path of the folder that holds the classes or splits, "" for the root.
    part_folders: id of the folder of each split -> the split.
    """

    root: str
    real_root: str
    follow_outside: bool
    is_labelled: bool = True
    unwanted: frozenset[str] = frozenset()
    prefix: str = ""
    part_folders: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, ClassFolder]] = field(default_factory=dict)  # id -> (path, class folder)
    ignored: dict[str, Ignored] = field(default_factory=dict)  # by id
    links: list[tuple[str, str, ClassFolder]] = field(default_factory=list)  # (id, path, class folder), for later
    seen: dict[tuple[int, int], str] = field(default_factory=dict)  # (device, inode) -> id
    suffixes: Counter[str] = field(default_factory=Counter)

    def leave_out(self, entry_id: str, reason: str, loss: Loss = "other") -> None:
        """Note an entry that is left out, with the reason."""
        self.ignored[entry_id] = Ignored(entry_id, reason, loss)

    @property
    def left_out(self) -> tuple[Ignored, ...]:
        """All entries that are left out, in the order of their names."""
        return tuple(self.ignored[name] for name in sorted(self.ignored, key=sort_key))

    def is_skipped(self, entry_id: str, name: str) -> bool:
        """Whether an entry is a system file or was excluded with --ignore; such an entry is noted."""
        if is_litter(name):
            self.leave_out(entry_id, HIDDEN, "litter")
        elif self.unwanted and (entry_id in self.unwanted or entry_id.removeprefix(self.prefix) in self.unwanted):
            self.leave_out(entry_id, LEFT_OUT)
        else:
            return False
        return True

    def count_suffix(self, name: str) -> str:
        """Count and return the suffix of a file's name."""
        suffix = find_suffix(name)
        self.suffixes[suffix] += 1
        return suffix


def sort_key(name: str) -> tuple[str, str]:
    """Order names by code points of their composed form, independent of locale and file system."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name), name)


def list_folders(walk: Walk, path: str, prefix: str) -> dict[str, str]:
    """Name -> path of the folders that may be classes or splits, in order; others are noted as ignored."""
    folders: dict[str, str] = {}
    for entry in scan_entries(walk, path, prefix):
        entry_id = prefix + entry.name
        if walk.is_skipped(entry_id, entry.name):
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            walk.leave_out(entry_id, DEAD_LINK, "unread")
        elif not _is_folder(entry):
            suffix = walk.count_suffix(entry.name)
            if suffix in IMAGE_SUFFIXES:
                walk.leave_out(entry_id, OUTSIDE, "picture")
            else:
                walk.leave_out(entry_id, *judge_other(entry.path, suffix))
        elif entry.is_symlink() and leads_out(walk, entry.path):
            walk.leave_out(entry_id, LINK_OUT, "unread")
        else:
            folders[entry.name] = entry.path
    return folders


def scan_entries(walk: Walk, path: str, prefix: str) -> list[os.DirEntry[str]]:
    """The entries of a folder in the order of their names; a folder that can't be opened is noted and empty."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: sort_key(entry.name))
    except OSError as error:
        walk.leave_out(prefix.rstrip("/"), f"can't be opened: {error.strerror}", "unread")
        return []


def look(walk: Walk, path: str, folder_id: str) -> Held:
    """The direct content of a folder without excluded entries; links to folders count, whatever their target."""
    entries = [entry for entry in list_visible(path) if f"{folder_id}/{entry.name}" not in walk.unwanted]
    folders = [entry.name for entry in entries if _is_folder(entry)]
    num_images = sum(find_suffix(entry.name) in IMAGE_SUFFIXES for entry in entries) if entries else 0
    return Held(tuple(sorted(folders, key=sort_key)), num_images)


def has_images(path: str) -> bool:
    """Whether any file below this folder has an image's name; links to folders are not followed."""
    for _, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not is_litter(name)]
        if any(find_suffix(name) in IMAGE_SUFFIXES and not is_litter(name) for name in files):
            return True
    return False


def list_visible(path: str) -> list[os.DirEntry[str]]:
    """The entries of a folder without system files; empty if it can't be opened."""
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not is_litter(entry.name)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads in a circle


def leads_out(walk: Walk, path: str) -> bool:
    """Whether a path is outside the root and may not be followed."""
    if walk.follow_outside:
        return False
    real_path = os.path.realpath(path)
    return real_path != walk.real_root and not real_path.startswith(walk.real_root.rstrip(os.sep) + os.sep)
