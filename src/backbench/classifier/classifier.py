"""A classifier: backbone, head and class names, and the path from images to predictions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbench.backbones.core.base import Backbone
from backbench.classifier.strangeness import Strangeness
from backbench.config import GreyScale, Precision, Preprocess
from backbench.data.gather import Picture, gather_pictures, warn_of_pictures
from backbench.errors import BadImage, ConfigError, ModelError
from backbench.inference.features import extract_features
from backbench.progress import SILENT, Progress
from backbench.report.notebook import render_classifier
from backbench.report.text import printable
from backbench.stats.calibrate import softmax

_HEAD_ROWS = 4096


@dataclass(frozen=True)
class Prediction:
    """A prediction for one image.

    Args:
        path: the file, or '[number]' for an image from memory.
        label: the most probable class; None if the image could not be read.
        confidence: its probability, in 0..1, after temperature scaling.
        top: (class, probability) of the most probable classes, best first.
        is_unsure: the confidence is below the classifier's threshold, or there is no prediction.
        error: the reason if there is no prediction; else None.
        is_strange: the image is unlike the training images, so label and confidence are unreliable; None: unknown
            (bundles of older versions, and of runs with too few validation images).
    """

    path: str
    label: str | None
    confidence: float | None
    top: tuple[tuple[str, float], ...]
    is_unsure: bool
    error: str | None = None
    is_strange: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON of `backbench predict --json`, without the bundle's name."""
        document: dict[str, Any] = {
            "path": self.path,
            "label": self.label,
            "confidence": self.confidence,
            "top": [{"label": label, "confidence": confidence} for label, confidence in self.top],
            "unsure": self.is_unsure,
            "is_strange": self.is_strange,
        }
        return document if self.error is None else document | {"error": self.error}


