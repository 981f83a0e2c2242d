"""A subset of Open Images on disk, in its official formats, as images with one class each.

`openimages:FOLDER` reads class descriptions, hierarchy and annotations in FOLDER and the images in FOLDER or in
`train/`, `validation/` and `test/` below it. `FOLDER/classes.txt` names the wanted classes; without it all are
used. `openimages:FOLDER+download` downloads missing files first, `+download=200` at most 200 images of a class and
split.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbench.config import DataConfig
from backbench.data import openimages_download
from backbench.data.listing import Ignored, Listing
from backbench.data.openimages_download import Missing, fetch_images
from backbench.data.openimages_labels import LabelMap, read_names, read_parents, read_rows, read_wanted
from backbench.data.scanner import sort_key
from backbench.errors import ConfigError, DataError, shown
from backbench.progress import Progress, format_bytes
from backbench.registry import SourceSpec
from backbench.wording import count, escape, list_some, quote

PREFIX = "openimages:"
CLASS_LIST = "classes.txt"
LARGE_BYTES = 100_000_000
LICENCE = "annotations CC BY 4.0, images listed as CC BY 2.0"
CITATION = (
    "A. Kuznetsova et al.: The Open Images Dataset V4. International Journal of Computer Vision 128, 2020. "
    "doi:10.1007/s11263-020-01316-z"
)
PUBLISHED = {"train": 9_011_219, "validation": 41_620, "test": 125_436}
PART_OF_FOLDER = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
PART_OF_NAME = {"train": "train", "validation": "val", "test": "test"}
DESCRIPTIONS = re.compile(r"(oidv\d-)?class-descriptions(-boxable)?\.csv")
HIERARCHY = re.compile(r"(oidv\d-)?bbox_labels_\d+_hierarchy\.json")
ANNOTATIONS = re.compile(
    r"(?:oidv\d-)?(?:(train|val|validation|test)-)?annotations-(human-imagelabels(-boxable)?|bbox)\.csv"
)
IMAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
DOWNLOAD = re.compile(r"(.+)\+download(?:=(\d{1,9}))?", re.DOTALL)


@dataclass
class _Found:
    """The content of the folder."""

    descriptions: list[Path] = field(default_factory=list)
    hierarchies: list[Path] = field(default_factory=list)
    annotations: list[tuple[Path, str | None]] = field(default_factory=list)  # with its split
    images: dict[str, tuple[Path, str | None]] = field(default_factory=dict)  # id -> path, part of its folder


@dataclass
class _Image:
    """The verified labels of one image that belong to a wanted class."""

    part: str | None
    labels: set[str] = field(default_factory=set)


def resolve(name: str) -> SourceSpec | None:
    """The source of that name, if it begins with `openimages:`."""
    if not name.startswith(PREFIX):
        return None
    folder, modifier, _ = _split_name(name)
    return replace(SPECS[0], name=f"{PREFIX}{folder.absolute()}{modifier}", folder=str(folder))


def load(config: DataConfig, progress: Progress) -> Listing:
    """The images on disk whose verified labels give exactly one wanted class.

    A label counts for its nearest wanted ancestor class. An image of two wanted classes is left out and reported,
    unless one class is a sub-class of the other: then the sub-class counts. The splits of Open Images are kept if
    there are images of its train split; else no split is fixed.

    Raises:
        ConfigError: no such folder, or a class that Open Images lacks.
        DataError: files are missing or have the wrong content; no image is left.
        DownloadError, StorageError: the requested download failed.

    Cost: one pass over the annotations, about a second for a million rows, and about 500 bytes of memory for each
    image with a wanted label.
    """
    folder, _, limit = _split_name(config.source)
    if not folder.is_dir():
        raise ConfigError(
            f"{config.source}: there is no folder {quote(str(folder))}. Give openimages:FOLDER, where FOLDER "
            "holds class descriptions, annotations and images of Open Images as published."
        )
    found = look(folder)
    labels = _read_label_map(folder, found)
    num_bytes = sum(path.stat().st_size for path, _ in found.annotations)
    if num_bytes > LARGE_BYTES:
        progress.say(f"reading {format_bytes(num_bytes)} of annotations")
    annotated = read_annotations(found, labels)
    classes = {image_id: labels.decide_classes(image.labels) for image_id, image in annotated.items()}
    if limit is not None:
        missing = choose_missing(annotated, classes, found, limit)
        if missing:
            fetch_images(
                folder, missing, progress, max_pixels=config.max_pixels, base_url=openimages_download.BASE_URL
            )
            found = look(folder)
    listing = _make_listing(folder, found, labels, annotated, classes)
    if (folder / CLASS_LIST).is_file():
        for line in describe_mapping(listing):
            progress.say(line)
    return listing


def describe_mapping(listing: Listing) -> list[str]:
    """One line for each class: its labels of Open Images with their numbers of images."""
    by_class: dict[str, list[str]] = {}
    for row in listing.facts["mapping"]:
        by_class.setdefault(row["class"], []).append(f"{escape(row['label_name'])} {row['num_images']:,}")
    return [f"{escape(name)}: {list_some(labels)}" for name, labels in by_class.items()]


def _split_name(name: str) -> tuple[Path, str, int | None]:
    """(folder, rest of the name, maximum images of a class and split to download; 0: no limit, None: none)."""
    path = name.removeprefix(PREFIX)
    match = DOWNLOAD.fullmatch(path)
    if match is None or os.path.isdir(path):  # noqa: PTH112 - a folder may be called anything
        _refuse_typo(name, path)
        return Path(path), "", None
    return Path(match[1]), path[len(match[1]) :], int(match[2] or 0)


def _refuse_typo(name: str, path: str) -> None:
    """Raise ConfigError if an existing folder is followed by an unknown option, as in 'FOLDER+dwnload'."""
    folder, plus, option = path.rpartition("+")
    if plus and os.path.isdir(folder) and not os.path.isdir(path):  # noqa: PTH112 - unlike Path's, these never raise  # noqa: PTH112 - unlike Path's, these never raise
        raise ConfigError(
            f"{shown(name)}: {shown(f'+{option}')} is not an option of openimages. Allowed: +download downloads "
            "all missing images, +download=200 at most 200 images of a class and split."
        )


def look(folder: Path) -> _Found:
    """The content of the folder: official files, and images by their ids. DataError: it can't be read."""
    found = _Found()
    places: list[tuple[Path, str | None]] = [(folder, None)]
    try:
        places += [
            (path, PART_OF_FOLDER[path.name.casefold()])
            for path in sorted(folder.iterdir())
            if path.name.casefold() in PART_OF_FOLDER and path.is_dir()
        ]
        for place, part in places:
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: sort_key(entry.name)):
                    _sort_in(found, entry, part)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: can't be read: {error.strerror}") from error
    return found


