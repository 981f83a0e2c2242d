"""The packaged index of timm's and torchvision's pretrained models, and the places of their files on this machine.

Made by `tools/make_model_index.py`; read without importing either library.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backbench.storage import read_file

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in hub repositories, in order of preference."""

MAX_REF_BYTES = 1_000


@cache
def _index() -> Any:
    packed = files("backbench.backbones").joinpath("model_index.json.gz").read_bytes()
    return json.loads(gzip.decompress(packed))


@cache
def rows_of(library: str) -> MappingProxyType[str, dict[str, Any]]:
    """Facts of each model of 'timm' or 'torchvision', by name, in the order of the library."""
    table = _index()[library]
    rows = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    return MappingProxyType({row["name"]: row for row in rows})


def default_tag(architecture: str) -> str | None:
    """timm's default tag for a bare architecture name; None if it has no weights."""
    return _index()["timm"]["default_tags"].get(architecture)


def index_version(library: str) -> str:
    """The version of the library that the index was made from."""
    return _index()[library]["version"]


def hub_repo(row: dict[str, Any]) -> str | None:
    """The hub repository that holds a timm model's weights; None for the few with a URL instead."""
    if row["url"]:
        return None
    return row["hub_id"] or f"timm/{row['name']}"


def hub_cache_folder() -> Path:
    """The cache folder of huggingface_hub; follows its environment variables."""
    home = os.environ.get("HF_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or str(Path(home) / "hub")
    return Path(os.path.expandvars(given)).expanduser()


def torch_file(url: str) -> Path:
    """The path of a URL in torch.hub's cache; follows its environment variables."""
    home = os.environ.get("TORCH_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / url.rpartition("/")[2]


def find_torch_file(url: str) -> Path | None:
    """`torch_file` if it exists, else None."""
    file = torch_file(url)
    return file if file.is_file() else None


def find_in_hub_cache(repo: str, names: Sequence[str] = HUB_FILES) -> Path | None:
    """The first of these files of the repository's main revision on this machine; None if there is none."""
    folder = find_snapshot(repo)
    files = () if folder is None else (folder / name for name in names)
    return next((file for file in files if file.is_file()), None)


def find_snapshot(repo: str) -> Path | None:
    """The folder of the repository's main revision in the hub's cache; None if it is unknown."""
    folder = hub_cache_folder() / f"models--{repo.replace('/', '--')}"
    revision = main_revision(folder)
    return None if revision is None else folder / "snapshots" / revision


def main_revision(folder: Path) -> str | None:
    """The main revision of a repository, by its folder in the hub's cache or in a copy of it; None: not known."""
    try:
        revision = read_file(folder / "refs" / "main", MAX_REF_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return revision if revision.isalnum() else None
