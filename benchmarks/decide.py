"""Do the claims of a ranking hold? Simulated studies, with the product's own functions, beside what it did before.

    python benchmarks/decide.py [--studies 1000] [--out benchmarks/results/decide.md]

A study is a ranking of made-up rows whose true accuracies are known: correlated answers (a latent normal value
that all rows share), equal rows, rows some points apart, one row ahead, with and without groups of images. Each
claim is counted over many studies. "Before" is the rule until this version: Holm's adjustment of exact tests
against the row that the data chose, and the usual interval of the highest row.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from backbench.stats.compare import holm, mcnemar_exact
from backbench.stats.intervals import by_unit, share_interval, wilson_interval
from backbench.stats.simultaneous import compare_rows
from backbench.stats.winner import correct_winner

NORMAL = NormalDist()


@dataclass(frozen=True)
class Design:
    """So many rows on n images. `gaps`: points below the best. `groups`: how many, of unequal size; 0: none."""

    name: str
    gaps: tuple[float, ...]
    n: int
    best: float = 0.8
    correlation: float = 0.7
    groups: int = 0

    @property
    def accuracies(self) -> np.ndarray:
        return self.best - np.array(self.gaps) / 100

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, list[int] | None]:
        """(rows, n) bool, and the group of each image."""
        rows, names = len(self.gaps), None
        value = self._mix(rng, (rows, self.n))
        if self.groups:
            names = np.sort(rng.choice(self.groups, self.n, p=rng.dirichlet(np.full(self.groups, 2.0))))
            value = math.sqrt(0.7) * value + math.sqrt(0.3) * self._mix(rng, (rows, self.groups))[:, names]
        bounds = np.array([NORMAL.inv_cdf(accuracy) for accuracy in self.accuracies])
        return value < bounds[:, None], None if names is None else names.tolist()

    def _mix(self, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        shared, own = math.sqrt(self.correlation), math.sqrt(1 - self.correlation)
        return np.asarray(shared * rng.standard_normal(shape[1]) + own * rng.standard_normal(shape))


def designs() -> list[Design]:
    equal = [
        Design(f"{rows} equal rows", (0.0,) * rows, n, correlation=correlation, best=best)
        for rows, n, correlation, best in [
            (2, 60, 0.7, 0.8), (8, 80, 0.7, 0.8), (8, 60, 0.7, 0.95), (4, 60, 0.3, 0.8), (8, 500, 0.7, 0.8),
            (8, 500, 0.9, 0.8), (16, 2000, 0.7, 0.8), (40, 500, 0.7, 0.8), (40, 2000, 0.7, 0.8),
        ]
    ]  # fmt: skip
    spaced = [
        Design(f"{rows} rows {gap} apart", tuple(gap * row for row in range(rows)), n)
        for rows, gap, n in [(8, 1.0, 500), (8, 1.0, 2000), (4, 5.0, 60), (40, 0.2, 2000)]
    ]
    ahead = [Design("one 3 points ahead of 7", (0.0, *(3.0,) * 7), n) for n in (200, 1000)]
    grouped = [Design("8 equal rows in groups", (0.0,) * 8, 500, groups=groups) for groups in (12, 30, 100)] + [
        Design("8 rows 2.0 apart in groups", tuple(2.0 * row for row in range(8)), 200, groups=12)
    ]
    return [*equal, *spaced, *ahead, *grouped]


def judge_comparisons(design: Design, studies: int, draws: int) -> dict[str, float]:
    """Shares of studies in which each claim was right, and how much was claimed."""
    rng, truth = np.random.default_rng(1), design.accuracies
    rows, top = len(truth), truth.max()
    found: dict[str, list[float]] = {}
    for study in range(studies):
        correct, groups = design.draw(rng)
        right = correct.sum(axis=1)
        compared = compare_rows(correct, groups, draws=draws, seed=study)
        a, b = np.triu_indices(rows, 1)
        higher, lower = np.where(right[a] >= right[b], a, b), np.where(right[a] >= right[b], b, a)
        apart = compared.p_values[a, b] < 0.05
        chosen = int(right.argmax())
        regret = compared.regret(chosen)
        rival = int(np.argsort(-right, kind="stable")[1])
        spread = np.std(correct[rival].astype(float) - correct[chosen])
        for name, value in {
            "wrong": bool((apart & (truth[higher] <= truth[lower])).any()),
            "pairs": float(apart.sum()),
            "holds best": bool(compared.may_be_best[int(truth.argmax())]),
            "in set": float(compared.may_be_best.sum()),
            "certificate holds": bool(top - truth[chosen] <= regret + 1e-12),
            "certificate": 100 * regret,
            "of best test": regret / (1.645 * spread / math.sqrt(design.n)) if spread else math.nan,
            "wrong before": _wrong_before(correct, truth, chosen),
        }.items():
            found.setdefault(name, []).append(float(value))
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def _wrong_before(correct: np.ndarray, truth: np.ndarray, chosen: int) -> bool:
    """Whether a row as good as the chosen one was called worse, by Holm over the chosen row's exact tests."""
    others = [row for row in range(len(truth)) if row != chosen]
    p_values = holm([mcnemar_exact(correct[chosen], correct[row]).p_value for row in others])
    return any(p < 0.05 and truth[row] >= truth[chosen] for row, p in zip(others, p_values, strict=True))


