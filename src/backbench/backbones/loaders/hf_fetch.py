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

    Downloads only these files, and weights only as safetensors. Local files are not checked again.

    Raises:
        ModelError: a file is missing and can't be downloaded; the message gives the file, the reason and the
            remedy.
        MissingExtra: transformers is not installed.
    """
    import_transformers()  # raises before any download
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
    """Raise an error if the weights of a repository can't be downloaded and used; downloads only small files.

    Raises:
        ModelError, MissingExtra: as `fetch_repo`, and for an unsupported kind of network.
    """
    import_transformers()
    folder = _fetch(repo, NEEDED[0], "main").parent
    for file in NEEDED[1:]:
        _fetch(repo, file, folder.name)
    read_config(folder)
    ask_hub(repo, f"hf/{repo}", (WEIGHTS_FILE, INDEX_FILE))


def _fetch_weights(repo: str, revision: str) -> None:
    """Download one file, or the shards of an index."""
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
            raise ModelError(f"{index} names {part[:80]!r}, which is not a safetensors file.")
        _fetch(repo, part, revision)


def _is_here(repo: str, file: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, file, revision=revision), str)


def _fetch(repo: str, file: str, revision: str) -> Path:
    return fetch_from_hub(repo, f"hf/{repo}", (file,), revision)