def _sort_in(found: _Found, entry: os.DirEntry[str], part: str | None) -> None:
    stem, dot, suffix = entry.name.rpartition(".")
    if dot and suffix.lower() in ("jpg", "jpeg"):
        if stem and not stem.startswith(".") and entry.is_file():
            found.images[stem] = (Path(entry.path), part)  # the one in a split's folder, if there are two
    elif DESCRIPTIONS.fullmatch(entry.name):
        found.descriptions.append(Path(entry.path))
    elif HIERARCHY.fullmatch(entry.name):
        found.hierarchies.append(Path(entry.path))
    elif match := ANNOTATIONS.fullmatch(entry.name):
        named = PART_OF_FOLDER[match[1]] if match[1] else part
        found.annotations.append((Path(entry.path), named))


def _read_label_map(folder: Path, found: _Found) -> LabelMap:
    needed = {
        "class descriptions (class-descriptions-boxable.csv or oidv7-class-descriptions.csv)": found.descriptions,
        "annotations (train-annotations-human-imagelabels.csv or train-annotations-bbox.csv)": found.annotations,
    }
    lacking = [what for what, files in needed.items() if not files]
    if lacking:
        raise DataError(
            f"{folder} holds no {list_some(lacking, separator=' and no ')}. Get them from "
            "https://storage.googleapis.com/openimages/web/download_v7.html and keep their names."
        )
    names = read_names(found.descriptions)
    parents = read_parents(found.hierarchies[0]) if found.hierarchies else {}
    listed = folder / CLASS_LIST
    return LabelMap(names, parents, read_wanted(listed, names) if listed.is_file() else names)


def read_annotations(found: _Found, labels: LabelMap) -> dict[str, _Image]:
    """Image id -> its verified labels, of all images with a label of a wanted class."""
    annotated: dict[str, _Image] = {}
    for path, part in found.annotations:
        rows = read_rows(path)
        header = [name.strip() for name in next(rows, (1, []))[1]]
        absent = [name for name in ("ImageID", "LabelName", "Confidence") if name not in header]
        if absent:
            raise DataError(f"{path}: not a table of annotations: missing column {list_some(map(quote, absent))}")
        at_image, at_label, at_confidence = map(header.index, ("ImageID", "LabelName", "Confidence"))
        for number, row in rows:
            if len(row) != len(header):
                raise DataError(
                    f"{path}, row {number}: {count(len(row), 'field')}, not {len(header)}. The download may be "
                    "incomplete."
                )
            if row[at_confidence] not in ("1", "1.0") or not labels.lift(row[at_label]):
                continue
            image_id = row[at_image]
            if image_id not in annotated:
                if not IMAGE_ID.fullmatch(image_id):
                    raise DataError(f"{path}, row {number}: {quote(image_id)} is not an image id")
                annotated[image_id] = _Image(part)
            annotated[image_id].labels.add(row[at_label])
    return annotated


