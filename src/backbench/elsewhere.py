"""How well a trained model does on images of another source, on the classes that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backbench.config import DataConfig, Precision
from backbench.data.census import take_census
from backbench.data.load import load_listing
from backbench.data.seen import find_seen
from backbench.data.store import PixelStore
from backbench.data.synsets import TABLES, plain_name, read_table
from backbench.data.wording import list_some, quote
from backbench.errors import DataError
from backbench.evaluate.calibrate import softmax
from backbench.evaluate.metrics import score
from backbench.progress import SILENT, Progress
from backbench.records import Metric


@dataclass(frozen=True)
class Elsewhere:
    """Figures on another source.

    Args:
        name: of that source.
        mapping: its class -> the model's class, where there is one.
        metrics: as of a run, on `num_images` images; the model may answer any of its classes.
        num_seen: images left out because the model was trained on them; `num_unmapped`: of classes it lacks.
    """

    name: str
    mapping: dict[str, str]
    metrics: dict[str, Metric]
    num_images: int
    num_unmapped: int
    num_seen: int
    notes: tuple[str, ...] = field(default=())


def evaluate_elsewhere(
    bundle: Path, config: DataConfig, *, device: str, precision: Precision, progress: Progress = SILENT
) -> Elsewhere:
    """Evaluate a bundle on the images of another source whose classes it knows; on its test part if it has one.

    Raises:
        DataError: no class in common, or no image left. ConfigError: no such source.
    """
    from backbench.engine.bundle import load_bundle, read_bundle_seen, read_facts

    facts = read_facts(bundle)
    listing = load_listing(config, progress)
    mapping = match_names(sorted(set(listing.labels)), facts.class_names)
    if not mapping:
        raise DataError(
            f"{config.source} and the model have no class in common: there are "
            f"{list_some((quote(name) for name in sorted(set(listing.labels))), 5)}, it knows "
            f"{list_some((quote(name) for name in facts.class_names), 5)}."
        )
    store = PixelStore(listing, config.max_pixels)
    census = take_census(listing, store, max_pixels=config.max_pixels, progress=progress)
    wanted = "test" if "test" in listing.parts else None
    rows = [
        row
        for row in range(len(listing))
        if row not in census.bad and (wanted is None or listing.parts[row] == wanted)
    ]
    mapped = [row for row in rows if listing.labels[row] in mapping]
    seen = read_bundle_seen(bundle, facts)
    known = np.zeros(len(mapped), dtype=bool)
    if seen is not None:
        known = np.asarray(find_seen([census.hashes[row] for row in mapped], seen.all))
    kept = [row for row, is_known in zip(mapped, known, strict=True) if not is_known]
    if not kept:
        raise DataError(
            f"{config.source}: no image of a class that the model knows and that it was not trained on."
        )
    classifier = load_bundle(bundle)
    logits = classifier.logits_for(
        lambda index: store.read(kept[index]),
        len(kept),
        device=device,
        precision=precision,
        names=[listing.ids[row] for row in kept],
        progress=progress,
    )
    place = {name: index for index, name in enumerate(facts.class_names)}
    labels = np.array([place[mapping[listing.labels[row]]] for row in kept], dtype=np.int64)
    return Elsewhere(
        name=listing.name,
        mapping=mapping,
        metrics=score(softmax(logits, classifier.temperature), labels),
        num_images=len(kept),
        num_unmapped=len(rows) - len(mapped),
        num_seen=int(known.sum()),
    )


def match_names(theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Class of another source -> the model's class of the same name, spelt plainly, or else of the same meaning.

    Names are compared without case, numbers, spaces and plural; then by the ids that the curated tables give them,
    where exactly one class of the model has all of theirs: a goldfish is an aquarium fish, but a table need not be
    a billiard table. `_SYNONYMS` are names that no table tells apart rightly.
    """
    by_name = {_stem(name): name for name in ours}
    our_ids = {name: _ids_of(name) for name in ours}
    mapping = {}
    for name in theirs:
        if _stem(name) in by_name:
            mapping[name] = by_name[_stem(name)]
            continue
        ids = _ids_of(name)
        holding = [mine for mine, known in our_ids.items() if ids and ids <= known]
        if len(holding) == 1:
            mapping[name] = holding[0]
    return mapping


# One thing under two names, of Open Images and of the Caltech and CIFAR sets.
_SYNONYMS = {
    "motorcycle": "motorbike",
    "glasses": "eyeglass",
    "eyeglasses": "eyeglass",
    "microwaveoven": "microwave",
    "commonsunflower": "sunflower",
    "bellpepper": "sweetpepper",
    "maple": "mapletree",
    "willow": "willowtree",
}


def _stem(name: str) -> str:
    plain = plain_name(name).replace(" ", "")
    plain = _SYNONYMS.get(plain, plain)
    if plain.endswith(("ss", "us", "is")):
        return plain
    if plain.endswith("ies"):
        return plain[:-3] + "y"
    return plain.removesuffix("s")


def _ids_of(name: str) -> frozenset[str]:
    """What the first curated table that knows the name calls it; empty if none does."""
    plain = plain_name(name)
    for table in TABLES:
        ids = read_table(table).get(plain)
        if ids:
            return frozenset(ids)
    return frozenset()
