"""Weights files of a person's own folder, looked up by model name before anything is fetched.

The environment variable BACKBENCH_WEIGHTS names the folder. For a model NAME it may hold a card `NAME.toml`, or
the weights as published: `NAME.safetensors`, `.pth` or `.bin`; `/` in a name is written `--`, and a timm name may
stand without its tag. A model of transformers is a folder as that library writes it, `hf--ORG--NAME/`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from backbench.backbones import card, timm_models, torchvision_models
from backbench.catalog import ModelSpec
from backbench.storage import digest_file

FIRST = True
"""Asked before the modules that would fetch."""
FOLDER_VARIABLE = "BACKBENCH_WEIGHTS"
SUFFIXES = (".safetensors", ".pth", ".bin")


def resolve(name: str) -> ModelSpec | None:
    """The spec of a timm or torchvision model whose weights lie in the folder; None if none do."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder or "@" in name:
        return None
    published = torchvision_models.resolve(name) or timm_models.resolve(name)
    real = name if published is None else published.name
    stems = dict.fromkeys([name, real, real.partition(".")[0]])
    names = (f"{stem.replace('/', '--')}{suffix}" for stem in stems for suffix in (".toml", *SUFFIXES))
    found = next((file for name in names if (file := find_file(name)) is not None), None)
    if found is None:
        return None
    if found.suffix == ".toml":
        spec = card.resolve(str(found))
        return None if spec is None else replace(spec, name=real)
    if published is None:
        return None
    identity = digest_file(found)
    load: Any = published.load
    load_head: Any = published.load_head
    check: Any = published.check
    return replace(
        published,
        load=partial(load, file=found),
        load_head=None if load_head is None else partial(load_head, file=found),
        download_bytes=0,
        find_weights=None,
        check=partial(check, file=found),
        identity=identity,
    )


def find_folder(name: str) -> Path | None:
    """The folder of that name in the weights folder; None if there is none."""
    folder = os.environ.get(FOLDER_VARIABLE)
    found = Path(folder or "") / name
    return found if folder and os.path.isdir(found) else None  # noqa: PTH112 - unlike Path.is_dir, it never raises


def find_file(name: str) -> Path | None:
    """The file of that name in the weights folder; None if there is none, or no folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    file = Path(folder or "") / name
    return file if folder and os.path.isfile(file) else None  # noqa: PTH113 - unlike Path.is_file, it never raises
