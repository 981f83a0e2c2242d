"""What a report needs beside the pure part: run folders read, small pictures, maps of features, explanations.

All of it but the records is optional: what can't be had becomes a note that says why and what to do.
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
from backbench.report.comparability import warn_of_changed, warn_of_old
from backbench.report.page.inputs import Evidence, Explanation, FeatureMap, Thumbnail
from backbench.report.page.view import wanted_images
from backbench.report.ranked import DataDetails, RankedRuns, describe_manifest, group_runs, rank_runs

THUMBNAIL_PIXELS = 128
EXPLANATION_PIXELS = 160
MAX_THUMBNAIL_BYTES = 5_000
MAX_MAPS = 4
MAX_MAPPED = 600


@dataclass(frozen=True)
class ReportRequest:
    """Which runs, and how much to gather beside them. `map_method` 'none': no maps; `num_explained` 0: none.

    `titles`: run id -> what its model is to be called, where the model's own name does not tell runs apart.
    """

    runs: tuple[str, ...]
    out: Path = Path("runs")
    has_images: bool = True
    map_method: str = "tsne"
    num_explained: int = 6
    seed: int = 0
    titles: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class _Group:
    """Runs on one manifest, with the folders they came from."""

    ranked: RankedRuns
    folders: dict[str, Path]
    manifest: Manifest | None
    notes: list[str] = field(default_factory=list)


def gather_report(
    request: ReportRequest, progress: Progress = SILENT
) -> tuple[list[RankedRuns], list[Evidence], list[str]]:
    """Comparisons, evidence for each, and warnings about runs that had to be left out.

    Raises:
        ConfigError: a name means no run, or a folder holds none. DataError: runs that can't be compared.
        StorageError: a run that was named by itself is damaged.

    Cost: a second or two for records alone; some 3 s for each map of 600 images by t-SNE; explanations load torch.
    """
    folders = find_run_folders(request.runs, request.out)
    runs, warnings = _read_runs(folders, is_strict=len(folders) == len(request.runs))
    runs = [(_call(run, request.titles), folder) for run, folder in runs]
    place = {id(run): folder for run, folder in runs}
    rankings, evidence = [], []
    for members in group_runs([run for run, _ in runs]):
        chosen = {run.record.run_id: place[id(run)] for run in members}
        group = _make_group(members, chosen)
        rankings.append(group.ranked)
        records = [run.record for run in members]
        warnings += [*warn_of_changed(records), *warn_of_old(records), *check_openings(_root_of(chosen, members))]
        evidence.append(_gather_evidence(group, request, progress))
    return rankings, evidence, list(dict.fromkeys(warnings))


def _read_runs(folders: Sequence[Path], *, is_strict: bool) -> tuple[list[tuple[StoredRun, Path]], list[str]]:
    """The runs that can be read; where whole folders were given, one that can't is left out and said."""
    runs, warnings = [], []
    for folder in folders:
        try:
            runs.append((read_run(folder), folder))
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


def gather_evidence(
    ranked: RankedRuns, folders: Mapping[str, Path], request: ReportRequest, progress: Progress = SILENT
) -> Evidence:
    """What a page shows beside runs that are ranked already.

    Args:
        folders: run id -> its folder, of every run in `ranked`.
        request: how much to gather; its `runs`, `out` and `titles` are not used.
    """
    first = ranked.entries[0].record
    manifest, notes = _find_manifest(folders[first.run_id] / MANIFEST_FILE, first)
    return _gather_evidence(_Group(ranked, dict(folders), manifest, notes), request, progress)


def _root_of(folders: Mapping[str, Path], members: Sequence[StoredRun]) -> Path:
    """The folder of all runs, by the first of them."""
    return folders[members[0].record.run_id].parent


def _make_group(members: list[StoredRun], folders: dict[str, Path]) -> _Group:
    first = members[0].record
    root = _root_of(folders, members)
    openings = count_openings(root, first.data.manifest_digest) or None
    manifest, notes = _find_manifest(folders[first.run_id] / MANIFEST_FILE, first)
    details = DataDetails(num_openings=openings)
    if manifest is not None:
        details = describe_manifest(manifest, members, num_openings=openings)
    details = replace(details, warnings=(*check_openings(root), *details.warnings))
    return _Group(rank_runs(members, details, out=root), folders, manifest, notes)


def _find_manifest(path: Path, record: RunRecord) -> tuple[Manifest | None, list[str]]:
    """The manifest of a run; None, and a note, if it can't be read, or is not the one that its record names."""
    try:
        manifest = read_manifest(path, sha256=record.files.get(path.name) if record.checksum else None)
        if manifest.digest != record.data.manifest_digest:
            raise DataError(f"{path}: this is not the manifest that the run was measured on")
    except DataError as error:
        return None, [f"Groups, class counts and images are missing: {error}"]
    return manifest, []


