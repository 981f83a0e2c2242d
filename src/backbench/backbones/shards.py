"""Sharded weights: an index names the file of each tensor."""

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
        ModelError: as `read_names`, or a missing file.
    """
    parts = [index.parent / name for name in read_names(index)]
    for part in parts:
        if not part.is_file():
            raise ModelError(f"{part}, a shard in {index.name}, is missing.")
    return parts


def read_names(index: Path) -> list[str]:
    """File names in an index, in order. ModelError: not an index, or a file that is not beside it."""
    try:
        named = sorted(set(parse_json(read_file(index, MAX_INDEX_BYTES))["weight_map"].values()))
    except OSError as error:
        raise ModelError(f"{index} can't be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is not an index of weights: it has no 'weight_map' of file names.") from error
    for name in named:
        if not isinstance(name, str) or name != Path(name).name or name.endswith(INDEX_SUFFIX):
            raise ModelError(f"{index} names {str(name)[:80]!r}, which is not a weights file beside it.")
    return named
