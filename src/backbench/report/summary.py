"""The ranking in a few plain sentences, made from the rows by fixed rules."""

from __future__ import annotations

from collections.abc import Sequence

from backbench.evaluate.compare import Alarm, control_alarms, control_words
from backbench.evaluate.power import smallest_provable_gap
from backbench.progress import format_seconds
from backbench.records import DataFacts
from backbench.report.rows import Row
from backbench.report.text import join_names, percent, printable

__all__ = ["control_warnings", "join_names", "summarise"]

_CHEAPER = 1.2  # below this ratio seconds are not worth a word
_MOST_IMAGES = 1_000_000
_FEW_IMAGES = 50
_LARGE_GAP = 0.06
"""In accuracy, where so few test images can prove no gap at all: a tie with a larger one says nothing."""
_HEADS = {
    "logistic": "a logistic head",
    "ridge": "a ridge head",
    "knn": "a nearest-neighbour head",
    "centroid": "a nearest-centroid head",
}


def summarise(rows: Sequence[Row], data: DataFacts, *, num_openings: int | None = None) -> list[str]:
    """What a reader with a minute must know: up to eight sentences, worst news included.

    In this order: the row to use, with its figures; which rows have no part in this, because their models were
    trained on test images; who is tied with it and what that costs; how many test images
    would separate them; what the controls say; the weakest class; how far to trust the winner's figure; failures.

    Args:
        rows: as `make_rows` gives them.
        data: what was measured on.
        num_openings: how often the test part has been opened so far, over all runs; None: not known.
    """
    done = [row for row in rows if row.is_candidate]
    seen = [row for row in rows if row.accuracy is not None and row.num_test_seen]
    failed = [row for row in rows if row.has_failed]
    best = next((row for row in done if row.is_best), done[0] if done else None)
    if best is None:
        return _untrusted(seen) if seen else _nothing(rows, failed)
    tied = [row for row in done if row.tied_with_best and row is not best]
    said = [_verdict(best, done, tied), *_seen(seen)]
    if tied:
        said += _ties(best, tied, all_tied=len(tied) + 1 == len(done))
    said += _controls(rows)
    said += _weakest(best)
    said += _trust(best, done, data, num_openings)
    if failed:
        said.append(f"{_count(len(failed), 'run')} failed: {join_names([row.name for row in failed])}.")
    return said


def control_warnings(rows: Sequence[Row]) -> list[str]:
    """Sentences on controls that come near the best row, naming what they look at; see `control_alarms`."""
    return [alarm.text for _, alarm in _alarms(rows)]


def _alarms(rows: Sequence[Row]) -> list[tuple[Row, Alarm]]:
    shown = [row for row in rows if row.accuracy is not None and not row.num_test_seen]
    best = next((row for row in shown if row.is_best), None)
    majority = next((row.accuracy for row in shown if row.control and row.model == "majority"), 0.0)
    alarms = control_alarms(
        [row.accuracy or 0.0 for row in shown],
        [row.control for row in shown],
        [row.model for row in shown],
        majority or 0.0,
        [row.tied_with_best for row in shown],
        n=max((row.n for row in shown), default=0),
        is_pretrained=best is not None and best.pretrained,
    )
    return [(shown[alarm.row], alarm) for alarm in alarms]


def _nothing(rows: Sequence[Row], failed: Sequence[Row]) -> list[str]:
    said = ["Nothing finished, so there is no ranking."]
    if failed:
        runs = "the only run" if len(failed) == 1 else f"all {len(failed)} runs"
        which = "It" if len(failed) == 1 else "The first"
        reason = printable(" ".join((failed[0].error or "no reason recorded").split()))
        said = [f"Nothing finished: {runs} failed.", f"{which} was {printable(failed[0].name)}: {reason}"]
    controls = [row for row in rows if row.control and row.accuracy is not None]
    if controls:
        said.append(f"Only controls have figures: {_control_phrase(controls[0])}.")
    return said


def _seen(seen: Sequence[Row]) -> list[str]:
    """Which rows are not ranked: their models were trained on images that should judge them."""
    if not seen:
        return []
    are, their = ("is", "its model was") if len(seen) == 1 else ("are", "their models were")
    fewest, most = min(row.num_test_seen for row in seen), max(row.num_test_seen for row in seen)
    num = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return [
        f"{join_names([row.name for row in seen])} {are} not ranked: {their} trained on {num} of these "
        f"{_count(seen[0].n, 'test image')}."
    ]


def _untrusted(seen: Sequence[Row]) -> list[str]:
    return [
        "No row can be trusted: every model here was trained on test images, so nothing is ranked.",
        *_seen(seen),
        "Rank on images that no model has seen, or add a model that has not seen these.",
    ]


