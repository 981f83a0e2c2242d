"""What is asked for: frozen, strict, serialisable. One run is a function of one `RunConfig`.

Runtime facts (device, workers, folders) are not here: they are recorded, never hashed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
ResizeMode = Literal["short-side", "squash"]
Precision = Literal["fp32", "bf16"]
OnBad = Literal["fail", "skip"]


class Frozen(BaseModel):
    """Base of everything stored: immutable, unknown keys refused, no NaN in JSON."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of this value, in hex."""
        return digest_json(self.model_dump(mode="json"))


def digest_json(value: Any) -> str:
    """SHA-256, in hex, of `value` as JSON with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Preprocess(Frozen):
    """How a decoded RGB image becomes the input of a backbone; decided once per (weights, override).

    The image is resized by `resize`, cropped to (height, width) = `size` around the centre, scaled to
    0..1, then normalised as (x - mean) / std for each channel.
    """

    size: tuple[int, int] = Field(description="(height, width) in pixels of the network's input")
    resize: ResizeMode = Field(
        default="short-side",
        description="'short-side': short side to size / crop_fraction, aspect kept; 'squash': both sides",
    )
    crop_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class DataConfig(Frozen):
    """Which images, and how they are labelled, checked and split."""

    source: str = Field(description="a name ('digits', 'cifar10'), a folder, or a CSV/Parquet file")
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    split: str | None = Field(default=None, description="a manifest or CSV file that fixes the parts")
    split_seed: int = Field(default=0, ge=0)
    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    val_fraction: float = Field(default=0.2, gt=0.0, lt=1.0, description="of what is left after test")
    on_bad: OnBad = "fail"
    max_pixels: int = Field(default=100_000_000, gt=0, description="larger images count as bad")


class MethodConfig(Frozen):
    """An adaptation method and the options that differ from its defaults."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class RunConfig(Frozen):
    """One run: these images, this backbone, this method, this seed."""

    data: DataConfig
    model: str
    method: MethodConfig
    seed: int = Field(default=0, ge=0)
    precision: Precision = "fp32"
    exact_resize: bool = False
