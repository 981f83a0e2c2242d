"""A bundle's gallery: small training images with their features, and a few test images to try the model with.

Pages use it to show the training images nearest to a photograph. The features come from the bundle's own backbone,
so a gallery belongs to its bundle. It is optional.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save

from backbench.classifier.classifier import Classifier
from backbench.data.load import Data
from backbench.documents import parse_json
from backbench.errors import StorageError
from backbench.inference.features import extract_features
from backbench.progress import SILENT, Progress
from backbench.records.schema import Predictions
from backbench.runtime import make_rng
from backbench.storage import read_file, sync_folder, write_synced

FOLDER = "gallery"
FEATURES_FILE = f"{FOLDER}/features.safetensors"
IMAGES_FILE = f"{FOLDER}/images.bin"
INDEX_FILE = f"{FOLDER}/index.json"
SCHEMA_VERSION = 1

MAX_IMAGES = 600
MAX_FEATURE_BYTES = 2_000_000
MAX_THUMBNAIL_BYTES = 1_700_000
THUMBNAIL_PIXELS = 96
NUM_SAMPLES = 5
SAMPLE_PIXELS = 256
_MAX_VALIDATION = 600
_MAX_KNOWN = 10_000
_MAX_TRIED = 12  # test images to predict again, because predictions of small copies may differ
_MAX_FILE_BYTES = 8_000_000


@dataclass(frozen=True)
class Sample:
    """A test image to try the model with: a JPEG of at most 256 pixels, and its true class."""

    id: str
    label: str
    jpeg: bytes


@dataclass(frozen=True)
class Neighbour:
    """A training image near a photograph; distance in 0..2, see `Gallery.find_nearest`."""

    row: int
    id: str
    label: str
    distance: float


@dataclass(frozen=True, eq=False)
class Gallery:
    """The content of a bundle's gallery.

    Args:
        features: (n, dim) float16 of training images.
        ids, labels, thumbnails: n sample ids, class names and JPEGs of at most 96 pixels.
        samples: up to five test images, including one wrong prediction if there is any.
    """

    features: np.ndarray
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    thumbnails: tuple[bytes, ...]
    samples: tuple[Sample, ...]

    def find_nearest(self, features: np.ndarray, num: int = 3) -> list[list[Neighbour]]:
        """The `num` training images nearest to each of (m, dim) float features, nearest first.

        The distance is 1 - cosine of features centred by the gallery's mean.
        """
        distances = _distances(features, self.features)
        order = np.argsort(distances, axis=1, kind="stable")[:, :num]
        return [
            [Neighbour(row, self.ids[row], self.labels[row], float(distances[which, row])) for row in rows]
            for which, rows in enumerate(order.tolist())
        ]


def warn_of_kept(bundle: Path, progress: Progress) -> None:
    """Warn if an existing bundle has a gallery but the user asked for none."""
    if (bundle / FOLDER).is_dir():
        progress.warn(
            f"{bundle} exists already, with a gallery. To have it without, delete the folder and run again."
        )


@dataclass(frozen=True, eq=False)
class Known:
    """Features of images of the manifest: (n, dim) float32 of the rows `train`, (m, dim) of the rows `val`."""

    train: list[int]
    val: list[int]
    train_features: np.ndarray
    val_features: np.ndarray


def know_features(
    classifier: Classifier, data: Data, *, device: str = "cpu", progress: Progress = SILENT
) -> Known:
    """Get features of up to 600 training images, balanced over classes, and of up to 600 validation images.

    Raises:
        BadImage: an image changed or disappeared since it was checked.
    """
    manifest = data.manifest
    rng = make_rng(0, "gallery")
    train = _take_evenly(manifest.part_rows("train"), manifest.labels, MAX_IMAGES, rng)
    val = rng.permutation(manifest.part_rows("val"))[:_MAX_VALIDATION].tolist()
    values = _extract(classifier, data, [*train, *val], device, progress)
    return Known(train, val, values[: len(train)], values[len(train) :])


def find_known(data: Data, features: np.ndarray) -> Known:
    """The same with more images, from existing (n, dim) features of all rows of the manifest."""
    manifest = data.manifest
    rng = make_rng(0, "gallery")
    train = _take_evenly(manifest.part_rows("train"), manifest.labels, _MAX_KNOWN, rng)
    val = rng.permutation(manifest.part_rows("val"))[:_MAX_KNOWN].tolist()
    return Known(train, val, features[train], features[val])


def make_gallery(
    classifier: Classifier, data: Data, predictions: Predictions, known: Known, *, device: str = "cpu"
) -> Gallery:
    """Choose the images of a gallery and make their small copies; the choice is deterministic.

    Args:
        predictions: of the run's test split, to find samples. known: features of training images.

    Raises:
        BadImage: an image changed or disappeared since it was checked.
    """
    manifest = data.manifest
    rng = make_rng(0, "gallery")
    most = min(MAX_IMAGES, MAX_FEATURE_BYTES // (2 * classifier.backbone.facts.dim))
    train = _take_evenly(np.array(known.train, dtype=np.int64), manifest.labels, most, rng)
    thumbnails = _within(MAX_THUMBNAIL_BYTES, (to_jpeg(data.read(row), THUMBNAIL_PIXELS, 75) for row in train))
    train = train[: len(thumbnails)]
    place_of = {row: place for place, row in enumerate(known.train)}
    return Gallery(
        features=_to_half(known.train_features[[place_of[row] for row in train]]),
        ids=tuple(manifest.ids[row] for row in train),
        labels=tuple(manifest.classes[manifest.labels[row]] for row in train),
        thumbnails=tuple(thumbnails),
        samples=_choose_samples(classifier, data, predictions, rng, device),
    )


def to_jpeg(image: np.ndarray, most_pixels: int, quality: int) -> bytes:
    """(height, width, 3) uint8 as a JPEG of at most `most_pixels` a side, without any metadata."""
    small = Image.fromarray(image)
    small.thumbnail((most_pixels, most_pixels), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def write_gallery(folder: Path, gallery: Gallery) -> tuple[str, ...]:
    """Write a gallery into the folder of a bundle; returns the names of its files, for checksums."""
    (folder / FOLDER).mkdir()
    images = [*gallery.thumbnails, *(sample.jpeg for sample in gallery.samples)]
    index = {
        "schema": SCHEMA_VERSION,
        "ids": list(gallery.ids),
        "labels": list(gallery.labels),
        "samples": [{"id": sample.id, "label": sample.label} for sample in gallery.samples],
        "image_bytes": [len(image) for image in images],
        "stranger_distance": None,  # older versions read it
    }
    write_synced(folder / FEATURES_FILE, save({"features": gallery.features}))
    write_synced(folder / IMAGES_FILE, b"".join(images))
    write_synced(folder / INDEX_FILE, json.dumps(index, allow_nan=False).encode())
    sync_folder(folder / FOLDER)
    return FEATURES_FILE, IMAGES_FILE, INDEX_FILE


def read_gallery(folder: Path, files: dict[str, str], dim: int) -> Gallery | None:
    """The gallery of a bundle; None if it has none.

    Args:
        files: the checksums in the bundle's `model.json`. dim: of the backbone's features.

    Raises:
        StorageError: the gallery is damaged, changed, incomplete, or of another kind.
    """
    if INDEX_FILE not in files:
        return None
    index_bytes, images, tensors = (
        _read_checked(folder / name, files.get(name)) for name in (INDEX_FILE, IMAGES_FILE, FEATURES_FILE)
    )
    try:
        return _parse(parse_json(index_bytes), images, load(tensors)["features"], dim)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StorageError(f"{folder / FOLDER} is not a gallery ({str(error)[:120]}).") from error


def _parse(index: dict[str, Any], images: bytes, features: np.ndarray, dim: int) -> Gallery:
    ids, labels, sizes = index["ids"], index["labels"], index["image_bytes"]
    num = len(ids)
    if index["schema"] != SCHEMA_VERSION:
        raise ValueError(f"schema {str(index['schema'])[:20]}; this backbench reads {SCHEMA_VERSION}")
    if features.shape != (num, dim) or features.dtype != np.float16 or not np.isfinite(features).all():
        raise ValueError(f"features {features.shape} of {features.dtype} for {num} images and {dim} features")
    if len(labels) != num or len(sizes) != num + len(index["samples"]) or sum(sizes) != len(images):
        raise ValueError("its lists differ in length")
    ends = np.cumsum(sizes).tolist()
    jpegs = [images[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    samples = zip(index["samples"], jpegs[num:], strict=True)
    return Gallery(
        features=features,
        ids=tuple(map(str, ids)),
        labels=tuple(map(str, labels)),
        thumbnails=tuple(jpegs[:num]),
        samples=tuple(Sample(str(entry["id"]), str(entry["label"]), jpeg) for entry, jpeg in samples),
    )


def _read_checked(path: Path, digest: str | None) -> bytes:
    try:
        found = read_file(path, _MAX_FILE_BYTES)
    except OSError as error:
        raise StorageError(
            f"{path} can't be read: {error.strerror}. Copy the bundle again from its source."
        ) from error
    if hashlib.sha256(found).hexdigest() != digest:
        raise StorageError(
            f"{path} is damaged: its checksum does not match. Copy the bundle again from its source."
        )
    return found


def _take_evenly(rows: np.ndarray, labels: np.ndarray, most: int, rng: np.random.Generator) -> list[int]:
    """Up to `most` rows, with classes in turn, so that any start of the list is balanced."""
    shuffled = rng.permutation(rows)
    turn: dict[int, int] = {}
    keyed = []
    for place, row in enumerate(shuffled.tolist()):
        label = int(labels[row])
        turn[label] = turn.get(label, 0) + 1
        keyed.append((turn[label], place, row))
    return [row for _, _, row in sorted(keyed)[:most]]


def _within(most_bytes: int, images: Iterable[bytes]) -> list[bytes]:
    """The first images whose total size is at most `most_bytes`."""
    kept: list[bytes] = []
    total = 0
    for image in images:
        total += len(image)
        if total > most_bytes:
            break
        kept.append(image)
    return kept


def _extract(
    classifier: Classifier, data: Data, rows: Sequence[int], device: str, progress: Progress
) -> np.ndarray:
    return extract_features(
        classifier.backbone,
        lambda place: data.read(rows[place]),
        [f"{place:012d}" for place in range(len(rows))],
        names=[data.manifest.ids[row] for row in rows],
        device=device,
        use_cache=False,
        progress=progress,
    ).values


def _to_half(values: np.ndarray) -> np.ndarray:
    return values.clip(-6e4, 6e4).astype(np.float16)  # the range of float16


def _distances(features: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """(m, n) float32: 1 - cosine, after subtracting the mean of `stored` from both."""
    known = stored.astype(np.float32)
    mean = known.mean(axis=0)
    one, two = _unit(features.astype(np.float32) - mean), _unit(known - mean)
    return 1.0 - one @ two.T


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _choose_samples(
    classifier: Classifier, data: Data, predictions: Predictions, rng: np.random.Generator, device: str
) -> tuple[Sample, ...]:
    """Correctly predicted test images of different classes, with one wrong prediction in second place."""
    manifest = data.manifest
    row_of = {manifest.ids[row]: row for row in manifest.part_rows("test").tolist()}
    order = rng.permutation(len(predictions.ids)).tolist()
    places = [place for place in order if predictions.ids[place] in row_of]
    right = [place for place in places if predictions.correct[place]]
    wrong = [place for place in places if not predictions.correct[place]]
    tried = [*_distinct(right, predictions.labels)[:_MAX_TRIED], *wrong[:_MAX_TRIED]]
    if not tried:
        return ()
    rows = [row_of[predictions.ids[place]] for place in tried]
    jpegs = [to_jpeg(data.read(row), SAMPLE_PIXELS, 88) for row in rows]
    small = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]
    answers = classifier.predict(small, top=1, device=device)
    samples = [
        Sample(manifest.ids[row], manifest.classes[manifest.labels[row]], jpeg)
        for row, jpeg in zip(rows, jpegs, strict=True)
    ]
    judged = list(zip(samples, answers, strict=True))
    good = [sample for sample, answer in judged if answer.label == sample.label]
    bad = [sample for sample, answer in judged if answer.label != sample.label][:1]
    good = good[: NUM_SAMPLES - len(bad)]
    return (*good[:1], *bad, *good[1:])


def _distinct(places: Sequence[int], labels: np.ndarray) -> list[int]:
    """Reorder places so that the first of each class come first."""
    seen: set[int] = set()
    first: list[int] = []
    rest: list[int] = []
    for place in places:
        label = int(labels[place])
        (rest if label in seen else first).append(place)
        seen.add(label)
    return [*first, *rest]
