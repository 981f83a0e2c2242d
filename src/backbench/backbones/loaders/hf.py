"""Networks of the transformers library without their classification layer. Never runs code of a repository."""

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
"""Kinds whose classifier uses the class token and the mean of the others: only the class token is kept, as in timm
and in most publications."""
_NOT_OFFERED = ("timm_wrapper", "perceiver", "imagegpt", "shieldgemma2")
_NOT_OF_THE_NETWORK = (  # names and paths; or settings that could make the library download or run something
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
    """The input of a network's classifier: (batch, 3, height, width) float -> (batch, dim).

    Args:
        network: an image classification network of transformers; its classifier passes its input through.
        dim: number of values to keep, from the first; None: all.
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
    """`config.json` of a model folder, without entries that are not part of the network.

    Raises:
        ModelError: not a config, or an unsupported kind of network.
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
            "It is a model of timm: use its timm name, or for your own weights write a card into the folder, "
            f"with architecture = 'timm/{of_timm}' and weights = 'model.safetensors'."
            if isinstance(of_timm, str)
            else "For a model of timm, use its timm name."
        )
        raise ModelError(f"{path} has no 'model_type', so it is not a transformers model. {way}")
    check_kind(kind)
    return clean_config(said)


def clean_config(said: Mapping[str, Any]) -> dict[str, Any]:
    """A config without entries that are not part of the network or could download or run anything."""
    return {
        key: clean_config(value) if isinstance(value, Mapping) else value
        for key, value in said.items()
        if key not in _NOT_OF_THE_NETWORK
    }


def check_kind(kind: str) -> None:
    """Raise ModelError unless transformers has image classification networks of that `model_type`."""
    import_transformers()
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    if kind not in KNOWN or kind in _NOT_OFFERED:
        offered = ", ".join(sorted(name for name in KNOWN if name not in _NOT_OFFERED))
        raise ModelError(f"transformers' '{kind}' is not a supported image network. Supported: {offered}.")


def make_body(config: Mapping[str, Any], seed: int = 0) -> TransformersBody:
    """The network of a config without its head, with random weights of the seed; downloads nothing.

    Raises:
        ModelError: the installed library does not know or can't make the network.
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
    """The whole network of a model folder, and whether its classifier comes from the folder (not random).

    Only safetensors files are read, and every tensor of the network except the classifier must be in them.

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
        raise ModelError(f"transformers' '{kind}' has no classifier of a known form.")
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
    """What the folder's image processor does; ModelError if it is missing or of an unknown form."""
    transformers = import_transformers()
    path = folder / PREPROCESS_FILE
    if not path.is_file():
        raise ModelError(
            f"{name} has no {PREPROCESS_FILE}, so its preprocessing is unknown. Put into {folder} the file of the "
            "model that it was trained from, with "
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
        ModelError: no classifier, or not one linear layer on the features.
    """
    from backbench.backbones.core.original_head import take_head

    body, has_classifier = load_network(folder, name)
    path = head_path(body.network)
    if path is None or not has_classifier:
        raise ModelError(f"{name} comes without a classifier. Choose a method that fits a head, such as logistic.")
    bare = drop_head(copy.deepcopy(body), read_config(folder)["model_type"])
    classes = _name_classes(_read_labels(folder), name)
    size = load_preprocess(folder, name).size
    return take_head(body, bare, body.network.get_submodule(path), classes, name=name, size=size)


def _name_classes(labels: Sequence[str], name: str) -> tuple[str, ...]:
    """WordNet ids if the labels are ImageNet's words in order, or as many numbers; else names."""
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
    """The names of the classes in `config.json`, by row; without any, the library's two default names."""
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
    # for kinds with several classifiers (DeiT with and without a teacher) use the plain one
    made.architectures = []
    return made


@contextmanager
def _silence() -> Iterator[None]:
    """Hide bars and reports of the library on stderr."""
    import_transformers()
    from transformers.utils import logging

    before, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    # from torchao, which transformers imports if installed
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
