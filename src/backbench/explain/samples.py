"""Images to explain: from a run's own test split, or given by the user."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbench.config import GreyScale
from backbench.data.gather import gather_pictures
from backbench.data.load import load_data
from backbench.errors import BadImage, ConfigError, DataError
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.records.schema import BUNDLE_SUFFIX, Predictions


@dataclass(frozen=True, eq=False)
class Sample:
    """An image to explain: its name, its pixels (height, width, 3) uint8, its true class if known."""

    name: str
    image: np.ndarray
    truth: str | None


def run_of_bundle(bundle: Path) -> Path | None:
    """The folder of the run that wrote this bundle, `RUN` beside `RUN.bundle`; None if it is missing."""
    run = bundle.with_name(bundle.name.removesuffix(BUNDLE_SUFFIX))
    return run if (run / folders.RECORD_FILE).is_file() else None


def choose_test_samples(run: Path, num: int, progress: Progress = SILENT) -> list[Sample]:
    """Up to `num` test images of a run: first wrong ones, most confident first, then correct ones.

    Correct ones come from all classes in turn, least confident first.

    Raises:
        ConfigError: not a run folder, a failed run, or images that differ from those of the run.
        DataError, StorageError: the images or the run can't be read.
    """
    _, predictions = folders.read_answers(run)
    return read_test_samples(run, order_by_interest(predictions)[:num], progress)


def read_test_samples(run: Path, rows: Sequence[int], progress: Progress = SILENT) -> list[Sample]:
    """The test images of these rows of a finished run's predictions.

    Raises:
        ConfigError: images that are no longer those of the run. DataError, StorageError: they can't be read.
    """
    record, predictions = folders.read_answers(run)
    data = load_data(record.config.data, progress)
    if data.manifest.digest != record.data.manifest_digest:
        raise ConfigError(
            f"the images of {record.config.data.source} have changed since the run {record.run_id}, so its test "
            "split is no longer known. Give the images to explain."
        )
    row_of = {sample: row for row, sample in enumerate(data.manifest.ids)}
    chosen = [(predictions.ids[row], int(predictions.labels[row])) for row in rows]
    return [Sample(name, data.read(row_of[name]), predictions.classes[label]) for name, label in chosen]


def order_by_interest(predictions: Predictions) -> list[int]:
    """All rows: wrong ones, most confident first, then correct ones, classes in turn, least confident first."""
    confidence = predictions.probabilities.max(axis=1)
    wrong = sorted(np.flatnonzero(~predictions.correct).tolist(), key=lambda row: -confidence[row])
    right = sorted(np.flatnonzero(predictions.correct).tolist(), key=lambda row: confidence[row])
    turns: dict[int, int] = {}
    turn_of = {}
    for row in right:
        label = int(predictions.labels[row])
        turn_of[row] = turns.get(label, 0)
        turns[label] = turn_of[row] + 1
    return wrong + sorted(right, key=lambda row: (turn_of[row], int(predictions.labels[row])))


def order_by_chance(predictions: Predictions) -> list[int]:
    """All rows, in an order that depends only on the names of the images."""
    digests = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest() for name in predictions.ids]
    return sorted(range(len(digests)), key=digests.__getitem__)


def read_samples(
    given: Sequence[str],
    num: int,
    classes: Sequence[str],
    progress: Progress = SILENT,
    grey: GreyScale | None = None,
) -> tuple[list[Sample], list[str]]:
    """The first `num` of the given images, and reasons for unreadable ones.

    An image's true class is known if its folder is named like one of `classes`. `grey`: the scale of images with
    more than 8 bits.

    Raises:
        DataError: no readable image, or a folder without images.
    """
    known = {unicodedata.normalize("NFC", name): name for name in classes}
    samples: list[Sample] = []
    faults: list[str] = []
    pictures = gather_pictures(list(given), grey=grey, progress=progress)
    for picture in pictures:
        if len(samples) == num:
            progress.say(f"explaining the first {num:,} of {len(pictures):,} images; use --num for more")
            break
        try:
            image = picture.read()
        except BadImage as error:
            faults.append(str(error))
            continue
        path = Path(picture.name)
        truth = known.get(unicodedata.normalize("NFC", path.absolute().parent.name))
        samples.append(Sample(path.name, image, truth))
    if not samples:
        raise DataError(f"no readable images: {'; '.join(faults[:3])}")
    return samples, faults
