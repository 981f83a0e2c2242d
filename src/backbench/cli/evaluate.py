"""`backbench evaluate`: how good a trained model is on labelled images."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import (
    bad_option,
    data_argument,
    inference_options,
    json_option,
    quiet_option,
    split_option,
    table_options,
)

if TYPE_CHECKING:
    import numpy as np

    from backbench.config import DataConfig, OnBad
    from backbench.data.listing import Listing
    from backbench.engine.bundle import BundleFacts
    from backbench.progress import Progress


@dataclass(frozen=True)
class Labelled:
    """Images to evaluate on: n class names, groups and ids, how to read each, and in words which they are."""

    name: str
    part: str
    labels: tuple[str, ...]
    groups: tuple[str | None, ...]
    ids: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    said: str
    warnings: tuple[str, ...] = ()


@click.command()
@click.argument("bundle", metavar="BUNDLE")
@data_argument
@split_option
@inference_options
@bad_option
@table_options
@json_option
@quiet_option
def evaluate(
    bundle: str,
    data: str,
    split: str | None,
    device: str,
    precision: str,
    exact_resize: bool,
    on_bad: OnBad,
    image_column: str | None,
    label_column: str | None,
    group_column: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a trained model on labelled images: accuracy with interval, and every class.

    BUNDLE is what `backbench adapt` wrote; DATA is as for `backbench rank`. If DATA has a test part, that alone
    counts; if it is what the model was made from, the test part of its run; otherwise all images do.
    """
    from backbench.cli.output import print_json
    from backbench.cli.rank import make_data_config
    from backbench.engine.bundle import find_bundle, load_bundle, read_facts
    from backbench.progress import make_progress
    from backbench.runtime import decide_device, decide_precision

    folder = find_bundle(Path(bundle))
    facts = read_facts(folder)
    config = make_data_config(
        data,
        split=split,
        seed=0,
        on_bad=on_bad,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
    )
    decided = decide_device(device)
    with make_progress(quiet=quiet) as progress:
        images = choose_images(config, facts, progress)
        labels = match_classes(images.labels, facts.class_names)
        classifier = load_bundle(folder)
        logits = classifier.logits_for(
            images.read,
            len(labels),
            device=decided,
            precision=decide_precision(precision, decided),
            exact_resize=exact_resize,
            names=images.ids,
            progress=progress,
        )
    document = measure(images, classifier.probabilities_of(logits), labels, facts.class_names, facts.threshold)
    document = {"schema": 1, "bundle": bundle, **document}
    if as_json:
        print_json(document)
    else:
        print(render_evaluation(document))


def choose_images(config: DataConfig, facts: BundleFacts, progress: Progress) -> Labelled:
    """The test part of the data if it has one, that of the bundle's own run if they are its images, else all.

    Raises:
        ConfigError: no such data, or the bundle's own images in an unknown split.
        DataError: unknown classes, no image that can be used, or bad ones with the policy 'fail'.
    """
    from backbench.data.census import take_census
    from backbench.data.checks import refuse_bad
    from backbench.data.load import load_listing, source_warnings
    from backbench.data.manifest import make_manifest
    from backbench.data.store import PixelStore
    from backbench.errors import ConfigError, DataError

    listing = load_listing(config, progress)
    store = PixelStore(listing, config.max_pixels)
    census = take_census(listing, store, max_pixels=config.max_pixels, progress=progress)
    refuse_bad(listing, census, config.on_bad)
    rows = [row for row in range(len(listing)) if row not in census.bad]
    if not rows:
        raise DataError(f"{config.source}: there is no image that can be used.")
    warnings = list(source_warnings(listing))
    if census.bad:
        warnings.append(f"{len(census.bad):,} images that can't be read are left out")
    training = facts.training
    is_own = training is not None and _image_digest(census.hashes, rows) == training.image_digest
    part = "all"
    if config.split is not None or is_own:
        if training is not None and is_own and config.split is None:
            fractions = {"test_fraction": training.test_fraction, "val_fraction": training.val_fraction}
            config = config.model_copy(update={"split_seed": training.split_seed, **fractions})
        manifest = make_manifest(listing, census, config)
        if training is not None and is_own and manifest.digest != training.manifest_digest:
            match_classes([listing.labels[row] for row in rows], facts.class_names)  # a renamed class comes first
            raise ConfigError(
                f"{config.source} holds the images this model was trained on, but not in the split of its run "
                f"'{training.run_id}', so its figures would be too good. Give that split: --split "
                f"runs/{training.run_id}/manifest.json"
            )
        rows, part = manifest.rows[manifest.part_rows("test")].tolist(), "test"
    elif "test" in listing.parts:
        rows, part = [row for row in rows if listing.parts[row] == "test"], "test"
    else:
        warnings.append("any of these images that the model was trained on make its figures too good")
    said = _say(listing, part, is_own)
    return Labelled(
        name=listing.name,
        part=part,
        labels=tuple(listing.labels[row] for row in rows),
        groups=tuple(listing.groups[row] for row in rows),
        ids=tuple(listing.ids[row] for row in rows),
        read=lambda index: store.read(rows[index]),
        said=said,
        warnings=tuple(warnings),
    )


