"""Find weights files on this machine, or download them from the Hugging Face Hub or a URL."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from backbench.backbones.core.model_index import HUB_FILES
from backbench.backbones.weights_folder import describe_search
from backbench.errors import ModelError

ASK_TIMEOUT_SECONDS = 5.0
DOWNLOAD_TIMEOUT_SECONDS = 20.0


def fetch_from_hub(repo: str, name: str, files: Sequence[str] = HUB_FILES, revision: str | None = None) -> Path:
    """A file of a hub repository: the copy on this machine if there is one, else a download.

    Args:
        files: possible file names, in order of preference.
        revision: of the repository; None: the main one.

    Raises:
        ModelError: not on this machine and not downloadable; the message names the file, the places, the reason
            and the remedy.
    """
    prefer_no_telemetry()
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    for file in files:
        found = try_to_load_from_cache(repo, file, revision=revision)
        if isinstance(found, str):
            return Path(found)
    file = ask_hub(repo, name, files, revision)  # because hf_hub_download tries a dead server for half a minute
    try:
        return Path(hf_hub_download(repo, file, revision=revision, etag_timeout=ASK_TIMEOUT_SECONDS))
    except Exception as error:  # no network any more, disk full, ...: all kinds of errors
        raise _not_on_hub(repo, name, files, describe_failure(error)) from error


def ask_hub(repo: str, name: str, files: Sequence[str] = HUB_FILES, revision: str | None = None) -> str:
    """The first of `files` that a hub repository has; downloads nothing. Errors as `fetch_from_hub`."""
    prefer_no_telemetry()
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for file in files:
        try:
            get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=ASK_TIMEOUT_SECONDS)
        except EntryNotFoundError:
            continue
        except Exception as error:  # no network, refused, gated, ...: all kinds of errors
            raise _not_on_hub(repo, name, files, describe_failure(error)) from error
        return file
    raise _not_on_hub(repo, name, files, "the repository has no such file")


def _not_on_hub(repo: str, name: str, files: Sequence[str], reason: str) -> ModelError:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    what, wanted = f"the weights of '{name}' are", f"{repo} {files[0]}"
    instead = "name a card, a small TOML file beside a weights file you have."
    if name.startswith("hf/"):  # a folder of several files
        what, wanted = f"the model '{name}' is", repo
        instead = "name a folder that holds the model, as in hf/./mine."
    return ModelError(
        f"{what} not on this machine and could not be downloaded.\n"
        f"{describe_search(name)}"
        f"  looked for: {files[0]} of {repo} in {folder}\n"
        f"  tried: {constants.ENDPOINT}: {reason}\n"
        f"  to get it: run 'hf download {wanted}' with a network and copy that folder here, or {instead}"
    )


def fetch_from_address(url: str, name: str, file: Path) -> Path:
    """The weights file at `url`, kept as `file`; a hash at the end of the file's name is checked.

    Raises:
        ModelError: as in `fetch_from_hub`.
    """
    if file.is_file():
        return file
    aside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _download(url, aside, hash_in_name(file.name))
        aside.replace(file)
    except (OSError, HTTPException) as error:
        aside.unlink(missing_ok=True)
        raise _not_at_address(url, name, file, error) from error
    return file


def ask_address(url: str, name: str, file: Path) -> None:
    """Raise ModelError, as `fetch_from_address`, unless `url` exists; downloads nothing."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=ASK_TIMEOUT_SECONDS).close()
    except HTTPError as error:
        error.close()
        if error.code not in (
            HTTPStatus.METHOD_NOT_ALLOWED,
            HTTPStatus.NOT_IMPLEMENTED,
        ):  # the server only answers GET
            raise _not_at_address(url, name, file, error) from error
    except (OSError, HTTPException) as error:
        raise _not_at_address(url, name, file, error) from error


def _not_at_address(url: str, name: str, file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"the weights of '{name}' are not on this machine and could not be downloaded.\n"
        f"{describe_search(name)}"
        f"  looked for: {file}\n"
        f"  tried: {url}: {describe_failure(error)}\n"
        f"  to get it: download that URL on a machine with a network and put the file there, "
        f"or give a card (a small TOML file beside a weights file that you have)."
    )


def _download(url: str, file: Path, first_digits: str | None) -> None:
    """Download `url` to `file` and verify it; OSError or HTTPException if that fails."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        response = urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        raise
    with response, open(file, "wb") as stream:
        while block := response.read(1 << 20):
            digest.update(block)
            num_bytes += len(block)
            stream.write(block)
        announced = response.headers.get("Content-Length")
    if announced is not None and num_bytes != int(announced):
        raise OSError(f"received {num_bytes:,} of {int(announced):,} bytes")
    if first_digits is not None and not digest.hexdigest().startswith(first_digits):
        raise OSError(f"the download is not the expected file: its SHA-256 does not start with {first_digits}")


def prefer_no_telemetry() -> None:
    """Turn off telemetry of the hub's client by default, if it is not imported yet."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def hash_in_name(file: str) -> str | None:
    """The first hex digits of the SHA-256 at the end of a file's name ('resnet18-f37072fd.pth'), or None."""
    match = re.search(r"-([0-9a-f]{8,64})\.pth$", file)
    return match.group(1) if match else None


def describe_failure(error: BaseException) -> str:
    """The innermost error of a chain, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__