def _gather_evidence(group: _Group, request: ReportRequest, progress: Progress) -> Evidence:
    notes = group.notes
    wanted = wanted_images(group.ranked)
    read: Callable[[str], np.ndarray] | None = None
    if request.has_images and group.manifest is not None and wanted:
        read = _open_images(group, notes, progress)
    thumbnails = _make_thumbnails(wanted, read, notes) if read is not None else {}
    maps: tuple[FeatureMap, ...] = ()
    if request.map_method != "none" and group.manifest is not None:
        maps = _make_maps(group, request)
    explanations: tuple[Explanation, ...] = ()
    bundles = _find_bundles(group.folders)
    if request.num_explained and bundles and read is not None:
        explanations = _explain(group, bundles, wanted[: request.num_explained], read, progress)
    elif request.num_explained and not bundles:
        notes.append("No explanations: no run here has a bundle; backbench keep RUN writes one.")
    return Evidence(
        thumbnails=thumbnails,
        maps=maps,
        explanations=explanations,
        bundles={run: (folder.name, _folder_bytes(folder)) for run, folder in bundles.items()},
        notes=tuple(notes),
        root=name_root(group.folders.values()),
    )


def _open_images(group: _Group, notes: list[str], progress: Progress) -> Callable[[str], np.ndarray] | None:
    """A reader of test images by id, if their content is what was measured; None where the source is gone."""
    config = next(iter(group.ranked.entries)).record.config.data
    manifest = group.manifest
    if manifest is None:
        return None
    try:
        listing = load_listing(config, progress)
    except BackbenchError as error:
        notes.append(f"Images are not embedded: their source can't be read any more ({error})")
        return None
    store = PixelStore(listing, config.max_pixels)
    store.grey = manifest.grey
    rows = {image: row for row, image in enumerate(listing.ids)}
    hashes = dict(zip(manifest.ids, manifest.hashes, strict=True))

    def read(image: str) -> np.ndarray:
        if image not in rows:
            raise BadImage(image, "it is not in the source any more")
        if store.hash_of(rows[image]) != hashes[image]:
            raise BadImage(image, "its content has changed since it was measured")
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
        notes.append(f"{len(missing)} of {len(wanted)} images are not embedded. The first: {missing[0]}")
    return found


def make_thumbnail(
    pixels: np.ndarray, most_pixels: int = THUMBNAIL_PIXELS, most_bytes: int = MAX_THUMBNAIL_BYTES
) -> Thumbnail:
    """A JPEG of at most so many pixels a side and about so many bytes; small images are enlarged, never blurred.

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


def _make_maps(group: _Group, request: ReportRequest) -> tuple[FeatureMap, ...]:
    """Maps of the first four models whose features are still in the cache; an even sample of the test images."""
    from backbench.explain.embedding import embed_features, embedding_name  # scikit-learn is slow to import

    ranked = group.ranked
    step = max(1, -(-len(ranked.ids) // MAX_MAPPED))
    rows = np.arange(0, len(ranked.ids), step)
    found: dict[str, FeatureMap] = {}
    for entry in ranked.candidates:
        model, cost = entry.record.model, entry.record.cost
        if len(found) == MAX_MAPS or model is None or cost is None or entry.row.model in found or len(rows) < 3:
            continue
        values = _find_features(group, model, cost)
        if values is None:
            continue
        try:
            plane = embed_features(values[rows], request.map_method, request.seed)
        except BackbenchError as error:
            group.notes.append(f"No map of {entry.row.model}: {error}")
            continue
        low, high = plane.min(axis=0), plane.max(axis=0)
        method = embedding_name(request.map_method, request.seed)
        positions = (plane - low) / np.maximum(high - low, 1e-9)
        found[entry.row.model] = FeatureMap(entry.row.model, method, rows, positions)
    if not found:
        group.notes.append("No map of features: none of these models' features are in the cache any more.")
    return tuple(found.values())


def _find_features(group: _Group, model: ModelFacts, cost: Cost) -> np.ndarray | None:
    """(n, dim) cached features of the test images; None where they are not kept any more."""
    if group.manifest is None:
        return None
    place = dict(zip(group.manifest.ids, group.manifest.hashes, strict=True))
    if any(image not in place for image in group.ranked.ids):
        return None
    return find_features(cost, [place[image] for image in group.ranked.ids], model.dim)


def _find_bundles(folders: dict[str, Path]) -> dict[str, Path]:
    beside = {run: bundle_of(folder) for run, folder in folders.items()}
    return {run: folder for run, folder in beside.items() if (folder / "model.json").is_file()}


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _explain(
    group: _Group,
    bundles: dict[str, Path],
    images: Sequence[str],
    read: Callable[[str], np.ndarray],
    progress: Progress,
) -> tuple[Explanation, ...]:
    """The same images through every model that has a bundle, best first; loads torch."""
    from backbench.classifier.bundle import load_bundle
    from backbench.explain.heat import explain_images, overlay

    shown = {}
    for image in images:
        try:
            shown[image] = read(image)
        except BackbenchError:  # said where the thumbnails were made
            continue
    found = []
    for entry in group.ranked.candidates:
        folder = bundles.get(entry.row.run_id)
        if folder is None or not shown:
            continue
        try:
            heats = explain_images(load_bundle(folder), list(shown.values()), progress=progress)
        except BackbenchError as error:
            group.notes.append(f"No explanations by {entry.row.name}: {error}")
            continue
        for (image, pixels), heat in zip(shown.items(), heats, strict=True):
            picture = make_thumbnail(overlay(pixels, heat), EXPLANATION_PIXELS, 2 * MAX_THUMBNAIL_BYTES)
            found.append(Explanation(image, entry.row.name, picture, f"answers {heat.label} ({heat.summary})"))
    return tuple(found)
