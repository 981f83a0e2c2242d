"""Models of images and texts through open_clip: `open_clip/MODEL:TAG`, or a weights file instead of the tag.

    open_clip/ViT-B-32:laion2b_s34b_b79k
    open_clip/ViT-B-32:./mine.safetensors

Features are the unit-length embeddings of images; `zeroshot` compares them with those of the class names. Needs
the extra `clip`. Files in the hub's cache or in the weights folder are used without a network.
"""

from __future__ import annotations

import os
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backbench.backbones.weights_folder import SUFFIXES, find_file
from backbench.errors import ConfigError, MissingExtra, shown
from backbench.registry import ModelSpec
from backbench.storage import digest_file

PREFIX = "open_clip/"
MODEL = re.compile(r"[A-Za-z0-9_-]{1,80}")
TAG = re.compile(r"[A-Za-z0-9_.-]{1,80}")


def resolve(name: str) -> ModelSpec | None:
    """The spec of `open_clip/MODEL:TAG` or `open_clip/MODEL:FILE`; None for other names.

    Raises:
        ConfigError: the name has another form, or the file is missing.
        MissingExtra: open_clip is not installed.
    """
    if not name.startswith(PREFIX):
        return None
    model, _, weights = name.removeprefix(PREFIX).partition(":")
    is_path = "/" in weights or weights.endswith(SUFFIXES)
    if not MODEL.fullmatch(model) or not (is_path or TAG.fullmatch(weights)):
        raise ConfigError(
            f"model {shown(name)}: expected {PREFIX}MODEL:TAG or {PREFIX}MODEL:FILE, such as "
            f"{PREFIX}ViT-B-32:laion2b_s34b_b79k or {PREFIX}ViT-B-32:./mine.safetensors."
        )
    if find_spec("open_clip") is None:
        raise MissingExtra("open_clip_torch", "clip", f"The model {name}")
    if is_path:
        file = Path(weights).expanduser()
        if not os.path.isfile(file):  # noqa: PTH113 - unlike Path.is_file, it never raises
            raise ConfigError(f"model {shown(name)}: no such file '{file}'.")
        return _make_spec(
            f"{PREFIX}{model}:{file.name}", model, None, file, file=f"{PREFIX}{model}:{file.absolute()}"
        )
    found = (find_file(f"open_clip--{model}--{weights}{suffix}") for suffix in SUFFIXES)
    return _make_spec(name, model, weights, next(filter(None, found), None))


def _make_spec(name: str, model: str, tag: str | None, weights: Path | None, **more: Any) -> ModelSpec:
    trained_on = f"images and texts ({tag or weights})"
    return ModelSpec(
        name=name,
        summary=f"open_clip: {model}, {trained_on}",
        load=partial(_load, name, model, tag, weights, trained_on),
        load_head=partial(_load_head, name, model, tag, weights),
        blueprint=partial(_blueprint, name, model, tag),
        check=partial(_check, name, model, tag, weights),
        pretrained_on=trained_on,
        identity="" if weights is None else digest_file(weights),
        **more,
    )


def _check(name: str, model: str, tag: str | None, weights: Path | None) -> None:
    """Check the weights through the library, because only it knows where they are published."""
    from backbench.backbones.loaders import clip as clip_body

    if weights is None:
        clip_body.ask_weights(model, tag or "", name)
    else:
        clip_body.load_network(model, tag, weights, name)


def _load(name: str, model: str, tag: str | None, weights: Path | None, trained_on: str, _seed: int) -> Any:
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.backbones.loaders import clip as clip_body

    file = weights or clip_body.fetch_weights(model, tag or "", name)
    network = clip_body.load_network(model, tag, file, name)
    build = clip_body.make_build(model, tag)
    return make_backbone(
        clip_body.ClipBody(network.visual),
        name=name,
        architecture=build.architecture,
        preprocess=clip_body.read_preprocess(network),
        origin=Origin(trained_on, "not stated", str(file)),
        build=build,
    )


def _load_head(name: str, model: str, tag: str | None, weights: Path | None) -> Any:
    """The text encoder."""
    from backbench.backbones.loaders import clip as clip_body

    file = weights or clip_body.fetch_weights(model, tag or "", name)
    return clip_body.make_text_head(clip_body.load_network(model, tag, file, name), model, name)


def _blueprint(name: str, model: str, tag: str | None) -> Any:
    from backbench.backbones.loaders import clip as clip_body

    network = clip_body.load_network(model, tag, None, name)
    return clip_body.make_build(model, tag), clip_body.read_preprocess(network)
