"""Convert the `preprocessor_config.json` of a transformers model to `Preprocess`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from backbench.config import Preprocess
from backbench.errors import ModelError

_KNOWN = (
    "Beit",
    "Bit",
    "CLIP",
    "ConvNext",
    "DeiT",
    "DINOv3ViT",
    "EfficientNet",
    "Levit",
    "MobileNetV1",
    "MobileNetV2",
    "Pvt",
    "Siglip",
    "ViT",
)
"""Image processors with the steps below; others flip channels, pad, or make colour tokens."""
_RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
_CONVNEXT_SQUASHED_FROM = 384
_LEVIT_SCALE = 256 / 224


def read_preprocess(said: Mapping[str, Any], where: str) -> Preprocess:
    """Convert the settings of an image processor, with defaults filled in.

    If a processor keeps images of different shapes (short side to a size, no crop), the centre is cropped, because
    a batch has one shape.

    Args:
        said: `to_dict` of a transformers image processor.
        where: name for messages.

    Raises:
        ModelError: a step that `Preprocess` can't express.
    """
    kind = str(said.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _KNOWN or said.get("do_pad"):
        raise ModelError(
            f"{where} uses the unsupported image processor '{said.get('image_processor_type')}'. Supported: "
            f"{', '.join(_KNOWN)}. Use a timm model of that kind, or a card for its weights."
        )
    mean, std = _normalisation(said, kind)
    if not all(value > 0 for value in std):
        raise ModelError(f"{where} divides by deviations that are not above 0: {std}.")
    shape = _convnext_shape(said, where) if kind == "ConvNext" else _shape(said, kind, where)
    try:
        return Preprocess(interpolation=_interpolation(said, where), mean=mean, std=std, **shape)
    except ValidationError as error:
        raise ModelError(f"{where} can't be used: {error.errors()[0]['msg']}.") from error


def _interpolation(said: Mapping[str, Any], where: str) -> Any:
    found = _RESAMPLINGS.get(said.get("resample", 2))
    if found is None:
        raise ModelError(f"{where} resizes by 'resample' {said.get('resample')}, which is not supported.")
    return found


def _shape(said: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """Size, resize and crop fraction."""
    size = said.get("size") if said.get("do_resize", True) else said.get("crop_size")
    sides = _sides(size, where)
    resize = "squash" if "height" in (size or {}) else "short-side"
    if kind == "Levit" and resize == "short-side":
        sides = (int(_LEVIT_SCALE * sides[0]),) * 2
    if not said.get("do_center_crop"):
        return {"size": sides, "resize": resize}
    crop = _sides(said.get("crop_size"), where)
    fraction = _fraction(crop[0], sides[0])
    if crop[0] > sides[0] or crop[1] > sides[1] or abs(fraction - crop[1] / sides[1]) > 1e-6:
        raise ModelError(
            f"{where} crops {crop[0]} x {crop[1]} pixels from {sides[0]} x {sides[1]}, which is not supported."
        )
    return {"size": crop, "resize": resize, "crop_fraction": fraction}


def _convnext_shape(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """ConvNeXt's own rule: below 384 pixels a centre crop of `crop_pct`, else the whole image squashed."""
    sides = _sides(said.get("size"), where)
    if sides[0] >= _CONVNEXT_SQUASHED_FROM:
        return {"size": sides, "resize": "squash"}
    return {"size": sides, "crop_fraction": said.get("crop_pct") or 224 / 256}


def _fraction(crop: int, side: int) -> float:
    """crop / side, rounded so that dividing by it gives back at least `side`."""
    fraction = crop / side
    while math.floor(crop / fraction) < side:
        fraction = math.nextafter(fraction, 0)
    return fraction


def _sides(size: Any, where: str) -> tuple[int, int]:
    if isinstance(size, Mapping) and isinstance(size.get("shortest_edge"), int):
        return size["shortest_edge"], size["shortest_edge"]
    if isinstance(size, Mapping) and isinstance(size.get("height"), int) and isinstance(size.get("width"), int):
        return size["height"], size["width"]
    raise ModelError(f"{where} does not give the size of images: {size!r}.")


def _normalisation(said: Mapping[str, Any], kind: str) -> tuple[Any, Any]:
    """Mean and deviation for pixels in 0..1, for any rescaling factor of the processor."""
    mean, std = [0.0] * 3, [1.0] * 3
    if said.get("do_normalize", True):
        mean, std = list(said.get("image_mean") or mean), list(said.get("image_std") or std)
        if kind == "EfficientNet" and said.get("include_top"):  # divides by the standard deviation a second time
            std = [value**2 for value in std]
    scale = 255 * float(said["rescale_factor"]) if said.get("do_rescale", True) else 255.0
    shift = 1.0 if said.get("rescale_offset") else 0.0  # pixels in -1..1
    return [(value + shift) / scale for value in mean], [value / scale for value in std]
