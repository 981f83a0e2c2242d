"""`Ranked`: the answer of one ranking, and the document that `rank --json` prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.records.commands import bundle_of
from backbench.records.schema import DataFacts
from backbench.report.findings import find
from backbench.report.rows import Row


@dataclass(frozen=True)
class Ranked:
    """The answer: rows best first, controls and failures after them, and what to know about them."""

    data: DataFacts
    rows: list[Row]
    summary: list[str]
    warnings: list[str]
    interrupted: bool = False
    out: Path = Path("runs")

    @property
    def has_failures(self) -> bool:
        return any(row.has_failed for row in self.rows)

    @property
    def best(self) -> Row | None:
        """The best row that is no control; None if nothing finished, or if no row can be trusted."""
        return next((row for row in self.rows if row.is_best and not row.control), None)

    @property
    def recommended(self) -> Path | None:
        """The folder of the run to keep; None where no run is worth it."""
        row = find(self.rows).recommended
        return None if row is None else self.out / row.run_id

    @property
    def kept(self) -> Path | None:
        """The model of the recommended run; None where it is not written."""
        run = self.recommended
        return bundle_of(run) if run is not None and bundle_of(run).is_dir() else None

    def to_json(self) -> dict[str, Any]:
        """The document that `rank --json` prints; fractions in 0..1."""
        best, kept = self.best, self.kept
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
            "best": None if best is None else {"model": best.model, "method": best.method, "run_id": best.run_id},
            **find(self.rows).to_json(self.out),
            "bundle": None if kept is None else str(kept),
            "summary": " ".join(self.summary),
            "warnings": self.warnings,
            "interrupted": self.interrupted,
        }
