"""Bundles: a classifier as a folder that can be loaded offline and without running code from it.

`weights.safetensors` holds all tensors of backbone and head, `model.json` everything else with checksums, and
`README.md` is a model card, which may be edited. There may be a folder `gallery`; see `classifier/gallery.py`.
The bundle is written atomically.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save

from backbench.backbones.core.base import Backbone
from backbench.backbones.core.bundle_files import (
    BODY_PREFIX,
    CARD_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    SEEN_FILE,
    WEIGHTS_FILE,
    StoredBackbone,
    TrainingFacts,
    check_digest,
    check_file,
    find_bundle,
    read_document,
    read_weights,
    tensors_below,
    validate,
)
from backbench.backbones.core.outline import make_outline
from backbench.backbones.core.rebuild import rebuild
from backbench.backbones.core.weights import check_state, digest_weights, plain_state, put_state, weights_bytes
from backbench.classifier.card import render_bundle_card
from backbench.classifier.classifier import Classifier
from backbench.classifier.gallery import FOLDER as GALLERY_FOLDER
from backbench.classifier.gallery import Gallery, read_gallery, write_gallery
from backbench.classifier.strangeness import FILE as STRANGENESS_FILE
from backbench.classifier.strangeness import read_strangeness, write_strangeness
from backbench.config import GreyScale, digest_json
from backbench.data.trained_on import Seen, read_seen, write_seen
from backbench.errors import BackbenchError, ModelError, StorageError, shown
from backbench.heads.head_modules import HeadModule, HeadSpec, build_head
from backbench.inference.quantize import rebuild_int8
from backbench.records.schema import RunRecord
from backbench.storage import digest_file, storage_error, sync_folder, write_synced

_GALLERY_NOTE = f"""
## Images in this folder

