"""Weights files in the user's own folder, looked up by model name before any download.

The environment variable BACKBENCH_WEIGHTS names the folder. For a model NAME it may hold a card `NAME.toml`, or
published weights: `NAME.safetensors`, `.pth` or `.bin`, `NAME/model.safetensors`, or a folder from the caches of
the hub's client or torch.hub. Write `--` for `/` in a name; a timm name may omit its tag. For a model of
transformers it may hold a folder of that library, `hf--ORG--NAME/`, or one from the hub's cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from backbench.backbones import card, timm_models, torchvision_models
from backbench.backbones.core.model_index import HUB_FILES, hub_repo, main_revision, rows_of, torch_file
from backbench.errors import nearest
from backbench.registry import ModelSpec
from backbench.storage import digest_file

FIRST = True
"""Tried before modules that download."""
FOLDER_VARIABLE = "BACKBENCH_WEIGHTS"
SUFFIXES = (".safetensors", ".pth", ".bin")


def resolve(name: str) -> ModelSpec | None:
    """The spec of a timm or torchvision model with weights in the folder, else None."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder or "@" in name:
        return None
    published = torchvision_models.resolve(name) or timm_models.resolve(name)
    real = name if published is None else published.name
    found = next(filter(None, map(_find, _list_places(real, name))), None)
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


def _list_places(real: str, asked: str) -> list[str]:
    """Possible places of a model's weights in the folder, in search order; '*' stands for a revision.

    Args:
        real: its full name. asked: the requested name, perhaps without a tag.
    """
    stems = [stem.replace("/", "--") for stem in dict.fromkeys([asked, real, real.partition(".")[0]])]
    places = [f"{stem}{suffix}" for stem in stems for suffix in (".toml", *SUFFIXES)]
    row = rows_of("timm").get(real) or rows_of("torchvision").get(real.removeprefix(torchvision_models.PREFIX))
    if row is None:
        return places
    places += [f"{stem}/{file}" for stem in stems for file in HUB_FILES]
    repo = hub_repo(row) if "hub_id" in row else None
    if repo is None:
        file = torch_file(row["url"]).name
        return [*places, *(f"{folder}{file}" for folder in ("", "checkpoints/", "hub/checkpoints/"))]
    return [*places, *(f"{folder}/{file}" for folder in _hub_folders(repo) for file in HUB_FILES)]


def _hub_folders(repo: str) -> list[str]:
    """Folders of a repository in the cache and in the home of the hub's client."""
    name = f"models--{repo.replace('/', '--')}/snapshots/*"
    return [name, f"hub/{name}"]


def _find(place: str) -> Path | None:
    """The file at a place in the folder; of several revisions the main one, or the last by name."""
    root, star, inner = place.partition("*")
    if not star:
        return find_file(place)
    return next(
        (file for each in _list_revisions(root) if (file := find_file(f"{each}{inner}")) is not None), None
    )


def _list_revisions(snapshots: str) -> Iterator[str]:
    folder = find_folder(snapshots)
    if folder is None:
        return
    revision = main_revision(folder.parent)
    if revision is not None:
        yield f"{snapshots}{revision}"
    with suppress(OSError):
        yield from sorted((f"{snapshots}{entry.name}" for entry in folder.iterdir()), reverse=True)


def find_repo(repo: str) -> Path | None:
    """The folder of a transformers model ORG/NAME in the weights folder; None if there is none."""
    plain = repo.replace("/", "--")
    for place in (f"hf--{plain}", plain, repo):
        if (found := find_folder(place)) is not None:
            return found
    revisions = (each for place in _hub_folders(repo) for each in _list_revisions(place.removesuffix("*")))
    return next((found for each in revisions if (found := find_folder(each)) is not None), None)


def describe_search(name: str) -> str:
    """A line of a message: the weights of a model are not in the folder, with possible file names.
    '' if there is no folder.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return ""
    told = f"  looked in: {folder} ({FOLDER_VARIABLE})"
    try:
        there = sorted(entry.name for entry in Path(folder).iterdir())
    except OSError as error:
        return f"{told}, which can't be read: {error.strerror}\n"
    if name.startswith("hf/"):
        repo = name.removeprefix("hf/")
        places = [f"hf--{repo.replace('/', '--')}/", *(f"{place}/" for place in _hub_folders(repo))]
    else:
        places = _list_places(name, name)
    close = nearest(name.replace("/", "--"), there, limit=1)
    near = f"\n  nearest file: {close[0]}" if close else ""
    return f"{told} for {', '.join(places)}{near}\n"


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
