"""What is asked for: frozen, strict, serialisable. One run is a function of one `RunConfig`.

Runtime facts (device, workers, folders) are not here: they are recorded, never hashed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from backbench.errors import unknown_name

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
ResizeMode = Literal["short-side", "squash"]
Precision = Literal["fp32", "bf16", "fp16"]
OnBad = Literal["fail", "skip"]
SmallClasses = Literal["drop", "merge"]
Crop = Literal["none", "random-resized", "pad"]
MAX_INPUT_SIDE = 4096
"""Pixels of a network's input; what a file asks for beyond that would ask for gigabytes."""


class Frozen(BaseModel):
    """Base of everything stored: immutable, unknown keys refused, no NaN in JSON."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """true is not 1: who writes epochs=true meant something else."""
        if isinstance(value, bool) and not _takes_truth(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("true and false are not what it takes")
        return value

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of this value, in hex."""
        return digest_json(self.model_dump(mode="json"))


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(part) for part in get_args(annotation))


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

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: tuple[int, int]) -> tuple[int, int]:
        if not all(1 <= side <= MAX_INPUT_SIDE for side in size):
            raise ValueError(f"each side must be 1 to {MAX_INPUT_SIDE} pixels")
        return size

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(value > 0 for value in std):
            raise ValueError("each value must be above 0")
        return std


class GreyScale(Frozen):
    """Which values of images with more than 8 bits are black and white; one scale for all images of a source.

    Each is (black, white), None where the source has no such image. See `data.grey`.
    """

    integers: tuple[float, float] | None = None
    floats: tuple[float, float] | None = None


class DataConfig(Frozen):
    """Which images, and how they are labelled, checked and split."""

    source: str = Field(description="a name ('digits', 'cifar10'), a folder, or a CSV/Parquet file")
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    split_column: str | None = Field(
        default=None, description="table: the column with the splits; 'none': no column"
    )
    image_root: str | None = Field(default=None, description="table: the folder that relative paths start at")
    split_folders: dict[str, Literal["train", "val", "test"]] | None = Field(
        default=None, description="folder: the split of each top folder that is one; {}: all are classes"
    )
    ignore: tuple[str, ...] = Field(default=(), description="folder: paths below it that are left out")
    follow_links: bool = Field(default=False, description="folder: also links that lead out of it")
    split: str | None = Field(default=None, description="a manifest or CSV file that fixes the parts")
    split_seed: int = Field(default=0, ge=0)
    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    val_fraction: float = Field(default=0.2, gt=0.0, lt=1.0, description="of what is left after test")
    min_images: int | None = Field(default=None, ge=2, description="classes with fewer are small")
    small_classes: SmallClasses = Field(
        default="drop", description="leave small classes out, or make one class of them"
    )
    limit: int | None = Field(default=None, ge=8, description="at most so many images in all, for trials")
    train_limit: int | None = Field(
        default=None, ge=4, description="at most so many images to train and validate on; all are tested on"
    )
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
    model_file: str | None = Field(default=None, description="the card that `model` was read from")
    method: MethodConfig
    seed: int = Field(default=0, ge=0)
    precision: Precision = "fp32"
    exact_resize: bool = False


