"""The configuration of a run: frozen, strict, serialisable. One run is a function of one `RunConfig`.

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
"""Pixels on each side of a network's input. A file that asks for more would need gigabytes of memory."""


class Frozen(BaseModel):
    """Base of everything stored: immutable, unknown keys refused, no NaN in JSON."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true as a number: `epochs=true` is a mistake, not 1."""
        if isinstance(value, bool) and not _takes_truth(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("a boolean is not allowed here")
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
        description="'short-side': short side to size / crop_fraction, aspect ratio kept; 'squash': both sides",
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

    Each is (black, white); None if the source has no such image. See `data.grey`.
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
        default=None, description="table: the column with the splits; 'none': no such column"
    )
    image_root: str | None = Field(default=None, description="table: the folder of relative paths")
    split_folders: dict[str, Literal["train", "val", "test"]] | None = Field(
        default=None, description="folder: maps top folders to splits; {}: every top folder is a class"
    )
    ignore: tuple[str, ...] = Field(default=(), description="folder: paths to leave out")
    follow_links: bool = Field(default=False, description="folder: follow links that lead out of it")
    split: str | None = Field(default=None, description="a manifest or CSV file with the splits")
    split_seed: int = Field(default=0, ge=0)
    test_fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    val_fraction: float = Field(
        default=0.2, gt=0.0, lt=1.0, description="share of the images left after the test split"
    )
    min_images: int | None = Field(default=None, ge=2, description="a class with fewer images is small")
    small_classes: SmallClasses = Field(
        default="drop", description="leave small classes out, or merge them into one class"
    )
    limit: int | None = Field(default=None, ge=8, description="maximum number of images, for trials")
    train_limit: int | None = Field(
        default=None,
        ge=4,
        description="maximum number of images for training and validation; the whole test set is used",
    )
    on_bad: OnBad = "fail"
    max_pixels: int = Field(default=100_000_000, gt=0, description="larger images count as unreadable")