def _say(listing: Listing, part: str, is_own: bool) -> str:
    from backbench.data.wording import quote

    if part == "all":
        return f"all images of {quote(listing.name)}, which has no test part"
    return f"the test part of {quote(listing.name)}" + (", as in the run that trained it" if is_own else "")


def _image_digest(hashes: Sequence[str], rows: Sequence[int]) -> str:
    """As `Manifest.image_digest`."""
    import hashlib

    return hashlib.sha256("".join(sorted(hashes[row] for row in rows)).encode()).hexdigest()


def match_classes(labels: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """(n,) int64: the place of each label among the model's class names, by name alone, whatever the order.

    Raises:
        DataError: classes that the model does not know, with the nearest that it does.
    """
    import numpy as np

    from backbench.data.wording import count, list_some, quote
    from backbench.errors import DataError, nearest

    known = {unicodedata.normalize("NFC", name): place for place, name in enumerate(class_names)}
    places = [known.get(unicodedata.normalize("NFC", label), -1) for label in labels]
    unknown = sorted({label for label, place in zip(labels, places, strict=True) if place < 0})
    if unknown:
        close = [near for name in unknown[:3] for near in nearest(name, class_names, limit=1)]
        hint = f" Did you mean {' or '.join(quote(name) for name in close)}?" if close else ""
        raise DataError(
            f"the model does not know {count(len(unknown), 'class', 'classes')} of these images: "
            f"{list_some((quote(name) for name in unknown), 5)}.{hint} It knows "
            f"{list_some((quote(name) for name in class_names), 8)}. Classes are matched by name: rename the "
            "folders, or take those images out."
        )
    return np.array(places, dtype=np.int64)


def measure(
    images: Labelled,
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    threshold: float,
) -> dict[str, Any]:
    """What `evaluate --json` prints, but for schema and bundle; fractions in 0..1."""
    from backbench.data.wording import list_some, quote
    from backbench.evaluate.intervals import wilson_interval
    from backbench.evaluate.metrics import per_class_recall, score
    from backbench.records import Metric

    groups = images.groups if any(group is not None for group in images.groups) else None
    metrics = score(probabilities, labels, groups)
    accepted = probabilities.max(axis=1) >= threshold
    if threshold > 0:
        right = probabilities.argmax(axis=1) == labels
        metrics["coverage"] = Metric(value=float(accepted.mean()), n=len(labels))
        num, num_right = int(accepted.sum()), int(right[accepted].sum())
        if num:
            low, high = wilson_interval(num_right, num)
            metrics["accepted_accuracy"] = Metric(value=num_right / num, low=low, high=high, n=num)
    per_class = per_class_recall(probabilities, labels, class_names)
    absent = [name for name in class_names if name not in per_class]
    warnings = list(images.warnings)
    if absent:
        some = list_some((quote(name) for name in absent), 5)
        warnings.append(f"{len(absent)} of the model's {len(class_names)} classes have no image here: {some}")
    return {
        "data": {"name": images.name, "part": images.part, "said": images.said, "num_images": len(labels)},
        "metrics": {name: metric.model_dump() for name, metric in metrics.items()},
        "per_class": {name: metric.model_dump() for name, metric in per_class.items()},
        "warnings": warnings,
    }


LABELS = {
    "accuracy": "accuracy",
    "top5": "top-5 accuracy",
    "per_class_mean": "class mean",
    "macro_f1": "macro F1",
    "nll": "neg. log likelihood",
    "ece": "calibration error",
    "brier": "Brier score",
    "coverage": "not unsure",
    "accepted_accuracy": "accuracy of those",
}


def render_evaluation(document: dict[str, Any]) -> str:
    """The figures, then every class, the least recognised first."""
    from backbench.report.text import pad, printable, shorten

    data = document["data"]
    lines = [f"{printable(document['bundle'])} on {printable(data['said'])}: {data['num_images']:,} images", ""]
    lines += [f"{LABELS[name]:<20} {_figure(metric)}" for name, metric in document["metrics"].items()]
    lines += ["", "recall of each class, the least first:"]
    ordered = sorted(document["per_class"].items(), key=lambda item: (item[1]["value"], item[0]))
    for name, metric in ordered:
        lines.append(f"{pad(shorten(printable(name), 32), 32)} {_figure(metric)}")
    lines += [f"warning: {printable(warning)}" for warning in document["warnings"]]
    return "\n".join(lines)


def _figure(metric: dict[str, Any]) -> str:
    if metric["low"] is None:
        return f"{metric['value']:.4f}"
    return f"{metric['value']:.4f}  ({metric['low']:.4f} to {metric['high']:.4f}, n = {metric['n']:,})"