def choose_missing(
    annotated: Mapping[str, _Image], classes: Mapping[str, Sequence[str]], found: _Found, limit: int
) -> list[Missing]:
    """Images of one class to download, so that at most `limit` of each class and split are on disk (0: no limit);
    in an order that depends only on ids."""
    have: Counter[tuple[str, str | None]] = Counter()
    wanted: list[str] = []
    for image_id, names in classes.items():
        if len(names) != 1:
            continue
        if image_id in found.images:
            have[names[0], annotated[image_id].part] += 1
        else:
            wanted.append(image_id)
    missing: list[Missing] = []
    for image_id in sorted(wanted, key=lambda image_id: hashlib.sha256(image_id.encode()).digest()):
        part, name = annotated[image_id].part, classes[image_id][0]
        if part is None:
            raise DataError(
                f"image {image_id} can't be downloaded: the file name of its annotations does not give the split. "
                "Use the published name, such as train-annotations-bbox.csv."
            )
        if not limit or have[name, part] < limit:
            have[name, part] += 1
            missing.append(Missing(part, image_id))
    return missing


def _make_listing(
    folder: Path,
    found: _Found,
    labels: LabelMap,
    annotated: Mapping[str, _Image],
    classes: Mapping[str, Sequence[str]],
) -> Listing:
    used: list[str] = []
    ignored: list[Ignored] = []
    ids = {image_id: path.relative_to(folder).as_posix() for image_id, (path, _) in found.images.items()}
    for image_id in sorted(found.images, key=lambda image_id: sort_key(ids[image_id])):
        names = classes.get(image_id, ())
        if len(names) == 1:
            used.append(image_id)
        elif names:
            ignored.append(Ignored(ids[image_id], f"shows several classes: {list_some(map(quote, names))}"))
        else:
            ignored.append(Ignored(ids[image_id], "no verified label of a wanted class"))
    num_missing = sum(len(names) == 1 and image_id not in found.images for image_id, names in classes.items())
    if not used:
        raise DataError(
            f"{folder}: none of its {count(len(found.images), 'image')} has exactly one wanted class. "
            f"{num_missing:,} suitable images are not on disk; {PREFIX}{folder}+download downloads them, "
            f"{PREFIX}{folder}+download=200 at most 200 of a class and split."
        )
    parts = [annotated[image_id].part or found.images[image_id][1] for image_id in used]
    is_fixed = "train" in parts
    table = _make_mapping(labels, used, annotated, classes)
    return Listing(
        name=folder.absolute().name or "openimages",
        ids=tuple(ids[image_id] for image_id in used),
        labels=tuple(classes[image_id][0] for image_id in used),
        parts=tuple(PART_OF_NAME[part] if is_fixed and part is not None else None for part in parts),
        files=tuple(found.images[image_id][0].absolute() for image_id in used),
        ignored=tuple(ignored),
        class_names=_list_classes(folder, labels),
        facts=_make_facts(folder, found, ignored, num_missing, table),
    )


def _list_classes(folder: Path, labels: LabelMap) -> tuple[str, ...] | None:
    """The classes of the list; None if all classes of Open Images are used."""
    if not (folder / CLASS_LIST).is_file():
        return None
    return tuple(sorted(set(labels.wanted.values()), key=sort_key))


def _make_mapping(
    labels: LabelMap, used: Sequence[str], annotated: Mapping[str, _Image], classes: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """One row for each label and its class: label id, its name, class, number of used images."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for image_id in used:
        for label in annotated[image_id].labels:
            counts[classes[image_id][0], label] += 1
    return [
        {"class": name, "label": label, "label_name": labels.names.get(label, label), "num_images": num}
        for (name, label), num in sorted(
            counts.items(), key=lambda item: (sort_key(item[0][0]), -item[1], item[0])
        )
    ]


def _make_facts(
    folder: Path, found: _Found, ignored: Sequence[Ignored], num_missing: int, table: list[dict[str, Any]]
) -> dict[str, Any]:
    warnings: list[str] = []
    num_several = sum(entry.reason.startswith("shows several") for entry in ignored)
    if num_several:
        warnings.append(f"{count(num_several, 'image')} of several wanted classes left out")
    if num_missing:
        warnings.append(
            f"{count(num_missing, 'annotated image')} of one wanted class not in {folder}; "
            f"{PREFIX}FOLDER+download downloads them"
        )
    if not found.hierarchies:
        warnings.append(
            "no hierarchy of labels (bbox_labels_600_hierarchy.json): each label counts only for its own class"
        )
    return {
        "licence": LICENCE,
        "citation": CITATION,
        "source": "https://storage.googleapis.com/openimages/web/index.html",
        "published": PUBLISHED,
        "mapping": table,
        "left_out": {"several classes": num_several, "no wanted class": len(ignored) - num_several},
        "not_on_disk": num_missing,
        **({"warnings": warnings} if warnings else {}),
    }


SPECS = (
    SourceSpec(
        name="openimages:FOLDER",
        summary="a subset of Open Images on disk; openimages:FOLDER+download=200 downloads one",
        load=load,
        licence=LICENCE,
        citation=CITATION,
        facts={"published": PUBLISHED},
    ),
)
