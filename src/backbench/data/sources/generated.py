"""Stand-ins for data sets that are not here: `generated:cifar10` has its classes and image size, and drawn images.

For trials of a study, or of one's own scripts, without a download. Nothing can be learnt from the figures.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from backbench.catalog import SourceSpec, list_sources
from backbench.config import DataConfig
from backbench.data.listing import Listing
from backbench.data.synsets import TABLES, read_table
from backbench.errors import unknown_name
from backbench.progress import Progress
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
    """Eight images of each class: a colour and a stripe of the class's own, and noise."""
    classes = _class_names(spec)
    sides = spec.facts.get("width", 64)
    rng = make_rng(config.split_seed, f"{PREFIX}{spec.name}")
    looks = rng.uniform(40, 215, (len(classes), 2, 3))
    images, labels, ids = [], [], []
    for index, name in enumerate(classes):
        for number in range(NUM_OF_EACH):
            image = np.broadcast_to(looks[index, 0], (sides, sides, 3)).copy()
            place = 1 + (index * 7 + number) % (sides - sides // 4 - 1)
            image[place : place + sides // 4] = looks[index, 1]
            images.append(np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8))
            labels.append(name)
            ids.append(f"{spec.name}/{index:04d}/{number}")
    return Listing(
        name=f"generated-{spec.name}",
        ids=tuple(ids),
        labels=tuple(labels),
        groups=(None,) * len(ids),
        parts=PART_OF * len(classes),
        pixels=np.stack(images),
        facts={
            "licence": "CC0-1.0",
            "warnings": (f"drawn images in the place of {spec.name}: the figures say nothing about it",),
        },
    )


def _class_names(spec: SourceSpec) -> tuple[str, ...]:
    if spec.name in TABLES:
        return tuple(name for name in read_table(spec.name) if name not in NO_CLASSES)
    return tuple(f"class {number}" for number in range(spec.num_classes or 10))
