"""From what the user named to checked, split images: the one door to data for everything else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backbench.config import DataConfig
from backbench.data.census import Census, take_census
from backbench.data.image_paths import is_address
from backbench.data.limit import limit_listing
from backbench.data.listing import Listing
from backbench.data.manifest import Manifest, make_manifest, read_split
from backbench.data.store import PixelStore
from backbench.data.tables import TABLE_SUFFIXES
from backbench.errors import ConfigError, DataError, unknown_name
from backbench.progress import SILENT, Progress
from backbench.registry import find_path_loader, find_source, list_sources
from backbench.wording import quote


@dataclass(frozen=True, eq=False)
class Data:
    """Checked and split images. Rows of `manifest` are what everything else counts in."""

    listing: Listing
    census: Census
    manifest: Manifest
    store: PixelStore
    warnings: tuple[str, ...] = ()

    def read(self, row: int) -> np.ndarray:
        """The image of one row of the manifest, (height, width, 3) uint8 RGB; any thread may ask.

        Raises:
            BadImage: the file changed or vanished since it was checked.
        """
        return self.store.read(int(self.manifest.rows[row]))

    def stage_seconds(self) -> tuple[float, float]:
        """(read, decode): seconds spent so far on reading and on decoding files, summed over threads."""
        return self.store.read_seconds, self.store.decode_seconds


def load_data(config: DataConfig, progress: Progress = SILENT, listing: Listing | None = None) -> Data:
    """List, check, measure and split the images of `config.source`.

    Args:
        listing: of the same config, where it was made before; None: it is made here.

    Raises:
        ConfigError: no such data set or path, or a column that is not there.
        DataError: the images can't be ranked on; see `manifest.make_manifest`.
        DownloadError, StorageError: a named data set can't be fetched or kept.
    """
    if listing is None:
        listing = load_listing(config, progress)
    refuse_fractions(config, listing)
    store = PixelStore(listing, config.max_pixels)
    census = take_census(listing, store, max_pixels=config.max_pixels, progress=progress)
    manifest = make_manifest(listing, census, config)
    manifest = replace(manifest, warnings=(*source_warnings(listing), *manifest.warnings))
    return Data(listing, census, manifest, store, manifest.warnings)


def load_listing(config: DataConfig, progress: Progress = SILENT) -> Listing:
    """What the named data set, folder, table or archive holds; nothing is checked, hashed or decoded.

    Raises:
        ConfigError: no such data set or path. DataError: the source can't be used; see the modules of `sources/`.
    """
    listing = _list_all(config, progress)
    return listing if config.limit is None else limit_listing(listing, config.limit, config.split_seed)


def _list_all(config: DataConfig, progress: Progress) -> Listing:
    spec = find_source(config.source)
    path = Path(config.source)
    if spec is not None:
        if _exists(config.source):
            progress.warn(f"'{config.source}' is the built-in data set; write ./{config.source} for the path here")
        columns = (config.image_column, config.label_column, config.group_column, config.split_column)
        if not spec.has_columns and any(column is not None for column in (*columns, config.image_root)):
            raise ConfigError(
                f"'{config.source}' is a built-in data set, and only tables have columns: leave them out."
            )
        is_ignoring = bool(config.ignore) and not spec.has_columns
        if is_ignoring or config.follow_links or config.split_folders is not None:
            raise ConfigError(
                f"'{config.source}' is no folder: --ignore, --follow-links and --split-folders are for folders."
            )
        listing: Listing = spec.load(config, progress)
        return listing
    if not _exists(config.source):
        raise _unknown_source(config.source)
    try:
        load_path = find_path_loader(path)
    except OSError as error:
        raise DataError(f"{config.source}: can't be looked at: {error.strerror}") from error
    if load_path is None:
        raise ConfigError(
            f"{config.source} is neither a folder, a {', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]} "
            "table nor a known archive. Unpack other archives first and give the folder; save spreadsheets as CSV "
            "and JSON as lines (.jsonl), one object for each image."
        )
    found: Listing = load_path(config, path, progress)
    return found


def refuse_fractions(config: DataConfig, listing: Listing) -> None:
    """ConfigError if a fraction was chosen for a split that the source, or `--split`, gives already."""
    for part, option in (("test", "test_fraction"), ("val", "val_fraction")):
        is_chosen = getattr(config, option) != DataConfig.model_fields[option].default
        if not is_chosen or part not in (
            listing.parts if config.split is None else read_split(config.split)[0].values()
        ):
            continue
        giver = f"--split {config.split}" if config.split is not None else f"{config.source} itself"
        raise ConfigError(
            f"--{option.replace('_', '-')} {getattr(config, option):g}: the {part} split is given by {giver}, so "
            "none is cut. Leave that option out, or the given split: --ignore FOLDER, or --split-column none."
        )


def source_warnings(listing: Listing) -> Sequence[str]:
    """What the source itself found worth a warning."""
    warnings: Sequence[str] = listing.facts.get("warnings", ())
    return warnings


def source_notes(listing: Listing) -> tuple[str, ...]:
    """How the source was read, in sentences without full stops."""
    return tuple(listing.facts.get("notes", ()))


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - unlike Path.exists, it never raises


def _unknown_source(source: str) -> ConfigError:
    """Says which names there are, and what lies beside the path that was meant."""
    if is_address(source):
        return ConfigError(
            f"{quote(source)} is a URL, and data is read from disk only. Download it first, and give the folder."
        )
    names = [spec.name for spec in list_sources()]
    folder, _, name = source.rstrip("/").rpartition("/")
    try:
        beside = [f"{folder}/{found}" if folder else found for found in os.listdir(folder or ".")]  # noqa: PTH208
    except (OSError, ValueError):
        beside = []
    if folder and not beside:
        return ConfigError(f"there is no {quote(source)}, nor anything in a folder {quote(folder)}.")
    shown = [entry for entry in beside if not name or not entry.rpartition("/")[2].startswith(".")]
    return unknown_name(
        "data set or path", source, names, "the data argument", "backbench list data", unlisted=shown
    )