class MethodConfig(Frozen):
    """An adaptation method and the options that differ from its defaults."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class RunConfig(Frozen):
    """One run: images, backbone, method and seed."""

    data: DataConfig
    model: str
    model_file: str | None = Field(default=None, description="the card file of `model`")
    method: MethodConfig
    seed: int = Field(default=0, ge=0)
    precision: Precision = "fp32"
    exact_resize: bool = False


class Augment(Frozen):
    """Random changes of training images (never of other splits); everything is off by default."""

    crop: Crop = Field(
        default="none",
        description="'none': as in evaluation; 'random-resized': a box of random area and aspect ratio, "
        "resized to the input; 'pad': as in evaluation, then padded with black and cropped at random",
    )
    scale: tuple[float, float] = Field(
        default=(0.08, 1.0), description="'random-resized': minimum and maximum area, as a share of the image"
    )
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="'random-resized': minimum and maximum width / height of the box"
    )
    padding: int = Field(
        default=4, ge=1, le=128, description="'pad': pixels added on each side of the network's input"
    )
    flip: bool = Field(default=False, description="mirror left to right with probability 0.5")
    vertical_flip: bool = Field(default=False, description="mirror upside down with probability 0.5")
    brightness: float = Field(
        default=0.0, ge=0.0, le=10.0, description="factor in 1 - this .. 1 + this, at least 0"
    )
    contrast: float = Field(default=0.0, ge=0.0, le=10.0, description="as brightness")
    saturation: float = Field(default=0.0, ge=0.0, le=10.0, description="as brightness")
    hue: float = Field(
        default=0.0, ge=0.0, le=0.5, description="shift of the hue in -this .. this, as a share of the full circle"
    )
    jitter_probability: float = Field(
        default=1.0, ge=0.0, le=1.0, description="probability of the four colour changes above, for each image"
    )
    rand_augment: tuple[int, int] | None = Field(
        default=None, description="(operations for each image, 1..14; magnitude, 0..30), for example (2, 9)"
    )
    mixup: float = Field(
        default=0.0, ge=0.0, le=100.0, description="alpha of the beta distribution of the mixing share; 0: off"
    )
    cutmix: float = Field(
        default=0.0,
        ge=0.0,
        le=100.0,
        description="alpha, as for mixup; if both are on, each batch uses one of them",
    )
    erasing: float = Field(
        default=0.0, ge=0.0, le=1.0, description="probability that a box of the image is erased"
    )

    @field_validator("scale", "ratio")
    @classmethod
    def _check_range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        most = 1.0 if info.field_name == "scale" else 100.0
        if not 0.0 < value[0] <= value[1] <= most:
            raise ValueError(f"must be (minimum, maximum) with 0 < minimum <= maximum <= {most:g}, not {value}")
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
    """The preset of this name. Raises ConfigError with the nearest names if there is none."""
    if name not in AUGMENT_PRESETS:
        raise unknown_name("augmentation", name, AUGMENT_PRESETS, "recipe.augment", "docs/protocol.md")
    return AUGMENT_PRESETS[name]


CAME_LATER = ("attention_dropout", "mlp_dropout")
"""Settings of a recipe that records hold only if they are on."""
ONLY_WITH = {
    "momentum": ("optimizer", "sgd"),
    "plateau_factor": ("schedule", "plateau"),
    "plateau_patience": ("schedule", "plateau"),
}
"""Settings of a recipe that have an effect only with the given value of another setting."""


class Recipe(Frozen):
    """How a network is trained. The defaults fit data sets of hundreds to thousands of images."""

    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        default="adamw", description="adam adds weight decay to the gradient (L2); adamw decouples it"
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        description="peak learning rate of the backbone; None: chosen by kind of network",
    )
    head_learning_rate: float | None = Field(
        default=None,
        gt=0.0,
        le=10.0,
        description="learning rate of the head; None: ten times the backbone's, or the same if the head is "
        "solved first or training starts from random weights",
    )
    weight_decay: float = Field(
        default=0.05,
        ge=0.0,
        le=10.0,
        description="of weight matrices; never of biases, norms, tokens and position embeddings",
    )
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="sgd only")
    epochs: int = Field(default=10, ge=1, le=10_000)
    batch_size: int = Field(default=64, ge=1, le=65_536, description="images for each optimiser step")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="images in one forward pass; None: the whole batch, or fewer if memory is short",
    )
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_epochs: float = Field(default=1.0, ge=0.0, description="epochs in which the learning rate rises from 0")
    plateau_factor: float = Field(default=0.1, gt=0.0, lt=1.0)
    plateau_patience: int = Field(
        default=3,
        ge=1,
        description="epochs without a lower validation loss (training loss if there is no validation split)",
    )
    patience: int = Field(default=5, ge=0, description="early stopping: epochs without improvement; 0: off")
    min_improvement: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="minimum improvement that resets patience: absolute for accuracy, relative for loss",
    )
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    class_weights: Literal["none", "auto"] | dict[str, float] = Field(
        default="none", description="'auto': each class has the same total weight; or a weight for each class name"
    )
    ema_decay: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="decay of the moving average of the weights; 0: off"
    )
    clip_norm: float = Field(default=1.0, ge=0.0, description="maximum norm of the gradient; 0: off")
    layer_decay: float = Field(
        default=1.0, gt=0.0, le=1.0, description="learning rate of a stage as a share of the next stage's; 1: off"
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="rate before the head")
    attention_dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="rate on the attention weights of a transformer's trained blocks"
    )
    mlp_dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="rate after both layers of each MLP of a transformer's trained blocks",
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory for about a third more time")
    augment: Augment = Augment()

    @model_serializer(mode="wrap")
    def _leave_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later settings that are off, so that ids of older runs do not change."""
        values: dict[str, Any] = dump(self)
        return {name: value for name, value in values.items() if value or name not in CAME_LATER}

    @field_validator("augment", mode="before")
    @classmethod
    def _take_preset(cls, value: Any) -> Any:
        return augment_preset(value) if isinstance(value, str) else value
