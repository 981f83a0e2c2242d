"""Networks of open_clip: the image encoder as a body, the text encoder as a classifier."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from backbench.backbones.core.build import Build
from backbench.backbones.core.fetch import ask_hub, describe_failure, fetch_from_hub, prefer_no_telemetry
from backbench.backbones.core.model_index import find_in_hub_cache
from backbench.backbones.core.original_head import TextHead
from backbench.backbones.core.weights_file import check_whole
from backbench.config import Preprocess
from backbench.errors import MissingExtra, ModelError, unknown_name

LIBRARY = "open_clip"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""open_clip's file names of weights in a hub repository, in order of preference."""
TEXTS_AT_ONCE = 256
_PREPROCESS = ("size", "mean", "std", "interpolation", "resize_mode")
_RESIZE = {"shortest": "short-side", "squash": "squash"}


class ClipBody(nn.Module):
    """Embeddings of images, of length 1: (batch, 3, height, width) float -> (batch, dim)."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        values = self.visual(batch)
        return functional.normalize(values[0] if isinstance(values, tuple) else values, dim=-1)


def import_open_clip() -> Any:
    """Import the library; MissingExtra says how to install it."""
    prefer_no_telemetry()
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtra("open_clip_torch", "clip", "A model of images and texts by 'open_clip/...'") from error
    return open_clip


def fetch_weights(model: str, tag: str, name: str) -> Path:
    """The weights of that tag: the copy on this machine, else a download.

    Raises:
        ConfigError: unknown model or weights in open_clip; the message gives the nearest.
        ModelError: the weights can't be downloaded; the message names the file and how to get it.
    """
    repo, files = _find_repo(model, tag, name)
    return fetch_from_hub(repo, name, files)


def ask_weights(model: str, tag: str, name: str) -> None:
    """Raise the errors of `fetch_weights` without downloading weights."""
    repo, files = _find_repo(model, tag, name)
    file = find_in_hub_cache(repo, files)
    if file is None:
        ask_hub(repo, name, files)
    elif file.suffix == ".safetensors":
        check_whole(file)


def _find_repo(model: str, tag: str, name: str) -> tuple[str, tuple[str, ...]]:
    """The repository of the hub that holds the weights of that tag, and their possible file names."""
    library = import_open_clip()
    _check_model(library, model, name)
    found = library.get_pretrained_cfg(model, tag)
    if not found:
        tags = library.list_pretrained_tags_by_model(model)
        raise unknown_name(f"weights of {model}", tag, tags, f"the model {name}", "open_clip.list_pretrained()")
    repo, _, file = str(found.get("hf_hub", "")).rpartition("/")
    if not repo:
        url = str(found.get("url", ""))
        raise ModelError(
            f"the weights of {name} are published outside the hub, at {url}. Download that file and give it "
            f"instead of the tag, for example open_clip/{model}:./{Path(url).name}."
        )
    return repo, (file,) if file else HUB_FILES


def _check_model(library: Any, model: str, name: str) -> None:
    if model not in library.list_models():
        raise unknown_name("model of open_clip", model, library.list_models(), name, "open_clip.list_models()")


def load_network(model: str, tag: str | None, weights: Path | None, name: str) -> Any:
    """The whole network in eval mode, nothing trainable; without weights its values are random.

    Args:
        tag: name of the weights; decides an activation and the preprocessing. None: the model's defaults.

    Raises:
        ConfigError: no such model. ModelError: the file does not hold its weights.
    """
    library = import_open_clip()
    _check_model(library, model, name)
    said = library.get_pretrained_cfg(model, tag) if tag is not None else {}
    try:
        with _quietly(), torch.random.fork_rng(devices=[]):
            network = library.create_model(
                model,
                pretrained=None if weights is None else str(weights),
                force_quick_gelu=bool(said.get("quick_gelu")),
                force_preprocess_cfg={key: said[key] for key in _PREPROCESS if key in said},
                pretrained_text=False,
            )
    except Exception as error:  # any error of the library on a damaged file or another network
        raise ModelError(f"{weights or model} can't be opened as {name}: {describe_failure(error)}") from error
    network.eval().requires_grad_(False)
    return network


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence logs and warnings of the library while it builds."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def make_build(model: str, tag: str | None) -> Build:
    """How to rebuild the image encoder, see `make_body`."""
    said = import_open_clip().get_pretrained_cfg(model, tag) if tag is not None else {}
    return Build(architecture=f"{LIBRARY}/{model}", config={"quick_gelu": bool(said.get("quick_gelu"))})


def make_body(model: str, config: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The image encoder, with random weights of that seed.

    Raises:
        ModelError: the installed open_clip can't make it. MissingExtra: it is not installed.
    """
    library = import_open_clip()
    device = "meta" if torch.get_default_device().type == "meta" else "cpu"  # see outline.py
    quick = bool(config.get("quick_gelu"))
    try:
        with _quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = library.create_model(model, device=device, force_quick_gelu=quick, pretrained_text=False)
    except Exception as error:
        raise ModelError(f"the installed open_clip can't make {model}: {describe_failure(error)}") from error
    return ClipBody(network.visual).eval()


def read_preprocess(network: Any) -> Preprocess:
    """The preprocessing of the network's training, from open_clip.

    Raises:
        ModelError: an unsupported way of resizing.
    """
    said = network.visual.preprocess_cfg
    size = said["size"]
    resize = _RESIZE.get(said.get("resize_mode") or "shortest")
    if resize is None:
        raise ModelError(
            f"open_clip uses resize mode '{said['resize_mode']}' for this model, which backbench does not support."
        )
    return Preprocess.model_validate(
        {
            "size": (size, size) if isinstance(size, int) else tuple(size),
            "resize": resize,
            "interpolation": said.get("interpolation") or "bicubic",
            "mean": tuple(said["mean"]),
            "std": tuple(said["std"]),
        }
    )


def make_text_head(network: Any, model: str, name: str) -> TextHead:
    """The text encoder as a head: it makes classes from words.

    Raises:
        ModelError: its tokenizer can't be loaded: some are downloaded from the hub.
    """
    library = import_open_clip()
    try:
        with _quietly():
            tokenizer = library.get_tokenizer(model)
    except Exception as error:
        raise ModelError(f"the tokenizer of {name} can't be loaded: {describe_failure(error)}") from error
    scale = float(network.logit_scale.detach().exp())
    return TextHead(_embedder(network, tokenizer), scale)


def _embedder(
    network: Any, tokenizer: Callable[[list[str]], torch.Tensor]
) -> Callable[[Sequence[str]], np.ndarray]:
    def embed(texts: Sequence[str]) -> np.ndarray:
        blocks = []
        with torch.inference_mode():
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                tokens = tokenizer(list(texts[start : start + TEXTS_AT_ONCE]))
                blocks.append(network.encode_text(tokens, normalize=True).float())
        values: np.ndarray = torch.cat(blocks).numpy()
        return values

    return embed
