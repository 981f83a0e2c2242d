"""How well a trained model does on images of another source, on the classes that both have."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from backbench.config import DataConfig, Precision, digest_json
from backbench.data.census import Census, take_census
from backbench.data.class_names import match_names
from backbench.data.listing import Listing
from backbench.data.load import load_listing
from backbench.data.sizes import common_size
from backbench.data.store import PixelStore
from backbench.data.trained_on import find_seen
from backbench.documents import parse_json
from backbench.errors import BudgetExceeded, DataError
from backbench.progress import SILENT, Progress
from backbench.runs.context import RunContext
from backbench.stats.calibrate import softmax
from backbench.stats.metric import Metric
from backbench.stats.metrics import score
from backbench.storage import read_file, write_atomically
from backbench.wording import list_some, quote

if TYPE_CHECKING:
    from backbench.classifier.bundle import BundleFacts

FOUND_FOLDER = ".elsewhere"
"""Of all bundles of a folder; hidden, so that it is none of `RUNS/*`."""
FOUND_VERSION = 1
"""Raised when the same bundle would get other figures on the same images than before."""


@dataclass(frozen=True)
class Elsewhere:
    """Figures on another source.

    Args:
        name: of that source.
        mapping: its class -> the model's class, where there is one.
        metrics: as of a run, on `num_images` images; the model may answer any of its classes.
        num_seen: images left out because the model was trained on them; `num_unmapped`: of classes it lacks.
        common_size: (width, height, images) of the most common size among those that were evaluated.
    """

    name: str
    mapping: dict[str, str]
    metrics: dict[str, Metric]
    num_images: int
    num_unmapped: int
    num_seen: int
    common_size: tuple[int, int, int] | None = None


_AS_JSON = TypeAdapter(Elsewhere)


@dataclass(frozen=True)
class Source:
    """Images of another source, listed and hashed: those of its test split, if it has one, or else all.

    Args:
        place: as it was asked for.
        rows: of the listing, less what is broken; `census`: of the whole listing.
    """

    place: str
    listing: Listing
    store: PixelStore
    rows: list[int]
    census: Census
    max_pixels: int

    @property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of the content of each row of the listing."""
        return self.census.hashes


def read_source(config: DataConfig, progress: Progress = SILENT) -> Source:
    """List and hash the images of a source. Cost: every file is read once, and fetched if need be.

    Raises:
        DataError, ConfigError: there is no such source, or it can't be read.
    """
    listing = load_listing(config, progress)
    store = PixelStore(listing, config.max_pixels)
    census = take_census(listing, store, max_pixels=config.max_pixels, progress=progress)
    wanted = "test" if "test" in listing.parts else None
    rows = [
        row
        for row in range(len(listing))
        if row not in census.bad and (wanted is None or listing.parts[row] == wanted)
    ]
    return Source(config.source, listing, store, rows, census, config.max_pixels)


def evaluate_elsewhere(
    bundle: Path, source: Source, context: RunContext, *, precision: Precision = "fp32"
) -> Elsewhere:
    """Evaluate a bundle on the images of another source whose classes it knows.

    What comes out is kept in `.elsewhere/` beside the bundle, and read from there where bundle, images and
    precision are the same again, wherever the images lie: then no image is decoded and no network loaded.

    Past the deadline of `context` only what was found before is read.

    Raises:
        DataError: no class in common, or no image left. StorageError: the bundle is damaged, or it can't be kept.
        BudgetExceeded: it would have to be computed, and no time is left.
    """
    from backbench.classifier.bundle import load_bundle, read_facts

    facts = read_facts(bundle)
    images = _choose_images(bundle, facts, source)
    digest = _digest(facts, images, source, precision)[:16]
    for kept in _folder_beside(bundle).glob(f"*-{digest}.json"):
        if (known := _read_found(kept)) is not None:
            return replace(known, name=source.listing.name, common_size=common_size(source.census, images.rows))
    if context.deadline is not None and time.monotonic() >= context.deadline:
        raise BudgetExceeded("no time is left")
    classifier = load_bundle(bundle)
    source.store.grey = classifier.grey
    logits = classifier.logits_for(
        lambda index: source.store.read(images.rows[index]),
        len(images.rows),
        device=context.device,
        precision=precision,
        names=[source.listing.ids[row] for row in images.rows],
        progress=context.progress,
    )
    index_of = {name: index for index, name in enumerate(facts.class_names)}
    labels = np.array([index_of[label] for label in images.labels], dtype=np.int64)
    found = Elsewhere(
        name=source.listing.name,
        mapping=images.mapping,
        metrics=score(softmax(logits, classifier.temperature), labels),
        num_images=len(images.rows),
        num_unmapped=images.num_unmapped,
        num_seen=images.num_seen,
        common_size=common_size(source.census, images.rows),
    )
    place = _folder_beside(bundle) / f"{_key_of(source.place)}-{digest}.json"
    _write_found(place, found)
    return found


