"""Runs and rankings to look at, in a program or a notebook: what their folders hold, read when it is asked for."""

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

NUM_EXPLAINED = 6  # images in a report, as `backbench report` has it


class Run:
    """One finished or failed run folder. What is large is read when it is first asked for, then kept.

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
        """Figures on the test images with their intervals, by name; fractions in 0..1. Empty for a failed run."""
        return self.record.metrics

    @property
    def predictions(self) -> Predictions:
        """What was said of each test image. ConfigError for a failed run, which has none."""
        from backbench.errors import ConfigError

        found = self._stored.predictions
        if found is None:
            reason = self.record.failure.message if self.record.failure else "it has no predictions"
            raise ConfigError(f"run {self.record.run_id} failed, so there are no predictions: {reason}")
        return found

    @property
    def history(self) -> Mapping[str, Any]:
        """Of a run that trained: phases, each with `history` (a list of epochs) and `best_epoch`; else empty."""
        return self._stored.history or {}

    @property
    def bundle(self) -> Path | None:
        """The folder of its model, which predicts anywhere; None if the run left none, as probes of `rank`."""
        from backbench.backbones.core.bundle_files import find_bundle, is_bundle

        return find_bundle(self.path) if is_bundle(self.path) else None

    def keep(self, *, device: str = "auto", with_gallery: bool = True, quiet: bool = False) -> Path:
        """The folder of its model, which is written if the run left none; nothing is trained or tested again.

        Args:
            device: 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.
            with_gallery: put small training and test images into the bundle.

        Raises:
            ConfigError: it failed or is a control, or its images, weights or options have changed since.
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
        """Its model, ready to predict. ConfigError if the run left none; else errors as `load_bundle` raises."""
        from backbench.classifier.bundle import load_bundle
        from backbench.errors import ConfigError

        if self.bundle is None:
            raise ConfigError(
                f"run {self.record.run_id} left no model. Make it, from features that are there already: "
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
        """Of the data set."""
        return self.ranked.data.name

    @property
    def rows(self) -> list[Row]:
        """The lines of the ranking, as `rank --json` has them: best first, then controls, then failures."""
        return self.ranked.rows

    @property
    def summary(self) -> tuple[str, ...]:
        """The answer in plain sentences."""
        return self.ranked.summary

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the answer is believed."""
        return self.ranked.warnings

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs, in the order of the rows."""
        return tuple(Run(entry.path, entry.run) for entry in self.ranked.entries)

    @property
    def best(self) -> Run | None:
        """The best run that is no control; None if none finished."""
        best = self.ranked.best
        return None if best is None else self.runs[self.ranked.entries.index(best)]

    @property
    def recommended(self) -> Run | None:
        """The run to keep: the best, or a cheaper one where all are tied; None where no run is worth it."""
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
        """Write the report, one page that opens anywhere; see `backbench report`.

        Args:
            path: of the file; one that is there is replaced.
            has_images: embed small pictures of test images, and what the models looked at.

        Returns:
            The path.

        Raises:
            StorageError: it can't be written.
        Cost: seconds for each model whose features are drawn or whose answers are explained.
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
