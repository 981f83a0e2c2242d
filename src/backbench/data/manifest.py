"""The manifest: samples with their labels, groups, splits and content hashes. Stored with each run.

Labels are always stored by class name, never by index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from backbench.config import DataConfig, GreyScale, digest_json
from backbench.data import checks
from backbench.data.census import Census
from backbench.data.limit import draw_share
from backbench.data.listing import PARTS, Ignored, Listing
from backbench.data.scanner import sort_key
from backbench.data.small_classes import settle_small_classes
from backbench.data.splitfile import apply_split, read_split_table
from backbench.data.splits import assign_parts, merge_units
from backbench.data.tables import TABLE_SUFFIXES
from backbench.documents import parse_json
from backbench.errors import ConfigError, DataError
from backbench.storage import read_file, write_atomically
from backbench.wording import count, quote

SCHEMA_VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Manifest:
    """The usable samples of a source, in the listing's order. All columns have one entry for each sample.

    Args:
        name: short name of the data set.
        classes: class names of the training split, in code point order of their NFC forms.
        ids: unique sample ids.
        labels: (n,) int64, index into `classes`.
        groups: samples of one group stay in one split; None: no group known.
        parts: 'train', 'val' or 'test'.
        hashes: SHA-256 of the content, in hex.
        rows: (n,) int64, index into the listing it was made from.
        skipped: bad samples that were left out before the split, with the reason.
        grey: the scale of images with more than 8 bits; None: no such image, or each has its own.
        warnings: for readers of results; not part of the digest.
    """

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    groups: tuple[str | None, ...]
    parts: tuple[str, ...]
    hashes: tuple[str, ...]
    rows: np.ndarray
    skipped: tuple[Ignored, ...] = ()
    warnings: tuple[str, ...] = ()
    grey: GreyScale | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that metrics depend on: ids, class names, groups, splits, content, skipped
        samples, grey scale. The order of samples and the name of the data set don't count."""
        columns = (self.ids, self.label_names, self.groups, self.parts, self.hashes)
        return digest_json(
            {
                "classes": self.classes,
                "samples": sorted(zip(*columns, strict=True), key=lambda sample: sample[0]),
                "skipped": sorted(bad.path for bad in self.skipped),
                **self._say_grey(),
            }
        )

    def _say_grey(self) -> dict[str, Any]:
        """The entry of the grey scale; empty without one, as in older manifests."""
        return {} if self.grey is None else {"grey": self.grey.model_dump()}

    @cached_property
    def image_digest(self) -> str:
        """SHA-256 of the images alone, independent of order, labels, splits and names."""
        return hashlib.sha256("".join(sorted(self.hashes)).encode()).hexdigest()

    @property
    def label_names(self) -> tuple[str, ...]:
        """The class name of each sample."""
        return tuple(self.classes[label] for label in self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {part: self.parts.count(part) for part in PARTS}

    def part_rows(self, part: str) -> np.ndarray:
        """(n_part,) int64: rows of this manifest in the split `part`."""
        return np.flatnonzero(np.array(self.parts) == part)


def make_manifest(listing: Listing, census: Census, config: DataConfig) -> Manifest:
    """Leave out or refuse broken samples, split, and check. The order of the input does not matter.

    Args:
        census: of this listing.
        config: policy for bad files, and fractions and seed of the split, or its file.

    Raises:
        DataError: bad files with the policy 'fail'; no images; fewer than two classes; a class with one image;
            class names that look alike; a test class without training images; a split that does not fit.
    """
    checks.refuse_bad(listing, census, config.on_bad)
    rows = [row for row in range(len(listing)) if row not in census.bad]
    ids = [listing.ids[row] for row in rows]
    labels = [listing.labels[row] for row in rows]
    groups = [listing.groups[row] for row in rows]
    hashes = [census.hashes[row] for row in rows]
    checks.check_labels(labels, quote(listing.name))
    settled = settle_small_classes(labels, config.min_images, config.small_classes)
    labels, kept = settled.labels, settled.rows
    rows, ids, groups, hashes = _take(rows, kept), _take(ids, kept), _take(groups, kept), _take(hashes, kept)
    fixed: Sequence[str | None] = [listing.parts[row] for row in rows]
    warnings = list(settled.warnings)
    if config.split is not None:
        fixed, told = _fix_parts(config.split, ids, hashes)
        warnings += told
    if "test" not in fixed:
        checks.check_single_images(labels)
    parts = assign_parts(
        ids,
        labels,
        merge_units(ids, groups, hashes),
        fixed,
        test_fraction=config.test_fraction,
        val_fraction=config.val_fraction,
        seed=config.split_seed,
    )
    if config.train_limit is not None:
        kept = keep_of_training(labels, parts, config.train_limit, config.split_seed)
        if len(kept) < len(rows):
            num = len(kept) - parts.count("test")
            warnings.append(f"trained and validated on only {count(num, 'image')}, as requested")
        rows, ids, labels = _take(rows, kept), _take(ids, kept), _take(labels, kept)
        groups, hashes, parts = _take(groups, kept), _take(hashes, kept), _take(parts, kept)
    checks.check_parts(labels, parts)
    classes = order_classes(label for label, part in zip(labels, parts, strict=True) if part == "train")
    index_of = {name: index for index, name in enumerate(classes)}
    skipped = tuple(Ignored(listing.ids[row], reason) for row, reason in census.bad.items())
    if skipped:
        warnings.append(f"{count(len(skipped), 'broken image')} left out before the split")
    declared = [name for name in listing.class_names or () if name not in settled.gone]
    warnings += checks.warn_of_parts(labels, parts, declared)
    warnings += checks.warn_of_content(labels, parts, hashes, groups)
    warnings += checks.warn_of_pixels(listing, census)
    return Manifest(
        name=listing.name,
        classes=classes,
        ids=tuple(ids),
        labels=np.array([index_of[name] for name in labels], dtype=np.int64),
        groups=tuple(groups),
        parts=tuple(parts),
        hashes=tuple(hashes),
        rows=np.array(rows, dtype=np.int64),
        skipped=skipped,
        warnings=tuple(warnings),
        grey=census.grey if census.depths else None,
    )


def _take(column: Sequence[T], kept: Sequence[int]) -> list[T]:
    return [column[row] for row in kept]


def keep_of_training(labels: Sequence[str], parts: Sequence[str], limit: int, seed: int) -> list[int]:
    """Rows of the test split and of at most `limit` others, stratified by class and split; in order."""
    strata = [None if part == "test" else (label, part) for label, part in zip(labels, parts, strict=True)]
    if len(parts) - parts.count("test") <= limit:
        return list(range(len(parts)))
    drawn = set(draw_share(strata, limit, seed))
    return [row for row, part in enumerate(parts) if part == "test" or row in drawn]


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names in code point order of their NFC form: independent of machine and locale."""
    return tuple(sorted(set(names), key=sort_key))


def read_split(split: str) -> tuple[dict[str, str], dict[str, str]]:
    """Sample id -> split, and sample id -> content hash (empty for a table), from the file given with --split.

    Raises:
        ConfigError: no such file, or a table without the columns. DataError, StorageError: the file can't be used.
    """
    path = Path(split)
    if not path.is_file():
        raise ConfigError(
            f"--split {split}: no such file. Give the manifest.json of a run, or a table with the columns 'id' "
            "and 'split'."
        )
    if path.suffix.lower() in TABLE_SUFFIXES:
        return read_split_table(path), {}
    stored = read_manifest(path)
    return dict(zip(stored.ids, stored.parts, strict=True)), dict(zip(stored.ids, stored.hashes, strict=True))


def _fix_parts(split: str, ids: Sequence[str], hashes: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """The splits in the file given with --split, and warnings."""
    stored_parts, stored_hashes = read_split(split)
    parts, warnings = apply_split(stored_parts, ids, split)
    if stored_hashes:
        checks.check_same_content(ids, hashes, stored_hashes, split)
    return parts, warnings


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest as JSON, atomically; keeps every name that a file system allows.

    Raises:
        StorageError: it can't be written.
    """
    document = {
        "schema": SCHEMA_VERSION,
        "name": manifest.name,
        "digest": manifest.digest,
        "image_digest": manifest.image_digest,
        "classes": manifest.classes,
        "counts": manifest.counts,
        "skipped": [[bad.path, bad.reason] for bad in manifest.skipped],
        **manifest._say_grey(),
        "warnings": manifest.warnings,
        "samples": {
            "id": manifest.ids,
            "label": manifest.label_names,
            "group": manifest.groups,
            "part": manifest.parts,
            "sha256": manifest.hashes,
            "row": manifest.rows.tolist(),
        },
    }
    write_atomically(path, json.dumps(document, ensure_ascii=True).encode("ascii"))


def read_manifest(path: Path, *, sha256: str | None = None) -> Manifest:
    """Read what `write_manifest` wrote.

    Args:
        sha256: of the written file, if known; its content is then not hashed again.

    Raises:
        DataError: it is missing, damaged, changed, or written by another version.
    Cost: for 10,000 samples 60 ms, 25 ms with `sha256`.
    """
    try:
        content = read_file(path)
        document = parse_json(content)
    except OSError as error:
        raise DataError(f"{path}: the manifest can't be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a manifest, or damaged: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA_VERSION:
        raise DataError(
            f"{path}: not a manifest of schema {SCHEMA_VERSION}, which this version reads. Give the manifest.json "
            "of a run folder."
        )
    try:
        manifest = _parse(document)
        if sha256 is None:
            is_unchanged = manifest.digest == document.get("digest")
        else:
            is_unchanged = hashlib.sha256(content).hexdigest() == sha256
            # pre-fills the cached property with the digest from the file
            manifest.__dict__["digest"] = str(document.get("digest"))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: the manifest is damaged: {type(error).__name__}: {error}") from error
    if not is_unchanged:
        raise DataError(f"{path}: the manifest was changed after it was written: its digest does not match")
    return manifest


def _parse(document: Mapping[str, Any]) -> Manifest:
    classes = tuple(document["classes"])
    columns = document["samples"]
    index_of = {name: index for index, name in enumerate(classes)}
    manifest = Manifest(
        name=document["name"],
        classes=classes,
        ids=tuple(columns["id"]),
        labels=np.array([index_of[name] for name in columns["label"]], dtype=np.int64),
        groups=tuple(columns["group"]),
        parts=tuple(columns["part"]),
        hashes=tuple(columns["sha256"]),
        rows=np.array(columns["row"], dtype=np.int64),
        skipped=tuple(Ignored(path, reason) for path, reason in document["skipped"]),
        warnings=tuple(document["warnings"]),
        grey=GreyScale(**document["grey"]) if "grey" in document else None,
    )
    if not set(manifest.parts) <= set(PARTS):
        raise ValueError(f"unknown splits {sorted(set(manifest.parts) - set(PARTS))}")
    return manifest
