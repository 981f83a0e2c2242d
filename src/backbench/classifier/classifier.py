"""A classifier: backbone, head and class names, and the one way from images to answers."""

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
    """What a classifier says of one image.

    Args:
        path: the file, or '[number]' for an image from memory.
        label: the most probable class; None if the image could not be read.
        confidence: its probability, in 0..1, after the temperature.
        top: (class, probability) of the most probable classes, the best first.
        is_unsure: the confidence is below the classifier's threshold, or there is no answer.
        error: why there is no answer; None if there is one.
        is_strange: the image is unlike the training images, so label and confidence mean little; None: not known,
            as with bundles of older versions and of runs with too few validation images.
    """

    path: str
    label: str | None
    confidence: float | None
    top: tuple[tuple[str, float], ...]
    is_unsure: bool
    error: str | None = None
    is_strange: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """As `backbench predict --json` prints it, but for the bundle's name."""
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
    """`head(backbone(batch))`, with what it takes to answer for a photograph.

    Args:
        backbone: its preprocessing is that of the classifier.
        head: (batch, dim) -> (batch, classes).
        class_names: one for each logit, in that order.
        temperature: logits are divided by it before they become probabilities; above 0.
        threshold: answers of less confidence, in 0..1, count as unsure; 0: none does.
        grey: the scale of the images with more than 8 bits that it was trained on; None: there were none.
        strangeness: tells images that are unlike the training images; None: that is not known.

    Raises:
        ModelError: the head has not one logit for each class name, or takes other features than the backbone's.
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
        """Where the weights are; 'cpu' if there are none."""
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
            device: None: where the weights are.
            names: what to call the images in messages.
            deadline, precision, exact_resize, is_shared: see `features.extract_features`.

        Raises:
            BadImage: from `read`. ModelError: features or logits that are not finite. BudgetExceeded.
        Cost: see `accelerate` and `features.extract_features`; features of all images are held.
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
        """What the head takes: (num, dim) float32. Arguments and errors as `logits_for`."""
        return extract_features(
            self.backbone,
            read,
            [f"{row:012d}" for row in range(num)],  # in this order, each on its own
            names=names if names is not None else [f"image {row}" for row in range(num)],
            use_cache=False,
            **options | {"device": options.get("device") or self.device},
        ).values

    def logits_of(self, features: np.ndarray, *, device: str | None = None) -> np.ndarray:
        """The head alone, in eval mode and float32: (n, dim) float32 features -> (n, classes) float32 logits."""
        device = device or self.device
        head = copy.deepcopy(self.head).to(device).float().eval()
        out = np.empty((len(features), len(self.class_names)), dtype=np.float32)
        with torch.inference_mode():
            for first in range(0, len(features), _HEAD_ROWS):
                chosen = slice(first, first + _HEAD_ROWS)
                out[chosen] = head(torch.from_numpy(features[chosen]).to(device)).cpu().numpy()
        if not np.isfinite(out).all():
            raise ModelError(f"{self.backbone.facts.name}: the head gives logits that are not finite numbers")
        return out

    def probabilities_of(self, logits: np.ndarray) -> np.ndarray:
        """(n, classes) logits -> float32 probabilities, after the temperature."""
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
        """Answers for images, one for each, in their order; an image that can't be read gets one with an `error`.

        Args:
            items: a path, folder, array (height, width, 3) uint8 or PIL image, or a sequence of them; see
                `data.gather.gather_pictures`.
            top: how many of the most probable classes to give, at least 1.

        Raises:
            ConfigError: `top` is below 1, or an item is no image. DataError: a folder without images.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise ConfigError(f"top is {top!r:.80}; it has to be a whole number of classes, at least 1.")
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
        """The pixels; for an image that can't be read a blank one, whose answer is thrown away."""
        try:
            return picture.read()
        except BadImage as error:
            errors[row] = error.reason
            return np.zeros((*self.preprocess.size, 3), dtype=np.uint8)

    def answers_of(
        self, names: Sequence[str], features: np.ndarray, tops: Sequence[int], device: str | None = None
    ) -> list[Prediction]:
        """The answers for n images from their (n, dim) features; see `predict`."""
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
    """What stands for an answer where the image can't be read."""
    return Prediction(name, label=None, confidence=None, top=(), is_unsure=True, error=reason)
