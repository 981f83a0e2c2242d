"""What a page is made from: runs on one manifest as a `Comparison`, and the `Evidence` gathered beside them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from backbench.records.schema import DataFacts, Predictions, RunRecord, StoredRun
from backbench.report.comparability import gather_warnings
from backbench.report.findings import Findings, find
from backbench.report.rows import Row, make_rows
from backbench.report.summary import control_warnings, summarise
from backbench.stats.reliability import at_temperature


@dataclass(frozen=True, eq=False)
class DataDetails:
    """What the manifest knows beyond `DataFacts`.

    groups: of each test image, in the order of the predictions; None: no group known. counts: class name to images
    of (train, val, test). skipped: (path, reason) of images left out. warnings: of the source and its split.
    """

    groups: Sequence[Hashable | None] | None = None
    counts: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    num_openings: int | None = None


@dataclass(frozen=True, eq=False)
class Entry:
    """One run of a comparison: its row, its record, and for each test image the probabilities of the classes.

    These are the answers as they are given: after the temperature, where one travels with the model.
    """

    row: Row
    record: RunRecord
    probabilities: np.ndarray | None = None
    history: Mapping[str, Any] | None = None

    @property
    def has_answers(self) -> bool:
        return self.probabilities is not None

    @property
    def told(self) -> np.ndarray:
        """(n, classes) probabilities of a run that has them; ValueError for one that has not."""
        if self.probabilities is None:
            raise ValueError(f"{self.row.run_id} has no answers")
        return self.probabilities


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs on one manifest, best first. `ids`, `labels` and the probabilities of all entries share one order."""

    data: DataFacts
    entries: tuple[Entry, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    summary: tuple[str, ...]
    warnings: tuple[str, ...]
    details: DataDetails = DataDetails()

    @property
    def rows(self) -> list[Row]:
        return [entry.row for entry in self.entries]

    @cached_property
    def findings(self) -> Findings:
        """What the rows say."""
        return find(self.rows)

    @property
    def ranked(self) -> list[Entry]:
        """Entries with answers that are no controls and whose models saw no test image, best first."""
        return [entry for entry in self.entries if entry.has_answers and entry.row.is_candidate]

    @property
    def best(self) -> Entry | None:
        return next((entry for entry in self.ranked if entry.row.is_best), None)

    @property
    def recommended(self) -> Entry | None:
        """The entry to keep; None where no row is worth it."""
        row = self.findings.recommended
        return None if row is None else next(entry for entry in self.entries if entry.row is row)


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: a data: address, and its size in pixels."""

    address: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Features of test images in two dimensions: indices into `Comparison.ids` and (m, 2) positions in 0..1."""

    model: str
    method: str
    rows: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """What one model looked at in one image; `said` is its answer in words."""

    image: str
    model: str
    picture: Thumbnail
    said: str


@dataclass(frozen=True, eq=False)
class Evidence:
    """What no record holds; all of it optional. `notes` say why something is missing, and what to do."""

    thumbnails: Mapping[str, Thumbnail] = field(default_factory=dict)
    maps: tuple[FeatureMap, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    bundles: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Run id to (folder name, bytes) of the bundle that was made of it."""
    root: str | None = None
    """The folder of the runs, as a command names it; None: not known, or there are several."""
    notes: tuple[str, ...] = ()


def make_comparison(runs: Sequence[StoredRun], details: DataDetails | None = None) -> Comparison:
    """Rows, summary and warnings of runs on one manifest; everything in one order.

    Raises:
        ConfigError, DataError: the runs can't be compared; see `make_rows`.
    """
    details = details if details is not None else DataDetails()
    doubles = _warn_of_doubles(runs)
    runs = _without_doubles(runs)
    records = [run.record for run in runs]
    rows = make_rows(records, [run.predictions for run in runs], _usable_groups(runs, details))
    by_id = {run.record.run_id: run for run in runs}
    ordered = [by_id[row.run_id] for row in rows]
    first = next((run.predictions for run in ordered if run.predictions is not None), None)
    entries = tuple(
        Entry(row, run.record, _aligned(run, first), run.history) for row, run in zip(rows, ordered, strict=True)
    )
    data = records[0].data
    return Comparison(
        data=data,
        entries=entries,
        ids=first.ids if first is not None else (),
        labels=first.labels if first is not None else np.zeros(0, np.int64),
        classes=first.classes if first is not None else data.classes,
        summary=tuple(summarise(rows, data, num_openings=details.num_openings)),
        warnings=tuple(gather_warnings(records, control_warnings(rows), [*doubles, *details.warnings])),
        details=details,
    )


def group_runs(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    """Runs by manifest, in order of appearance: only runs on the same test images are ranked together."""
    groups: dict[str, list[StoredRun]] = {}
    for run in runs:
        groups.setdefault(run.record.data.manifest_digest, []).append(run)
    return list(groups.values())


def _warn_of_doubles(runs: Sequence[StoredRun]) -> list[str]:
    """Of each id under which folders hold other answers or another model: one of them is left out."""
    first: dict[str, StoredRun] = {}
    found: dict[str, None] = {}
    for run in runs:
        if run.predictions is None:
            continue
        known = first.setdefault(run.record.run_id, run)
        one, other = run.record.config, known.record.config
        if (one.model, one.method) != (other.model, other.method) or not _is_same(
            run.predictions, known.predictions
        ):
            found[run.record.run_id] = None
    return [
        f"several folders hold a run {run_id}, with different settings or predictions: only the latest is shown"
        for run_id in found
    ]


def _is_same(one: Predictions, other: Predictions | None) -> bool:
    """But for what machines differ in."""
    if other is None or one.ids != other.ids or one.probabilities.shape != other.probabilities.shape:
        return False
    return bool(np.allclose(one.probabilities, other.probabilities, atol=1e-2))


def _without_doubles(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """One run for each id: a finished one rather than a failure, else the latest."""
    kept: dict[str, StoredRun] = {}
    for run in sorted(runs, key=lambda run: (run.record.status == "done", run.record.started)):
        kept[run.record.run_id] = run
    order = dict.fromkeys(run.record.run_id for run in runs)
    return [kept[run_id] for run_id in order]


def _usable_groups(runs: Sequence[StoredRun], details: DataDetails) -> Sequence[Hashable | None] | None:
    first = next((run.predictions for run in runs if run.predictions is not None), None)
    groups = details.groups
    return groups if groups is not None and first is not None and len(groups) == len(first.ids) else None


def _aligned(run: StoredRun, first: Predictions | None) -> np.ndarray | None:
    """Answers as given, in the order of images and classes of `first`; float32 (n, classes)."""
    predictions = run.predictions
    if predictions is None or first is None:
        return None
    values = predictions.probabilities
    if run.record.is_tempered:
        values = at_temperature(values, run.record.temperature).astype(np.float32)
    if predictions.ids != first.ids:
        place = {image: index for index, image in enumerate(predictions.ids)}
        values = values[[place[image] for image in first.ids]]
    if predictions.classes != first.classes:
        if set(predictions.classes) != set(first.classes):
            return None
        column = {name: index for index, name in enumerate(predictions.classes)}
        values = values[:, [column[name] for name in first.classes]]
    return values
