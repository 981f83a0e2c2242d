"""Finds the class folders of a tree: `layout` decides the layout, from the entries that `walk` finds."""

# Strings, not Paths, while walking: a tree may hold a million files.
# ruff: noqa: PTH118

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from backbench.data import layout
from backbench.data.layout import OTHER_LAYOUTS, Held
from backbench.data.listing import PARTS
from backbench.data.part_names import is_filler, parse_part
from backbench.data.walk import LEFT_OUT, ClassFolder, Walk, has_images, list_folders, list_visible, look
from backbench.errors import DataError

NO_IMAGES = "a folder without images"
BESIDE = "is beside train/, not in train/, val/ or test/"


def find_class_folders(walk: Walk, given: Mapping[str, str] | None, *, has_split: bool) -> list[ClassFolder]:
    """The class folders of any layout, those of train, val and test in this order, then by name.

    Args:
        given, has_split: `split_folders` and `has_split` of `scanner.scan_folder`.

    Raises:
        DataError, ConfigError: see `layout`.
    """
    top, held, unusable = _find_top(walk, given)
    where = os.path.join(walk.root, walk.prefix).rstrip("/")
    roles = layout.find_roles(where, held, {} if has_split else unusable, given, has_split=has_split)
    if roles:
        found = _list_parts(walk, top, roles)
    elif layout.find_inner_parts(where, held, given):
        found = _list_inner_parts(walk, top, held)
    else:
        if given is None:
            layout.refuse_same_folders(where, held)
        found = [ClassFolder(walk.prefix + name, name, None, path) for name, path in top.items()]
    if "test" not in walk.part_folders.values() and not has_split:
        layout.refuse_test_files(walk.root, _list_tables(walk, top, held))
    return found


def check_parts(walk: Walk) -> None:
    """Raise DataError if a split's folder gave no image, after all folders were walked."""
    filled = {owner.id for _, owner in walk.files.values()}
    for folder, part in walk.part_folders.items():
        if not any(owner == folder or owner.startswith(f"{folder}/") for owner in filled):
            below = [e.reason for e in walk.left_out if e.path == folder or e.path.startswith(f"{folder}/")]
            raise layout.empty_part(walk.root, folder, part, below)


def _find_top(
    walk: Walk, given: Mapping[str, str] | None
) -> tuple[dict[str, str], dict[str, Held], dict[str, str]]:
    """The folders that are classes or splits: name -> path, name -> content; and links that can't be entered.

    If only one folder holds images, all of them in its sub-folders, those sub-folders are used.
    """
    path = walk.root
    while True:
        top = list_folders(walk, path, walk.prefix)
        held = {name: look(walk, below, walk.prefix + name) for name, below in top.items()}
        unusable = {
            name: entry.reason
            for entry_id, entry in walk.ignored.items()
            if "/" not in (name := entry_id.removeprefix(walk.prefix)) and "link" in entry.reason
        }
        single = _find_single(top, held)
        is_top = any(parse_part(name) for name in (*top, *unusable)) or (given and given.keys() <= top.keys())
        if single is None or is_top:
            return top, held, unusable
        for name in top.keys() - {single}:
            walk.leave_out(walk.prefix + name, NO_IMAGES)
        walk.prefix += f"{single}/"
        path = top[single]


def _find_single(top: Mapping[str, str], held: Mapping[str, Held]) -> str | None:
    """The only folder that holds images, if all of them are in its sub-folders; else None."""
    if any(found.num_images for found in held.values()):
        return None
    filled: list[str] = []
    for name, path in top.items():
        if held[name].folders and has_images(path):
            filled.append(name)
            if len(filled) > 1:
                return None
    return filled[0] if filled else None


def _list_parts(walk: Walk, top: Mapping[str, str], roles: Mapping[str, str]) -> list[ClassFolder]:
    """The class folders below the folders of splits; other folders are left out."""
    found: list[ClassFolder] = []
    for name in sorted(roles, key=lambda name: PARTS.index(roles[name])):
        folder_id = walk.prefix + name
        walk.part_folders[folder_id] = roles[name]
        below = list_folders(walk, top[name], f"{folder_id}/")
        while below and all(map(is_filler, below)):  # train/images/class/1.jpg
            single = _find_single(below, {one: look(walk, below[one], f"{folder_id}/{one}") for one in below})
            if single is None:
                break
            folder_id = f"{folder_id}/{single}"
            below = list_folders(walk, below[single], f"{folder_id}/")
        found += [ClassFolder(f"{folder_id}/{label}", label, roles[name], path) for label, path in below.items()]
        if not below and roles[name] == "train":
            raise DataError(f"'{top[name]}' holds no class folders. {OTHER_LAYOUTS}")
    for name in top.keys() - roles.keys():
        _leave_beside(walk, walk.prefix + name, top[name])
    return found


def _leave_beside(walk: Walk, folder_id: str, path: str) -> None:
    walk.leave_out(folder_id, BESIDE, "picture" if has_images(path) else "other")


def _list_inner_parts(walk: Walk, top: Mapping[str, str], held: Mapping[str, Held]) -> list[ClassFolder]:
    """The folders of splits below each class folder. DataError for a link that leads out."""
    found: list[ClassFolder] = []
    for label, path in top.items():
        listed = list_folders(walk, path, f"{walk.prefix}{label}/")
        for name in held[label].folders:
            part = parse_part(name)
            if part is not None and name not in listed:
                folder_id = f"{walk.prefix}{label}/{name}"
                raise layout.empty_part(walk.root, folder_id, part, [walk.ignored[folder_id].reason])
        for name, below in listed.items():
            folder_id, part = f"{walk.prefix}{label}/{name}", parse_part(name)
            if part is None:
                _leave_beside(walk, folder_id, below)
            else:
                walk.part_folders[folder_id] = part
                found.append(ClassFolder(folder_id, label, part, below))
    return sorted(found, key=lambda folder: PARTS.index(folder.part or ""))


def _list_tables(walk: Walk, top: Mapping[str, str], held: Mapping[str, Held]) -> Iterator[str]:
    """Files that may be lists of images: those beside the folders, and in neighbouring folders without images."""
    others = [entry for entry in walk.ignored.values() if entry.loss == "other" and entry.reason != LEFT_OUT]
    folders = [entry.path for entry in others if entry.reason == NO_IMAGES]
    folders += [walk.prefix + name for name in top if not held[name].folders and not held[name].num_images]
    listed = [entry.path for entry in others]
    for folder in folders:
        listed += [f"{folder}/{entry.name}" for entry in list_visible(os.path.join(walk.root, folder))]
    for path in listed:
        if path in walk.unwanted:
            walk.leave_out(path, LEFT_OUT)
        else:
            yield path
