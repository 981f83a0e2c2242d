"""Your own models: the backbone of a bundle, or of the run that wrote it, as the start for other images.

`runs/RUN`, `runs/RUN.bundle` and any other folder with a `model.json` are such names. The trained weights are
taken, the head with its classes is left behind.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Any

from backbench.backbones.core.bundle_files import (
    BODY_PREFIX,
    MODEL_FILE,
    RECORD_FILE,
    SEEN_FILE,
    WEIGHTS_FILE,
    StoredBackbone,
    check_digest,
    check_file,
    find_bundle,
    is_bundle,
    list_beside,
    read_document,
    read_weights,
    tensors_below,
    validate,
)
from backbench.errors import ConfigError, shown
from backbench.records.commands import keep_command
from backbench.records.schema import BUNDLE_SUFFIX, ModelFacts
from backbench.registry import ModelSpec


def resolve(name: str) -> ModelSpec | None:
    """The spec of a bundle's backbone; None if `name` is not a folder.

    Raises:
        ConfigError: a folder that is not a bundle, or an int8 backbone.
        StorageError: the bundle is damaged, or was written by a newer backbench.
        ModelError: the bundle is inconsistent.
    """
    if not _is_path(name):
        return None
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if not is_bundle(path):
        if not os.path.isdir(path) and not name.endswith(BUNDLE_SUFFIX):  # noqa: PTH112 - unlike Path.is_dir, it never raises
            if list_beside(path):
                find_bundle(path)  # raises the error with nearby names
            return None
        if os.path.isfile(path / RECORD_FILE):  # noqa: PTH113 - as above
            raise ConfigError(
                f"the run {shown(name)} has no bundle, so there are no weights to start from. Save it first: "
                f"{keep_command(path)}"
            )
    folder = find_bundle(path)
    stored = read_stored(folder)
    if stored.build.scheme is not None:
        raise ConfigError(
            f"{shown(name)} has an int8 backbone, which can predict but not be adapted. Give the model or the run "
            "that it was made from."
        )
    seen = folder / SEEN_FILE
    if SEEN_FILE in stored.files:
        check_file(seen, stored.files[SEEN_FILE])
    facts = describe(stored)
    size = stored.preprocess.size
    return ModelSpec(
        name=facts.name,
        summary=f"own run: {facts.architecture}, {size[0]} px, {facts.pretrained_on}",
        load=partial(_load, folder),
        check=partial(_check, folder),
        pretrained_on=facts.pretrained_on,
        num_parameters=facts.num_parameters,
        input_size=size[0],
        flops=facts.flops,
        licence=facts.licence,
        file=str(folder),
        identity=_identify(stored),
        seen_file=str(seen) if SEEN_FILE in stored.files else None,
    )


def _is_path(name: str) -> bool:
    has_folder = "/" in name or os.sep in name
    return "\0" not in name and (has_folder or name.endswith(BUNDLE_SUFFIX) or name in (".", ".."))


def read_stored(folder: Path) -> StoredBackbone:
    """Read the backbone's description in a bundle and verify its checksum; errors as `resolve`."""
    path = folder / MODEL_FILE
    document = read_document(folder)
    known = {key: value for key, value in document.items() if key in StoredBackbone.model_fields}
    stored = validate(StoredBackbone, path, known)
    check_digest(path, document)
    return stored


def describe(stored: StoredBackbone) -> ModelFacts:
    """The facts of a bundle's backbone as a model to start from; its run becomes part of the origin.

    Weights that the run did not change keep the name of their model.
    """
    facts, training = stored.backbone, stored.training
    pretrained_on, source, label = facts.pretrained_on, f"bundle {stored.name}", facts.title
    if training is not None:
        source = f"run {training.run_id}, record {training.record_digest}"
        if training.trained_backbone:
            pretrained_on = " + ".join(part for part in (facts.pretrained_on, training.data) if part)
            label = f"{facts.title} after {training.method or 'training'} on {training.data}"
    changes: dict[str, object] = {"name": stored.name, "label": label, "pretrained_on": pretrained_on}
    return facts.model_copy(
        update=changes | {"preprocess": stored.preprocess, "source": source, "is_control": False}
    )


def _identify(stored: StoredBackbone) -> str:
    """An identity that changes whenever the features could change."""
    parts = (
        stored.files.get(WEIGHTS_FILE, ""),
        stored.build.model_dump_json(),
        stored.preprocess.model_dump_json(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _check(folder: Path) -> None:
    """Raise StorageError if the weights were changed; complete bundles were checked when written."""
    digest = read_stored(folder).files.get(WEIGHTS_FILE)
    if digest is not None:
        check_file(folder / WEIGHTS_FILE, digest)


def _load(folder: Path, _seed: int) -> Any:
    """The backbone of the bundle; the seed has no effect on trained weights."""
    from backbench.backbones.core.base import Backbone
    from backbench.backbones.core.rebuild import rebuild

    stored = read_stored(folder)
    weights = folder / WEIGHTS_FILE
    state = read_weights(weights, stored.files.get(WEIGHTS_FILE))
    body = rebuild(stored.build, tensors_below(BODY_PREFIX, state), where=str(weights))
    return Backbone(body, describe(stored), stored.build)
