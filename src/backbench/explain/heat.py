"""Explanations of predictions as heat maps, and their overlay on images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from backbench.classifier.classifier import Classifier
from backbench.config import Preprocess
from backbench.errors import ConfigError, ModelError, shown, unknown_name
from backbench.explain.attention import overhear_attention, read_patches, roll_out, stretch
from backbench.explain.cam import explain_by_cam
from backbench.explain.tokens import device_of, in_eval_mode, reads_class_token
from backbench.inference.resize import crop_origin, prepare_batch, resized_shape
from backbench.progress import SILENT, Progress

KINDS = ("auto", "rollout", "attention", "grad-cam")
"""Kinds of explanations; 'auto': rollout if there is attention between all patches, else Grad-CAM."""
ROLLOUT, LAST_ATTENTION, GRAD_CAM = "attention rollout", "attention, last layer", "Grad-CAM"

RAMP = np.array(
    [(28, 16, 68), (79, 18, 123), (139, 34, 129), (196, 60, 105), (237, 105, 66), (251, 168, 57), (252, 231, 150)],
    dtype=np.float32,
)
"""Colours from 0 to 1 in equal steps, each lighter than the one before, so that they also read in grey."""
_BATCH_PIXELS = (
    8 * 224 * 224
)  # network input at once: memory of attention grows with the square of an image's pixels
_MIN_TINT = 0.35  # minimum strength of colours: the photograph is paler without evidence
_FADING = 1.25  # reduces the photograph's own colours, so they do not look like heat
_FLAT_OUTSIDE = 0.65  # share of a uniform tone in the grey outside the box
_OUTSIDE_TONE = 215.0


@dataclass(frozen=True, eq=False)
class Heat:
    """The explanation of one prediction.

    Args:
        values: (rows, columns) float32, from 0, the minimum in this image, to 1, the maximum; all 0 without
            evidence.
        box: left, top, right, bottom in pixels of the upright image: the area that the network saw and `values`
            cover.
        kind: 'attention rollout', 'attention, last layer' or 'Grad-CAM'. Attention shows where the network
            looked, for any class; Grad-CAM shows evidence for `label`.
        layer: its source: a module path, or 'all layers'.
        label: the class explained.
    """

    values: np.ndarray
    box: tuple[float, float, float, float]
    kind: str
    layer: str
    label: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see."""
        return not self.values.any()

    @property
    def summary(self) -> str:
        """Its kind, with a remark if it is empty."""
        if not self.is_empty:
            return self.kind
        return f"{self.kind}: {'no evidence for it' if self.kind == GRAD_CAM else 'the same everywhere'}"


def explain_image(
    classifier: Classifier, image: np.ndarray, *, label: str | None = None, kind: str = "auto"
) -> Heat:
    """Explain the prediction for one image; see `explain_images`."""
    return explain_images(classifier, [image], labels=[label], kind=kind)[0]