`{GALLERY_FOLDER}/` holds small copies of training images and of a few test images, which `backbench serve` shows.
To share the model without them, remove that folder: predictions stay the same. To write none:
`backbench adapt --no-gallery`.
"""
_MAX_CHANGE = 1e-5  # maximum change of a feature or logit after writing and reading back, relative to the largest


class BundleFacts(StoredBackbone):
    """The content of `model.json`, except `schema` and `digest`."""

    backbench: str = Field(description="version that wrote the bundle")
    head: HeadSpec
    class_names: tuple[str, ...]
    temperature: float = Field(gt=0.0, le=1000.0)
    threshold: float = Field(ge=0.0, le=1.0)
    licence: str | None = None
    grey: GreyScale | None = Field(default=None, description="scale of training images with more than 8 bits")


def digest_record(record: RunRecord) -> str:
    """SHA-256 of a record without its list of files, so that a bundle can be in the folder of its own run."""
    return record.model_copy(update={"files": {}}).digest()


def write_bundle(
    folder: Path,
    classifier: Classifier,
    *,
    record: RunRecord | None = None,
    name: str | None = None,
    gallery: Gallery | None = None,
    seen: Seen | None = None,
) -> Path:
    """Write a classifier as a bundle, and verify it by reading it back before renaming it.

    Args:
        folder: must not exist.
        classifier: in any mode, on any device; not changed. Its weights are stored in float32.
        record: record of its run, for the model card and the origin.
        name: name of the bundle; None: the run id, or the name of the backbone.
        gallery: small training and test images to add; None: no images in the bundle.
        seen: its training images, so that contamination of later evaluations is detected; None: unknown.

    Raises:
        StorageError: the folder exists or can't be written; no partial files remain.
        ModelError: the classifier can't be described: an unknown kind of backbone or head, a modified one (a layer
            wrapped or replaced), or weights that are not finite.
    """
    if folder.exists():
        raise StorageError(f"{folder} exists already and is not overwritten. Choose another folder.")
    plain = copy.deepcopy(classifier).to("cpu", torch.float32).eval()
    aside = folder.parent / f".writing-{folder.name}-{os.getpid()}"
    try:
        aside.mkdir(parents=True)
        _write_files(aside, plain, record, name, folder.name, gallery, seen)
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


def load_bundle(folder: Path) -> Classifier:
    """Load the classifier of a bundle, on the CPU in eval mode; `folder` may also be that of its run.

    Nothing is downloaded and no code of the bundle is run. Checks checksums, shapes and finite values.

    Raises:
        ConfigError: not a bundle. StorageError: damaged, changed, or written by a newer backbench.
        ModelError: incomplete, inconsistent, or of an architecture that the installed libraries lack.
    """
    return _load(find_bundle(folder))


def load_gallery(folder: Path) -> Gallery | None:
    """The gallery of a bundle, None if it has none or its folder was removed; errors as `load_bundle`."""
    place = find_bundle(folder)
    if not (place / GALLERY_FOLDER).is_dir():
        return None
    facts = read_facts(place)
    return read_gallery(place, facts.files, facts.backbone.dim)


def read_facts(folder: Path) -> BundleFacts:
    """Read and verify `model.json` in this folder; errors as `load_bundle`."""
    path = folder / MODEL_FILE
    document = read_document(folder)
    facts = validate(BundleFacts, path, document)
    _check_classes(path, facts)
    check_digest(path, document)
    return facts


def read_bundle_seen(folder: Path, facts: BundleFacts) -> Seen | None:
    """The training images of the bundle in this folder; None: unknown. StorageError if damaged."""
    if SEEN_FILE not in facts.files:
        return None
    check_file(folder / SEEN_FILE, facts.files[SEEN_FILE])
    return read_seen(folder / SEEN_FILE)


def _write_files(
    folder: Path,
    classifier: Classifier,
    record: RunRecord | None,
    name: str | None,
    folder_name: str,
    gallery: Gallery | None,
    seen: Seen | None,
) -> None:
    backbone, head = classifier.backbone, classifier.head
    if backbone.build is None:
        raise ModelError(
            f"{backbone.facts.name}: the architecture of this backbone is unknown, so it can't be saved as a "
            "bundle."
        )
    if not isinstance(head, HeadModule):
        raise ModelError(
            f"a head of type {type(head).__name__} can't be saved in a bundle; see heads/head_modules.py."
        )
    tensors = {key: tensor.clone().contiguous() for key, tensor in plain_state(classifier).items()}
    # Not by `save_file`, whose files only their owner can read.
    write_synced(folder / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
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
    card += _GALLERY_NOTE if gallery is not None else ""
    write_synced(folder / CARD_FILE, card.encode("utf-8", "backslashreplace"))
    files = [CARD_FILE, WEIGHTS_FILE, *(write_gallery(folder, gallery) if gallery is not None else ())]
    if classifier.strangeness is not None:
        files.append(write_strangeness(folder, classifier.strangeness))
    if seen is not None:
        write_seen(folder / SEEN_FILE, seen)
        files.append(SEEN_FILE)
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
        "training": _training_facts(record, facts.weights_digest).model_dump(mode="json") if record else None,
        "licence": facts.licence,
        "files": {file: digest_file(folder / file) for file in files},
    }
    if classifier.grey is not None:
        document["grey"] = classifier.grey.model_dump()
    validate(BundleFacts, folder / MODEL_FILE, document)
    document["digest"] = digest_json(document)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_synced(folder / MODEL_FILE, text.encode())


def _training_facts(record: RunRecord, weights_digest: str) -> TrainingFacts:
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
        group_column=record.config.data.group_column,
        min_images=record.config.data.min_images,
        small_classes=record.config.data.small_classes,
        trained_backbone=record.model is None or record.model.weights_digest != weights_digest,
    )


def _check_same(classifier: Classifier, folder: Path) -> None:
    """Check that the written bundle gives the same features and logits when it is read back."""
    try:
        again = _load(folder)
    except BackbenchError as error:
        raise ModelError(
            f"{classifier.backbone.facts.name}: this classifier can't be saved as a bundle, because its "
            f"description does not restore it ({error}). Check whether a layer was wrapped or replaced."
        ) from error
    rng = torch.Generator().manual_seed(0)
    batch = torch.randn(2, 3, *classifier.preprocess.size, generator=rng)
    with torch.inference_mode():
        expected, given = classifier.backbone(batch), again.backbone(batch)
        # On the same features: a head amplifies rounding errors of features with almost no spread.
        pairs = ((expected, given), (classifier.head(expected), again.head(expected)))
    if not all(_is_close(*pair) for pair in pairs):
        raise ModelError(
            f"{classifier.backbone.facts.name}: this classifier can't be saved as a bundle: after reading it "
            "back, its predictions differ. Check whether a layer was wrapped or replaced."
        )


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((other - one).abs() <= _MAX_CHANGE * one.abs().max().clamp_min(1.0)).all())


def _load(folder: Path) -> Classifier:
    facts = read_facts(folder)
    where = str(folder / WEIGHTS_FILE)
    state = read_weights(folder / WEIGHTS_FILE, facts.files.get(WEIGHTS_FILE))
    make_body = rebuild if facts.build.scheme is None else rebuild_int8
    body = make_body(facts.build, tensors_below(BODY_PREFIX, state), where=where)
    head_state = tensors_below("head.", state)
    outline = make_outline(partial(build_head, facts.head))
    if outline is not None:  # a network of other shapes may be too large for memory
        check_state(outline.state_dict(), head_state, where=where)
    head = build_head(facts.head)
    put_state(head, head_state, where=where)
    strange = [name for name in state if not name.startswith((BODY_PREFIX, "head."))]
    if strange:
        raise ModelError(f"{where} does not fit the network: unexpected: {', '.join(strange[:3])}.")
    backbone = Backbone(body, facts.backbone.model_copy(update={"preprocess": facts.preprocess}), facts.build)
    strangeness = None
    if STRANGENESS_FILE in facts.files:
        check_file(folder / STRANGENESS_FILE, facts.files[STRANGENESS_FILE])
        strangeness = read_strangeness(folder / STRANGENESS_FILE, facts.backbone.dim)
    return Classifier(
        backbone,
        head,
        facts.class_names,
        temperature=facts.temperature,
        threshold=facts.threshold,
        grey=facts.grey,
        strangeness=strangeness,
    ).eval()


def _check_classes(path: Path, facts: BundleFacts) -> None:
    names = facts.class_names
    if len(names) != facts.head.classes:
        raise ModelError(
            f"{path} has {len(names)} class names, but its head gives {facts.head.classes} logits. The list of "
            "classes belongs to the weights and can't be changed. To learn other classes, adapt the model to them."
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelError(f"{path} has the class {shown(twice)} twice.")
    if facts.head.dim != facts.backbone.dim:
        raise ModelError(f"{path}: a head for {facts.head.dim} features on a backbone with {facts.backbone.dim}.")