def _verdict(best: Row, done: Sequence[Row], tied: Sequence[Row]) -> str:
    figures = f"right on {percent(best.accuracy, best.n)} of {_count(best.n, 'test image')}"
    if best.low is not None and best.high is not None:
        low, high = percent(best.low, best.n, unit=False), percent(best.high, best.n, unit=False)
        figures += f" (95 % interval {low} to {high})"
    if best.is_untrained:
        figures += "; its weights are untrained, so a pretrained model should do better"
    who = f"{printable(best.model)} with {_head(best.method)}"
    if len(done) == 1:
        return f"{who} is {figures}. It is the only row, so there is no ranking: add a second model."
    if len(tied) + 1 == len(done):
        rows = "Both rows" if len(done) == 2 else f"All {len(done)} rows"
        return f"{rows} are tied. Highest is {who}: {figures}."
    return f"Use {who}: {figures}."


def _ties(best: Row, tied: Sequence[Row], *, all_tied: bool) -> list[str]:
    """Who is tied, and which of them is clearly cheaper; how many images would separate them."""
    cheapest = min(tied, key=_total)
    saved = _total(best) / _total(cheapest) if _total(cheapest) > 0 else 1.0
    seconds = f"{format_seconds(_total(cheapest))} against {format_seconds(_total(best))}"
    times = f"{saved:.1f}" if saved < 9.95 else f"{saved:,.0f}"
    provable = smallest_provable_gap(best.n) or _LARGE_GAP
    if all_tied:
        lower = (best.accuracy or 0.0) - (cheapest.accuracy or 0.0)
        said = "None of them is much cheaper: take the one you prefer."
        if saved >= _CHEAPER and lower > provable:
            said = f"{printable(cheapest.name)} is {times} times cheaper ({seconds}), "
            said += f"but {100 * lower:.1f} points lower: these test images can't decide between them."
        elif saved >= _CHEAPER:
            said = f"Take the cheapest: {printable(cheapest.name)} is {times} times cheaper ({seconds})."
        elif saved * _CHEAPER <= 1:
            said = "It is also the cheapest: take it."
    else:
        said = f"{join_names([row.name for row in tied])} can't be told apart from it"
        who = "it" if len(tied) == 1 else printable(cheapest.name)
        said += f"; {who} is {times} times cheaper ({seconds})." if saved >= _CHEAPER else "."
    rivals = [row for row in (cheapest, *tied) if row.needed_images is not None]
    return [said, *_needed(best, rivals[:1])]


def _needed(best: Row, rivals: Sequence[Row]) -> list[str]:
    said = []
    for rival in rivals:
        pair = f"{printable(best.name)} from {printable(rival.name)}"
        if (rival.needed_images or 0) > _MOST_IMAGES:
            said.append(f"Even a million test images would not separate {pair}.")
        else:
            about = f"{_rounded(rival.needed_images or 0):,}"
            said.append(f"About {about} test images would separate {pair}, if the difference is real.")
    return said


def _controls(rows: Sequence[Row]) -> list[str]:
    controls = [row for row in rows if row.control and row.accuracy is not None]
    if not controls:
        return []
    alarms = _alarms(rows)
    if not alarms:
        return [f"No shortcut seen: {_control_phrase(controls[0])} at most."]
    control, alarm = alarms[0]
    how = (
        "comes near the best row" if alarm.is_near else "makes more than half of the gain over the commonest class"
    )
    return [f"Check the warnings first: a control {how} ({_control_phrase(control)})."]


def _control_phrase(control: Row) -> str:
    return f"{control_words(control.model)} {percent(control.accuracy, control.n)}"


def _weakest(best: Row) -> list[str]:
    if best.weakest_class is None or best.weakest_recall is None or best.weakest_recall >= 1:
        return []
    share = f"{best.weakest_recall * 100:.0f} % of {_count(best.weakest_n or 0, 'test image')}"
    return [f"Weakest class: {printable(best.weakest_class)} ({share})."]


def _trust(best: Row, done: Sequence[Row], data: DataFacts, num_openings: int | None) -> list[str]:
    """How the figure flatters: chosen on the images it is measured on, or on too few of them."""
    said = []
    if len(done) > 1:
        opened = ""
        if num_openings is not None and num_openings > 0:
            opened = f" (opened {_count(num_openings, 'time')} so far)"
        said.append(
            f"The best of {len(done)} rows was chosen and measured on the same test images{opened}, so its "
            f"figure is a little too good."
        )
    if 0 < best.n < _FEW_IMAGES:
        classes = _count(len(data.classes), "class", "classes")
        said.append(f"{_count(best.n, 'test image')} of {classes} decide{'s' * (best.n == 1)} little: add more.")
    return said


def _head(method: str) -> str:
    return _HEADS.get(method, f"the method {printable(method)}")


def _total(row: Row) -> float:
    return row.seconds.get("total", 0.0)


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _rounded(number: int) -> int:
    """To two figures: an estimate of this kind has no more."""
    size = 10 ** max(0, len(str(number)) - 2)
    return round(number / size) * size
