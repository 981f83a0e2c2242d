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
from backbench.stats.compare import Alarm, control_alarms, units_to_prove
from backbench.stats.power import smallest_provable_gap

Kind = Literal["nothing", "untrusted", "chance", "alone", "unproved", "tied", "winner"]
_CHEAPER = 1.2  # below this ratio seconds are not worth a word
_LARGE_GAP = 0.06
"""In accuracy, where so few test images can prove no gap at all: a tie with a larger one says nothing."""


@dataclass(frozen=True)
class Cheaper:
    """The cheapest row tied with the best, where it is clearly cheaper.

    `times` are the seconds of the best over its own, `lower` its accuracy below that of the best, in 0..1.
    `is_much_lower`: by a gap that so many test images usually prove; `is_unproved`: not proved better than some
    control, as the best is. In either case the tie is no reason to take it.
    """

    row: Row
    times: float
    lower: float
    is_much_lower: bool
    is_unproved: bool

    @property
    def is_as_good(self) -> bool:
        return not self.is_much_lower and not self.is_unproved


@dataclass(frozen=True)
class Findings:
    """What a ranking says.

    Args:
        kind: 'nothing' finished; 'untrusted': every model was trained on test images; 'chance': no row is proved
            better than always answering one class, and a proof was possible or none is above it; 'alone': there
            is one row; 'unproved': the best is not proved better than some control; 'tied': all rows are;
            'winner': some row is worse than the best.
        best: the row with most right answers of those that may be called the best.
        recommended: the row to keep, the best or a cheaper one tied with it; None where no row is worth it.
        tied: the other rows without a significant difference from the best.
        num_rows: rows that may be called the best.
        rival: of `tied` the cheapest, else another, for which it is known how many test images would separate it
            from the best.
        cheaper: see `Cheaper`; None where the best is about as cheap.
        is_cheapest: the best is clearly cheaper than all that are tied with it.
        seen: rows whose models were trained on test images. failed: rows without figures.
        control: the strongest control; alarms: controls that come too near, worst first.
        unbeaten: rows that are not proved better than some control.
        units_needed: how many test images, or groups of them, any proof needs, where there are fewer; else None.
    """

    kind: Kind
    best: Row | None
    recommended: Row | None
    tied: tuple[Row, ...]
    num_rows: int
    rival: Row | None
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
        return {"verdict": self.kind, "recommended": kept}


def find(rows: Sequence[Row]) -> Findings:
    """What these rows say, as `make_rows` gives them. Cost: none."""
    done = [row for row in rows if row.is_candidate]
    seen = tuple(row for row in rows if row.accuracy is not None and row.num_test_seen)
    best = next((row for row in done if row.is_best), done[0] if done else None)
    tied = tuple(row for row in done if row.tied_with_best and row is not best)
    cheapest = sorted(tied, key=total_seconds)[:1]
    cheaper, is_cheapest = (None, False) if best is None else _price(best, tied)
    units_needed = None if best is None else _units_needed(best, len(done))
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
    if kind == "tied" and cheaper is not None and cheaper.is_as_good:
        recommended = cheaper.row
    return Findings(
        kind=kind,
        best=best,
        recommended=None if kind == "chance" else recommended,
        tied=tied,
        num_rows=len(done),
        rival=next((row for row in (*cheapest, *tied) if row.needed_images is not None), None),
        cheaper=cheaper,
        is_cheapest=is_cheapest,
        seen=seen,
        failed=tuple(row for row in rows if row.has_failed),
        control=next((row for row in rows if row.control and row.accuracy is not None), None),
        alarms=tuple(_find_alarms(rows, can_prove=units_needed is None)),
        unbeaten=tuple(row for row in done if row.unbeaten),
        units_needed=units_needed,
    )


def _units_needed(best: Row, num_rows: int) -> int | None:
    """How many test images or groups any proof takes, where there are fewer; None: a proof is possible."""
    needed = units_to_prove(num_rows)
    return needed if (best.num_groups or best.n) < needed else None


def _is_above_majority(best: Row, rows: Sequence[Row]) -> bool:
    majority = [row.accuracy or 0.0 for row in rows if row.control and row.model == MAJORITY]
    return bool(majority) and (best.accuracy or 0.0) > max(majority)


def _price(best: Row, tied: Sequence[Row]) -> tuple[Cheaper | None, bool]:
    """The cheapest of the tied rows if it is clearly cheaper, and whether the best clearly is."""
    priced = [row for row in tied if total_seconds(row) > 0]
    if not priced or not total_seconds(best):
        return None, False
    cheapest = min(priced, key=total_seconds)
    times = total_seconds(best) / total_seconds(cheapest)
    if times < _CHEAPER:
        return None, times * _CHEAPER <= 1
    lower = (best.accuracy or 0.0) - (cheapest.accuracy or 0.0)
    provable = smallest_provable_gap(best.n) or _LARGE_GAP
    is_unproved = bool(cheapest.unbeaten) and not best.unbeaten
    return Cheaper(cheapest, times, lower, is_much_lower=lower > provable, is_unproved=is_unproved), False


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
