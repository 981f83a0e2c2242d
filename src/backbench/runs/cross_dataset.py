"""How well a trained model does on images of another source, on the classes that both have."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from backbench.config import Precision, digest_json
from backbench.data.class_names import match_classes
from backbench.data.sizes import common_size
from backbench.documents import parse_json
from backbench.errors import BudgetExceeded
from backbench.runs.context import RunContext
from backbench.runs.labelled import Labelled, Source, choose_images, predict_logits
from backbench.stats.calibrate import softmax
from backbench.stats.metric import Metric
from backbench.stats.metrics import score
from backbench.storage import read_file, write_atomically

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
    images = choose_images(source, bundle, facts, is_other=True)
    digest = _digest(facts, images, source, precision)[:16]
    for kept in _folder_beside(bundle).glob(f"*-{digest}.json"):
        if (known := _read_found(kept)) is not None:
            return replace(known, name=source.listing.name, common_size=common_size(source.census, images.rows))
    if context.deadline is not None and time.monotonic() >= context.deadline:
        raise BudgetExceeded("no time is left")
    classifier = load_bundle(bundle)
    logits = predict_logits(
        source, images, classifier, context.progress, device=context.device, precision=precision
    )
    labels = match_classes(images.labels, facts.class_names)
    found = Elsewhere(
        name=source.listing.name,
        mapping=images.mapping,
        metrics=score(softmax(logits, classifier.temperature), labels),
        num_images=len(images.rows),
        num_unmapped=images.num_unmapped,
        num_seen=images.num_seen,
        common_size=common_size(source.census, images.rows),
    )
    place = _folder_beside(bundle) / f"{_key_of(source.config.source)}-{digest}.json"
    _write_found(place, found)
    return found


def was_evaluated(bundle: Path, place: str) -> bool:
    """Whether figures of the bundle on images of that place were kept; they may have been other images then."""
    return any(_folder_beside(bundle).glob(f"{_key_of(place)}-*.json"))


def _folder_beside(bundle: Path) -> Path:
    return bundle.parent / FOUND_FOLDER / bundle.name


def _key_of(place: str) -> str:
    return digest_json(place)[:8]


def _digest(facts: BundleFacts, images: Labelled, source: Source, precision: Precision) -> str:
    """Of all that the figures come from; where the images lie, and on which device, does not count."""
    contents = [source.census.hashes[row] for row in images.rows]
    asked = {
        "version": FOUND_VERSION,
        "bundle": facts.files,
        "images": sorted(zip(contents, images.labels, strict=True)),
        "mapping": images.mapping,
        "left out": [images.num_unmapped, images.num_seen],
        "max_pixels": source.config.max_pixels,
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