class Augment(Frozen):
    """How training images are changed at random, and they alone; everything is off by default."""

    crop: Crop = Field(
        default="none",
        description="'none': as in evaluation; 'random-resized': a box of random area and aspect, resized to the "
        "input; 'pad': as in evaluation, then black pixels all round and a cut at random",
    )
    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="'random-resized': least and most area, as a share of the image's"
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="'random-resized': least and most width / height of the box"
    )
    padding: int = Field(default=4, ge=1, le=128, description="'pad': pixels of the network's input on each side")
    flip: bool = Field(default=False, description="mirror left to right, every second image")
    vertical_flip: bool = Field(default=False, description="mirror upside down, every second image")
    brightness: float = Field(
        default=0.0, ge=0.0, le=10.0, description="factor in 1 - this .. 1 + this, at least 0"
    )
    contrast: float = Field(default=0.0, ge=0.0, le=10.0, description="as brightness")
    saturation: float = Field(default=0.0, ge=0.0, le=10.0, description="as brightness")
    hue: float = Field(
        default=0.0, ge=0.0, le=0.5, description="turn in -this .. this, of the full circle of hues"
    )
    jitter_probability: float = Field(
        default=1.0, ge=0.0, le=1.0, description="of the four changes of colour above, for each image"
    )
    rand_augment: tuple[int, int] | None = Field(
        default=None, description="(operations for each image, 1..14; their magnitude, 0..30), as (2, 9)"
    )
    mixup: float = Field(default=0.0, ge=0.0, le=100.0, description="alpha of the beta law of the shares; 0 = off")
    cutmix: float = Field(
        default=0.0, ge=0.0, le=100.0, description="alpha, as mixup; where both are on, one of them for each batch"
    )
    erasing: float = Field(default=0.0, ge=0.0, le=1.0, description="probability that an image loses a box")

    @field_validator("scale", "ratio")
    @classmethod
    def _check_range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        most = 1.0 if info.field_name == "scale" else 100.0
        if not 0.0 < value[0] <= value[1] <= most:
            raise ValueError(f"must be (least, most) with 0 < least <= most <= {most:g}, not {value}")
        return value

    @field_validator("rand_augment")
    @classmethod
    def _check_rand_augment(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not (1 <= value[0] <= 14 and 0 <= value[1] <= 30):
            raise ValueError(f"must be (operations 1..14, magnitude 0..30), not {value}")
        return value


_CROP_AND_FLIP = Augment(crop="random-resized", flip=True)
AUGMENT_PRESETS: dict[str, Augment] = {
    "none": Augment(),
    "basic": _CROP_AND_FLIP,
    "strong": _CROP_AND_FLIP.model_copy(update={"mixup": 0.2, "cutmix": 1.0}),
    "randaugment": _CROP_AND_FLIP.model_copy(update={"rand_augment": (2, 9)}),
}
"""The steps of the augmentation study; mixup and cutmix with the alphas of torchvision's reference recipe."""


def augment_preset(name: str) -> Augment:
    """The preset of this name. ConfigError, with the nearest names, if there is none."""
    if name not in AUGMENT_PRESETS:
        raise unknown_name("augmentation", name, AUGMENT_PRESETS, "recipe.augment", "docs/protocol.md")
    return AUGMENT_PRESETS[name]


CAME_LATER = ("attention_dropout", "mlp_dropout")
"""Settings of a recipe that records have only where they are on."""
ONLY_WITH = {
    "momentum": ("optimizer", "sgd"),
    "plateau_factor": ("schedule", "plateau"),
    "plateau_patience": ("schedule", "plateau"),
}
"""Settings of a recipe that do nothing but with that value of another."""


class Recipe(Frozen):
    """How a network is trained. The defaults fit data sets of hundreds to thousands of images."""

    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        default="adamw", description="adam: its decay is part of the gradient (L2), that of adamw is not"
    )
    learning_rate: float | None = Field(
        default=None, gt=0.0, le=10.0, description="of the backbone, at its highest; None: by kind of network"
    )
    head_learning_rate: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        description="None: ten times the backbone's, or the same where the head is solved or all starts at random",
    )
    weight_decay: float = Field(
        default=0.05,
        ge=0.0,
        le=10.0,
        description="of matrices; never of biases, norms, tokens and position embeddings",
    )
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="sgd only")
    epochs: int = Field(default=10, ge=1, le=10_000)
    batch_size: int = Field(default=64, ge=1, le=65_536, description="images for each step, whatever fits at once")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="images computed at once; None: the whole batch, less if memory is short"
    )
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_epochs: float = Field(default=1.0, ge=0.0, description="the learning rate rises from 0 over these")
    plateau_factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    plateau_patience: int = Field(
        default=3,
        ge=1,
        description="epochs without a better loss on validation, or on training where there is none",
    )
    patience: int = Field(default=5, ge=0, description="early stopping: epochs without improvement; 0: off")
    min_improvement: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="that ends the wait: of accuracy in all, of the loss as a share of it",
    )
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    class_weights: Literal["none", "auto"] | dict[str, float] = Field(
        default="none", description="'auto': each class counts the same in all; or a weight for each class name"
    )
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0, description="moving average of the weights; 0: off")
    clip_norm: float = Field(default=1.0, ge=0.0, description="largest length of the gradient; 0: off")
    layer_decay: float = Field(
        default=1.0, gt=0.0, le=1.0, description="each stage learns at this times the rate of the next; 1: off"
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="before the head")
    attention_dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="of the attention weights of a transformer that learns"
    )
    mlp_dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="after both layers of each of its perceptrons"
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory for a third more time")
    augment: Augment = Augment()

    @model_serializer(mode="wrap")
    def _leave_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is off: ids of runs from before then stay what they were."""
        values: dict[str, Any] = dump(self)
        return {name: value for name, value in values.items() if value or name not in CAME_LATER}

    @field_validator("augment", mode="before")
    @classmethod
    def _take_preset(cls, value: Any) -> Any:
        return augment_preset(value) if isinstance(value, str) else value
