"""Bundles: a classifier as a folder that anyone can load, offline and without running code from it.

`weights.safetensors` holds all tensors of backbone and head, `model.json` everything else with checksums, and
`README.md` is a model card for people, which may be changed at will. The folder is whole or absent.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from backbench.backbones.networks.base import Backbone
from backbench.backbones.networks.build import Build
from backbench.backbones.networks.rebuild import rebuild
from backbench.backbones.networks.weights import digest_weights, put_state, weights_bytes
from backbench.config import Frozen, Preprocess, digest_json
from backbench.engine.classifier import Classifier
from backbench.engine.head_modules import HeadModule, HeadSpec, build_head
from backbench.errors import BackbenchError, ConfigError, ModelError, StorageError, nearest, shown
from backbench.records import ModelFacts, RunRecord
from backbench.report.bundle_card import render_bundle_card
from backbench.storage import digest_file, storage_error, sync_folder, write_synced

SCHEMA_VERSION = 1
MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"
MAX_MODEL_BYTES = 64_000_000
_MOST_CHANGE = 1e-5  # of a logit, relative to the largest, between what was written and what is read back


class TrainingFacts(Frozen):
    """Which run made the classifier, and on which images and split, so that its test part can be found again."""

    run_id: str
    record_digest: str = Field(description="see `digest_record`")
    method: str | None
    data: str
    manifest_digest: str
    image_digest: str
    split_seed: int
    test_fraction: float
    val_fraction: float


class BundleFacts(Frozen):
    """What `model.json` says, but for `schema` and `digest`."""

    name: str
    backbench: str = Field(description="version that wrote it")
    build: Build
    backbone: ModelFacts = Field(description="without preprocessing, which stands by itself")
    head: HeadSpec
    class_names: tuple[str, ...]
    preprocess: Preprocess
    temperature: float = Field(gt=0.0, le=1000.0)
    threshold: float = Field(ge=0.0, le=1.0)
    training: TrainingFacts | None = None
    licence: str | None = None
    files: dict[str, str] = Field(description="SHA-256 of each file beside model.json, as it was written")


def digest_record(record: RunRecord) -> str:
    """SHA-256 of a record without its list of files, so that a bundle can lie in the folder of its own run."""
    return record.model_copy(update={"files": {}}).digest()


def write_bundle(
    folder: Path, classifier: Classifier, *, record: RunRecord | None = None, name: str | None = None
) -> Path:
    """Write a classifier as a bundle, and read it back before it is given its name.

    Args:
        folder: must not exist.
        classifier: in any mode, on any device; left as it is. Its weights are stored in float32.
        record: of the run that made it, for the model card and to tell where it comes from.
        name: what to call it; None: the run id, or the name of the backbone.

    Raises:
        StorageError: the folder exists or can't be written; nothing is left behind.
        ModelError: the classifier can't be described: a backbone or head of unknown make, or one that was altered
            (a layer wrapped or replaced), or weights that are not finite.
    """
    if folder.exists():
        raise StorageError(f"{folder} exists already and is not written over. Choose another folder.")
    plain = copy.deepcopy(classifier).to("cpu", torch.float32).eval()
    aside = folder.parent / f".writing-{folder.name}-{os.getpid()}"
    try:
        aside.mkdir(parents=True)
        _write_files(aside, plain, record, name, folder.name)
        _check_same(plain, aside)
        sync_folder(aside)
        aside.rename(folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        known = error if isinstance(error, OSError) else OSError(str(error))
        raise storage_error(folder, known) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def is_bundle(path: Path) -> bool:
    """Whether the path is a bundle, or a run folder with one beside it, as far as its names tell."""
    return _place(path) is not None


def _place(path: Path) -> Path | None:
    """Where the bundle lies that a path means: `RUN.bundle` lies beside the folder of `RUN`."""
    places = (path, path.with_name(f"{path.name}.bundle")) if path.name else (path,)
    return next((place for place in places if (place / MODEL_FILE).is_file()), None)


def load_bundle(folder: Path) -> Classifier:
    """The classifier of a bundle, on the CPU in eval mode; `folder` may also be that of the run that wrote it.

    Nothing is downloaded and no code of the bundle is run. Checked: checksums, shapes, finite values.

    Raises:
        ConfigError: not a bundle. StorageError: damaged, changed, or written by a newer backbench.
        ModelError: incomplete, contradictory, or of an architecture that the installed libraries lack.
    """
    return _load(find_bundle(folder))


def find_bundle(folder: Path) -> Path:
    """The bundle that `folder` means; ConfigError with the nearest name if there is none."""
    place = _place(folder)
    if place is not None:
        return place
    if folder.exists():
        raise ConfigError(
            f"{shown(str(folder))} is not a bundle: it has no {MODEL_FILE}. Give a folder RUN.bundle, as "
            "backbench adapt writes it."
        )
    try:
        beside = sorted(entry.name for entry in folder.parent.iterdir() if is_bundle(entry))
    except OSError:
        beside = []
    close = nearest(folder.name, beside) or beside[:3]
    hint = " Did you mean " + " or ".join(f"'{folder.parent / near}'" for near in close) + "?" if close else ""
    raise ConfigError(f"there is no bundle {shown(str(folder))}.{hint}")


def read_facts(folder: Path) -> BundleFacts:
    """What `model.json` in this folder says, checked for sense and by its checksum; errors as `load_bundle`."""
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
            f"{path} has no preprocessing: without size, crop and normalisation of the images, its answers would "
            "be wrong without anyone noticing. Write the bundle again."
        )
    digest = document.pop("digest", None)
    facts = _validate(path, document)
    _check_classes(path, facts)
    if digest != digest_json(document):
        raise StorageError(
            f"{path} was changed after it was written (its checksum does not fit). Write the bundle again, or "
            "take a fresh copy."
        )
    return facts


def _write_files(
    folder: Path, classifier: Classifier, record: RunRecord | None, name: str | None, folder_name: str
) -> None:
    backbone, head = classifier.backbone, classifier.head
    if backbone.build is None:
        raise ModelError(
            f"{backbone.facts.name}: how this backbone was made is not known, so it can't be bundled."
        )
    if not isinstance(head, HeadModule):
        raise ModelError(f"a head of type {type(head).__name__} can't be bundled; see engine/head_modules.py.")
    tensors = {key: tensor.clone().contiguous() for key, tensor in classifier.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    with open(folder / WEIGHTS_FILE, "rb+") as stream:
        os.fsync(stream.fileno())
    preprocess = classifier.preprocess
    facts = backbone.facts.model_copy(
        update={
            "weights_digest": digest_weights(backbone.body),
            "weights_bytes": weights_bytes(backbone.body),
            "preprocess": None,
        }
    )
    name = name or (record.run_id if record else facts.name)
    card = render_bundle_card(
        name,
        facts,
        classifier.class_names,
        preprocess=preprocess,
        temperature=classifier.temperature,
        threshold=classifier.threshold,
        record=record,
        folder_name=folder_name,
    )
    write_synced(folder / CARD_FILE, card.encode("utf-8", "backslashreplace"))
    document = {
        "schema": SCHEMA_VERSION,
        "name": name,
        "backbench": version("backbench"),
        "build": backbone.build.model_dump(mode="json", exclude_none=True),
        "backbone": facts.model_dump(mode="json"),
        "head": head.spec.model_dump(mode="json"),
        "class_names": list(classifier.class_names),
        "preprocess": preprocess.model_dump(mode="json"),
        "temperature": classifier.temperature,
        "threshold": classifier.threshold,
        "training": None if record is None else _training_facts(record).model_dump(mode="json"),
        "licence": facts.licence,
        "files": {file: digest_file(folder / file) for file in (CARD_FILE, WEIGHTS_FILE)},
    }
    _validate(folder / MODEL_FILE, dict(document))
    document["digest"] = digest_json(document)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_synced(folder / MODEL_FILE, text.encode())


def _training_facts(record: RunRecord) -> TrainingFacts:
    return TrainingFacts(
        run_id=record.run_id,
        record_digest=digest_record(record),
        method=record.method.name if record.method else None,
        data=record.data.name,
        manifest_digest=record.data.manifest_digest,
        image_digest=record.data.image_digest,
        split_seed=record.config.data.split_seed,
        test_fraction=record.config.data.test_fraction,
        val_fraction=record.config.data.val_fraction,
    )


def _check_same(classifier: Classifier, folder: Path) -> None:
    """What was written gives the same logits when it is read back: the description left nothing out."""
    try:
        again = _load(folder)
    except BackbenchError as error:
        raise ModelError(
            f"{classifier.backbone.facts.name}: this classifier can't be bundled, as it does not come back from "
            f"its description ({error}). Was a layer of it wrapped or replaced?"
        ) from error
    rng = torch.Generator().manual_seed(0)
    batch = torch.randn(2, 3, *classifier.preprocess.size, generator=rng)
    with torch.inference_mode():
        expected, given = classifier(batch), again(batch)
    scale = expected.abs().max().clamp_min(1.0)
    if not bool(((given - expected).abs() <= _MOST_CHANGE * scale).all()):
        raise ModelError(
            f"{classifier.backbone.facts.name}: this classifier can't be bundled: read back, it gives other "
            "answers. Was a layer of it wrapped or replaced?"
        )


def _load(folder: Path) -> Classifier:
    facts = read_facts(folder)
    where = str(folder / WEIGHTS_FILE)
    state = _read_weights(folder / WEIGHTS_FILE, facts.files.get(WEIGHTS_FILE))
    body = rebuild(facts.build, _below("backbone.body.", state), where=where)
    head = build_head(facts.head)
    put_state(head, _below("head.", state), where=where)
    strange = [name for name in state if not name.startswith(("backbone.body.", "head."))]
    if strange:
        raise ModelError(f"{where} does not fit the network: unexpected: {', '.join(strange[:3])}.")
    backbone = Backbone(body, facts.backbone.model_copy(update={"preprocess": facts.preprocess}), facts.build)
    return Classifier(
        backbone, head, facts.class_names, temperature=facts.temperature, threshold=facts.threshold
    ).eval()


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _read_weights(path: Path, digest: str | None) -> dict[str, Tensor]:
    try:
        if digest_file(path) != digest:
            raise StorageError(
                f"{path} is damaged: its checksum is not the one in {MODEL_FILE}. Take a fresh copy of the bundle."
            )
        return load_file(path)
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing; the bundle is not whole. Take a fresh copy of it.") from error
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    except SafetensorError as error:
        raise StorageError(f"{path} is no safetensors file: {str(error)[:200]}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            text = stream.read(MAX_MODEL_BYTES + 1)
        document = json.loads(text) if len(text) <= MAX_MODEL_BYTES else None
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is damaged: it is not JSON ({str(error)[:120]}).") from error
    if not isinstance(document, dict):
        raise StorageError(f"{path} is damaged: it is no JSON object of a bundle's size.")
    return document


def _validate(path: Path, document: dict[str, Any]) -> BundleFacts:
    """The document without its schema, as facts; ModelError names the first fault."""
    rest = {key: value for key, value in document.items() if key != "schema"}
    try:
        return BundleFacts.model_validate_json(json.dumps(rest, allow_nan=False))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        said = "is missing" if fault["type"] == "missing" else f"= {str(fault['input'])[:60]!r}: {fault['msg']}"
        raise ModelError(f"{path}: '{place}' {said}. Write the bundle again.") from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def _check_classes(path: Path, facts: BundleFacts) -> None:
    names = facts.class_names
    if len(names) != facts.head.classes:
        raise ModelError(
            f"{path} names {len(names)} classes, and its head gives {facts.head.classes} logits. The list of "
            "classes belongs to the weights and can't be changed; to learn other classes, adapt the model to them."
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelError(f"{path} names the class {shown(twice)} twice.")
    if facts.head.dim != facts.backbone.dim:
        raise ModelError(f"{path}: a head for {facts.head.dim} features on a backbone with {facts.backbone.dim}.")
