"""Load, check and split the images that the user named: the only entry to data for other modules."""

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
    """Checked and split images. Row numbers everywhere are rows of `manifest`."""

    listing: Listing
    census: Census
    manifest: Manifest
    store: PixelStore
    warnings: tuple[str, ...] = ()

    def read(self, row: int) -> np.ndarray:
        """The image of one row of the manifest, (height, width, 3) uint8 RGB; thread-safe.

        Raises:
            BadImage: the file changed or disappeared since it was checked.
        """
        return self.store.read(int(self.manifest.rows[row]))

    def stage_seconds(self) -> tuple[float, float]:
        """(read, decode): seconds spent so far on reading and on decoding files, summed over threads."""
        return self.store.read_seconds, self.store.decode_seconds


def load_data(config: DataConfig, progress: Progress = SILENT, listing: Listing | None = None) -> Data:
    """List, check, measure and split the images of `config.source`.

    Args:
        listing: of the same config, if it exists already; None: make it.

    Raises:
        ConfigError: no such data set or path, or a missing column.
        DataError: the images can't be ranked on; see `manifest.make_manifest`.
        DownloadError, StorageError: a named data set can't be downloaded or stored.
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
    """List a named data set, folder, table or archive; checks, hashes and decodes nothing.

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
            progress.warn(
                f"using the built-in data set '{config.source}'; write ./{config.source} for the path of that name"
            )
        columns = (config.image_column, config.label_column, config.group_column, config.split_column)
        if not spec.has_columns and any(column is not None for column in (*columns, config.image_root)):
            raise ConfigError(
                f"'{config.source}' is a built-in data set. Leave out the column options: only tables have "
                "columns."
            )
        is_ignoring = bool(config.ignore) and not spec.has_columns
        if is_ignoring or config.follow_links or config.split_folders is not None:
            raise ConfigError(
                f"'{config.source}' is not a folder. Leave out --ignore, --follow-links and --split-folders."
            )
        listing: Listing = spec.load(config, progress)
        return listing
    if not _exists(config.source):
        raise _unknown_source(config.source)
    try:
        load_path = find_path_loader(path)
    except OSError as error:
        raise DataError(f"{config.source}: can't be accessed: {error.strerror}") from error
    if load_path is None:
        raise ConfigError(
            f"{config.source} is neither a folder, a {', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]} "
            "table nor a known archive. Unpack other archives and give the folder. Save spreadsheets as CSV and "
            "JSON as JSON lines (.jsonl), one object for each image."
        )
    found: Listing = load_path(config, path, progress)
    return found


def refuse_fractions(config: DataConfig, listing: Listing) -> None:
    """Raise ConfigError if a fraction is set for a split that the source or `--split` gives already."""
    for part, option in (("test", "test_fraction"), ("val", "val_fraction")):
        is_chosen = getattr(config, option) != DataConfig.model_fields[option].default
        if not is_chosen or part not in (
            listing.parts if config.split is None else read_split(config.split)[0].values()
        ):
            continue
        giver = f"--split {config.split}" if config.split is not None else f"{config.source} itself"
        raise ConfigError(
            f"--{option.replace('_', '-')} {getattr(config, option):g}: {giver} gives the {part} split, so no new "
            "one is made. Leave out this option, or the given split: --ignore FOLDER, or --split-column none."
        )


def source_warnings(listing: Listing) -> Sequence[str]:
    """Warnings of the source."""
    warnings: Sequence[str] = listing.facts.get("warnings", ())
    return warnings


def source_notes(listing: Listing) -> tuple[str, ...]:
    """How the source was read, in sentences without full stops."""
    return tuple(listing.facts.get("notes", ()))


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - unlike Path.exists, it never raises


def _unknown_source(source: str) -> ConfigError:
    """The error for an unknown source, with known names and nearby paths."""
    if is_address(source):
        return ConfigError(
            f"{quote(source)} is a URL, but data is read from disk only. Download it first, then give the folder."
        )
    names = [spec.name for spec in list_sources()]
    folder, _, name = source.rstrip("/").rpartition("/")
    try:
        beside = [f"{folder}/{found}" if folder else found for found in os.listdir(folder or ".")]  # noqa: PTH208
    except (OSError, ValueError):
        beside = []
    if folder and not beside:
        return ConfigError(f"there is no {quote(source)}, and the folder {quote(folder)} is missing or empty.")
    shown = [entry for entry in beside if not name or not entry.rpartition("/")[2].startswith(".")]
    return unknown_name(
        "data set or path", source, names, "the data argument", "backbench list data", unlisted=shown
    )
