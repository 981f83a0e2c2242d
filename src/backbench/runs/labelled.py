"""The labelled images that a finished model is evaluated on: a test split, without its training images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbench.config import DataConfig
from backbench.data.census import Census, take_census
from backbench.data.checks import refuse_bad, warn_of_pixels
from backbench.data.class_names import map_classes, match_classes
from backbench.data.grey import UNSCALED
from backbench.data.listing import Listing
from backbench.data.load import load_listing, source_warnings
from backbench.data.manifest import make_manifest
from backbench.data.small_classes import settle_small_classes
from backbench.data.store import PixelStore
from backbench.data.tables import TABLE_SUFFIXES
from backbench.data.trained_on import Seen, find_seen
from backbench.errors import ConfigError, DataError
from backbench.progress import SILENT, Progress
from backbench.wording import count, list_some, quote

if TYPE_CHECKING:
    from backbench.backbones.core.bundle_files import TrainingFacts
    from backbench.classifier.bundle import BundleFacts
    from backbench.classifier.classifier import Classifier


@dataclass(frozen=True)
class Source:
    """Labelled images, listed and hashed once for all models that are evaluated on them."""

    config: DataConfig
    listing: Listing
    store: PixelStore
    census: Census


@dataclass(frozen=True)
class Labelled:
    """Images to evaluate one model on: n labels (names of its classes), groups and ids, and a reader.

    Args:
        part: 'test', or 'all' where there is no test split. said: description of these images.
        rows: of the source's listing.
        digest: of the test split, or of the images without a split.
        mapping: class of the images -> the model's class. num_unmapped: images left out, of classes that it lacks.
        num_seen: images left out because the model was trained on them.
    """

    name: str
    part: str
    labels: tuple[str, ...]
    groups: tuple[str | None, ...]
    ids: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    said: str
    digest: str
    rows: tuple[int, ...] = ()
    mapping: dict[str, str] = field(default_factory=dict)
    num_unmapped: int = 0
    num_seen: int = 0
    warnings: tuple[str, ...] = ()


def read_source(config: DataConfig, progress: Progress = SILENT) -> Source:
    """List and hash the images of a source. Cost: reads every file once, and downloads if necessary.

    Raises:
        ConfigError: no such source.
        DataError: the source is unreadable, has no usable image, or bad ones with the policy 'fail'.
    """
    listing = load_listing(config, progress)
    store = PixelStore(listing, config.max_pixels)
    census = take_census(listing, store, max_pixels=config.max_pixels, progress=progress)
    refuse_bad(listing, census, config.on_bad)
    return Source(config, listing, store, census)


def choose_images(
    source: Source,
    bundle: Path,
    facts: BundleFacts,
    *,
    class_map: Mapping[str, Sequence[str]] | None = None,
    is_other: bool = False,
) -> Labelled:
    """Choose the images that a model is evaluated on.

    Uses the test split of the source if it has one, else that of the bundle's own run if it has these images, else
    all images. Leaves out classes that the model lacks and images that it was trained on.

    Args:
        bundle: its folder.
        class_map, is_other: see `class_names.map_classes`.

    Raises:
        ConfigError: the bundle's own images in an unknown split, or a wrong `class_map`.
        DataError: unknown classes, or no image is left.
        StorageError: the bundle is damaged.
    """
    from backbench.classifier.bundle import read_bundle_seen

    config, listing = source.config, source.listing
    seen = read_bundle_seen(bundle, facts)
    census = replace(source.census, grey=facts.grey)  # the model uses the grey scale of its training
    rows = [row for row in range(len(listing)) if row not in census.bad]
    warnings = [*source_warnings(listing), *warn_of_pixels(listing, census)]
    if census.depths and facts.grey is None:
        warnings.append(f"{count(len(census.depths), 'image')} {UNSCALED}")
    if census.bad:
        warnings.append(f"{count(len(census.bad), 'image')} left out because they can't be read")
    rows, names = _settle_as_in_training(listing, census, rows, facts.training)
    chosen = _choose_part(config, facts, listing, census, rows, seen, bundle)
    mapping = map_classes([names[row] for row in chosen.rows], facts.class_names, class_map, is_other=is_other)
    mapped = [row for row in chosen.rows if names[row] in mapping]
    if lacking := sorted({names[row] for row in chosen.rows} - set(mapping)):
        warnings.append(
            f"{count(len(chosen.rows) - len(mapped), 'image')} left out: the model does not have "
            f"{count(len(lacking), 'class', 'classes')} of the images: {list_some(map(quote, lacking), 5)}"
        )
    kept = _leave_out_seen(mapped, census, seen)
    num_seen = len(mapped) - len(kept)
    if num_seen:
        warnings.append(
            f"{num_seen:,} of {len(mapped):,} images are left out, because the model was trained on them"
        )
    elif seen is None and chosen.part == "all":
        warnings.append(
            "the model's training images are unknown; if it was trained on some of these images, its metrics are "
            "too good"
        )
    if not kept:
        raise DataError(
            f"{config.source}: the model was trained on all of these {count(num_seen, 'image')}, so they can't "
            "measure its accuracy. Give images that it was not trained on."
        )
    return Labelled(
        name=listing.name,
        part=chosen.part,
        labels=tuple(mapping[names[row]] for row in kept),
        groups=tuple(chosen.groups[row] for row in kept),
        ids=tuple(listing.ids[row] for row in kept),
        read=lambda index: source.store.read(kept[index]),
        said=chosen.said,
        digest=chosen.digest,
        rows=tuple(kept),
        mapping=mapping,
        num_unmapped=len(chosen.rows) - len(mapped),
        num_seen=num_seen,
        warnings=tuple(warnings),
    )


def predict_logits(
    source: Source, images: Labelled, classifier: Classifier, progress: Progress = SILENT, **settings: Any
) -> np.ndarray:
    """Logits of the images chosen for a model, (n, classes); arguments as `Classifier.logits_for`."""
    source.store.grey = classifier.grey  # models share the store
    return classifier.logits_for(images.read, len(images.ids), names=images.ids, progress=progress, **settings)


@dataclass(frozen=True)
class _Chosen:
    """Rows of a listing, the name of their split, a description, a digest, and the groups of all rows."""

    rows: list[int]
    part: str
    said: str
    digest: str
    groups: tuple[str | None, ...]


def _choose_part(
    config: DataConfig,
    facts: BundleFacts,
    listing: Listing,
    census: Census,
    rows: list[int],
    seen: Seen | None,
    bundle: Path,
) -> _Chosen:
    training = facts.training
    image_digest = _image_digest(census.hashes, rows)
    whole = _Chosen(
        rows, "all", f"all images of {quote(listing.name)}, which has no test split", image_digest, listing.groups
    )
    test_words = f"the test split of {quote(listing.name)}"
    is_own = training is not None and image_digest == training.image_digest
    if training is not None and is_own:
        listing, config = _as_in_training(listing, config, training)
    if is_own or config.split is not None:
        manifest = make_manifest(listing, census, config)
        rows = manifest.rows[manifest.part_rows("test")].tolist()
        if training is None or not is_own:
            return _Chosen(rows, "test", test_words, manifest.digest, listing.groups)
        if manifest.digest == training.manifest_digest:
            said = f"{test_words}, as in the run that trained it"
            return _Chosen(rows, "test", said, manifest.digest, listing.groups)
        # a renamed class comes first
        match_classes([listing.labels[row] for row in whole.rows], facts.class_names)
        if seen is None:
            raise _unknown_split(config, training, bundle)
        if config.split is None:
            said = f"the images of {quote(listing.name)} that the model was not trained on"
            return _Chosen(whole.rows, "test", said, training.manifest_digest, listing.groups)
        return _Chosen(rows, "test", test_words, manifest.digest, listing.groups)
    if "test" in listing.parts:
        rows = [row for row in rows if listing.parts[row] == "test"]
        digest = _image_digest(census.hashes, rows)
        with suppress(DataError):  # a test split without training images gives no manifest
            digest = make_manifest(listing, census, config).digest
        return _Chosen(rows, "test", test_words, digest, listing.groups)
    return whole


def _settle_as_in_training(
    listing: Listing, census: Census, rows: list[int], training: TrainingFacts | None
) -> tuple[list[int], Sequence[str]]:
    """The rows, and the class of each of the listing, with small classes left out or merged as in training
    if these are its images; else unchanged."""
    if training is None or training.min_images is None:
        return rows, listing.labels
    try:
        settled = settle_small_classes(
            [listing.labels[row] for row in rows], training.min_images, training.small_classes
        )
    except DataError:  # other images, with fewer classes
        return rows, listing.labels
    kept = [rows[index] for index in settled.rows]
    if _image_digest(census.hashes, kept) != training.image_digest:
        return rows, listing.labels
    names = list(listing.labels)
    for row, name in zip(kept, settled.labels, strict=True):
        names[row] = name
    return kept, names


def _as_in_training(listing: Listing, config: DataConfig, training: TrainingFacts) -> tuple[Listing, DataConfig]:
    """The same images in the groups and the split of the model's run, if none were given."""
    if config.split is None:
        fractions = {"test_fraction": training.test_fraction, "val_fraction": training.val_fraction}
        small = {"min_images": training.min_images, "small_classes": training.small_classes}
        config = config.model_copy(update={"split_seed": training.split_seed, **fractions, **small})
    is_table = Path(config.source).suffix.lower() in TABLE_SUFFIXES
    if training.group_column is not None and config.group_column is None and is_table:
        grouped = config.model_copy(update={"group_column": training.group_column})
        with suppress(ConfigError):  # another table of these images, without that column
            again = load_listing(grouped)
            if again.ids == listing.ids:
                return again, grouped
    return listing, config


def _unknown_split(config: DataConfig, training: TrainingFacts, bundle: Path) -> ConfigError:
    manifest = bundle.parent / training.run_id / "manifest.json"
    file = str(manifest) if manifest.is_file() else "the manifest.json in the folder of that run"
    return ConfigError(
        f"{config.source} holds the images this model was trained on, but not in the split of its run "
        f"'{training.run_id}', so its metrics would be too good. Give that split: --split {file}"
    )


def _leave_out_seen(rows: list[int], census: Census, seen: Seen | None) -> list[int]:
    if seen is None:
        return rows
    known = find_seen([census.hashes[row] for row in rows], seen.all)
    return [row for row, is_known in zip(rows, known, strict=True) if not is_known]


def _image_digest(hashes: Sequence[str], rows: Sequence[int]) -> str:
    """As `Manifest.image_digest`."""
    return hashlib.sha256("".join(sorted(hashes[row] for row in rows)).encode()).hexdigest()
