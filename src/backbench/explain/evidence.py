"""Input of a report that is not pure: run folders, small pictures, maps of features, explanations.

Everything except the records is optional: a missing item becomes a note with the reason and a remedy.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from backbench.data.load import load_listing
from backbench.data.manifest import Manifest, read_manifest
from backbench.data.store import PixelStore
from backbench.errors import BackbenchError, BadImage, DataError, StorageError
from backbench.inference.cache import find_features
from backbench.progress import SILENT, Progress
from backbench.records.commands import bundle_of, name_root
from backbench.records.folders import MANIFEST_FILE, find_run_folders, read_run
from backbench.records.openings import check_openings, count_openings
from backbench.records.schema import Cost, ModelFacts, RunRecord, StoredRun
from backbench.report.page.inputs import Evidence, Explanation, FeatureMap, Thumbnail
from backbench.report.page.view import wanted_images
from backbench.report.ranked import DataDetails, RankedRuns, describe_manifest, group_runs, rank_runs
from backbench.report.warning_text import warn_of_changed, warn_of_old

THUMBNAIL_PIXELS = 128
EXPLANATION_PIXELS = 160
MAX_THUMBNAIL_BYTES = 5_000
MAX_MAPS = 4
MAX_MAPPED = 600


@dataclass(frozen=True)
class ReportRequest:
    """The runs, and the amount of evidence to gather. `map_method` 'none': no maps; `num_explained` 0: none.

    `titles`: run id -> display name of its model, if the model's own name is not unique.
    """

    runs: tuple[str, ...]
    out: Path = Path("runs")
    has_images: bool = True
    map_method: str = "tsne"
    num_explained: int = 6
    seed: int = 0
    titles: Mapping[str, str] = field(default_factory=dict)


def gather_report(
    request: ReportRequest, progress: Progress = SILENT
) -> tuple[list[RankedRuns], list[Evidence], list[str]]:
    """Rankings, evidence for each, and warnings about runs: see `open_rankings` and `gather_evidence`."""
    rankings, warnings = open_rankings(request.runs, request.out, request.titles)
    for ranked in rankings:
        records, root = [entry.record for entry in ranked.entries], ranked.entries[0].path.parent
        warnings += [*warn_of_changed(records), *warn_of_old(records), *check_openings(root)]
    evidence = [gather_evidence(ranked, request, progress) for ranked in rankings]
    return rankings, evidence, list(dict.fromkeys(warnings))


def open_rankings(
    given: Sequence[str], out: Path, titles: Mapping[str, str] | None = None
) -> tuple[list[RankedRuns], list[str]]:
    """One ranking for each set of test images of these runs, and a sentence on each run that is left out.

    Args:
        given, out: see `find_run_folders`. titles: see `ReportRequest`.

    Raises:
        ConfigError: an unknown run, or a folder without runs. DataError: runs that can't be compared.
        StorageError: a run given by name is damaged, or all are.

    Cost: each run is read once, and one manifest of each ranking; a second or two for some hundred runs.
    """
    folders = find_run_folders(given, out)
    runs, left_out = _read_runs(folders, is_strict=len(folders) == len(given))
    return [_rank(members) for members in group_runs([_call(run, titles or {}) for run in runs])], left_out


def _read_runs(folders: Sequence[Path], *, is_strict: bool) -> tuple[list[StoredRun], list[str]]:
    """The readable runs; of whole folders, unreadable runs are left out with a warning."""
    runs, warnings = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except StorageError as error:
            if is_strict:
                raise
            warnings.append(f"left out: {error}")
    if not runs:
        raise StorageError(f"none of {len(folders)} runs can be read. The first: {warnings[0]}")
    return runs, warnings


def _call(run: StoredRun, titles: Mapping[str, str]) -> StoredRun:
    """The run with its model called by that title, if it has one."""
    model, title = run.record.model, titles.get(run.record.run_id)
    if model is None or title is None:
        return run
    model = model.model_copy(update={"label": title})
    return replace(run, record=run.record.model_copy(update={"model": model}))


def _rank(members: Sequence[StoredRun]) -> RankedRuns:
    folder, record = members[0].path, members[0].record
    assert folder is not None  # it was read from a folder
    openings = count_openings(folder.parent, record.data.manifest_digest) or None
    try:
        details = describe_manifest(_read_manifest(folder / MANIFEST_FILE, record), members, num_openings=openings)
    except DataError as error:
        missing = f"Groups, class counts and images are missing: {error}"
        details = DataDetails(num_openings=openings, missing=missing)
    return rank_runs(members, replace(details, warnings=(*check_openings(folder.parent), *details.warnings)))


def _read_manifest(path: Path, record: RunRecord) -> Manifest:
    """The manifest of a run. DataError if it is unreadable or not the one in its record."""
    manifest = read_manifest(path, sha256=record.files.get(path.name) if record.checksum else None)
    if manifest.digest != record.data.manifest_digest:
        raise DataError(f"{path}: this is not the manifest of the run's evaluation")
    return manifest


def gather_evidence(ranked: RankedRuns, request: ReportRequest, progress: Progress = SILENT) -> Evidence:
    """Gather the requested evidence for ranked runs.

    Cost: some 3 s for each map of 600 images by t-SNE; explanations load torch.
    """
    notes = [ranked.details.missing] if ranked.details.missing else []
    folders = {entry.record.run_id: entry.path for entry in ranked.entries}
    wanted = wanted_images(ranked)
    read: Callable[[str], np.ndarray] | None = None
    if request.has_images and wanted:
        read = _open_images(ranked, notes, progress)
    thumbnails = _make_thumbnails(wanted, read, notes) if read is not None else {}
    maps: tuple[FeatureMap, ...] = ()
    if request.map_method != "none" and ranked.details.manifest is not None:
        maps = _make_maps(ranked, request, notes)
    explanations: tuple[Explanation, ...] = ()
    bundles = _find_bundles(folders)
    if request.num_explained and bundles and read is not None:
        chosen = wanted[: request.num_explained]
        explanations = _explain(ranked, bundles, chosen, read, notes, progress)
    elif request.num_explained and not bundles:
        notes.append("No explanations: no run here has a bundle. Save one with backbench keep RUN.")
    return Evidence(
        thumbnails=thumbnails,
        maps=maps,
        explanations=explanations,
        bundles={run: (folder.name, _folder_bytes(folder)) for run, folder in bundles.items()},
        notes=tuple(notes),
        root=name_root(folders.values()),
    )


def _open_images(ranked: RankedRuns, notes: list[str], progress: Progress) -> Callable[[str], np.ndarray] | None:
    """A reader of test images by id that checks their content; None if the source is missing."""
    config, manifest = ranked.entries[0].record.config.data, ranked.details.manifest
    if manifest is None:
        return None
    try:
        listing = load_listing(config, progress)
    except BackbenchError as error:
        notes.append(f"Images are not included: their source can no longer be read ({error})")
        return None
    store = PixelStore(listing, config.max_pixels)
    store.grey = manifest.grey
    rows = {image: row for row, image in enumerate(listing.ids)}
    hashes = dict(zip(manifest.ids, manifest.hashes, strict=True))

    def read(image: str) -> np.ndarray:
        if image not in rows:
            raise BadImage(image, "it is no longer in the source")
        if store.hash_of(rows[image]) != hashes[image]:
            raise BadImage(image, "its content has changed since the evaluation")
        return store.read(rows[image])

    return read


def _make_thumbnails(
    wanted: Sequence[str], read: Callable[[str], np.ndarray], notes: list[str]
) -> dict[str, Thumbnail]:
    found, missing = {}, []
    for image in wanted:
        try:
            found[image] = make_thumbnail(read(image))
        except BackbenchError as error:
            missing.append(str(error))
    if missing:
        notes.append(f"{len(missing)} of {len(wanted)} images are not included. The first: {missing[0]}")
    return found


def make_thumbnail(
    pixels: np.ndarray, most_pixels: int = THUMBNAIL_PIXELS, most_bytes: int = MAX_THUMBNAIL_BYTES
) -> Thumbnail:
    """Make a JPEG with a maximum side and approximate size; small images are enlarged without blur.

    pixels: (height, width, 3) uint8.
    """
    image = Image.fromarray(pixels)
    scale = most_pixels / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    for quality in (80, 60, 40, 25):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= most_bytes:
            break
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode(), *size)


def _make_maps(ranked: RankedRuns, request: ReportRequest, notes: list[str]) -> tuple[FeatureMap, ...]:
    """Maps of the first four models with cached features, for an even sample of the test images."""
    from backbench.explain.embedding import embed_features, embedding_name  # scikit-learn is slow to import

    step = max(1, -(-len(ranked.ids) // MAX_MAPPED))
    rows = np.arange(0, len(ranked.ids), step)
    found: dict[str, FeatureMap] = {}
    for entry in ranked.candidates:
        model, cost = entry.record.model, entry.record.cost
        if len(found) == MAX_MAPS or model is None or cost is None or entry.row.model in found or len(rows) < 3:
            continue
        values = _find_features(ranked, model, cost)
        if values is None:
            continue
        try:
            plane = embed_features(values[rows], request.map_method, request.seed)
        except BackbenchError as error:
            notes.append(f"No map of {entry.row.model}: {error}")
            continue
        low, high = plane.min(axis=0), plane.max(axis=0)
        method = embedding_name(request.map_method, request.seed)
        positions = (plane - low) / np.maximum(high - low, 1e-9)
        found[entry.row.model] = FeatureMap(entry.row.model, method, rows, positions)
    if not found:
        notes.append("No map of features: the features of these models are no longer in the cache.")
    return tuple(found.values())


def _find_features(ranked: RankedRuns, model: ModelFacts, cost: Cost) -> np.ndarray | None:
    """(n, dim) cached features of the test images; None if they are no longer cached."""
    manifest = ranked.details.manifest
    if manifest is None:
        return None
    place = dict(zip(manifest.ids, manifest.hashes, strict=True))
    if any(image not in place for image in ranked.ids):
        return None
    return find_features(cost, [place[image] for image in ranked.ids], model.dim)


def _find_bundles(folders: dict[str, Path]) -> dict[str, Path]:
    beside = {run: bundle_of(folder) for run, folder in folders.items()}
    return {run: folder for run, folder in beside.items() if (folder / "model.json").is_file()}


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _explain(
    ranked: RankedRuns,
    bundles: dict[str, Path],
    images: Sequence[str],
    read: Callable[[str], np.ndarray],
    notes: list[str],
    progress: Progress,
) -> tuple[Explanation, ...]:
    """The same images through every model that has a bundle, best first; loads torch."""
    from backbench.classifier.bundle import load_bundle
    from backbench.explain.heat import explain_images, overlay

    shown = {}
    for image in images:
        try:
            shown[image] = read(image)
        except BackbenchError:  # reported with the thumbnails
            continue
    found = []
    for entry in ranked.candidates:
        folder = bundles.get(entry.row.run_id)
        if folder is None or not shown:
            continue
        try:
            heats = explain_images(load_bundle(folder), list(shown.values()), progress=progress)
        except BackbenchError as error:
            notes.append(f"No explanations by {entry.row.name}: {error}")
            continue
        for (image, pixels), heat in zip(shown.items(), heats, strict=True):
            picture = make_thumbnail(overlay(pixels, heat), EXPLANATION_PIXELS, 2 * MAX_THUMBNAIL_BYTES)
            found.append(Explanation(image, entry.row.name, picture, f"predicts {heat.label} ({heat.summary})"))
    return tuple(found)
