"""Cards: small TOML files beside local weights files that describe the network and its preprocessing.

    name = "my_resnet"
    architecture = "torchvision/resnet18"     # or "timm/NAME", or "backbench/vit_base_patch16" and other networks
    of backbench weights = "my_resnet.safetensors"         # beside the card; or .pth, .pt, .bin, .ckpt, .pth.tar,
    .index.json licence = "not stated"
    pretrained_on = "ImageNet-1k"

    [preprocess]
    size = 224                                # or [height, width]
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]

`backbench/vit_*` also reads the original `.npz` checkpoints, such as ViT-B_16.npz.

The network is found in the file by the names of its tensors, inside any wrapper of a trainer; averaged weights
are preferred to raw ones. To choose yourself, set `key = "state_dict"` (dots for nested keys) or
`prefix = "module.backbone."`.

Optional: `source`, `head_classes`, `feature_layer` (truncates the network there), `[options]` of the architecture,
    and
`crop_fraction`, `interpolation`, `resize` under `[preprocess]`. The classifier in the file is ignored,
except by the method `zeroshot`, where `head_classes` names its classes: "imagenet-1k" or another subset of
ImageNet, or a text file beside the card with one WordNet id or class name per line.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from backbench.backbones.core.build import ArchitectureOptions
from backbench.backbones.core.model_index import default_tag, rows_of
from backbench.backbones.shards import INDEX_SUFFIX, list_parts
from backbench.config import Frozen, Preprocess
from backbench.documents import parse_toml
from backbench.errors import ConfigError, ModelError, nearest
from backbench.registry import ModelSpec
from backbench.storage import digest_file, read_file
from backbench.wording import did_you_mean, list_some, quote

SUFFIX = ".toml"
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz", INDEX_SUFFIX)
WRITE_A_CARD = (
    "write a card beside it that describes the network and its preprocessing ('Your own weights' in the README), "
    "and give the card."
)
OTHER_FORMATS = {
    ".onnx": "an ONNX graph",
    ".h5": "a file of Keras",
    ".keras": "a file of Keras",
    ".tflite": "a TensorFlow Lite model",
    ".pb": "a TensorFlow graph",
    ".msgpack": "a file of Flax",
    ".pkl": "a pickle, which can run code",
    ".engine": "a TensorRT engine",
    ".gguf": "a GGUF file",
}
ARCHITECTURE = re.compile(r"(timm|torchvision|backbench)/[a-z0-9_]{1,80}")
MAX_CARD_BYTES = 100_000


def _square(given: Any) -> Any:
    return [given, given] if isinstance(given, int) and not isinstance(given, bool) else given


def _check_architecture(name: str) -> str:
    if not ARCHITECTURE.fullmatch(name):
        raise ValueError(
            "must be 'backbench/NAME', 'timm/NAME' or 'torchvision/NAME', without a tag, as in 'timm/resnet18'"
        )
    return name


def _check_line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must be one line of printable text")
    return text


Line = Annotated[str, Field(max_length=300), AfterValidator(_check_line)]
"""Text that ends up in tables and terminals."""


class CardPreprocess(Preprocess):
    """How images are prepared; size and normalisation have no default, because they belong to the weights."""

    size: Annotated[tuple[int, int], BeforeValidator(_square)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Card(Frozen):
    """The content of a card file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,119}$")
    architecture: Annotated[str, AfterValidator(_check_architecture)]
    weights: Line
    key: Line | None = None
    prefix: str | None = Field(default=None, max_length=300)
    preprocess: CardPreprocess
    licence: Line = "not stated"
    source: Line | None = None
    pretrained_on: Line = "not stated"
    head_classes: Line | None = None
    feature_layer: Line | None = None
    options: ArchitectureOptions = ArchitectureOptions()


TABLES = {
    "": Card.model_fields,
    "options": ArchitectureOptions.model_fields,
    "preprocess": CardPreprocess.model_fields,
}


