"""Weights that are split over several files: an index beside them names the file of each tensor."""

from __future__ import annotations

from pathlib import Path

from backbench.documents import parse_json
from backbench.errors import ModelError
from backbench.storage import read_file

INDEX_SUFFIX = ".index.json"
MAX_INDEX_BYTES = 50_000_000


def list_parts(index: Path) -> list[Path]:
    """The files that an index such as `model.safetensors.index.json` names, in order of name.

    Raises:
        ModelError: as `read_names`; or a file is missing.
    """
    parts = [index.parent / name for name in read_names(index)]
    for part in parts:
        if not part.is_file():
            raise ModelError(f"{part}, a part of the weights that {index.name} names, is not there.")
    return parts


def read_names(index: Path) -> list[str]:
    """Names of the files that an index names, in order. ModelError: it is none, or names what is not beside it."""
    try:
        named = sorted(set(parse_json(read_file(index, MAX_INDEX_BYTES))["weight_map"].values()))
    except OSError as error:
        raise ModelError(f"{index} can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of weights: it has no 'weight_map' of file names.") from error
    for name in named:
        if not isinstance(name, str) or name != Path(name).name or name.endswith(INDEX_SUFFIX):
            raise ModelError(f"{index} names {str(name)[:80]!r}, which is no weights file beside it.")
    return named
