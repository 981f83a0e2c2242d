"""The backbone's files in a bundle folder: find, read and check them.

`classifier/bundle.py` writes bundles and loads classifiers; `own_runs.py` loads only backbones.
Reading the description of a bundle never imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, ValidationError

from backbench.backbones.core.build import Build
from backbench.config import Frozen, Preprocess, SmallClasses, digest_json
from backbench.documents import parse_json
from backbench.errors import ConfigError, ModelError, StorageError, nearest, shown
from backbench.records.commands import keep_command
from backbench.records.schema import BUNDLE_SUFFIX, ModelFacts, RunId
from backbench.storage import digest_file, read_file

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
SEEN_FILE = "seen.safetensors"
CARD_FILE = "README.md"
RECORD_FILE = "record.json"
RUNS_FOLDER = Path("runs")
"""Default folder of runs; see --out."""
BODY_PREFIX = "backbone.body."
MAX_MODEL_BYTES = 64_000_000


class TrainingFacts(Frozen):
    """The run, images and split that made the classifier, so that its test split can be found again."""

    run_id: RunId
    record_digest: str = Field(description="see `classifier.bundle.digest_record`")
    method: str | None
    data: str
    manifest_digest: str
    image_digest: str
    split_seed: int
    test_fraction: float
    val_fraction: float
    group_column: str | None = None
    min_images: int | None = None
    small_classes: SmallClasses = "drop"
    trained_backbone: bool = Field(default=True, description="False: the run did not change its weights")


class StoredBackbone(Frozen):
    """The backbone and its origin in `model.json`."""

    name: str
    build: Build
    backbone: ModelFacts = Field(description="without preprocessing, which is a separate entry")
    preprocess: Preprocess
    training: TrainingFacts | None = None
    files: dict[str, str] = Field(description="SHA-256 of each file beside model.json when written")


Facts = TypeVar("Facts", bound=StoredBackbone)


def is_bundle(path: Path) -> bool:
    """Whether the path is a bundle, or a run folder with one beside it, judged by names."""
    return _place(path) is not None


def _place(path: Path) -> Path | None:
    """The bundle folder of a path: `RUN.bundle` is beside the folder `RUN`.

    A bare name that does not exist here is looked up among the runs.
    """
    places = [
        each for start in meanings_of(path) for each in (start, start.with_name(f"{start.name}{BUNDLE_SUFFIX}"))
    ]
    # unlike Path.is_file, os.path.isfile never raises, whatever the name
    return next((place for place in places if os.path.isfile(place / MODEL_FILE)), None)  # noqa: PTH113


def meanings_of(path: Path) -> tuple[Path, ...]:
    """The path, and for a missing bare name the run of that name; () without a name."""
    if not path.name:
        return ()
    is_bare = len(path.parts) == 1 and not os.path.lexists(path)
    return (path, RUNS_FOLDER / path) if is_bare else (path,)


def list_beside(path: Path) -> list[Path]:
    """Bundles, and runs that wrote one, in the folder of a path, and for a bare name among the runs; by name."""
    found = []
    for place in meanings_of(path):
        with contextlib.suppress(OSError):
            found += sorted(entry for entry in place.parent.iterdir() if is_bundle(entry))
    return found


def find_bundle(folder: Path) -> Path:
    """Find the bundle of `folder`; ConfigError with the nearest name if there is none."""
    place = _place(folder)
    if place is not None:
        return place
    for meant in meanings_of(folder):
        if os.path.isfile(meant / RECORD_FILE):  # noqa: PTH113 - as above
            raise ConfigError(f"the run {shown(meant.name)} saved no bundle. Save it with: {keep_command(meant)}")
    if os.path.lexists(folder):
        raise ConfigError(
            f"{shown(str(folder))} is not a bundle: it has no {MODEL_FILE}. Give a folder RUN{BUNDLE_SUFFIX}, "
            "written by backbench keep or backbench adapt."
        )
    beside = {path.name: path for path in list_beside(folder)}
    close = nearest(folder.name, beside)
    hint = " Did you mean " + " or ".join(f"'{beside[near]}'" for near in close) + "?" if close else ""
    if beside and not close:
        few = ", ".join(f"'{path}'" for path in list(beside.values())[:3])
        hint = f" Available: {few}{' and more' if len(beside) > 3 else ''}."
    raise ConfigError(f"there is no bundle {shown(str(folder))}.{hint}")


def read_document(folder: Path) -> dict[str, Any]:
    """The JSON document `model.json` of this folder, with a supported schema and with preprocessing.

    Raises:
        StorageError: the document is missing, damaged, or written by a newer backbench. ModelError: not that of a
            bundle.
    """
    path = folder / MODEL_FILE
    document = _read_json(path)
    schema = document.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise StorageError(
            f"{path} was written by a newer backbench (schema {schema}; this one reads up to {SCHEMA_VERSION}). "
            "Update backbench to load it."
        )
    if schema != SCHEMA_VERSION:
        raise ModelError(f"{path} is not a bundle's: its 'schema' is {str(schema)[:40]!r}, not {SCHEMA_VERSION}.")
    if not document.get("preprocess"):
        raise ModelError(
            f"{path} has no preprocessing: without size, crop and normalisation of images, its predictions would "
            "be wrong without notice. Write the bundle again."
        )
    return document


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_file(path, MAX_MODEL_BYTES))
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise StorageError(f"{path} is damaged: it is not JSON ({str(error)[:120]}).") from error
    if not isinstance(document, dict):
        raise StorageError(f"{path} is damaged: not a JSON object of the size of a bundle.")
    return document


def validate(kind: type[Facts], path: Path, document: dict[str, Any]) -> Facts:
    """The document, less `schema` and `digest`, as facts of that kind; ModelError names the first fault."""
    rest = {key: value for key, value in document.items() if key not in ("schema", "digest")}
    try:
        return kind.model_validate_json(json.dumps(rest, allow_nan=False))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        why = fault["msg"].removeprefix("Value error, ")
        said = "is missing" if fault["type"] == "missing" else f"= {str(fault['input'])[:60]!r}: {why}"
        raise ModelError(f"{path}: '{place}' {said}. Write the bundle again.") from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def check_digest(path: Path, document: dict[str, Any]) -> None:
    """Raise StorageError if the document was changed."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    if document.get("digest") != digest_json(rest):
        raise StorageError(
            f"{path} was changed after it was written (its checksum does not match). Write the bundle again, or "
            "copy it again from its source."
        )


def check_file(path: Path, digest: str | None) -> None:
    """Raise StorageError if a file beside `model.json` is missing or was changed."""
    try:
        found = digest_file(path)
    except FileNotFoundError as error:
        raise StorageError(
            f"{path} is missing; the bundle is incomplete. Copy it again from its source."
        ) from error
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    if found != digest:
        raise StorageError(
            f"{path} is damaged: its checksum differs from {MODEL_FILE}. Copy the bundle again from its source."
        )


def read_weights(path: Path, digest: str | None) -> dict[str, Tensor]:
    """All tensors of a bundle, by name; StorageError if the file is missing or was changed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_file(path, digest)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} is not a safetensors file: {str(error)[:200]}.") from error


def tensors_below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
