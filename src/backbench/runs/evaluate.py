"""Evaluate finished models on labelled images: metrics of each, and significant differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from backbench.backbones.core.bundle_files import find_bundle
from backbench.classifier.bundle import load_bundle, read_facts
from backbench.config import DataConfig, Precision
from backbench.data.class_names import match_classes
from backbench.errors import ConfigError, DataError, StorageError
from backbench.progress import SILENT, Progress
from backbench.records.folders import OPENINGS_FILE
from backbench.records.openings import log_opening, one_look
from backbench.runs.labelled import Labelled, choose_images, predict_logits, read_source
from backbench.stats.calibrate import measure_answered, softmax
from backbench.stats.compare import Rank, rank_rows
from backbench.stats.metric import Metric
from backbench.stats.metrics import per_class_recall, score
from backbench.wording import count, list_some, quote


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluation of one bundle on labelled images. Fractions are in 0..1.

    Args:
        bundle: as it was given. name: of the data; said: which images of it, in words.
        part: 'test', or 'all' without a test split.
        num_seen: images left out because a model was trained on them.
        metrics: named as in the record of a run that trains: `nll`, `ece` and `brier` are uncalibrated,
            `calibrated_nll` and `calibrated_ece` of the calibrated probabilities.
        per_class: recall of each class that has images.
        temperature, threshold: of the bundle. ids, correct: n images, and whether each prediction is right.
        mapping: class of the images -> class of the model, if the names differ.
        rank: among the bundles that were evaluated together, see `stats.compare.rank_rows`; None for a single
            bundle.
    """

    bundle: str
    name: str
    part: str
    said: str
    num_seen: int
    metrics: dict[str, Metric]
    per_class: dict[str, Metric]
    temperature: float
    threshold: float
    warnings: tuple[str, ...]
    ids: tuple[str, ...] = field(repr=False)
    correct: np.ndarray = field(repr=False)
    mapping: dict[str, str] = field(default_factory=dict)
    rank: Rank | None = None

    def to_document(self) -> dict[str, Any]:
        """The JSON of `backbench evaluate --json` for one bundle."""
        return {
            "bundle": self.bundle,
            "data": {
                "name": self.name,
                "part": self.part,
                "said": self.said,
                "num_images": len(self.ids),
                "num_seen": self.num_seen,
            },
            "metrics": {name: metric.model_dump() for name, metric in self.metrics.items()},
            "per_class": {name: metric.model_dump() for name, metric in self.per_class.items()},
            "mapping": self.mapping,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "warnings": list(self.warnings),
        }


@one_look()
def evaluate(
    bundles: Sequence[str],
    config: DataConfig,
    *,
    device: str,
    precision: Precision,
    exact_resize: bool = False,
    class_map: Mapping[str, Sequence[str]] | None = None,
    out: Path | None = None,
    progress: Progress = SILENT,
) -> list[Evaluation]:
    """Evaluate bundles on the same labelled images, best first.

    Several bundles are compared on the images that none of them was trained on, by paired tests.

    Args:
        bundles: their folders, or those of the runs that wrote them; each once.
        class_map: class of the images -> its class of the model, or none, if names differ.
        out: folder of run records that logs this evaluation; None: the folder of each bundle's run, if any.

    Raises:
        ConfigError: no such bundle or data, or one bundle twice.
        DataError: unknown classes, or no image that every bundle can be evaluated on.
        StorageError: a bundle is damaged, or the evaluation can't be logged in `out`.
    Cost: one pass over the images for each bundle.
    """
    places = [find_bundle(Path(bundle)) for bundle in bundles]
    for index, place in enumerate(places):
        if place.resolve() in [other.resolve() for other in places[:index]]:
            raise ConfigError(f"{bundles[index]} is given twice: give each bundle once.")
    facts = [read_facts(place) for place in places]
    source = read_source(config, progress)
    chosen = _on_the_same_images(
        [
            choose_images(source, place, fact, class_map=class_map)
            for place, fact in zip(places, facts, strict=True)
        ]
    )
    settings = {"device": device, "precision": precision, "exact_resize": exact_resize}
    found = []
    for bundle, place, fact, images in zip(bundles, places, facts, chosen, strict=True):
        classifier = load_bundle(place)
        if images.part == "test":
            _count_evaluation(out, place, images.digest, fact.name, progress)
        logits = predict_logits(source, images, classifier, progress, **settings)
        truth = match_classes(images.labels, fact.class_names)
        measured = measure(
            images, logits, truth, fact.class_names, temperature=fact.temperature, threshold=fact.threshold
        )
        renamed = {name: mine for name, mine in images.mapping.items() if name != mine}
        found.append(replace(measured, bundle=bundle, mapping=renamed))
    return _in_order(found, _groups_of(chosen[0]))


