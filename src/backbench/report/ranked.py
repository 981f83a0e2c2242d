"""`RankedRuns`: one ranking for table, summary, page, notebook and Python."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbench.records.commands import bundle_of
from backbench.records.schema import DataFacts, Predictions, RunRecord, StoredRun
from backbench.report.findings import Findings, find
from backbench.report.rows import Row, make_rows
from backbench.report.summary import Sentence, control_warnings, summarise
from backbench.report.warning_text import gather_warnings
from backbench.stats.reliability import at_temperature

if TYPE_CHECKING:
    from backbench.data.manifest import Manifest


@dataclass(frozen=True, eq=False)
class DataDetails:
    """Facts of the manifest beyond `DataFacts`.

    groups: of each test image, in the order of the predictions; None: no group known. counts: class name to images
    of (train, val, test). skipped: (path, reason) of images left out. warnings: of the source and its split.
    missing: the reason if there is no manifest.
    """

    groups: Sequence[Hashable | None] | None = None
    counts: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    num_openings: int | None = None
    manifest: Manifest | None = None
    missing: str = ""


@dataclass(frozen=True, eq=False)
class Entry:
    """One run of a ranking, with its row. `first`: predictions that define the order of images and classes."""

    row: Row
    run: StoredRun
    first: Predictions | None

    @property
    def record(self) -> RunRecord:
        return self.run.record

    @property
    def history(self) -> Mapping[str, Any] | None:
        return self.run.history

    @property
    def path(self) -> Path:
        """The run's folder; ValueError for a run without one."""
        if self.run.path is None:
            raise ValueError(f"{self.row.run_id} has no folder")
        return self.run.path

    @property
    def bundle(self) -> Path | None:
        """Its bundle; None if it is not saved."""
        return bundle_of(self.path) if bundle_of(self.path).is_dir() else None

    @property
    def has_answers(self) -> bool:
        own = self.run.predictions
        return own is not None and self.first is not None and set(own.classes) == set(self.first.classes)

    @cached_property
    def told(self) -> np.ndarray:
        """(n, classes) probabilities, calibrated if the model has a temperature.

        ValueError for a run without predictions.
        """
        own, first = self.run.predictions, self.first
        if own is None or first is None or not self.has_answers:
            raise ValueError(f"{self.row.run_id} has no predictions")
        values = own.probabilities
        if self.record.is_tempered:
            values = at_temperature(values, self.record.temperature).astype(np.float32)
        if own.ids != first.ids:
            place = {image: index for index, image in enumerate(own.ids)}
            values = values[[place[image] for image in first.ids]]
        if own.classes != first.classes:
            column = {name: index for index, name in enumerate(own.classes)}
            values = values[:, [column[name] for name in first.classes]]
        return values


