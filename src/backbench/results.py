"""Runs and rankings for programs and notebooks; files are read at first use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from backbench.classifier.classifier import Classifier
    from backbench.records.schema import Predictions, RunRecord, StoredRun
    from backbench.report.ranked import RankedRuns
    from backbench.report.rows import Row
    from backbench.stats.metric import Metric

NUM_EXPLAINED = 6  # explained images in a report, the default of `backbench report`


class Run:
    """One finished or failed run folder. Large files are read at first use, then kept.

    Args:
        path: the run's folder.
        stored: what it holds, where that was read already.

    Raises:
        ConfigError: not a run folder. StorageError: a file in it is damaged.
    """

    def __init__(self, path: Path, stored: StoredRun | None = None) -> None:
        from backbench.records.folders import read_run

        self.path = path
        self._stored = stored if stored is not None else read_run(path)
        self.record: RunRecord = self._stored.record

    @property
    def metrics(self) -> dict[str, Metric]:
        """Test metrics with their intervals, by name; fractions in 0..1. Empty for a failed run."""
        return self.record.metrics

    @property
    def predictions(self) -> Predictions:
        """Predictions on the test images. Raises ConfigError for a failed run."""
        from backbench.errors import ConfigError

        found = self._stored.predictions
        if found is None:
            reason = self.record.failure.message if self.record.failure else "it has no predictions"
            raise ConfigError(f"run {self.record.run_id} failed, so there are no predictions: {reason}")
        return found

    @property
    def history(self) -> Mapping[str, Any]:
        """Training phases, each with `history` (a list of epochs) and `best_epoch`; empty without training."""
        return self._stored.history or {}

    @property
    def bundle(self) -> Path | None:
        """The folder of the saved model; None if the run saved none, as probes of `rank` do."""
        from backbench.backbones.core.bundle_files import find_bundle, is_bundle

        return find_bundle(self.path) if is_bundle(self.path) else None

    def keep(self, *, device: str = "auto", with_gallery: bool = True, quiet: bool = False) -> Path:
        """Return the folder of the model, saving it first if necessary; nothing is trained or tested again.

        Args:
            device: 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.
            with_gallery: put small training and test images into the bundle.

        Raises:
            ConfigError: the run failed or is a shortcut baseline, or its images, weights or options have changed.
        """
        from backbench.progress import make_progress
        from backbench.runs.context import RunContext, stoppable
        from backbench.runs.run import keep_run
        from backbench.runtime import decide_device

        with make_progress(quiet=quiet) as progress:
            how = RunContext(device=decide_device(device), with_gallery=with_gallery, progress=progress)
            with stoppable(how) as context:
                return keep_run(self.path, context).bundle

    @cached_property
    def classifier(self) -> Classifier:
        """Load the model, ready to predict. Raises ConfigError if none was saved, and as `load_bundle` does."""
        from backbench.classifier.bundle import load_bundle
        from backbench.errors import ConfigError

        if self.bundle is None:
            raise ConfigError(
                f"run {self.record.run_id} saved no model. Save it from the cached features: "
                f"backbench.open_run({str(self.path)!r}).keep()"
            )
        return load_bundle(self.bundle)

    def __repr__(self) -> str:
        from backbench.report.text import percent, printable

        config = self.record.config
        said = printable(f"{config.model} + {config.method.name} on {self.record.data.name}")
        accuracy = self.metrics.get("accuracy")
        figure = f"accuracy {percent(accuracy.value, accuracy.n)}" if accuracy else self.record.status
        return f"Run({said}: {figure})"

    def _repr_html_(self) -> str:
        from backbench.report.notebook import render_run

        return render_run(self._stored, self.bundle)


class Ranking:
    """Runs on the same test images, ranked.

    Args:
        ranked: what tables and pages are made from, with the runs as they were read.
    """

    def __init__(self, ranked: RankedRuns) -> None:
        self.ranked = ranked

    @property
    def data_name(self) -> str:
        """Name of the data set."""
        return self.ranked.data.name

    @property
    def rows(self) -> list[Row]:
        """The rows of the ranking, as in `rank --json`: best first, then baselines, then failures."""
        return self.ranked.rows

    @property
    def summary(self) -> tuple[str, ...]:
        """The result in plain sentences."""
        return self.ranked.summary

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the validity of the ranking."""
        return self.ranked.warnings

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order of the rows."""
        return tuple(Run(entry.path, entry.run) for entry in self.ranked.entries)

    @property
    def best(self) -> Run | None:
        """The best run that is not a baseline; None if none finished."""
        best = self.ranked.best
        return None if best is None else self.runs[self.ranked.entries.index(best)]

    @property
    def recommended(self) -> Run | None:
        """The recommended run: the best, or a cheaper one if they are tied; None if no run is worth keeping."""
        entry = self.ranked.recommended
        return None if entry is None else self.runs[self.ranked.entries.index(entry)]

    @property
    def table(self) -> str:
        """The ranking as text of at most 120 columns, as the command line prints it."""
        from backbench.report.table import render_table

        return render_table(self.rows, width=120, colour=False)

    def report(
        self, path: str | os.PathLike[str] = "report.html", *, has_images: bool = True, quiet: bool = False
    ) -> Path:
        """Write the report as one self-contained HTML page; see `backbench report`.

        Args:
            path: the file to write; an existing one is replaced.
            has_images: embed small test images and explanations of predictions.

        Returns:
            The path.

        Raises:
            StorageError: the file can't be written.
        Cost: seconds for each model whose features are drawn or whose predictions are explained.
        """
        from pathlib import Path

        from backbench.explain.evidence import ReportRequest, gather_evidence
        from backbench.progress import make_progress
        from backbench.report.page.render import render_report
        from backbench.storage import write_atomically

        request = ReportRequest((), has_images=has_images, num_explained=NUM_EXPLAINED if has_images else 0)
        with make_progress(quiet=quiet) as progress:
            evidence = gather_evidence(self.ranked, request, progress)
        target = Path(path)
        write_atomically(target, render_report([self.ranked], [evidence]).encode("utf-8", "backslashreplace"))
        return target

    def __repr__(self) -> str:
        from backbench.report.text import percent, printable

        best = self.ranked.best
        said = "nothing finished"
        if best is not None:
            said = f"best {printable(best.row.name)}, accuracy {percent(best.row.accuracy, best.row.n)}"
        return f"Ranking({printable(self.data_name)}, {len(self.rows)} rows: {said})"

    def _repr_html_(self) -> str:
        from backbench.report.notebook import render_ranking

        return render_ranking(self.ranked)