def measure(
    images: Labelled,
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    temperature: float,
    threshold: float,
) -> Evaluation:
    """Metrics of (n, classes) logits on n images with (n,) labels; for a bundle without a name."""
    groups = _groups_of(images)
    probabilities, answers = softmax(logits), softmax(logits, temperature)
    metrics = score(probabilities, labels, groups)
    calibrated = score(answers, labels, groups)
    metrics |= {f"calibrated_{name}": calibrated[name] for name in ("nll", "ece")}
    if threshold > 0:
        metrics |= measure_answered(answers, labels, threshold, groups)
    per_class = per_class_recall(probabilities, labels, class_names)
    warnings = list(images.warnings)
    if absent := [name for name in class_names if name not in per_class]:
        some = list_some((quote(name) for name in absent), 5)
        warnings.append(
            f"{len(absent)} of the model's {len(class_names)} classes have no image in this data: {some}"
        )
    return Evaluation(
        bundle="",
        name=images.name,
        part=images.part,
        said=images.said,
        num_seen=images.num_seen,
        metrics=metrics,
        per_class=per_class,
        temperature=temperature,
        threshold=threshold,
        warnings=tuple(warnings),
        ids=images.ids,
        correct=logits.argmax(axis=1) == labels,
    )


def _groups_of(images: Labelled) -> tuple[str | None, ...] | None:
    return images.groups if any(group is not None for group in images.groups) else None


def _on_the_same_images(chosen: Sequence[Labelled]) -> list[Labelled]:
    """The images that every bundle may be evaluated on, so that differences come from the models only."""
    shared = set(chosen[0].ids).intersection(*(images.ids for images in chosen[1:]))
    if not shared:
        raise DataError(
            "no image is valid for all of these bundles: each was trained on some of the others' images. Give "
            "images that none of them was trained on, or evaluate each bundle separately."
        )
    return [_select(images, shared) for images in chosen]


def _select(images: Labelled, shared: set[str]) -> Labelled:
    kept = [index for index, image in enumerate(images.ids) if image in shared]
    num_dropped = len(images.ids) - len(kept)
    if not num_dropped:
        return images
    warning = (
        f"{count(num_dropped, 'image')} left out, because another bundle was trained on them or lacks their class"
    )
    return replace(
        images,
        labels=tuple(images.labels[index] for index in kept),
        groups=tuple(images.groups[index] for index in kept),
        ids=tuple(images.ids[index] for index in kept),
        rows=tuple(images.rows[index] for index in kept),
        read=lambda index: images.read(kept[index]),
        warnings=(*images.warnings, warning),
    )


def _in_order(found: list[Evaluation], groups: Sequence[str | None] | None) -> list[Evaluation]:
    """Sort best first, with ranks; a single one is unchanged."""
    if len(found) < 2:
        return found
    assert all(one.ids == found[0].ids for one in found)
    ranks = rank_rows(np.stack([one.correct for one in found]), [False] * len(found), groups)
    ranked = [replace(one, rank=rank) for one, rank in zip(found, ranks, strict=True)]
    return sorted(ranked, key=lambda one: -int(one.correct.sum()))


def _count_evaluation(out: Path | None, bundle: Path, digest: str, name: str, progress: Progress) -> None:
    """Log this test-set evaluation in the folder of run records: `out`, else the bundle's, if it is in one.

    Raises:
        StorageError: it can't be written in `out`.
    """
    root = bundle.absolute().parent if out is None else out
    if out is None and not (root / OPENINGS_FILE).is_file():
        return
    try:
        log_opening(root, digest, name)
    except StorageError as error:
        if out is not None:
            raise
        progress.warn(f"this test-set evaluation is not logged: {error}")