def explain_images(
    classifier: Classifier,
    images: Sequence[np.ndarray],
    *,
    labels: Sequence[str | None] | None = None,
    kind: str = "auto",
    progress: Progress = SILENT,
) -> list[Heat]:
    """Explain the predictions for images. Weights and modes of the classifier are not changed.

    Args:
        images: each (height, width, 3) uint8, upright.
        labels: the class to explain for each image; None: the predicted class.
        kind: see `KINDS`.

    Raises:
        ConfigError: an unknown kind or class, or not one label for each image.
        ModelError: the network has no explanation of that kind.
    Cost: a forward pass an image for attention, plus a backward pass for Grad-CAM; one more pass for 'auto'.
    """
    if kind not in KINDS:
        raise unknown_name("kind of explanation", kind, KINDS, "kind", "backbench explain --help")
    asked = _find_classes(classifier, labels, len(images))
    if kind == "auto" and images:
        kind = "rollout" if has_attention(classifier) else "grad-cam"
    step = min(64, max(1, _BATCH_PIXELS // math.prod(classifier.preprocess.size)))
    heats: list[Heat] = []
    with progress.bar(classifier.backbone.facts.name, len(images)) as bar:
        for first in range(0, len(images), step):
            rows = slice(first, first + step)
            heats += _explain_batch(classifier, images[rows], asked[rows], kind)
            bar.advance(len(images[rows]))
    return heats


def has_attention(classifier: Classifier) -> bool:
    """Whether attention between all patches can be shown; otherwise use Grad-CAM. Cost: one forward pass."""
    batch = torch.zeros(1, 3, *classifier.preprocess.size, device=device_of(classifier))
    try:
        overhear_attention(classifier.backbone.body, batch, mean_heads=True)
    except ModelError:
        return False
    return True


def _find_classes(classifier: Classifier, labels: Sequence[str | None] | None, num: int) -> list[int | None]:
    names = classifier.class_names
    labels = [None] * num if labels is None else labels
    if len(labels) != num:
        raise ConfigError(f"{len(labels)} labels for {num} images: give one for each image, or none.")
    for label in labels:
        if label is not None and label not in names:
            raise unknown_name("class", label, names, "the labels to explain", "the class_names of the model")
    return [None if label is None else names.index(label) for label in labels]


def _explain_batch(
    classifier: Classifier, images: Sequence[np.ndarray], asked: Sequence[int | None], kind: str
) -> list[Heat]:
    batch = prepare_batch(images, classifier.preprocess, device=str(device_of(classifier)))
    body = classifier.backbone.body
    if kind == "grad-cam":
        targets = _complete(asked, classifier, batch)
        cam = explain_by_cam(classifier, batch, targets)
        values, name, layer = cam.values, GRAD_CAM, cam.layer
    else:
        features, maps, grid = overhear_attention(body, batch, mean_heads=True)
        targets = _complete(asked, classifier, batch, features)
        weights = roll_out(maps) if kind == "rollout" else maps[-1].mean(dim=1)
        values = stretch(read_patches(weights, grid, from_class_token=reads_class_token(body)))
        name, layer = (ROLLOUT, "all layers") if kind == "rollout" else (LAST_ATTENTION, f"layer {len(maps)}")
    arrays = values.cpu().numpy().astype(np.float32)
    return [
        Heat(array, seen_box(classifier.preprocess, *image.shape[:2]), name, layer, classifier.class_names[target])
        for array, image, target in zip(arrays, images, targets.tolist(), strict=True)
    ]


def _complete(
    asked: Sequence[int | None], classifier: Classifier, batch: torch.Tensor, features: torch.Tensor | None = None
) -> torch.Tensor:
    """(b,) int64: the requested classes, or the predicted ones."""
    if None not in asked:
        return torch.tensor(asked)
    with in_eval_mode(classifier), torch.no_grad():
        logits = classifier(batch) if features is None else classifier.head(features.float())
    answers = logits.argmax(dim=1).tolist()
    return torch.tensor([row if given is None else given for given, row in zip(asked, answers, strict=True)])


def seen_box(preprocess: Preprocess, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the crop in an image of (height, width), in its own pixels."""
    high, wide = resized_shape(preprocess, height, width)
    top, left = crop_origin(preprocess, high, wide)
    bottom, right = top + preprocess.size[0], left + preprocess.size[1]
    return (
        left * width / wide,
        top * height / high,
        min(right * width / wide, width),
        min(bottom * height / high, height),
    )


def overlay(image: np.ndarray, heat: Heat, *, strength: float = 0.6) -> np.ndarray:
    """Overlay an explanation on the image in colours; areas outside the network's input are grey.

    Args:
        image: (height, width, 3) uint8, the one that was explained.
        strength: of the colours, 0 (the photograph alone) to 1.

    Returns:
        (height, width, 3) uint8, in the image's own size.

    Raises:
        ConfigError: a strength outside 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(f"strength is {shown(str(strength))}; it must be between 0 and 1.")
    height, width = image.shape[:2]
    left, top, right, bottom = (round(edge) for edge in heat.box)
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    inside = _fade(image[top:bottom, left:right], _FADING * strength)
    values = _enlarge(heat.values, inside.shape[0], inside.shape[1])[..., None]
    tint = strength * (_MIN_TINT + (1.0 - _MIN_TINT) * values)
    made = (1.0 - _FLAT_OUTSIDE) * _to_grey(image) + _FLAT_OUTSIDE * _OUTSIDE_TONE
    made[top:bottom, left:right] = inside * (1.0 - tint) + colour(values[..., 0]) * tint
    return np.clip(made + 0.5, 0, 255).astype(np.uint8)


def colour(values: np.ndarray) -> np.ndarray:
    """Values in 0..1 of any shape -> (..., 3) float32 colours in 0..255; see `RAMP`."""
    places = np.linspace(0.0, 1.0, len(RAMP))
    return np.stack([np.interp(values, places, channel) for channel in RAMP.T], axis=-1).astype(np.float32)


def _enlarge(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic, so that patches do not show as tiles; in 0..1 again."""
    grid = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.clip(np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)), 0.0, 1.0)


def _fade(image: np.ndarray, fraction: float) -> np.ndarray:
    """The image without that fraction of its colours, float32."""
    left = max(0.0, 1.0 - fraction)
    return left * image.astype(np.float32) + (1.0 - left) * _to_grey(image)


def _to_grey(image: np.ndarray) -> np.ndarray:
    """The image without colours, (height, width, 3) float32."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.repeat(grey[..., None], 3, axis=2)