def resolve(name: str) -> ModelSpec | None:
    """The spec of a card file; None if `name` is not a TOML file.

    If its weights are missing, `check` and `load` raise ModelError.

    Raises:
        ConfigError: no such file; not a valid card; or a weights file instead of a card.
    """
    if "\0" in name:
        return None
    if not name.lower().endswith(SUFFIX):
        _refuse_weights(name)
        return None
    path = Path(name)
    if name.startswith("~/"):
        path = path.expanduser()
    card, text = read_card(path)
    stated = partial(
        ModelSpec,
        name=card.name,
        pretrained_on=card.pretrained_on,
        input_size=card.preprocess.size[0],
        licence=card.licence,
        file=str(path),
    )
    try:
        weights = find_weights(card, path)
        parts = list_parts(weights) if weights.name.endswith(INDEX_SUFFIX) else []
        content = "".join(map(_digest, [weights, *parts]))
    except ModelError as error:
        return _without_weights(stated, card, path, error)
    size = card.preprocess.size
    row = _index_row(card.architecture) if card.feature_layer is None else {}
    has_same_size = size[0] == size[1] == row.get("height", row.get("size"))
    return stated(
        summary=f"card {path.name}: {card.architecture}, {size[0]} px, {card.pretrained_on}",
        load=partial(_load, card, weights),
        load_head=partial(_load_head, card, weights, path) if _has_head(card) else None,
        check=partial(_check, card, weights),
        num_parameters=row.get("num_parameters"),
        flops=row.get("flops") if has_same_size else None,
        identity=hashlib.sha256(f"{content} {hashlib.sha256(text).hexdigest()}".encode()).hexdigest(),
    )


def _without_weights(stated: Callable[..., ModelSpec], card: Card, path: Path, fault: ModelError) -> ModelSpec:
    """Report missing weights with the faults of other models, so that those are still ranked."""

    def refuse(*_: Any) -> Any:
        raise ModelError(str(fault))

    summary = f"card {path.name}: {card.architecture}, its weights are not there"
    load_head = refuse if _has_head(card) else None
    return stated(summary=summary, load=refuse, load_head=load_head, check=refuse, identity="no weights")


def read_card(path: Path) -> tuple[Card, bytes]:
    """Read a card: its content and bytes. ConfigError with the nearest file or key if it is invalid."""
    try:
        text = read_file(path, MAX_CARD_BYTES)
    except OSError as error:
        near = _near_file(path, (SUFFIX,)) if error.errno == errno.ENOENT else ""
        raise ConfigError(f"card '{path}' can't be read: {error.strerror}.{near}") from error
    try:
        card = Card.model_validate(parse_toml(text.decode()))
    except ValidationError as error:
        told = "; ".join(_explain(fault) for fault in error.errors()[:4])
        raise ConfigError(f"card '{path}': {told}.") from error
    except ValueError as error:
        raise ConfigError(f"card '{path}' is not valid TOML in UTF-8: {error}.") from error
    _check_grey(card, path)
    return card, text


def _check_grey(card: Card, path: Path) -> None:
    """Weights for grey images are converted for colour images, whose channels need the same normalisation."""
    mean, std = card.preprocess.mean, card.preprocess.std
    if card.options.in_chans == 1 and (len(set(mean)) > 1 or len(set(std)) > 1):
        raise ConfigError(
            f"card '{path}': with options.in_chans = 1 the three values of preprocess.mean, and those of "
            "preprocess.std, must be the same: the values of the grey training images."
        )


def _refuse_weights(name: str) -> None:
    """Raise ConfigError for a weights file, which does not describe its network."""
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if name.lower().endswith((*WEIGHTS_SUFFIXES, *OTHER_FORMATS)) and os.path.isfile(path):  # noqa: PTH113 - never raises
        is_model = (path.parent / "config.json").is_file()
        folder = f" For a model of transformers, give its folder, '{path.parent}'." if is_model else ""
        raise ConfigError(f"'{name}' is a weights file, not a model: {WRITE_A_CARD}{folder}")


def find_weights(card: Card, path: Path) -> Path:
    """The weights file beside the card. Raises ModelError with the expected path and how to get the file."""
    weights = path.parent / card.weights
    if not weights.name.lower().endswith(WEIGHTS_SUFFIXES):
        other = OTHER_FORMATS.get(weights.suffix.lower())
        is_other = "" if other is None else f" It is {other}: give the PyTorch weights that it was made from."
        raise ConfigError(
            f"card '{path}': weights = '{card.weights}' must be a file that ends in "
            f"{', '.join(WEIGHTS_SUFFIXES)}.{is_other}"
        )
    if not weights.is_file():
        near = _near_file(weights, WEIGHTS_SUFFIXES)
        source = f" According to the card they come from {card.source}." if card.source else ""
        raise ModelError(
            f"weights file '{weights}' of card '{path}' is missing.{near}{source} Put the file there, or correct "
            "'weights' in the card (a path relative to the card)."
        )
    return weights