@dataclass(frozen=True, eq=False)
class RankedRuns:
    """Runs on one manifest, best first. `ids`, `labels` and the probabilities of all entries share one order.

    `interrupted`: the ranking was stopped before all its runs finished.
    """

    data: DataFacts
    entries: tuple[Entry, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    findings: Findings
    sentences: tuple[Sentence, ...]
    warnings: tuple[str, ...]
    details: DataDetails = DataDetails()
    interrupted: bool = False

    @cached_property
    def rows(self) -> list[Row]:
        return [entry.row for entry in self.entries]

    @property
    def summary(self) -> tuple[str, ...]:
        """The findings in sentences, the verdict first."""
        return tuple(sentence.text for sentence in self.sentences)

    @cached_property
    def candidates(self) -> list[Entry]:
        """Entries with predictions, without baselines and contaminated models, best first."""
        return [entry for entry in self.entries if entry.has_answers and entry.row.is_candidate]

    @property
    def best(self) -> Entry | None:
        """The best candidate; None if nothing finished, or if no row can be trusted."""
        return next((entry for entry in self.candidates if entry.row.is_best), None)

    @property
    def recommended(self) -> Entry | None:
        """The entry to keep; None if no row is worth it."""
        row = self.findings.recommended
        return None if row is None else next(entry for entry in self.entries if entry.row is row)

    @property
    def has_failures(self) -> bool:
        return any(row.has_failed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The document that `rank --json` prints; fractions in 0..1."""
        best, kept = self.best, self.recommended
        bundle = None if kept is None else kept.bundle
        return {
            "schema": 1,
            "data": {
                "name": self.data.name,
                "classes": list(self.data.classes),
                "train": self.data.num_train,
                "val": self.data.num_val,
                "test": self.data.num_test,
                "manifest": self.data.manifest_digest,
            },
            "rows": [row.to_json() for row in self.rows],
            "best": None
            if best is None
            else {"model": best.row.model, "method": best.row.method, "run_id": best.row.run_id},
            **self.findings.to_json(None if kept is None else kept.path.parent),
            "bundle": None if bundle is None else str(bundle),
            "summary": " ".join(self.summary),
            "warnings": list(self.warnings),
            "interrupted": self.interrupted,
        }


def rank_runs(
    runs: Sequence[StoredRun],
    details: DataDetails | None = None,
    *,
    data: DataFacts | None = None,
    rows: Sequence[Row] | None = None,
    interrupted: bool = False,
) -> RankedRuns:
    """Rows, summary and warnings of runs on one manifest; everything in one order.

    Args:
        details: further facts of the data.
        data: its facts, needed if there is no run.
        rows: of these runs, if `make_rows` has made them already.

    Raises:
        ConfigError, DataError: the runs can't be compared; see `make_rows`.
    """
    details = details if details is not None else DataDetails()
    doubles = _warn_of_doubles(runs)
    runs = _without_doubles(runs)
    records = [run.record for run in runs]
    if rows is None:
        rows = make_rows(records, [run.predictions for run in runs], _usable_groups(runs, details))
    by_id = {run.record.run_id: run for run in runs}
    ordered = [by_id[row.run_id] for row in rows]
    first = next((run.predictions for run in ordered if run.predictions is not None), None)
    data = records[0].data if data is None else data
    findings = find(rows)
    return RankedRuns(
        data=data,
        entries=tuple(Entry(row, run, first) for row, run in zip(rows, ordered, strict=True)),
        ids=first.ids if first is not None else (),
        labels=first.labels if first is not None else np.zeros(0, np.int64),
        classes=first.classes if first is not None else data.classes,
        findings=findings,
        sentences=summarise(findings, data, details.num_openings),
        warnings=tuple(gather_warnings(records, control_warnings(findings), [*doubles, *details.warnings])),
        details=details,
        interrupted=interrupted,
    )


def describe_manifest(
    manifest: Manifest, runs: Sequence[StoredRun], *, num_openings: int | None = None
) -> DataDetails:
    """Facts of the manifest, with test images in the order of the first predictions of `runs`."""
    rows = {manifest.ids[row]: row for row in manifest.part_rows("test").tolist()}
    first = next((run.predictions for run in runs if run.predictions is not None), None)
    groups: tuple[str | None, ...] | None = None
    if first is not None and all(image in rows for image in first.ids):
        groups = tuple(manifest.groups[rows[image]] for image in first.ids)
    counts = {name: [0, 0, 0] for name in manifest.classes}
    for name, part in zip(manifest.label_names, manifest.parts, strict=True):
        counts[name][("train", "val", "test").index(part)] += 1
    return DataDetails(
        groups=groups if groups is not None and any(group is not None for group in groups) else None,
        counts={name: (sizes[0], sizes[1], sizes[2]) for name, sizes in counts.items()},
        skipped=tuple((bad.path, bad.reason) for bad in manifest.skipped),
        warnings=manifest.warnings,
        num_openings=num_openings,
        manifest=manifest,
    )


def group_runs(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    """Runs by manifest, in order of appearance: only runs on the same test images are ranked together."""
    groups: dict[str, list[StoredRun]] = {}
    for run in runs:
        groups.setdefault(run.record.data.manifest_digest, []).append(run)
    return list(groups.values())


def _warn_of_doubles(runs: Sequence[StoredRun]) -> list[str]:
    """A warning for each id whose folders hold different predictions or models: only one is shown."""
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
    """Compare without machine-dependent fields."""
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
