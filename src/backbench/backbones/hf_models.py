"""Models of the transformers library: `hf/ORG/NAME` of the Hugging Face Hub, or a folder on this machine.

    hf/google/vit-base-patch16-224-in21k
    hf/./my_model                    # with config.json, preprocessor_config.json, model.safetensors

A folder also works without 'hf/'. Needs the extra `hf`. Files in the hub's cache are used without a network.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from backbench.backbones.core.model_index import find_snapshot
from backbench.backbones.weights_folder import find_repo
from backbench.documents import parse_json
from backbench.errors import ConfigError, shown
from backbench.registry import ModelSpec
from backbench.storage import digest_file, open_file, read_file

PREFIX = "hf/"
CONFIG_FILE = "config.json"
PREPROCESS_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CARD_FILE = "README.md"
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
MAX_CARD_BYTES = 200_000
MAX_CONFIG_BYTES = 20_000_000


def resolve(name: str) -> ModelSpec | None:
    """The spec of `hf/ORG/NAME`, `hf/FOLDER` or a folder that transformers wrote; None for other names.

    Raises:
        ConfigError: 'hf/' before something else, or a folder without weights in safetensors.
    """
    said = name.removeprefix(PREFIX)
    if "\0" in name:
        return None
    if name.startswith(PREFIX) and REPO.fullmatch(said) and not said.startswith("."):
        given = find_repo(said)
        return _hub_spec(said) if given is None else _folder_spec(given, said)
    folder = Path(said).expanduser() if said.startswith("~/") else Path(said)
    if name.startswith(PREFIX):
        if not os.path.isfile(folder / CONFIG_FILE):  # noqa: PTH113 - unlike Path.is_file, it never raises
            raise ConfigError(
                f"model {shown(name)} is neither a repository of the Hugging Face Hub (hf/ORG/NAME) nor a folder "
                f"(hf/./mine) with {CONFIG_FILE}, {PREPROCESS_FILE} and {WEIGHTS_FILE}."
            )
        return _folder_spec(folder)
    is_path = "/" in name or name in (".", "..")
    return _folder_spec(folder) if is_path and _is_model_folder(folder) else None


def _is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a config of transformers, and is not a bundle, which may hold one too."""
    from backbench.backbones.core.bundle_files import is_bundle

    return os.path.isfile(folder / CONFIG_FILE) and not is_bundle(folder)  # noqa: PTH113 - as above