def judge_winner(design: Design, studies: int, draws: int) -> dict[str, float]:
    """Bias and coverage of the winner's figure: raw, and corrected for having been chosen."""
    rng, truth = np.random.default_rng(2), design.accuracies
    raw, corrected, covered, covered_raw, width = [], [], [], [], []
    for study in range(studies):
        correct, groups = design.draw(rng)
        best = int(correct.sum(axis=1).argmax())
        found = correct_winner(correct, best, groups, draws=draws, seed=study)
        right, sizes = by_unit(correct[[best]], groups)
        low, high = share_interval(right[0], sizes)
        raw.append(100 * (correct[best].mean() - truth[best]))
        corrected.append(100 * (found.accuracy - truth[best]))
        covered.append(found.low <= truth[best] <= found.high)
        covered_raw.append(low <= truth[best] <= high)
        width.append(100 * (found.high - found.low))
    names = ("bias", "bias corrected", "covers", "covers corrected", "width")
    values = (raw, corrected, covered_raw, covered, width)
    return {name: float(np.mean(value)) for name, value in zip(names, values, strict=True)}


def judge_groups(
    groups: int, n: int, accuracy: float, evenness: float, studies: int
) -> tuple[float, float, float]:
    """Coverage of the interval of one row on groups, of Wilson's, and the width in points."""
    rng = np.random.default_rng(3)
    covered, plain, width = [], [], []
    for _ in range(studies):
        names = np.concatenate(
            [np.arange(groups), rng.choice(groups, n - groups, p=rng.dirichlet(np.full(groups, evenness)))]
        )
        value = math.sqrt(0.3) * rng.standard_normal(groups)[names] + math.sqrt(0.7) * rng.standard_normal(n)
        right, sizes = by_unit((value < NORMAL.inv_cdf(accuracy))[None], names.tolist())
        low, high = share_interval(right[0], sizes)
        covered.append(low <= accuracy <= high)
        width.append(100 * (high - low))
        low, high = wilson_interval(int(right.sum()), n)
        plain.append(low <= accuracy <= high)
    return float(np.mean(covered)), float(np.mean(plain)), float(np.mean(width))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |",
            *("| " + " | ".join(row) + " |" for row in rows), ""]  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000, help="random draws in each study")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started = time.process_time()
    compared, winners = [], []
    for design in designs():
        found = judge_comparisons(design, options.studies, options.draws)
        name = design.name + (f" ({design.groups})" if design.groups else "")
        shape = [name, f"{design.n:,}", f"{design.correlation}", _percent(design.best)]
        compared.append(
            [*shape, _percent(found["wrong before"]), _percent(found["wrong"]), f"{found['pairs']:.2f}",
             _percent(found["holds best"]), f"{found['in set']:.1f}", _percent(found["certificate holds"]),
             f"{found['certificate']:.1f}", f"{found['of best test']:.2f}"]
        )  # fmt: skip
        if len(design.gaps) > 2:
            won = judge_winner(design, max(100, options.studies // 2), options.draws // 2)
            winners.append(
                [*shape, f"{won['bias']:+.2f}", f"{won['bias corrected']:+.2f}", _percent(won["covers"]),
                 _percent(won["covers corrected"]), f"{won['width']:.1f}"]
            )  # fmt: skip
        print(" | ".join(compared[-1]), flush=True)
    grouped = []
    for groups, n, accuracy, evenness in [
        (5, 100, 0.8, 5.0), (12, 300, 0.8, 1.0), (20, 400, 0.9, 5.0), (30, 300, 0.85, 0.5), (100, 300, 0.8, 1.0),
    ]:  # fmt: skip
        covered, plain, width = judge_groups(groups, n, accuracy, evenness, 2 * options.studies)
        grouped.append(
            [str(groups), str(n), _percent(accuracy), "even" if evenness > 1 else "skewed", _percent(plain),
             _percent(covered), f"{width:.1f}"]
        )  # fmt: skip
    start = ["rows", "images", "correlation", "best"]
    lines = [
        "# Do the claims hold?",
        "",
        f"`python benchmarks/decide.py --studies {options.studies} --draws {options.draws}`, "
        f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {time.process_time() - started:,.0f} "
        f"CPU-seconds, load {os.getloadavg()[0]:.1f}.",
        "",
        "Promised: an equally good row is called significantly worse in at most 5 % of the studies; the truly "
        "best row is in the tied set, and the certificate holds, in at least 95 %.",
        "",
        *_table(
            [
                *start,
                "wrong before",
                "wrong",
                "pairs separated",
                "tied set holds the best",
                "rows in it",
                "certificate holds",
                "certificate, points",
                "over the best paired test",
            ],
            compared,
        ),
        "## The winner's figure",
        "",
        "Bias in points, coverage of its 95 % interval: as it was measured, and corrected for having been chosen.",
        "",
        *_table([*start, "bias", "bias corrected", "covers", "covers corrected", "width, points"], winners),
        "## Intervals of groups",
        "",
        *_table(
            ["groups", "images", "accuracy", "sizes", "Wilson covers", "this interval covers", "width, points"],
            grouped,
        ),
    ]
    text = "\n".join(lines)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
