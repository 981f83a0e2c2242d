"""What a ranking says in each state it can be in: facts one by one, its sentences in the golden file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from backbench.records.schema import DataFacts
from backbench.report.findings import Certificate, Cheaper, find
from backbench.report.rows import Row
from backbench.report.summary import control_warnings, summarise

DATA = DataFacts(
    name="photos",
    classes=tuple(f"class {index}" for index in range(12)),
    num_train=744,
    num_val=186,
    num_test=312,
    manifest_digest="c",
    image_digest="e",
)


def _row(model: str, accuracy: float, total: float = 10.0, method: str = "logistic", **changes: object) -> Row:
    given: dict[str, object] = {
        "model": model,
        "method": method,
        "run_id": model,
        "accuracy": accuracy,
        "low": accuracy - 0.034,
        "high": accuracy + 0.023,
        "n": 312,
        "parameters": 1000,
        "seconds": {"total": total},
    }
    return Row(**given | changes)  # type: ignore[arg-type]


BEST = _row(
    "convnext_tiny",
    0.931,
    50,
    rank_low=1,
    rank_high=2,
    tied_with_best=True,
    is_best=True,
    weakest_class="emperor moth",
    weakest_recall=0.714,
    weakest_n=21,
    regret=0.012,
    corrected=0.918,
    corrected_low=0.87,
    corrected_high=0.954,
)
TIED = _row("efficientnet_b0", 0.917, 12.2, tied_with_best=True, needed_images=2412, regret=0.038)
NEAR = replace(TIED, accuracy=0.928, regret=0.021)
WORSE = _row("mobilenet", 0.80, 8)
COLOUR = _row("colour", 0.31, control=True)
MAJORITY = _row("majority", 0.17, control=True)
FAILED = Row(model="vit", method="knn", run_id="x", status="failed", error="weights are missing: put them back")


COLOUR_NEAR = replace(COLOUR, accuracy=0.92, tied_with_best=True)
LOST = [replace(row, accuracy=0.1, at_chance=True, unbeaten=("majority",)) for row in (BEST, TIED)]
ONE = replace(BEST, n=1, accuracy=1.0, low=0.2, high=1.0, weakest_n=1, weakest_recall=0.0)
STATES: dict[str, list[Row]] = {
    "full": [BEST, TIED, WORSE, COLOUR, MAJORITY, FAILED],
    "several tied": [BEST, TIED, replace(TIED, model="dinov2_s", method="knn", seconds={"total": 49.0}), WORSE],
    "as cheap": [BEST, replace(TIED, seconds={"total": 47.0}), WORSE],
    "called by what differs": [replace(BEST, difference="20 epochs"), replace(WORSE, model="convnext_tiny")],
    "untrained winner": [replace(BEST, pretrained=False), WORSE],
    "a million images": [BEST, replace(TIED, needed_images=2_000_000), WORSE],
    "cheaper and as good": [BEST, NEAR, TIED, WORSE],
    "proved best": [replace(BEST, regret=0.0), WORSE, replace(WORSE, model="c")],
    "all tied": [BEST, NEAR],
    "all tied, best cheapest": [BEST, replace(NEAR, seconds={"total": 300.0}), replace(NEAR, model="c")],
    "all tied, as cheap": [BEST, replace(TIED, seconds={"total": 48.0})],
    "cheaper, but much lower": [BEST, replace(TIED, accuracy=0.85)],
    "cheaper, but unproved": [BEST, replace(TIED, unbeaten=("untrained",))],
    "chance": [*LOST, replace(MAJORITY, accuracy=0.1, tied_with_best=True)],
    "chance, one row": [LOST[0], MAJORITY],
    "few groups": [
        *(replace(row, n=96, num_groups=5, at_chance=True, unbeaten=("majority",)) for row in (BEST, TIED)),
        replace(MAJORITY, tied_with_best=True),
    ],
    "few images": [*(replace(row, n=5, at_chance=True, unbeaten=("majority",)) for row in (BEST, TIED)), MAJORITY],
    "one image": [ONE, replace(WORSE, n=1)],
    "best unproved": [replace(BEST, unbeaten=("colour",)), WORSE, COLOUR_NEAR, MAJORITY],
    "others unproved": [
        BEST,
        replace(TIED, unbeaten=("untrained",)),
        replace(WORSE, unbeaten=("colour",)),
        COLOUR,
    ],
    "baseline near": [BEST, COLOUR_NEAR, MAJORITY],
    "baseline gains half": [BEST, WORSE, replace(COLOUR, accuracy=0.71), MAJORITY],
    "no pretraining needed": [BEST, _row("untrained", 0.93, control=True, tied_with_best=True), MAJORITY],
    "half without pretraining": [BEST, _row("untrained", 0.71, control=True), MAJORITY],
    "one row": [BEST, COLOUR],
    "saw test images": [BEST, WORSE, _row("own", 0.99, num_test_seen=40), COLOUR],
    "all saw test images": [_row("own", 0.99, num_test_seen=40), _row("b", 0.9, num_test_seen=2), COLOUR],
    "nothing": [],
    "one failed": [FAILED],
    "all failed": [COLOUR, FAILED, FAILED],
}


def test_the_summary_of_each_state_reads_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    lines = []
    for state, rows in STATES.items():
        warnings = [f"! {warning}" for warning in control_warnings(find(rows))]
        lines += [f"# {state}", *texts(*rows, num_openings=7), *warnings, ""]
    golden("summary.txt", "\n".join(lines))


def texts(*rows: Row, num_openings: int | None = None) -> list[str]:
    return [sentence.text for sentence in summarise(find(rows), DATA, num_openings)]


def test_a_winner_and_who_is_tied_with_it() -> None:
    found = find(STATES["full"])
    assert (found.kind, found.best, found.recommended, found.tied) == ("winner", BEST, BEST, (TIED,))
    assert (found.num_rows, found.failed, found.control, found.rival) == (3, (FAILED,), COLOUR, TIED)
    assert found.cheaper == Cheaper(TIED, 50 / 12.2, pytest.approx(0.026), is_unproved=False)
    assert found.certificate == Certificate(BEST, pytest.approx(1.2), 2)
    clear = find([BEST, WORSE])
    assert (clear.kind, clear.tied, clear.cheaper, clear.rival, clear.units_needed) == (
        "winner",
        (),
        None,
        None,
        None,
    )


def test_the_rival_is_the_cheapest_tied_row_or_another_whose_gap_has_an_estimate() -> None:
    dear = replace(TIED, model="dear", seconds={"total": 60.0})
    assert find([BEST, dear, TIED, WORSE]).rival == TIED
    assert find([BEST, dear, replace(TIED, needed_images=None), WORSE]).rival == dear
    assert find([BEST, replace(TIED, needed_images=None), WORSE]).rival is None


def test_seconds_that_hardly_differ_make_no_row_cheaper() -> None:
    found = find([BEST, replace(TIED, seconds={"total": 47.0}), WORSE])
    assert (found.cheaper, found.is_cheapest) == (None, False)


def test_everything_tied() -> None:
    both = find([BEST, NEAR])
    assert (both.kind, both.recommended) == ("tied", NEAR)
    assert both.certificate == Certificate(NEAR, pytest.approx(2.1), 1)
    assert find(STATES["all tied, best cheapest"]).recommended == replace(NEAR, model="c")
    dear = find([BEST, replace(TIED, seconds={"total": 300.0})])
    assert (dear.kind, dear.recommended, dear.is_cheapest) == ("tied", BEST, True)
    alike = find([BEST, replace(TIED, seconds={"total": 48.0})])
    assert (alike.kind, alike.recommended, alike.is_cheapest) == ("tied", BEST, False)


def test_a_cheaper_row_that_a_control_may_equal_is_not_to_be_taken() -> None:
    found = find([BEST, replace(TIED, unbeaten=("untrained",))])
    assert found.cheaper is not None
    assert (found.cheaper.is_unproved, found.cheaper.is_as_good, found.recommended) == (True, False, BEST)


def test_at_chance_nothing_is_recommended() -> None:
    found = find(STATES["chance"])
    assert (found.kind, found.recommended) == ("chance", None)
    said = texts(*STATES["chance"])
    assert not any(re.search(r"[Tt]ake|Use |cheap|Weakest", text) for text in said)


@pytest.mark.parametrize("units", [{"n": 96, "num_groups": 5}, {"n": 5}])
def test_too_few_test_images_or_groups_for_any_proof_are_not_told_as_a_model_that_learned_nothing(
    units: dict[str, int],
) -> None:
    lost = {"at_chance": True, "unbeaten": ("untrained", "majority"), "tied_with_best": True}
    rows = [replace(row, **(units | lost)) for row in (BEST, TIED)]  # type: ignore[arg-type]
    colour = replace(COLOUR, accuracy=0.6, tied_with_best=True)
    found = find([*rows, colour, replace(MAJORITY, tied_with_best=True)])
    assert (found.kind, found.recommended, found.units_needed) == ("unproved", rows[0], 6)
    assert [alarm.how for _, alarm in found.alarms] == ["half"]  # more than half of the gain; no tie is told
    low = [replace(row, accuracy=0.1, low=0.0) for row in rows]
    assert find([*low, replace(MAJORITY, tied_with_best=True)]).kind == "chance"
    enough = [replace(row, n=96, num_groups=7) for row in rows]
    assert find([*enough, replace(MAJORITY, tied_with_best=True)]).kind == "chance"


def test_the_best_row_that_is_not_proved_better_than_a_control_is_no_clear_winner() -> None:
    assert find(STATES["best unproved"]).kind == "unproved"


def test_rows_that_no_control_is_worse_than_are_counted_where_no_shortcut_is_seen() -> None:
    found = find(STATES["others unproved"])
    assert (found.kind, found.alarms) == ("winner", ())
    assert [row.model for row in found.unbeaten] == ["efficientnet_b0", "mobilenet"]
    assert len(control_warnings(found)) == 1


def test_a_best_row_that_a_control_may_equal_is_never_called_better_than_all_baselines() -> None:
    unbeaten = [rows for rows in STATES.values() if (best := find(rows).best) is not None and best.unbeaten]
    assert len(unbeaten) == 5
    for rows in unbeaten:
        assert not any(text.startswith("The best row is significantly better") for text in texts(*rows))


def test_the_cheapest_row_whose_certificate_is_hardly_weaker_is_recommended() -> None:
    """A tie alone is no reason: with few images all rows are tied, also those far below."""
    found = find(STATES["cheaper and as good"])
    assert (found.kind, found.recommended, found.best) == ("winner", NEAR, BEST)
    assert found.certificate == Certificate(NEAR, pytest.approx(2.1), 3)
    assert texts(*STATES["cheaper and as good"])[0].startswith("Use efficientnet_b0 with")
    for given_up, taken in ((0.009, True), (0.011, False)):
        row = replace(NEAR, regret=(BEST.regret or 0.0) + given_up)
        assert (find([BEST, row, WORSE]).recommended is row) == taken
    cheapest = replace(TIED, model="c", seconds={"total": 1.0})  # too far below: the next cheapest is taken
    assert find([BEST, NEAR, cheapest, WORSE]).recommended == NEAR


def test_a_certificate_compares_with_all_other_rows() -> None:
    assert find(STATES["one row"]).certificate is None
    assert find(STATES["chance"]).certificate is None
    (said,) = (text for text in texts(*STATES["full"]) if "confidence" in text)
    assert re.search(r"none of the other 2 rows is more than 1\.2 points better than convnext_tiny", said)
    (said,) = (text for text in texts(*STATES["proved best"]) if "confidence" in text)
    assert "no other row is better" in said
    given = find(STATES["full"]).to_json()["certificate"]
    assert given == {
        "row": "convnext_tiny + logistic",
        "run_id": "convnext_tiny",
        "points": pytest.approx(1.2),
        "confidence": 0.95,
        "rows_compared": 2,
    }


def test_the_first_alarm_is_of_the_control_that_comes_near() -> None:
    majority = replace(MAJORITY, accuracy=0.25, tied_with_best=True)
    untrained = _row("untrained", 0.425, control=True)
    found = find([replace(BEST, accuracy=0.725), WORSE, untrained, majority])
    assert found.control == untrained
    assert [(control.model, alarm.how) for control, alarm in found.alarms] == [("majority", "tied")]


def test_one_model_is_no_ranking() -> None:
    assert find([BEST, COLOUR]).kind == "alone"


def test_nothing_finished() -> None:
    for rows in ([], [FAILED], [COLOUR, FAILED, FAILED]):
        found = find(rows)
        assert (found.kind, found.best, found.recommended) == ("nothing", None, None)
        assert len(found.failed) == rows.count(FAILED)


@pytest.mark.parametrize(
    ("state", "alarms"),
    [
        ("full", []),
        ("nothing", []),
        ("baseline near", [("colour", "tied")]),
        ("baseline gains half", [("colour", "half")]),
        ("no pretraining needed", [("untrained", "tied")]),
        ("half without pretraining", [("untrained", "half")]),
    ],
)
def test_controls_that_come_near(state: str, alarms: list[tuple[str, str]]) -> None:
    found = find(STATES[state])
    assert [(control.model, alarm.how) for control, alarm in found.alarms] == alarms
    assert len(control_warnings(found)) == len(alarms)
    assert any(text.startswith("No shortcut") for text in texts(*STATES[state])) == (state == "full")


def test_few_test_images_are_said() -> None:
    assert [len(texts(replace(BEST, n=n))) for n in (49, 50)] == [3, 2]


def test_openings_of_the_test_split_are_counted_once_they_are_known() -> None:
    said = [" ".join(texts(BEST, WORSE, num_openings=num)) for num in (None, 0, 1)]
    assert ["1 time" in text for text in said] == [False, False, True]


@pytest.mark.parametrize(("needed", "figure"), [(313, "310"), (2_000_000, "million"), (987_654, "990,000")])
def test_needed_images_have_two_figures(needed: int, figure: str) -> None:
    assert any(figure in text for text in texts(BEST, replace(TIED, needed_images=needed), WORSE))


def test_perfect_classes_are_not_weak() -> None:
    assert not any("Weakest" in text for text in texts(replace(BEST, weakest_recall=1.0), WORSE))


def test_the_verdict_comes_first_and_failures_are_caveats() -> None:
    for rows in STATES.values():
        places = [sentence.place for sentence in summarise(find(rows), DATA)]
        assert places.count("verdict") == 1
        assert places[0] == "verdict"
    assert summarise(find(STATES["full"]), DATA)[-1].place == "caveat"


def test_hostile_names_are_written_out() -> None:
    evil = "\x1b[31m\u202ename\n"
    rows = [replace(BEST, model=evil, weakest_class=evil), replace(TIED, model=evil), replace(FAILED, error=evil)]
    for text in [*texts(*rows), *texts(*rows[2:])]:
        assert not set(text) & set("\x1b\u202e\n")


def test_rows_trained_on_test_images_have_no_part() -> None:
    seen = _row("own", 0.99, num_test_seen=40)
    found = find([BEST, WORSE, seen, COLOUR])
    assert (found.kind, found.seen, found.num_rows) == ("winner", (seen,), 2)
    assert summarise(found, DATA)[1].place == "lead"
    other = _row("b", 0.9, num_test_seen=2)
    none = find([seen, other, COLOUR])
    assert (none.kind, none.seen, none.best, none.recommended) == ("untrusted", (seen, other), None, None)


def test_pretraining_is_judged_only_where_a_row_has_some() -> None:
    plain = _row("untrained", 0.93, control=True, tied_with_best=True)
    for best in (BEST, replace(BEST, pretrained=False)):
        (warning,) = control_warnings(find([best, plain, MAJORITY]))
        assert ("pretraining" in warning) == best.pretrained
