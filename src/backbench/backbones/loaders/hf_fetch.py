"""The files of a transformers model from the Hugging Face hub: the copies on this machine, else a download."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from backbench.backbones.core.fetch import ask_hub, fetch_from_hub
from backbench.backbones.loaders.hf import import_transformers, read_config
from backbench.backbones.shards import read_names
from backbench.errors import ModelError

NEEDED = ("config.json", "preprocessor_config.json")
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CARD_FILE = "README.md"


def fetch_repo(repo: str) -> Path:
    """The folder of one revision of a repository: config, preprocessing, weights and, if it has one, its card.

    Nothing but these files is fetched, and no format but safetensors. What is here is not asked for again.

    Raises:
        ModelError: something is not here and can't be had; says what, why and how to get it.
        MissingExtra: transformers is not installed.
    """
    import_transformers()  # said before anything is fetched
    config = _fetch(repo, NEEDED[0], "main")
    folder = config.parent
    for file in NEEDED[1:]:
        _fetch(repo, file, folder.name)
    if not _is_here(repo, WEIGHTS_FILE, folder.name):
        _fetch_weights(repo, folder.name)
        with suppress(ModelError):  # only the licence is read from it
            _fetch(repo, CARD_FILE, folder.name)
    return folder


def ask_repo(repo: str) -> None:
    """Raises what keeps the weights of a repository from being fetched and used; fetches its small files alone.

    Raises:
        ModelError, MissingExtra: as `fetch_repo`, and for a kind of network that is not offered.
    """
    import_transformers()
    folder = _fetch(repo, NEEDED[0], "main").parent
    for file in NEEDED[1:]:
        _fetch(repo, file, folder.name)
    read_config(folder)
    ask_hub(repo, f"hf/{repo}", (WEIGHTS_FILE, INDEX_FILE))


def _fetch_weights(repo: str, revision: str) -> None:
    """One file, or the parts that an index names."""
    try:
        _fetch(repo, WEIGHTS_FILE, revision)
        return
    except ModelError as error:
        whole = error
    try:
        index = _fetch(repo, INDEX_FILE, revision)
    except ModelError:
        raise whole from None
    for part in read_names(index):
        if not part.endswith(".safetensors"):
            raise ModelError(f"{index} names {part[:80]!r}, which is no safetensors file.")
        _fetch(repo, part, revision)


def _is_here(repo: str, file: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, file, revision=revision), str)


def _fetch(repo: str, file: str, revision: str) -> Path:
    return fetch_from_hub(repo, f"hf/{repo}", (file,), revision)
