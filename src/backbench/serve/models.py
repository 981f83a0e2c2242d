"""The models that are served: loaded once, with unique names, each with its own thread."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbench.classifier.bundle import BundleFacts, find_bundle, load_bundle, load_gallery, read_facts
from backbench.classifier.classifier import Classifier, Prediction, failed
from backbench.classifier.gallery import Gallery, Neighbour
from backbench.data.decode import decode_image
from backbench.errors import BackbenchError, BadImage, ConfigError
from backbench.inference.features import extract_features
from backbench.records.schema import BUNDLE_SUFFIX
from backbench.serve.batching import Batcher
from backbench.stats.calibrate import is_calibrated
from backbench.stats.metric import Metric

MAX_PIXELS = 25_000_000
MAX_MODELS = 16
_OVERLAY_PIXELS = 640


@dataclass(frozen=True)
class Question:
    """One image for one model: its bytes, its name, and requested extras."""

    data: bytes
    name: str
    top: int = 5
    num_neighbours: int = 0
    explain: bool = False


@dataclass(frozen=True)
class Reply:
    """A model's reply to a question.

    seconds: from the start of its batch to the end, without the time in the queue.
    neighbours: empty without a gallery or a request.
    overlay: a `data:` address of a JPEG; overlay_kind: how it was made; overlay_error: the reason if there is
        none.
    """

    prediction: Prediction
    seconds: float
    neighbours: tuple[Neighbour, ...] = ()
    overlay: str | None = None
    overlay_kind: str | None = None
    overlay_error: str | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """One served model.

    name: its unique name in requests. run: the possible folder of its run.
    """

    name: str
    classifier: Classifier
    facts: BundleFacts
    gallery: Gallery | None
    device: str
    run: Path | None = None
    batcher: Batcher[Question, Reply] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batcher", Batcher(self.answer))

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies to a batch, one for each; the same numbers as `Classifier.predict` gives, to 1e-6."""
        started = time.perf_counter()
        errors: dict[int, str] = {}
        features = extract_features(
            self.classifier.backbone,
            lambda row: self._read(questions[row], row, errors),
            [f"{row:012d}" for row in range(len(questions))],
            names=[question.name for question in questions],
            device=self.device,
            use_cache=False,
        ).values
        names, tops = [question.name for question in questions], [question.top for question in questions]
        answers = self.classifier.answers_of(names, features, tops, self.device)
        seconds = time.perf_counter() - started
        return [
            Reply(failed(question.name, errors[row]), seconds)
            if row in errors
            else self._reply(question, features[row], answers[row], seconds)
            for row, question in enumerate(questions)
        ]

    def _decode(self, question: Question) -> np.ndarray:
        return decode_image(question.data, question.name, max_pixels=MAX_PIXELS, grey=self.classifier.grey)

    def _read(self, question: Question, row: int, errors: dict[int, str]) -> np.ndarray:
        """The pixels; for an unreadable image a blank one, whose prediction is discarded."""
        try:
            return self._decode(question)
        except BadImage as error:
            errors[row] = error.reason
            return np.zeros((*self.classifier.preprocess.size, 3), dtype=np.uint8)

    def _reply(self, question: Question, features: np.ndarray, prediction: Prediction, seconds: float) -> Reply:
        neighbours: tuple[Neighbour, ...] = ()
        if question.num_neighbours and self.gallery is not None and len(self.gallery.ids):
            neighbours = tuple(self.gallery.find_nearest(features[None], question.num_neighbours)[0])
        reply = Reply(prediction, seconds, neighbours)
        return self._explain(question, reply) if question.explain else reply

    def _explain(self, question: Question, reply: Reply) -> Reply:
        """The reply with a picture of its explanation, or the reason why there is none."""
        from backbench.explain.heat import explain_image, overlay

        small = Image.fromarray(self._decode(question))
        small.thumbnail((_OVERLAY_PIXELS, _OVERLAY_PIXELS))
        image = np.array(small)
        try:
            heat = explain_image(self.classifier, image, label=reply.prediction.label)
        except BackbenchError as error:
            return replace(reply, overlay_error=str(error))
        if heat.is_empty:
            return replace(reply, overlay_error=heat.summary)
        out = io.BytesIO()
        Image.fromarray(overlay(image, heat)).save(out, "JPEG", quality=85)
        address = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
        return replace(reply, overlay=address, overlay_kind=heat.kind)

    def describe(self, number: int) -> dict[str, Any]:
        """The entry of `/api/models`, without paths of this computer."""
        facts, training, gallery = self.facts, self.facts.training, self.gallery
        return {
            "name": self.name,
            "classes": list(self.classifier.class_names),
            "architecture": facts.backbone.architecture,
            "backbone": facts.backbone.title,
            "method": training.method if training else None,
            "data": training.data if training else None,
            "accuracy": find_accuracy(self.run),
            "threshold": facts.threshold,
            "is_calibrated": is_calibrated(facts.temperature),
            "calibration_error": find_calibration_error(self.run),
            "size": list(facts.preprocess.size),
            "licence": facts.licence,
            "number": number,
            "has_gallery": gallery is not None,
            "samples": [{"id": sample.id, "label": sample.label} for sample in gallery.samples] if gallery else [],
        }


def find_accuracy(run: Path | None) -> dict[str, Any] | None:
    """The test accuracy in a run's record, with its interval; None without a record."""
    metric = _find_metric(run, "accuracy")
    return metric.model_dump(mode="json") if metric else None


def find_calibration_error(run: Path | None) -> float | None:
    """The calibration error on test images after temperature scaling; None if unknown."""
    metric = _find_metric(run, "calibrated_ece")
    return metric.value if metric else None


def _find_metric(run: Path | None, name: str) -> Metric | None:
    from backbench.records.folders import read_whole

    if run is None:
        return None
    try:
        return read_whole(run)[0].metrics.get(name)
    except BackbenchError:
        return None


def load_models(given: Sequence[Path], *, device: str) -> list[Model]:
    """Load bundles and warm them up.

    Args:
        given: bundles, or the folders of the runs that wrote them.

    Raises:
        ConfigError: a missing bundle, none, or too many. BackbenchError: see `classifier.bundle.load_bundle`.
    """
    folders = list(dict.fromkeys(find_bundle(path).resolve() for path in given))
    if not 1 <= len(folders) <= MAX_MODELS:
        raise ConfigError(
            f"{len(folders)} bundles given; the server keeps all in memory, so give 1 to {MAX_MODELS}."
        )
    names = name_models(folders)
    return [_load_model(folder, name, device) for folder, name in zip(folders, names, strict=True)]


def name_models(folders: Sequence[Path]) -> list[str]:
    """The folders' names without '.bundle'; the second of one name is called 'name-2', and so on."""
    names: list[str] = []
    for folder in folders:
        plain = folder.name.removesuffix(BUNDLE_SUFFIX) or folder.name
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names


def _load_model(folder: Path, name: str, device: str) -> Model:
    classifier = load_bundle(folder)
    run = folder.with_name(folder.name.removesuffix(BUNDLE_SUFFIX))
    model = Model(
        name=name,
        classifier=classifier,
        facts=read_facts(folder),
        gallery=load_gallery(folder),
        device=device,
        run=run if run != folder else None,
    )
    blank = io.BytesIO()
    Image.new("RGB", (64, 64)).save(blank, "PNG")
    model.answer([Question(blank.getvalue(), "warm-up")])  # the first prediction of a network is its slowest
    return model