class Classifier(nn.Module):
    """`head(backbone(batch))`, with everything needed to classify a photograph.

    Args:
        backbone: also gives the preprocessing.
        head: (batch, dim) -> (batch, classes).
        class_names: one for each logit, in that order.
        temperature: logits are divided by it before they become probabilities; above 0.
        threshold: predictions with a lower confidence, in 0..1, count as unsure; 0: none.
        grey: the scale of training images with more than 8 bits; None: no such images.
        strangeness: detects images unlike the training images; None: not available.

    Raises:
        ModelError: the head's number of classes or features does not match.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        class_names: Sequence[str],
        *,
        temperature: float = 1.0,
        threshold: float = 0.0,
        grey: GreyScale | None = None,
        strangeness: Strangeness | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.class_names = tuple(class_names)
        self.temperature = temperature
        self.threshold = threshold
        self.grey = grey
        self.strangeness = strangeness
        spec = getattr(head, "spec", None)
        if spec is not None and spec.classes != len(self.class_names):
            raise ModelError(f"{len(self.class_names)} class names for a head with {spec.classes} classes")
        if spec is not None and spec.dim != backbone.facts.dim:
            raise ModelError(f"a head for {spec.dim} features on a backbone with {backbone.facts.dim}")

    @property
    def preprocess(self) -> Preprocess:
        """How images are prepared."""
        return self.backbone.preprocess

    @property
    def device(self) -> str:
        """The device of the weights; 'cpu' if there are none."""
        tensor = next(iter((*self.parameters(), *self.buffers())), None)
        return "cpu" if tensor is None else str(tensor.device)

    def forward(self, batch: Tensor) -> Tensor:
        """(batch, 3, height, width) float, normalised -> (batch, classes) logits."""
        logits: Tensor = self.head(self.backbone(batch))
        return logits

    def logits_for(
        self,
        read: Callable[[int], np.ndarray],
        num: int,
        *,
        device: str | None = None,
        precision: Precision = "fp32",
        exact_resize: bool = False,
        names: Sequence[str] | None = None,
        deadline: float | None = None,
        is_shared: bool = False,
        progress: Progress = SILENT,
    ) -> np.ndarray:
        """Logits of images 0..num-1, (num, classes) float32. Neither weights nor modes are changed.

        Args:
            read: row -> (height, width, 3) uint8; called once for each, from several threads.
            device: None: that of the weights.
            names: names of the images for messages.
            deadline, precision, exact_resize, is_shared: see `features.extract_features`.

        Raises:
            BadImage: from `read`. ModelError: features or logits that are not finite. BudgetExceeded.
        Cost: see `accelerate` and `features.extract_features`; features of all images are in memory.
        """
        features = self.features_for(
            read,
            num,
            device=device,
            precision=precision,
            exact_resize=exact_resize,
            names=names,
            deadline=deadline,
            is_shared=is_shared,
            progress=progress,
        )
        return self.logits_of(features, device=device)

    def features_for(
        self, read: Callable[[int], np.ndarray], num: int, *, names: Sequence[str] | None = None, **options: Any
    ) -> np.ndarray:
        """The input of the head: (num, dim) float32. Arguments and errors as `logits_for`."""
        return extract_features(
            self.backbone,
            read,
            [f"{row:012d}" for row in range(num)],  # in this order, each separate
            names=names if names is not None else [f"image {row}" for row in range(num)],
            use_cache=False,
            **options | {"device": options.get("device") or self.device},
        ).values

    def logits_of(self, features: np.ndarray, *, device: str | None = None) -> np.ndarray:
        """Apply only the head, in eval mode: (n, dim) float32 features -> (n, classes) float32 logits."""
        device = device or self.device
        head = copy.deepcopy(self.head).to(device).float().eval()
        out = np.empty((len(features), len(self.class_names)), dtype=np.float32)
        with torch.inference_mode():
            for first in range(0, len(features), _HEAD_ROWS):
                chosen = slice(first, first + _HEAD_ROWS)
                out[chosen] = head(torch.from_numpy(features[chosen]).to(device)).cpu().numpy()
        if not np.isfinite(out).all():
            raise ModelError(f"{self.backbone.facts.name}: the head gives logits that are not finite")
        return out

    def probabilities_of(self, logits: np.ndarray) -> np.ndarray:
        """(n, classes) logits -> float32 probabilities, after temperature scaling."""
        return softmax(logits, self.temperature)

    def predict(
        self,
        items: Any,
        *,
        top: int = 5,
        device: str | None = None,
        precision: Precision = "fp32",
        exact_resize: bool = False,
        progress: Progress = SILENT,
    ) -> list[Prediction]:
        """Predict images, in their order; an unreadable image gets a prediction with an `error`.

        Args:
            items: a path, folder, array (height, width, 3) uint8 or PIL image, or a sequence of them; see
                `data.gather.gather_pictures`.
            top: number of most probable classes to return, at least 1.

        Raises:
            ConfigError: `top` is below 1, or an item is not an image. DataError: a folder without images.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise ConfigError(f"top is {top!r:.80}; expected a whole number of classes, at least 1.")
        pictures = gather_pictures(items, grey=self.grey, progress=progress)
        warn_of_pictures(pictures, self.grey, progress=progress)
        errors: dict[int, str] = {}
        features = self.features_for(
            lambda row: self._read(pictures[row], row, errors),
            len(pictures),
            device=device,
            precision=precision,
            exact_resize=exact_resize,
            names=[picture.name for picture in pictures],
            progress=progress,
        )
        answers = self.answers_of([picture.name for picture in pictures], features, [top] * len(pictures), device)
        return [
            failed(answer.path, errors[row]) if row in errors else answer for row, answer in enumerate(answers)
        ]

    def _read(self, picture: Picture, row: int, errors: dict[int, str]) -> np.ndarray:
        """The pixels; for an unreadable image a blank one, whose prediction is discarded."""
        try:
            return picture.read()
        except BadImage as error:
            errors[row] = error.reason
            return np.zeros((*self.preprocess.size, 3), dtype=np.uint8)

    def answers_of(
        self, names: Sequence[str], features: np.ndarray, tops: Sequence[int], device: str | None = None
    ) -> list[Prediction]:
        """Predictions for n images from their (n, dim) features; see `predict`."""
        probabilities = self.probabilities_of(self.logits_of(features, device=device))
        measured = None if self.strangeness is None else self.strangeness.measure(features)
        found = []
        for row, (name, top) in enumerate(zip(names, tops, strict=True)):
            order = np.argsort(-probabilities[row], kind="stable")[:top]
            best = tuple((self.class_names[index], float(probabilities[row, index])) for index in order)
            label, confidence = best[0]
            is_strange = None if measured is None else bool(measured[row] > 1)
            found.append(
                Prediction(name, label, confidence, best, confidence < self.threshold, is_strange=is_strange)
            )
        return found

    def __repr__(self) -> str:
        name = printable(self.backbone.facts.name)
        return f"Classifier({name}, {len(self.class_names)} classes, on {self.device})"

    def _repr_html_(self) -> str:
        num_bytes = sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))
        return render_classifier(
            self.backbone.facts.model_copy(update={"preprocess": self.preprocess}),
            self.class_names,
            num_bytes=num_bytes,
            temperature=self.temperature,
            threshold=self.threshold,
            device=self.device,
        )


def failed(name: str, reason: str) -> Prediction:
    """The prediction for an unreadable image."""
    return Prediction(name, label=None, confidence=None, top=(), is_unsure=True, error=reason)
