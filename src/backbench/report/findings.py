"""`find`: what a ranking says, decided once; terminal, page, notebook and JSON only put it into words.

Nothing else decides which row to keep, what is tied with it, what that costs, or whether the controls are content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backbench.records.commands import keep_command
from backbench.report.rows import MAJORITY, Row
from backbench.stats.compare import ALPHA, Alarm, control_alarms, units_to_prove

Kind = Literal["nothing", "untrusted", "chance", "alone", "unproved", "tied", "winner"]
_CHEAPER = 1.2  # below this ratio seconds are not worth a word
GIVE_UP = 0.01
"""A cheaper row is recommended only if its certificate is weaker by this at most, as a share of the images."""


@dataclass(frozen=True)
class Cheaper:
    """A clearly cheaper tied row: the cheapest acceptable one; if none is acceptable, the cheapest.

    `times` are the seconds of the best over its own. `given_up`: by how much its certificate is weaker than that
    of the best, in 0..1; `is_unproved`: not significantly better than some control, as the best is. If either is
    too much, the tie is no reason to take it.
    """

    row: Row
    times: float
    given_up: float
    is_unproved: bool

    @property
    def is_as_good(self) -> bool:
        return self.given_up <= GIVE_UP and not self.is_unproved


@dataclass(frozen=True)
class Certificate:
    """With `confidence` none of the other rows compared is more than `points` better than `row`.

    points: in percentage points of accuracy, 0 or more; it holds although the row was chosen by these results.
    """

    row: Row
    points: float
    rows_compared: int
    confidence: float = 1 - ALPHA

    def to_json(self) -> dict[str, Any]:
        return {
            "row": self.row.name,
            "run_id": self.row.run_id,
            "points": self.points,
            "confidence": self.confidence,
            "rows_compared": self.rows_compared,
        }


@dataclass(frozen=True)
class Findings:
    """What a ranking says.

    Args:
        kind: 'nothing' finished; 'untrusted': every model was trained on test images; 'chance': no row is
            significantly better than one class for all images, and significance was possible or none is above it;
            'alone': there is one row; 'unproved': the best is not significantly better than some control; 'tied':
            all rows are; 'winner': some row is worse than the best.
        best: the row with most correct predictions of those that may be called the best.
        recommended: the row to keep, the best or a cheaper one tied with it; None where no row is worth it.
        tied: the other rows that may be the truly best one.
        num_rows: rows that may be called the best.
        rival: the cheapest tied row for which it is known how many test images would separate it from the best.
        certificate: of the recommended row, or of the best; None where there is nothing to compare it with.
        cheaper: see `Cheaper`; None where the best is about as cheap.
        is_cheapest: the best is clearly cheaper than all that are tied with it.
        seen: rows whose models were trained on test images. failed: rows without figures.
        control: the strongest control; alarms: controls that come too near, worst first.
        unbeaten: rows that are not significantly better than some control.
        units_needed: how many test images, or groups of them, any proof needs, where there are fewer; else None.
    """

    kind: Kind
    best: Row | None
    recommended: Row | None
    tied: tuple[Row, ...]
    num_rows: int
    rival: Row | None
    certificate: Certificate | None
    cheaper: Cheaper | None
    is_cheapest: bool
    seen: tuple[Row, ...]
    failed: tuple[Row, ...]
    control: Row | None
    alarms: tuple[tuple[Row, Alarm], ...]
    unbeaten: tuple[Row, ...]
    units_needed: int | None

    def to_json(self, out: Path | None = None) -> dict[str, Any]:
        """The verdict, and the row to keep (None: none) with the command that does, for programs.

        Args:
            out: folder of the runs; None: not known, so there is no command.
        """
        row, kept = self.recommended, None
        if row is not None:
            command = None if out is None else keep_command(out / row.run_id)
            kept = {"name": row.name, "run_id": row.run_id, "command": command}
        certificate = None if self.certificate is None else self.certificate.to_json()
        return {"verdict": self.kind, "recommended": kept, "certificate": certificate}


def find(rows: Sequence[Row]) -> Findings:
    """What these rows say, as `make_rows` gives them. Cost: none."""
    done = [row for row in rows if row.is_candidate]
    seen = tuple(row for row in rows if row.accuracy is not None and row.num_test_seen)
    best = next((row for row in done if row.is_best), done[0] if done else None)
    tied = tuple(row for row in done if row.tied_with_best and row is not best)
    cheapest = sorted(tied, key=total_seconds)[:1]
    cheaper, is_cheapest = (None, False) if best is None else _price(best, tied)
    units_needed = None if best is None else _units_needed(best)
    kind: Kind
    if best is None:
        kind = "untrusted" if seen else "nothing"
    elif all(row.at_chance for row in done) and not (units_needed and _is_above_majority(best, rows)):
        kind = "chance"
    elif len(done) == 1:
        kind = "alone"
    elif best.unbeaten:
        kind = "unproved"
    else:
        kind = "tied" if len(tied) + 1 == len(done) else "winner"
    recommended = best
    if kind in ("tied", "winner") and cheaper is not None and cheaper.is_as_good:
        recommended = cheaper.row
    return Findings(
        kind=kind,
        best=best,
        recommended=None if kind == "chance" else recommended,
        tied=tied,
        num_rows=len(done),
        rival=next((row for row in (*cheapest, *tied) if row.needed_images is not None), None),
        certificate=None if kind == "chance" else _certify(recommended, len(done)),
        cheaper=cheaper,
        is_cheapest=is_cheapest,
        seen=seen,
        failed=tuple(row for row in rows if row.has_failed),
        control=next((row for row in rows if row.control and row.accuracy is not None), None),
        alarms=tuple(_find_alarms(rows, can_prove=units_needed is None)),
        unbeaten=tuple(row for row in done if row.unbeaten),
        units_needed=units_needed,
    )


def _units_needed(best: Row) -> int | None:
    """How many test images or groups any proof takes, where there are fewer; None: a proof is possible."""
    needed = units_to_prove()
    return needed if (best.num_groups or best.n) < needed else None


def _is_above_majority(best: Row, rows: Sequence[Row]) -> bool:
    majority = [row.accuracy or 0.0 for row in rows if row.control and row.model == MAJORITY]
    return bool(majority) and (best.accuracy or 0.0) > max(majority)


def _price(best: Row, tied: Sequence[Row]) -> tuple[Cheaper | None, bool]:
    """The cheapest of the tied rows if it is clearly cheaper, and whether the best clearly is."""
    if not total_seconds(best):
        return None, False
    priced = [
        Cheaper(
            row,
            times=total_seconds(best) / total_seconds(row),
            given_up=(row.regret or 0.0) - (best.regret or 0.0),
            is_unproved=bool(row.unbeaten) and not best.unbeaten,
        )
        for row in sorted(tied, key=total_seconds)
        if total_seconds(row) > 0
    ]
    cheaper = [each for each in priced if each.times >= _CHEAPER]
    is_cheapest = bool(priced) and priced[0].times * _CHEAPER <= 1
    return next((each for each in cheaper if each.is_as_good), cheaper[0] if cheaper else None), is_cheapest


def _certify(row: Row | None, num_rows: int) -> Certificate | None:
    if row is None or row.regret is None or num_rows < 2:
        return None
    return Certificate(row, 100 * row.regret, num_rows - 1)


def total_seconds(row: Row) -> float:
    """What the row cost; 0 where that is not known."""
    return row.seconds.get("total", 0.0)


def _find_alarms(rows: Sequence[Row], *, can_prove: bool) -> list[tuple[Row, Alarm]]:
    """Controls that come too near; where nothing can be proved, a tie is no sign of it."""
    shown = [row for row in rows if row.accuracy is not None and not row.num_test_seen]
    majority = next((row.accuracy for row in shown if row.control and row.model == MAJORITY), 0.0)
    alarms = control_alarms(
        [row.accuracy or 0.0 for row in shown],
        [row.control for row in shown],
        [row.model for row in shown],
        majority or 0.0,
        [row.tied_with_best and can_prove for row in shown],
        n=max((row.n for row in shown), default=0),
    )
    return [(shown[alarm.row], alarm) for alarm in alarms]
