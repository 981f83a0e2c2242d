"""A folder of class folders, or of `train/`, `val/` and `test/` with class folders in them."""

from __future__ import annotations

from pathlib import Path

from backbench.config import DataConfig
from backbench.data.left_out import warn_of_lost
from backbench.data.listing import PARTS, Listing
from backbench.data.part_names import PLAIN_PARTS, parse_part
from backbench.data.scanner import Tree, scan_folder
from backbench.errors import ConfigError
from backbench.progress import Progress
from backbench.wording import count, list_some, quote

LAST_RESORT = True
"""This module accepts any folder, so modules for special folders are tried first."""


def accepts(path: Path) -> bool:
    """Whether this module can load the path."""
    return path.is_dir()


def load_path(config: DataConfig, path: Path, progress: Progress) -> Listing:
    """The images of the folder, labelled by the class folder they are in.

    Raises:
        DataError: see `scanner.scan_folder`. ConfigError: a column option was given, but a folder has no columns.
    """
    for option, given in (
        ("--image-column", config.image_column),
        ("--label-column", config.label_column),
        ("--group-column", config.group_column),
        ("--split-column", config.split_column),
        ("--image-root", config.image_root),
    ):
        if given is not None:
            raise ConfigError(
                f"{option} {given}: {path} is a folder, but only tables have columns. Leave out this option, or "
                "give the CSV or Parquet file."
            )
    tree = scan_folder(
        path,
        follow_outside=config.follow_links,
        ignore=config.ignore,
        split_folders=config.split_folders,
        has_split=config.split is not None,
    )
    warnings = (
        *warn_of_lost(tree.ignored),
        *(_warn_of_nested(tree.nested) if tree.nested else ()),
        *_warn_of_sibling(path, tree),
    )
    notes = _describe_parts(tree)
    return Listing(
        name=path.resolve().name or "images",
        ids=tree.ids,
        labels=tree.labels,
        parts=tree.parts,
        files=tree.files,
        ignored=tree.ignored,
        class_names=tree.class_names,
        facts=({"warnings": warnings} if warnings else {}) | ({"notes": notes} if notes else {}),
    )


def _describe_parts(tree: Tree) -> tuple[str, ...]:
    """Name the folder of each split if the names are unusual or there is no test split."""
    folders, found = tree.part_folders, set(tree.part_folders.values())
    if any("/" in name for name in folders) and len(folders) > len(PARTS):
        return (f"Splits from the folders in each class folder: {list_some(map(quote, folders), 3)}",)
    told = [f"{part} from {quote(name + '/')}" for name, part in folders.items()]
    if not found or (set(folders) <= PLAIN_PARTS and "test" in found):
        return ()
    if "test" in found:
        return (f"Splits: {list_some(told, 6)}",)
    return (f"Splits: {list_some(told, 6)}; no test split is given, so backbench makes one from these images",)


def _warn_of_sibling(path: Path, tree: Tree) -> tuple[str, ...]:
    """A warning if there is a folder of test images beside the given folder of training images."""
    root = path.resolve()
    if parse_part(root.name) != "train" or tree.part_folders:
        return ()
    beside = sorted(name for name in _names_in(root.parent) if parse_part(name) == "test")
    return tuple(
        f"{quote(name)} beside {quote(root.name)} looks like its test split but is not used; backbench makes a "
        f"new test split. To use it, give the folder of both: {root.parent}"
        for name in beside[:1]
    )


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _warn_of_nested(nested: tuple[str, ...]) -> tuple[str, ...]:
    """A warning on sub-folders that may be classes of their own."""
    return (
        f"{count(len(nested), 'folder')} below a class folder "
        f"({list_some((quote(name) for name in nested), 3)}): their images count for the class above",
    )
