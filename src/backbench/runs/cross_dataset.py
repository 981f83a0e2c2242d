"""Cross-dataset evaluation: a trained model on images of another source, on the shared classes."""

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
"""Folder of stored results of all bundles; hidden, so that `RUNS/*` does not match it."""
FOUND_VERSION = 1
"""Increase it when the same bundle gives other metrics on the same images."""


@dataclass(frozen=True)
class Elsewhere:
    """Metrics on another source.

    Args:
        name: of that source.
        mapping: its class -> the model's class, if there is one.
        metrics: as for a run, on `num_images` images; the model may predict any of its classes.
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

    The result is stored in `.elsewhere/` beside the bundle, and reused for the same bundle, images and precision,
    without decoding images or loading the network. After the deadline of `context` only stored results are used.

    Raises:
        DataError: no common class, or no image left. StorageError: the bundle is damaged, or the result can't be
            stored.
        BudgetExceeded: no stored result and no time left.
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
    """Whether results of the bundle on images at that place are stored; the images may have changed since."""
    return any(_folder_beside(bundle).glob(f"{_key_of(place)}-*.json"))


def _folder_beside(bundle: Path) -> Path:
    return bundle.parent / FOUND_FOLDER / bundle.name


def _key_of(place: str) -> str:
    return digest_json(place)[:8]


def _digest(facts: BundleFacts, images: Labelled, source: Source, precision: Precision) -> str:
    """The key of a result: everything that affects the metrics, without the place of images and the device."""
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
    """The stored result; None if it is unreadable or changed, so that it is computed again."""
    try:
        document = parse_json(read_file(place))
        if document.pop("checksum") != digest_json(document):
            return None
        return _AS_JSON.validate_python(document)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
