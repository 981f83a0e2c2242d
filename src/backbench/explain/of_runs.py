"""Pictures of finished runs that need images or features: predictions, worst mistakes, maps side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from backbench.classifier.bundle import load_bundle
from backbench.classifier.classifier import Classifier
from backbench.data.load import Data, load_data
from backbench.errors import ConfigError
from backbench.explain.embedding import embed_features, embedding_name
from backbench.explain.samples import read_test_samples
from backbench.inference.cache import find_features
from backbench.inference.features import extract_features
from backbench.progress import SILENT, Progress
from backbench.records import folders
from backbench.records.commands import bundle_of
from backbench.records.schema import Predictions, RunRecord
from backbench.report.figures.embedding import draw_embedding
from backbench.report.figures.sheets import draw_grid
from backbench.report.row_names import find_differences
from backbench.stats.reliability import at_temperature

NUM_IN_GRID = 30
MAX_MAPPED = 1000
MAX_MAPS = 6


def draw_answers(run: Path, *, theme: str = "light", progress: Progress = SILENT) -> dict[str, Figure]:
    """'answers': an even sample of the run's test split; 'worst': the lowest probabilities of the true class.

    Raises:
        ConfigError, DataError, StorageError: as `samples.read_test_samples`.
    """
    record, predictions = folders.read_answers(run)
    num = len(predictions.ids)
    even = np.unique(np.linspace(0, num - 1, min(num, NUM_IN_GRID)).round().astype(int)).tolist()
    told = at_temperature(predictions.probabilities, record.temperature)[np.arange(num), predictions.labels]
    wrong = np.flatnonzero(~predictions.correct)
    worst = wrong[np.argsort(told[wrong], kind="stable")][:NUM_IN_GRID].tolist()
    name = run_name(record)
    figures = {"answers": draw_rows(run, even, title=f"What {name} answers", theme=theme, progress=progress)}
    if worst:
        title = f"The worst mistakes of {name}"
        figures["worst"] = draw_rows(run, worst, title=title, theme=theme, progress=progress)
    return figures


def draw_rows(
    run: Path, rows: Sequence[int], *, title: str, theme: str = "light", progress: Progress = SILENT
) -> Figure:
    """These rows of a run's predictions as photographs with true class, prediction and confidence, wrong ones
    first.

    Confidences are calibrated, as in its bundle.

    Raises:
        ConfigError, DataError, StorageError: as `samples.read_test_samples`.
    """
    record, predictions = folders.read_answers(run)
    samples = read_test_samples(run, rows, progress)
    told = at_temperature(predictions.probabilities[list(rows)], record.temperature)
    return draw_grid(
        [sample.image for sample in samples],
        [sample.truth or "" for sample in samples],
        [predictions.classes[answer] for answer in told.argmax(axis=1).tolist()],
        told.max(axis=1),
        num=len(rows),
        title=title,
        theme=theme,
    )


def draw_map(
    runs: Sequence[Path],
    method: str = "tsne",
    *,
    seed: int = 0,
    device: str = "cpu",
    load: Callable[[Path], Classifier] = load_bundle,
    theme: str = "light",
    progress: Progress = SILENT,
) -> tuple[Figure, list[str]]:
    """Maps of test features by each run's adapted network, side by side, wrong predictions marked.

    Args:
        runs: runs on one manifest; draws the first six with features, at most 1,000 images.
        method: 'umap', 'tsne' or 'pca'.
        load: loads the classifier of a bundle.

    Returns:
        The figure, and reasons for missing runs.

    Raises:
        ConfigError: no run has features, or the data has changed; see `embedding.embed_features`.
        DataError, StorageError: something can't be read.

    Cost: features come from the cache for frozen networks; otherwise the network runs on the images.
    """
    first = folders.read_record(runs[0])
    data = load_data(first.config.data, progress)
    rows = data.manifest.part_rows("test")[:MAX_MAPPED]
    points: dict[str, np.ndarray] = {}
    wrong: dict[str, np.ndarray] = {}
    faults: list[str] = []
    for run, name in zip(runs, name_runs([folders.read_record(run) for run in runs]), strict=True):
        record, predictions = folders.read_answers(run)
        if record.data.manifest_digest != data.manifest.digest:
            raise ConfigError(
                f"run '{record.run_id}' used other images than {first.config.data.source} holds now."
            )
        values = None if len(points) == MAX_MAPS else _find_values(run, record, data, rows, load, device, progress)
        if values is None:
            why = f"a map holds {MAX_MAPS}" if len(points) == MAX_MAPS else "it has neither features nor a bundle"
            faults.append(f"{name} is not on the map: {why}")
            continue
        points[name] = embed_features(values, method, seed)
        wrong[name] = _is_wrong(predictions, [data.manifest.ids[row] for row in rows])
    if not points:
        raise ConfigError("no map: no run has cached features or a bundle. Save one: backbench keep RUN")
    note = f"{embedding_name(method, seed)}, of features"
    labels = data.manifest.labels[rows]
    return draw_embedding(points, labels, wrong, data.manifest.classes, note=note, theme=theme), faults


def run_name(record: RunRecord) -> str:
    """Model and method."""
    return f"{record.model_name} + {record.config.method.name}"


def name_runs(records: Sequence[RunRecord]) -> list[str]:
    """Model and method of each run, with a distinguishing part if several are equal."""
    words = find_differences(records)
    return [
        f"{run_name(record)} ({word})" if word else run_name(record)
        for record, word in zip(records, words, strict=True)
    ]


def _find_values(
    run: Path,
    record: RunRecord,
    data: Data,
    rows: np.ndarray,
    load: Callable[[Path], Classifier],
    device: str,
    progress: Progress,
) -> np.ndarray | None:
    """(n, dim) features: cached ones of a frozen network, else computed by the network of the bundle."""
    hashes = [data.manifest.hashes[row] for row in rows]
    is_trained = (run / folders.HISTORY_FILE).exists()
    if record.model is not None and record.cost is not None and not is_trained:
        values = find_features(record.cost, hashes, record.model.dim)
        if values is not None:
            return values
    bundle = bundle_of(run)
    if not bundle.is_dir():
        return None
    return extract_features(
        load(bundle).backbone,
        lambda index: data.read(int(rows[index])),
        hashes,
        names=[data.manifest.ids[row] for row in rows],
        device=device,
        use_cache=False,
        progress=progress,
    ).values


def _is_wrong(predictions: Predictions, ids: Sequence[str]) -> np.ndarray:
    right = dict(zip(predictions.ids, predictions.correct.tolist(), strict=True))
    return np.array([not right[image] for image in ids], dtype=bool)
