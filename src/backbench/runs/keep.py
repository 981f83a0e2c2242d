"""The bundle of a finished run: its classifier, hashes of its training images, and a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backbench.data.load import Data
from backbench.data.trained_on import Seen, add_seen, read_seen
from backbench.distributed import is_first
from backbench.errors import BackbenchError, Interrupted
from backbench.records import folders
from backbench.records.commands import bundle_of
from backbench.records.schema import RunRecord
from backbench.registry import ModelSpec
from backbench.runs.context import RunContext
from backbench.runs.finish import Made

if TYPE_CHECKING:
    from backbench.classifier.classifier import Classifier
    from backbench.classifier.gallery import Gallery


def keep_model(record: RunRecord, made: Made, model: ModelSpec, data: Data, context: RunContext) -> None:
    """Save the bundle of a finished run, unless it exists; in a process group only the first writes.

    Raises:
        ModelError: the architecture of the backbone is unknown. StorageError: the folder can't be written.
    """
    from backbench.classifier.bundle import write_bundle

    bundle = bundle_of(context.out / record.run_id)
    if is_first() and not bundle.is_dir():  # another process may have been first
        classifier = made.classifier()
        gallery = _look_at_training(record, made, classifier, data, context)
        seen = _collect_seen(record, classifier, data, model)
        classifier.grey = data.manifest.grey
        write_bundle(bundle, classifier, record=record, gallery=gallery, seen=seen)


def _collect_seen(record: RunRecord, classifier: Classifier, data: Data, model: ModelSpec) -> Seen:
    """The images of training and validation, and earlier training images of the backbone."""
    from backbench.backbones.core.weights import digest_weights

    hashes = [data.manifest.hashes[row] for part in ("train", "val") for row in data.manifest.part_rows(part)]
    trained = record.model is None or record.model.weights_digest != digest_weights(classifier.backbone.body)
    before = None if model.seen_file is None else read_seen(Path(model.seen_file))
    return add_seen(hashes, by_backbone=trained, before=before)


def _look_at_training(
    record: RunRecord, made: Made, classifier: Classifier, data: Data, context: RunContext
) -> Gallery | None:
    """Make the gallery of a bundle, and the classifier's detector of strange images; predictions don't change.

    None, with a warning, if the images can't be read.
    """
    from backbench.classifier.gallery import find_known, know_features, make_gallery
    from backbench.classifier.strangeness import fit_strangeness

    try:
        if made.features is None:
            known = know_features(classifier, data, device=context.device, progress=context.progress)
        else:
            known = find_known(data, made.features)
        labels = data.manifest.labels[known.train]
        classifier.strangeness = fit_strangeness(known.train_features, labels, known.val_features)
        if not context.with_gallery:
            return None
        predictions = folders.read_predictions(context.out / record.run_id)
        return make_gallery(classifier, data, predictions, known, device=context.device)
    except Interrupted:
        raise
    except BackbenchError as error:
        context.progress.warn(f"the bundle has no gallery: {error}")
        return None
