"""A folder of class folders, or of `train/`, `val/` and `test/` with class folders in them."""

from __future__ import annotations

from pathlib import Path

from backbench.config import DataConfig
from backbench.data.left_out import warn_of_lost
from backbench.data.listing import Listing
from backbench.data.scanner import scan_folder
from backbench.data.wording import count, list_some, quote
from backbench.errors import ConfigError
from backbench.progress import Progress

LAST_RESORT = True
"""Any folder will do, so modules that know a special kind of folder are asked first."""


def accepts(path: Path) -> bool:
    """Whether this module can load the path."""
    return path.is_dir()


def load_path(config: DataConfig, path: Path, progress: Progress) -> Listing:
    """The images of the folder, labelled by the class folder they are in.

    Raises:
        DataError: see `scanner.scan_folder`. ConfigError: a column was named, and a folder has none.
    """
    for option, given in (
        ("--image-column", config.image_column),
        ("--label-column", config.label_column),
        ("--group-column", config.group_column),
    ):
        if given is not None:
            raise ConfigError(
                f"{option} {given}: {path} is a folder, and only tables have columns. Leave it out, or give the "
                "CSV or Parquet file."
            )
    tree = scan_folder(path)
    warnings = (*warn_of_lost(tree.ignored), *(_warn_of_nested(tree.nested) if tree.nested else ()))
    return Listing(
        name=path.resolve().name or "images",
        ids=tree.ids,
        labels=tree.labels,
        groups=(None,) * len(tree.ids),
        parts=tree.parts,
        files=tree.files,
        ignored=tree.ignored,
        class_names=tree.class_names,
        facts={"warnings": warnings} if warnings else {},
    )


def _warn_of_nested(nested: tuple[str, ...]) -> tuple[str, ...]:
    """Sub-folders that may have been meant as classes of their own."""
    return (
        f"{count(len(nested), 'folder')} below a class folder ({list_some((quote(name) for name in nested), 3)}): "
        "the images in there count for the class above",
    )
