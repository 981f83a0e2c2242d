"""Stand-ins for missing data sets: `generated:cifar10` has the classes and image size, with drawn images.

For trials of studies or scripts without a download. The metrics have no meaning.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from backbench.config import DataConfig
from backbench.data.listing import Listing
from backbench.data.synsets import TABLES, read_table
from backbench.errors import unknown_name
from backbench.progress import Progress
from backbench.registry import SourceSpec, list_sources
from backbench.runtime import make_rng

PREFIX = "generated:"
NUM_OF_EACH = 8
PART_OF = ("train", "train", "train", "train", "val", "val", "test", "test")
NOISE = 24.0
NO_CLASSES = ("clutter", "background google", "background_google")


def resolve(name: str) -> SourceSpec | None:
    """The spec of `generated:NAME` for any named data set; None for another name. ConfigError: no such NAME."""
    if not name.startswith(PREFIX):
        return None
    stood_for = name.removeprefix(PREFIX)
    found = {spec.name: spec for spec in list_sources()}
    if stood_for not in found:
        names = (f"{PREFIX}{each}" for each in found if ":" not in each)
        raise unknown_name("data set", name, names, "the data argument", "backbench list data")
    spec = found[stood_for]
    return SourceSpec(
        name=name,
        summary=f"drawn images with the classes of {stood_for}",
        load=partial(_load, spec),
        num_images=NUM_OF_EACH * len(_class_names(spec)),
        num_classes=len(_class_names(spec)),
        licence="CC0-1.0",
    )


def _load(spec: SourceSpec, config: DataConfig, progress: Progress) -> Listing:
    labels, ids, pixels = _draw(spec.name, _class_names(spec), spec.facts.get("width", 64), config.split_seed)
    return Listing(
        name=f"generated-{spec.name}",
        ids=ids,
        labels=labels,
        parts=PART_OF * (len(ids) // NUM_OF_EACH),
        pixels=pixels,
        facts={
            "licence": "CC0-1.0",
            "warnings": (f"drawn images instead of {spec.name}: the metrics say nothing about that data set",),
        },
    )


@lru_cache(maxsize=4)  # a trial asks for the same few again and again
def _draw(
    name: str, classes: tuple[str, ...], sides: int, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Labels, ids and read-only pixels of eight images of each class: its own colour and stripe, and noise."""
    rng = make_rng(seed, f"{PREFIX}{name}")
    looks = rng.uniform(40, 215, (len(classes), 2, 3))
    images, labels, ids = [], [], []
    for index, label in enumerate(classes):
        for number in range(NUM_OF_EACH):
            image = np.broadcast_to(looks[index, 0], (sides, sides, 3)).copy()
            place = 1 + (index * 7 + number) % (sides - sides // 4 - 1)
            image[place : place + sides // 4] = looks[index, 1]
            images.append(np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8))
            labels.append(label)
            ids.append(f"{name}/{index:04d}/{number}")
    pixels = np.stack(images)
    pixels.flags.writeable = False
    return tuple(labels), tuple(ids), pixels


def _class_names(spec: SourceSpec) -> tuple[str, ...]:
    if spec.name in TABLES:
        return tuple(name for name in read_table(spec.name) if name not in NO_CLASSES)
    return tuple(f"class {number}" for number in range(spec.num_classes or 10))