def was_evaluated(bundle: Path, place: str) -> bool:
    """Whether figures of the bundle on images of that place were kept; they may have been other images then."""
    return any(_folder_beside(bundle).glob(f"{_key_of(place)}-*.json"))


def _folder_beside(bundle: Path) -> Path:
    return bundle.parent / FOUND_FOLDER / bundle.name


def _key_of(place: str) -> str:
    return digest_json(place)[:8]


@dataclass(frozen=True)
class _Images:
    """Those that a bundle is evaluated on: `rows` of the listing, and the bundle's class of each."""

    mapping: dict[str, str]
    rows: list[int]
    labels: list[str]
    num_unmapped: int
    num_seen: int


def _choose_images(bundle: Path, facts: BundleFacts, source: Source) -> _Images:
    """The images of classes that the bundle knows, less those it was trained on; DataError if there are none."""
    from backbench.classifier.bundle import read_bundle_seen

    listing, there = source.listing, sorted(set(source.listing.labels))
    mapping = match_names(there, facts.class_names)
    if not mapping:
        raise DataError(
            f"{listing.name} and the model have no class in common: there are "
            f"{list_some((quote(name) for name in there), 5)}, it knows "
            f"{list_some((quote(name) for name in facts.class_names), 5)}."
        )
    mapped = [row for row in source.rows if listing.labels[row] in mapping]
    seen = read_bundle_seen(bundle, facts)
    known = np.zeros(len(mapped), dtype=bool)
    if seen is not None:
        known = np.asarray(find_seen([source.hashes[row] for row in mapped], seen.all))
    kept = [row for row, is_known in zip(mapped, known, strict=True) if not is_known]
    if not kept:
        raise DataError(
            f"{listing.name}: no image of a class that the model knows and that it was not trained on."
        )
    return _Images(
        mapping=mapping,
        rows=kept,
        labels=[mapping[listing.labels[row]] for row in kept],
        num_unmapped=len(source.rows) - len(mapped),
        num_seen=int(known.sum()),
    )


def _digest(facts: BundleFacts, images: _Images, source: Source, precision: Precision) -> str:
    """Of all that the figures come from; where the images lie, and on which device, does not count."""
    contents = [source.hashes[row] for row in images.rows]
    asked = {
        "version": FOUND_VERSION,
        "bundle": facts.files,
        "images": sorted(zip(contents, images.labels, strict=True)),
        "mapping": images.mapping,
        "left out": [images.num_unmapped, images.num_seen],
        "max_pixels": source.max_pixels,
        "precision": precision,
        **({} if facts.grey is None else {"grey": facts.grey.model_dump()}),
    }
    return digest_json(asked)


def _write_found(place: Path, found: Elsewhere) -> None:
    document = _AS_JSON.dump_python(found, mode="json")
    kept = document | {"checksum": digest_json(document)}
    write_atomically(place, json.dumps(kept, indent=1).encode())


def _read_found(place: Path) -> Elsewhere | None:
    """What was kept; None where nothing can be read or it was changed since, so that it is computed again."""
    try:
        document = parse_json(read_file(place))
        if document.pop("checksum") != digest_json(document):
            return None
        return _AS_JSON.validate_python(document)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
