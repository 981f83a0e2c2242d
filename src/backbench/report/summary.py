"""The sentences on a ranking, made from the facts that `findings.find` decided; nothing is decided here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from backbench.progress import format_seconds
from backbench.records.schema import DataFacts
from backbench.report.findings import Cheaper, Findings, total_seconds
from backbench.report.rows import Row
from backbench.report.text import percent, printable
from backbench.stats.compare import Alarm, control_family
from backbench.wording import count, join_names

_MAX_IMAGES = 1_000_000
_FEW_IMAGES = 50
_HEADS = {
    "logistic": "a logistic head",
    "ridge": "a ridge head",
    "knn": "a nearest-neighbour head",
    "centroid": "a nearest-centroid head",
}
Place = Literal["verdict", "lead", "caveat"]
_NONE_IS_WORTH_KEEPING = "No row is worth keeping yet: add test images, check the labels, or try other models."
_SHORTCUT = "the data may contain a shortcut; check"
_SIMPLE = "the classes may differ in something simple"
_CONTROLS = {
    "majority": (
        "always predicting the most frequent class reaches",
        "this test can't show that a model learned anything",
    ),
    "colour": (
        "colour and brightness statistics alone reach",
        f"{_SHORTCUT} background, light and camera of each class",
    ),
    "file-facts": (
        "file facts (image dimensions, file size, format) alone reach",
        f"{_SHORTCUT} where the files of each class come from",
    ),
    "untrained": ("an untrained network reaches", _SIMPLE),
    "pixels": ("the bare pixels reach", _SIMPLE),
}


class Sentence(NamedTuple):
    """One sentence: the verdict, what stands beside it on a page, or what a reader may learn later."""

    text: str
    place: Place


def summarise(found: Findings, data: DataFacts, num_openings: int | None = None) -> tuple[Sentence, ...]:
    """What a reader with a minute must know, worst news included, the verdict first.

    In this order: the row to use, with its metrics; too few test images; rows whose models were trained on test
    images; tied rows and their cost; the certificate; how many test images would separate them; the baselines; the
    weakest class; how far to trust the metrics of the best row; failures.

    Args:
        data: what was measured on.
        num_openings: how often the test split has been opened so far, over all runs; None: not known.
    """
    best = found.best
    if best is None:
        first, *rest = _untrusted(found) if found.seen else _nothing(found)
        return Sentence(first, "verdict"), *(Sentence(text, "lead") for text in rest)
    is_chance = found.kind == "chance"
    has_ties = bool(found.tied) and not is_chance
    said: tuple[tuple[Place, list[str]], ...] = (
        ("verdict", [_verdict(found, best)]),
        ("lead", [*_few_units(found, best), *_seen(found.seen)]),
        ("caveat", [_NONE_IS_WORTH_KEEPING] * is_chance),
        ("lead", [_ties(found, best)] if has_ties else []),
        ("lead", _certificate(found)),
        ("caveat", _needed(found, best) if has_ties else []),
        ("caveat", _controls(found, best)),
        ("lead", [] if is_chance else _weakest(found.recommended or best)),
        ("caveat", [*_trust(best, found, data, num_openings), *_failed(found)]),
    )
    return tuple(Sentence(text, place) for place, texts in said for text in texts)


def control_warnings(found: Findings) -> list[str]:
    """Sentences on controls that come near the best row, naming what they look at, see `control_alarms`; else on
    rows that are not significantly better than one."""
    if found.alarms or not found.unbeaten:
        return [_alarm(found, control, alarm) for control, alarm in found.alarms]
    names = join_names([row.name for row in found.unbeaten])
    return [f"{_unbeaten(found)} not significantly better than all baselines: {names}"]


def _alarm(found: Findings, control: Row, alarm: Alarm) -> str:
    """What a control near the best row means. Pretraining is judged only where the best row has some."""
    best = found.best
    looks_at, meaning = _control_words(control.model)
    reach, top = (f"{100 * ((row and row.accuracy) or 0.0):.0f} %" for row in (control, best))
    if meaning == _SIMPLE and best is not None and best.is_best and best.pretrained:
        meaning = (
            f"pretraining adds little here: {_SIMPLE}"
            if alarm.is_near
            else "more than half of what can be gained over the most frequent class needs no pretraining"
        )
    text = {
        "above": f"{looks_at} {reach}, no less than the best row ({top}): {meaning}.",
        "tied": f"{looks_at} {reach}, tied with the best row ({top}): {meaning}.",
        "few": f"{looks_at} {reach}, and {control.n:,} test images are too few to prove the best row ({top}) "
        "better.",
        "half": f"{looks_at} {reach} where the best row reaches {top}: {meaning}.",
    }[alarm.how]
    return text[0].upper() + text[1:]


def _control_words(name: str) -> tuple[str, str]:
    """What a control looks at, with a verb for its figure, and what it means when that comes near the best."""
    unknown = f"the baseline {name} alone reaches", f"{_SHORTCUT} what it sees"
    return _CONTROLS.get(control_family(name), unknown)


def _nothing(found: Findings) -> list[str]:
    said, failed = ["Nothing finished, so there is no ranking."], found.failed
    if failed:
        runs = "the only run" if len(failed) == 1 else f"all {len(failed)} runs"
        which = "It" if len(failed) == 1 else "The first"
        reason = printable(" ".join((failed[0].error or "no reason recorded").split()))
        said = [f"Nothing finished: {runs} failed.", f"{which} was {printable(failed[0].name)}: {reason}"]
    if found.control is not None:
        said.append(f"Only baselines have figures: {_control_phrase(found.control)}.")
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
        f"{count(seen[0].n, 'test image')}."
    ]


def _untrusted(found: Findings) -> list[str]:
    return [
        "No row can be trusted: every model here was trained on test images, so nothing is ranked.",
        *_seen(found.seen),
        "Rank on images that no model has seen, or add a model that has not seen these.",
    ]


def _verdict(found: Findings, best: Row) -> str:
    if found.kind == "winner" and found.recommended is not None:
        best = found.recommended
    figures = f"right on {percent(best.accuracy, best.n)} of {count(best.n, 'test image')}"
    if best.low is not None and best.high is not None:
        low, high = percent(best.low, best.n, unit=False), percent(best.high, best.n, unit=False)
        figures += f" (95 % interval {low} to {high})"
    if best.is_untrained:
        figures += "; its weights are untrained, so a pretrained model should do better"
    who = f"{printable(best.model)} with {_head(best)}"
    if found.kind == "chance":
        rows, highest = ("The only row is not", "") if found.num_rows == 1 else ("No row is", "Highest accuracy: ")
        return f"{rows} significantly better than always predicting one class. {highest}{who}, {figures}."
    if found.kind == "alone":
        return f"{who} is {figures}. It is the only row, so there is no ranking: add a second model."
    if found.kind == "unproved":
        return f"Highest accuracy: {who}, {figures}. It is not significantly better than all baselines."
    if found.kind == "tied":
        rows = "Both rows" if found.num_rows == 2 else f"All {found.num_rows} rows"
        return f"{rows} are tied. Highest accuracy: {who}, {figures}."
    return f"Use {who}: {figures}."


def _few_units(found: Findings, best: Row) -> list[str]:
    """That so few test images, or groups of them, prove nothing."""
    if found.units_needed is None:
        return []
    images = count(best.n, "test image")
    need = f"{count(found.num_rows, 'row')} need{'s' * (found.num_rows == 1)} at least {found.units_needed}"
    if best.num_groups is None:
        return [f"{images} can't prove any difference: {need}."]
    groups = count(best.num_groups, "group")
    return [f"The {images} form only {groups}, which can't prove any difference: {need} groups."]


def describe_cheaper(cheaper: Cheaper, best: Row) -> str:
    """'is 4.1 times cheaper (12 s against 50 s)': what a tied row saves, and what it may cost in accuracy."""
    seconds = f"{format_seconds(total_seconds(cheaper.row))} against {format_seconds(total_seconds(best))}"
    times = f"{cheaper.times:.1f}" if cheaper.times < 9.95 else f"{cheaper.times:,.0f}"
    text = f"is {times} times cheaper ({seconds})"
    if cheaper.is_unproved:
        text += f", but not significantly better than the baseline {printable(cheaper.row.unbeaten[0])}"
    elif not cheaper.is_as_good:
        text += f", but another row may be {100 * (cheaper.row.regret or 0.0):.1f} points better than it"
    return text


def _ties(found: Findings, best: Row) -> str:
    """Who is tied, and which of them is clearly cheaper."""
    cheaper = found.cheaper
    price = "" if cheaper is None else describe_cheaper(cheaper, best)
    if found.kind == "tied":
        if cheaper is not None:
            take = "Take the cheapest: " if found.recommended is cheaper.row else ""
            return f"{take}{printable(cheaper.row.name)} {price}."
        if found.is_cheapest:
            return "It is also the cheapest: take it."
        return "None of them is much cheaper: take the one you prefer."
    if found.recommended is not best:
        others = [row.name for row in found.tied if row is not found.recommended]
        also = f" Also tied with that: {join_names(others)}." if others else ""
        highest = f"the highest row, {printable(best.name)} ({percent(best.accuracy, best.n)})"
        return f"It {price}, with no significant difference from {highest}.{also}"
    said = f"No significant difference from it: {join_names([row.name for row in found.tied])}"
    who = "" if cheaper is None else "it" if len(found.tied) == 1 else printable(cheaper.row.name)
    return f"{said}; {who} {price}." if cheaper is not None else f"{said}."


def _certificate(found: Findings) -> list[str]:
    """How much better another row may be than the one that is recommended."""
    given = found.certificate
    if given is None:
        return []
    name = printable(given.row.name)
    if given.points < 0.05:
        others = "no other row" if given.rows_compared > 1 else "the other row is not"
        return [f"With 95 % confidence {others}{' is' * (given.rows_compared > 1)} better than {name}."]
    if given.rows_compared == 1:
        return [f"With 95 % confidence the other row is at most {given.points:.1f} points better than {name}."]
    more = f"more than {given.points:.1f} points better than {name}"
    return [f"With 95 % confidence none of the other {given.rows_compared} rows is {more}."]


def _needed(found: Findings, best: Row) -> list[str]:
    """How many test images would separate the best from a rival."""
    rival = found.rival
    if rival is None:
        return []
    pair = f"{printable(best.name)} from {printable(rival.name)}"
    if (rival.needed_images or 0) > _MAX_IMAGES:
        return [f"More than a million test images would be needed to separate {pair}."]
    about = f"{_rounded(rival.needed_images or 0):,}"
    return [f"It would take at least about {about} test images to separate {pair}, if the difference is real."]


def _controls(found: Findings, best: Row) -> list[str]:
    if found.control is None:
        return []
    if found.alarms:
        control, alarm = found.alarms[0]
        how = (
            "comes near the best row"
            if alarm.is_near
            else "makes more than half of the gain over the most frequent class"
        )
        return [f"Warning: a baseline {how} ({_control_phrase(control)})."]
    phrase = _control_phrase(found.control)
    if not found.unbeaten:
        return [f"No shortcut seen: {phrase} at most."]
    names = join_names([row.name for row in found.unbeaten])
    if best.unbeaten:
        return [f"{_unbeaten(found)} not significantly better than all baselines ({phrase} at most): {names}."]
    return [
        f"The best row is significantly better than all baselines ({phrase} at most), but "
        f"{_unbeaten(found)} not: {names}."
    ]


def _unbeaten(found: Findings) -> str:
    """'5 of 8 rows are'."""
    are = "is" if len(found.unbeaten) == 1 else "are"
    return f"{len(found.unbeaten)} of {count(found.num_rows, 'row')} {are}"


def _control_phrase(control: Row) -> str:
    return f"{_control_words(control.model)[0]} {percent(control.accuracy, control.n)}"


def _weakest(best: Row) -> list[str]:
    recall = 1.0 if best.weakest_recall is None else best.weakest_recall
    if best.weakest_class is None or recall >= 1:
        return []
    share = f"{recall * 100:.0f} % of {count(best.weakest_n or 0, 'test image')}"
    return [f"Weakest class: {printable(best.weakest_class)} ({share})."]


def _trust(best: Row, found: Findings, data: DataFacts, num_openings: int | None) -> list[str]:
    """How the figure flatters: chosen on the images it is measured on, or on too few of them."""
    said = []
    if found.num_rows > 1:
        opened = ""
        if num_openings is not None and num_openings > 0:
            opened = f" (evaluated {count(num_openings, 'time')} so far)"
        said.append(
            f"The highest of {found.num_rows} rows was chosen and measured on the same test images{opened}, so "
            f"its accuracy is slightly optimistic{_corrected(best)}."
        )
    if 0 < best.n < _FEW_IMAGES:
        classes = count(len(data.classes), "class", "classes")
        images = count(best.n, "test image")
        said.append(
            f"{images} of {classes} {'is' if best.n == 1 else 'are'} too few for a reliable ranking: add more."
        )
    return said


def _corrected(best: Row) -> str:
    if best.corrected is None or best.corrected_low is None or best.corrected_high is None:
        return ""
    figure, low, high = (
        percent(value, best.n, unit=unit)
        for value, unit in ((best.corrected, True), (best.corrected_low, False), (best.corrected_high, False))
    )
    return f"; corrected for that, it is {figure} (95 % interval {low} to {high})"


def _failed(found: Findings) -> list[str]:
    failed = found.failed
    return [f"{count(len(failed), 'run')} failed: {join_names([row.name for row in failed])}."] if failed else []


def _head(row: Row) -> str:
    """'a logistic head', 'the method full (20 epochs)'."""
    head = _HEADS.get(row.method, f"the method {printable(row.method)}")
    return f"{head} ({printable(row.difference)})" if row.difference else head


def _rounded(number: int) -> int:
    """To two figures: an estimate of this kind has no more."""
    size = 10 ** max(0, len(str(number)) - 2)
    return round(number / size) * size