def _weights_files(folder: Path) -> list[Path]:
    """The index and its shards, or the single file; empty if neither exists."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    return [index, *sorted(folder.glob("model-*.safetensors"))] if index.is_file() else []


def _folder_spec(folder: Path, repo: str | None = None) -> ModelSpec:
    """`repo`: the hub repository of a folder in the weights folder, so that it is found again by its name."""
    weights = _weights_files(folder)
    if not weights:
        raise ConfigError(
            f"model folder '{folder}' has no {WEIGHTS_FILE}. Other formats can run code when opened: save "
            f"the model again with save_pretrained, which writes safetensors."
        )
    known_as = repo or folder.resolve().name
    name = f"{PREFIX}{known_as}"
    parts = [digest_file(path) for path in weights]
    parts += [digest_file(path) for file in (CONFIG_FILE, PREPROCESS_FILE) if (path := folder / file).is_file()]
    return _make_spec(
        name,
        folder,
        load=partial(_load_folder, name, folder, known_as, str(folder)),
        load_head=partial(_load_folder_head, name, folder),
        check=partial(_check_folder, name, folder),
        pretrained_on=known_as,
        # a bare name would be looked up as a model
        file=None if repo is not None else str(folder) if folder.is_absolute() else f"./{folder}",
        identity=hashlib.sha256(" ".join(parts).encode()).hexdigest(),
    )


def _hub_spec(repo: str) -> ModelSpec:
    folder = _cached_folder(repo)
    return _make_spec(
        PREFIX + repo,
        folder,
        load=partial(_load_hub, repo),
        load_head=partial(_load_hub_head, repo),
        pretrained_on=repo,
        find_weights=partial(_find_hub_weights, repo),
        ask=partial(_ask_hub, repo),
        check=partial(_check_hub, repo),
    )


def _make_spec(
    name: str, folder: Path | None, *, pretrained_on: str, load: Any, load_head: Any, **more: Any
) -> ModelSpec:
    """The spec from facts that need no import; few before the files are downloaded."""
    config = {} if folder is None else _read_json(folder / CONFIG_FILE)
    size = None if folder is None else _input_size(_read_json(folder / PREPROCESS_FILE))
    kind = config.get("model_type", "kind unknown before the download")
    return ModelSpec(
        name=name,
        summary=f"transformers: {kind}, {f'{size} px, ' if size else ''}{pretrained_on}",
        load=load,
        load_head=load_head,
        pretrained_on=pretrained_on,
        input_size=size,
        licence=None if folder is None else read_licence(folder),
        **more,
    )


def _cached_folder(repo: str) -> Path | None:
    """The cached folder of the main revision; None if there is none."""
    folder = find_snapshot(repo)
    return folder if folder is not None and (folder / CONFIG_FILE).is_file() else None


def _find_hub_weights(repo: str) -> Path | None:
    folder = _cached_folder(repo)
    return None if folder is None else next(iter(_weights_files(folder)), None)


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object; empty if unreadable (loading the model reports the error)."""
    try:
        found = parse_json(read_file(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _input_size(said: dict[str, Any]) -> int | None:
    """Pixels of one side, for lists and estimates only; loading reads the real size."""
    for size in (said.get("crop_size") if said.get("do_center_crop") else None, said.get("size")):
        if isinstance(size, dict):
            size = size.get("height", size.get("shortest_edge"))
        if isinstance(size, int):
            return size
    return None


def read_licence(folder: Path) -> str:
    """The licence in the model card beside the weights; 'not stated' if there is none."""
    try:
        with open_file(folder / CARD_FILE) as stream:
            text = stream.read(MAX_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return "not stated"
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*([A-Za-z0-9._-]{1,60})[ \t]*$", header[1], re.MULTILINE) if header else None
    return found[1] if found else "not stated"


def _ask_hub(repo: str) -> None:
    from backbench.backbones.loaders.hf_fetch import ask_repo

    ask_repo(repo)


def _check_hub(repo: str) -> None:
    folder = _cached_folder(repo)
    if folder is not None and _weights_files(folder):
        _check_folder(PREFIX + repo, folder)


def _check_folder(name: str, folder: Path) -> None:
    """Open the files only: the library can check whether weights fit only by loading them."""
    from backbench.backbones.core.weights_file import check_whole
    from backbench.backbones.loaders.hf import load_preprocess, read_config

    read_config(folder)
    load_preprocess(folder, name)
    for file in _weights_files(folder):
        if file.suffix == ".safetensors":
            check_whole(file)


def _load_hub(repo: str, seed: int) -> Any:
    from backbench.backbones.loaders.hf_fetch import fetch_repo

    folder = fetch_repo(repo)
    return _load_folder(PREFIX + repo, folder, repo, f"{repo} at {folder.name}", seed)


def _load_hub_head(repo: str) -> Any:
    from backbench.backbones.loaders.hf_fetch import fetch_repo

    return _load_folder_head(PREFIX + repo, fetch_repo(repo))


def _load_folder(name: str, folder: Path, pretrained_on: str, source: str, _seed: int) -> Any:
    """The backbone; the seed has no effect on trained weights."""
    from backbench.backbones.core.build import Build
    from backbench.backbones.core.measure import Origin, make_backbone
    from backbench.backbones.loaders.hf import LIBRARY, load_body

    body, config, preprocess = load_body(folder, name)
    architecture = f"{LIBRARY}/{config['model_type']}"
    return make_backbone(
        body,
        name=name,
        architecture=architecture,
        preprocess=preprocess,
        origin=Origin(pretrained_on, read_licence(folder), source),
        build=Build(architecture=architecture, config=config),
    )


def _load_folder_head(name: str, folder: Path) -> Any:
    """The classifier in the folder; ModelError if it has none."""
    from backbench.backbones.loaders.hf import load_head

    return load_head(folder, name)