def _near_file(path: Path, suffixes: tuple[str, ...]) -> str:
    """' Did you mean ...?' with files of that kind in the folder, or the fault of the folder."""
    folder = path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.lower().endswith(suffixes))
    except OSError:
        return f" There is no folder '{folder}'."
    if not names:
        return f" There is no {' or '.join(suffixes)} file in '{folder}'."
    return did_you_mean(path.name, names, otherwise=f"There is {list_some(map(quote, names))}.", folder=folder)


def _explain(fault: Any) -> str:
    """Describe a fault that pydantic found; for an unknown key with the nearest known one."""
    place = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        allowed = list(TABLES[place[0] if len(place) > 1 else ""])
        close = nearest(place[-1], allowed)
        hint = f"did you mean '{close[0]}'?" if close else f"allowed: {', '.join(allowed)}"
        return f"unknown key {'.'.join(place)!r}, {hint}"
    if fault["type"] == "missing":
        return f"'{'.'.join(place)}' is missing"
    return f"'{'.'.join(place)}' = {str(fault['input'])[:60]!r}: {fault['msg'].removeprefix('Value error, ')}"


def _index_row(architecture: str) -> dict[str, Any]:
    """The index entry of the architecture with its default weights; empty if there is none."""
    library, _, name = architecture.partition("/")
    if library == "backbench":
        return {}
    if library == "timm":
        name = f"{name}.{default_tag(name)}"
    return rows_of(library).get(name, {})


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_file(str(path.resolve()), (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=64)
def _digest_file(path: str, _stamp: tuple[int, int]) -> str:
    """SHA-256 of a file, read once per process while its `_stamp` (time and size) stays the same."""
    return digest_file(path)


def _load(card: Card, weights: Path, _seed: int) -> Any:
    """The backbone of the card; the seed has no effect on trained weights."""
    from backbench.backbones.core.build import Build
    from backbench.backbones.core.measure import Origin, make_backbone

    body, remark = _load_body(card, weights)
    return make_backbone(
        body,
        name=card.name,
        architecture=card.architecture,
        preprocess=Preprocess.model_validate(card.preprocess.model_dump()),
        origin=Origin(card.pretrained_on, card.licence, card.source, remark or None),
        build=Build(
            architecture=card.architecture, options=_constructor_options(card), feature_layer=card.feature_layer
        ),
    )


def _load_body(card: Card, weights: Path) -> Any:
    """The body, and a remark on the tensors used."""
    from backbench.backbones.loaders.card import load_card_body

    options = _constructor_options(card).model_dump(exclude_none=True)
    return load_card_body(card.architecture, options, _weights_of(card, weights), card.feature_layer)


def _check(card: Card, weights: Path) -> None:
    if card.architecture.startswith("backbench/"):  # their files decide the architecture
        _load(card, weights, 0)
        return
    from backbench.backbones.core.dry import check_body

    check_body(lambda: _load_body(card, weights)[0], partial(_load, card, weights, 0), card.preprocess.size)


def _constructor_options(card: Card) -> ArchitectureOptions:
    """The options of the network, which takes colour images even if its weights were trained on grey ones."""
    return card.options.model_copy(update={"in_chans": None})


def _weights_of(card: Card, weights: Path) -> Any:
    from backbench.backbones.core.checkpoint import Choice
    from backbench.backbones.loaders.card import CardWeights

    return CardWeights(weights, Choice(card.key, card.prefix), card.options.in_chans or 3)


def _has_head(card: Card) -> bool:
    """Whether the features are the inputs of a classifier whose classes are known."""
    is_ours = card.architecture.startswith("backbench/")
    return card.head_classes is not None and card.feature_layer is None and not is_ours


def _load_head(card: Card, weights: Path, path: Path) -> Any:
    """The classifier in the weights file; ModelError if it does not belong to the features."""
    from backbench.backbones.core import original_head
    from backbench.backbones.loaders.card import load_card_network

    library = card.architecture.partition("/")[0]
    classes = original_head.read_head_classes(card.head_classes or "", path.parent, f"card '{path}'")
    options = _constructor_options(card).model_dump(exclude_none=True)
    network = load_card_network(card.architecture, options, _weights_of(card, weights))
    take = original_head.take_timm_head if library == "timm" else original_head.take_torchvision_head
    return take(network, classes, name=card.name, size=card.preprocess.size)
