"""Networks of the transformers library without their classification layer. No code of a repository is ever run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbench.backbones.core.fetch import prefer_no_telemetry
from backbench.backbones.core.weights import is_finite
from backbench.backbones.hf_models import CONFIG_FILE, MAX_CONFIG_BYTES, PREPROCESS_FILE
from backbench.backbones.loaders.hf_preprocess import read_preprocess
from backbench.config import Preprocess
from backbench.documents import parse_json
from backbench.errors import MissingExtra, ModelError
from backbench.storage import read_file

LIBRARY = "transformers"
_CLASS_TOKEN_FIRST = ("dinov2", "dinov2_with_registers")
"""Kinds whose classifier sees the class token, then the mean of the others: the class token alone is kept, as timm
does, and most of what is published on them."""
_NOT_OFFERED = ("timm_wrapper", "perceiver", "imagegpt", "shieldgemma2")
_NOT_OF_THE_NETWORK = (  # names and places; or what could make the library fetch or run something
    "id2label",
    "label2id",
    "num_labels",
    "architectures",
    "transformers_version",
    "auto_map",
    "_name_or_path",
    "_commit_hash",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_experts_implementation",
    "torch_dtype",
    "dtype",
)


class TransformersBody(nn.Module):
    """What a classification network gives its classifier: (batch, 3, height, width) float -> (batch, dim).

    Args:
        network: of transformers' image classification networks; the output of its classifier is what it gives.
        dim: how many of the values to keep, from the first; None: all.
    """

    def __init__(self, network: nn.Module, dim: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.dim = dim

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.network(pixel_values=batch).logits
        return values if self.dim is None else values[:, : self.dim]


def import_transformers() -> Any:
    """The library; MissingExtra says how to get it."""
    prefer_no_telemetry()
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "hf", "a model of the Hugging Face hub by 'hf/...'") from error
    return transformers


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder, less what is no part of the network.

    Raises:
        ModelError: it is none, or of a kind of network that is not offered.
    """
    path = folder / CONFIG_FILE
    try:
        said = parse_json(read_file(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable config of transformers: {error}.") from error
    kind = said.get("model_type") if isinstance(said, dict) else None
    if not isinstance(kind, str):
        of_timm = said.get("architecture") if isinstance(said, dict) else None
        way = (
            "It is a model of timm: use its timm name, or for own weights write a card into the folder, with "
            f"architecture = 'timm/{of_timm}' and weights = 'model.safetensors'."
            if isinstance(of_timm, str)
            else "A model of timm goes by its timm name."
        )
        raise ModelError(f"{path} names no 'model_type', so it is none of transformers. {way}")
    check_kind(kind)
    return clean_config(said)


def clean_config(said: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what is no part of the network, and without what could fetch or run anything."""
    return {
        key: clean_config(value) if isinstance(value, Mapping) else value
        for key, value in said.items()
        if key not in _NOT_OF_THE_NETWORK
    }


def check_kind(kind: str) -> None:
    """Raises ModelError unless transformers has networks of that `model_type` that classify images."""
    import_transformers()
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    if kind not in KNOWN or kind in _NOT_OFFERED:
        offered = ", ".join(sorted(name for name in KNOWN if name not in _NOT_OFFERED))
        raise ModelError(f"transformers' '{kind}' is no image network that can be used here. Offered: {offered}.")


def make_body(config: Mapping[str, Any], seed: int = 0) -> TransformersBody:
    """The network of a config without its head, with random weights of the seed; nothing is fetched.

    Raises:
        ModelError: the installed library knows no such network, or can't make it.
        MissingExtra: transformers is not installed.
    """
    kind = str(config.get("model_type", ""))
    check_kind(kind)
    transformers = import_transformers()
    try:
        with torch.random.fork_rng(devices=[]), _silence():
            torch.manual_seed(seed)
            made = _make_config(config, num_labels=1)
            network = transformers.AutoModelForImageClassification.from_config(made, trust_remote_code=False)
    except Exception as error:  # constructors report what they can't do in many ways
        raise ModelError(
            f"transformers {transformers.__version__} can't make this '{kind}': {str(error)[:300]}."
        ) from error
    return drop_head(TransformersBody(network.float().eval()), kind)


def load_network(folder: Path, name: str) -> tuple[TransformersBody, bool]:
    """The whole network of a model folder, and whether its classifier is from there too, or made up.

    Only safetensors files are read, and every tensor of the network but those of the classifier must be in them.

    Raises:
        ModelError: weights missing, damaged or unfit. MissingExtra: transformers is not installed.
    """
    config = read_config(folder)
    transformers = import_transformers()
    labels = _read_labels(folder)
    try:
        with torch.random.fork_rng(devices=[]), _silence():
            network, said = transformers.AutoModelForImageClassification.from_pretrained(
                str(folder),
                config=_make_config(config, num_labels=max(1, len(labels))),
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # wrong or damaged files are reported in many ways
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"the weights of {name} in {folder} can't be loaded: {' '.join(line.strip() for line in lines)[:500]}"
        ) from error
    missing = sorted(key for key in said["missing_keys"] if not key.startswith("classifier"))
    if missing:
        raise ModelError(
            f"the weights of {name} in {folder} lack {', '.join(missing[:3])} ({len(missing)} tensors)."
        )
    bad = [key for key, tensor in network.state_dict().items() if not is_finite(tensor)]
    if bad:
        raise ModelError(f"the weights of {name} in {folder} are damaged: {', '.join(bad[:3])} are not finite.")
    return TransformersBody(network.eval()), not any(key.startswith("classifier") for key in said["missing_keys"])


def drop_head(body: TransformersBody, kind: str) -> TransformersBody:
    """The same with the last linear layer of its classifier replaced by the identity, in place."""
    path = head_path(body.network)
    if path is None:
        raise ModelError(f"transformers' '{kind}' has no classifier of a form that is known here.")
    config: Any = body.network.config
    dim = config.hidden_size if kind in _CLASS_TOKEN_FIRST else None
    parent, _, leaf = path.rpartition(".")
    setattr(body.network.get_submodule(parent), leaf, nn.Identity())
    return TransformersBody(body.network, dim)


def head_path(network: nn.Module) -> str | None:
    """The path of the linear layer that gives logits; None if there is none."""
    named = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    return next((path for path in reversed(named) if path.split(".")[0] == "classifier"), None)


def load_body(folder: Path, name: str) -> tuple[nn.Module, dict[str, Any], Preprocess]:
    """Body, config and preprocessing of a model folder; errors as `load_network`."""
    config = read_config(folder)
    return drop_head(load_network(folder, name)[0], config["model_type"]), config, load_preprocess(folder, name)


def load_preprocess(folder: Path, name: str) -> Preprocess:
    """What the folder's image processor does; ModelError if it is not there, or of no form that is known."""
    transformers = import_transformers()
    path = folder / PREPROCESS_FILE
    if not path.is_file():
        raise ModelError(
            f"{name} has no {PREPROCESS_FILE}, so how its images are prepared is not known. Put into {folder} the "
            "one of the model that it was trained from, with "
            "AutoImageProcessor.from_pretrained(MODEL).save_pretrained(FOLDER)."
        )
    try:
        with _silence():
            processor = transformers.AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # unknown kinds, damaged files, code of the repository that is refused
        raise ModelError(f"{path} can't be used: {str(error).strip()[:300]}") from error
    return read_preprocess(processor.to_dict(), str(path))


def load_head(folder: Path, name: str) -> Any:
    """The classifier of a model folder, as `original_head.OriginalHead`.

    Raises:
        ModelError: it has none, or not one linear layer on the features.
    """
    from backbench.backbones.core.original_head import take_head

    body, has_classifier = load_network(folder, name)
    path = head_path(body.network)
    if path is None or not has_classifier:
        raise ModelError(
            f"{name} comes without a classifier of its own. Choose a method that is fitted, such as logistic."
        )
    bare = drop_head(copy.deepcopy(body), read_config(folder)["model_type"])
    classes = _name_classes(_read_labels(folder), name)
    size = load_preprocess(folder, name).size
    return take_head(body, bare, body.network.get_submodule(path), classes, name=name, size=size)


def _name_classes(labels: Sequence[str], name: str) -> tuple[str, ...]:
    """WordNet ids where the labels are ImageNet's words in its order, or as many numbers as it has; else names."""
    from backbench.backbones.core.original_head import classes_of_size, read_lemmas, read_subset

    if all(label == f"LABEL_{row}" for row, label in enumerate(labels)):
        return classes_of_size(len(labels), name)
    lemmas, ids = read_lemmas(), read_subset("imagenet-1k")
    if len(labels) == len(ids):
        same = sum(label.split(",")[0] == lemmas[each][0] for label, each in zip(labels, ids, strict=True))
        if same > 0.9 * len(ids):
            return ids
    return tuple(labels)


def _read_labels(folder: Path) -> list[str]:
    """The names of the classes in `config.json`, by row; without any, the two that the library makes up."""
    said = parse_json(read_file(folder / CONFIG_FILE, MAX_CONFIG_BYTES))
    named = said.get("id2label")
    if isinstance(named, dict) and named:
        return [str(named.get(str(row), f"LABEL_{row}")) for row in range(len(named))]
    number = said.get("num_labels", 2)
    return [f"LABEL_{row}" for row in range(number if isinstance(number, int) else 2)]


def _make_config(config: Mapping[str, Any], *, num_labels: int) -> Any:
    transformers = import_transformers()
    settings = {key: value for key, value in clean_config(config).items() if key != "model_type"}
    settings |= {"num_labels": num_labels, "return_dict": True}
    made = transformers.AutoConfig.for_model(config["model_type"], **settings)
    made.architectures = []  # of kinds with several classifiers (DeiT with and without a teacher) the plain one
    return made


@contextmanager
def _silence() -> Iterator[None]:
    """No bars and no reports of the library on stderr."""
    import_transformers()
    from transformers.utils import logging

    before, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    # told of by torchao, which transformers imports where it is installed
    noisy = getLogger("torch.utils._pytree")
    level = noisy.level
    noisy.setLevel(ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)
        logging.set_verbosity(before)
        if had_bar:
            logging.enable_progress_bar()
