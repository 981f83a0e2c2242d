"""What a ranking says in each state it can be in: facts one by one, its sentences in the golden file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from backbench.records.schema import DataFacts
from backbench.report.findings import find
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
)
TIED = _row("efficientnet_b0", 0.917, 12.2, tied_with_best=True, needed_images=2412)
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
    "all tied": [BEST, TIED],
    "all tied, best cheapest": [BEST, replace(TIED, seconds={"total": 300.0}), replace(TIED, model="c")],
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
        warnings = [f"! {warning}" for warning in control_warnings(rows)]
        lines += [f"# {state}", *summarise(rows, DATA, num_openings=7), *warnings, ""]
    golden("summary.txt", "\n".join(lines))


def test_a_full_ranking() -> None:
    assert summarise([BEST, TIED, WORSE, COLOUR, MAJORITY, FAILED], DATA, num_openings=7) == [
        "Use convnext_tiny with a logistic head: right on 93.1 % of 312 test images (95 % interval 89.7 to 95.4).",
        "No significant difference from it: efficientnet_b0 + logistic; "
        "it is 4.1 times cheaper (12 s against 50 s).",
        "About 2,400 test images would separate convnext_tiny + logistic from efficientnet_b0 + logistic, if the "
        "difference is real.",
        "No shortcut seen: colour and brightness statistics alone reach 31.0 % at most.",
        "Weakest class: emperor moth (71 % of 21 test images).",
        "The best of 3 rows was chosen and measured on the same test images (evaluated 7 times so far), so its "
        "accuracy is slightly optimistic.",
        "1 run failed: vit + knn.",
    ]


def test_a_clear_winner() -> None:
    said = summarise([replace(BEST, weakest_class=None), WORSE], DATA)
    assert said == [
        "Use convnext_tiny with a logistic head: right on 93.1 % of 312 test images (95 % interval 89.7 to 95.4).",
        "The best of 2 rows was chosen and measured on the same test images, so its accuracy is slightly "
        "optimistic.",
    ]


def test_several_tied() -> None:
    rows = [BEST, TIED, replace(TIED, model="dinov2_s", method="knn", seconds={"total": 49.0}), WORSE]
    assert summarise(rows, DATA)[1] == (
        "No significant difference from it: efficientnet_b0 + logistic and dinov2_s + knn; efficientnet_b0 + "
        "logistic is 4.1 times cheaper (12 s against 50 s)."
    )


def test_no_word_on_seconds_that_hardly_differ() -> None:
    said = summarise([BEST, replace(TIED, seconds={"total": 47.0}), WORSE], DATA)[1]
    assert said == "No significant difference from it: efficientnet_b0 + logistic."


def test_everything_tied() -> None:
    both = summarise([BEST, TIED], DATA)
    assert both[0] == (
        "Both rows are tied. Highest is convnext_tiny with a logistic head: right on 93.1 % of 312 test images "
        "(95 % interval 89.7 to 95.4)."
    )
    assert both[1] == "Take the cheapest: efficientnet_b0 + logistic is 4.1 times cheaper (12 s against 50 s)."
    three = summarise([BEST, TIED, replace(TIED, model="c")], DATA)
    assert three[0].startswith("All 3 rows are tied. Highest is")
    assert (
        summarise([BEST, replace(TIED, seconds={"total": 300.0})], DATA)[1] == "It is also the cheapest: take it."
    )
    assert summarise([BEST, replace(TIED, seconds={"total": 48.0})], DATA)[1] == (
        "None of them is much cheaper: take the one you prefer."
    )


def test_a_cheaper_row_that_a_control_may_equal_is_not_to_be_taken() -> None:
    rival = replace(TIED, unbeaten=("untrained",))
    said = summarise([BEST, rival], DATA)
    assert said[1] == (
        "efficientnet_b0 + logistic is 4.1 times cheaper (12 s against 50 s), but not proved better than the "
        "control untrained."
    )
    assert find([BEST, rival]).recommended == BEST
    assert find([BEST, TIED]).recommended == TIED


def test_at_chance_nothing_is_recommended() -> None:
    rows = [replace(row, accuracy=0.1, at_chance=True, unbeaten=("majority",)) for row in (BEST, TIED)]
    majority = replace(MAJORITY, accuracy=0.1, tied_with_best=True)
    said = summarise([*rows, majority], DATA)
    assert said[0].startswith("No row is proved better than always giving one answer. Highest is convnext")
    assert said[1] == "Check the labels, add images, or try other models: none of these rows is worth keeping."
    assert not any(re.search(r"[Tt]ake|Use |cheap|Weakest", text) for text in said)
    assert find([*rows, majority]).recommended is None


@pytest.mark.parametrize(
    ("units", "told"),
    [
        ({"n": 96, "num_groups": 5}, "The 96 test images form only 5 groups, which can't prove any difference: "),
        ({"n": 5}, "5 test images can't prove any difference: "),
    ],
)
def test_too_few_test_images_or_groups_for_any_proof_are_not_told_as_a_model_that_learned_nothing(
    units: dict[str, int], told: str
) -> None:
    lost = {"at_chance": True, "unbeaten": ("untrained", "majority"), "tied_with_best": True}
    rows = [replace(row, **(units | lost)) for row in (BEST, TIED)]  # type: ignore[arg-type]
    colour = replace(COLOUR, accuracy=0.6, tied_with_best=True)
    said = summarise([*rows, colour, replace(MAJORITY, tied_with_best=True)], DATA)
    assert said[0].startswith("Highest is convnext_tiny with a logistic head: right on ")
    assert said[0].endswith("It is not proved better than a control.")
    need = "2 rows need at least 7" + " groups" * ("num_groups" in units)
    assert said[1] == told + need + "."
    found = find([*rows, colour, replace(MAJORITY, tied_with_best=True)])
    assert (found.recommended, found.units_needed) == (rows[0], 7)
    assert [alarm.is_near for _, alarm in found.alarms] == [False]  # more than half of the gain; no tie is told
    low = [replace(row, accuracy=0.1, low=0.0) for row in rows]
    assert find([*low, replace(MAJORITY, tied_with_best=True)]).kind == "chance"
    enough = [replace(row, n=96, num_groups=7) for row in rows]
    assert find([*enough, replace(MAJORITY, tied_with_best=True)]).kind == "chance"


def test_the_best_row_that_is_not_proved_better_than_a_control_is_no_clear_winner() -> None:
    colour = replace(COLOUR, accuracy=0.92, tied_with_best=True)
    said = summarise([replace(BEST, unbeaten=("colour",)), WORSE, colour, MAJORITY], DATA)
    assert said[0].startswith("Highest is convnext_tiny with a logistic head: right on 93.1 %")
    assert said[0].endswith("It is not proved better than a control.")


def test_rows_that_no_control_is_worse_than_are_counted_where_no_shortcut_is_seen() -> None:
    rows = [BEST, replace(TIED, unbeaten=("untrained",)), replace(WORSE, unbeaten=("colour",)), COLOUR, MAJORITY]
    assert (
        "The best row is significantly better than all baselines (colour and brightness statistics alone reach "
        "31.0 % at most), but 2 of 3 rows are not: efficientnet_b0 + logistic and mobilenet + logistic."
    ) in summarise(rows, DATA)
    assert control_warnings(rows) == [
        "2 of 3 rows are not proved better than a control: efficientnet_b0 + logistic and mobilenet + logistic"
    ]


def test_a_row_is_called_by_what_differs() -> None:
    said = summarise([replace(BEST, difference="20 epochs"), replace(WORSE, model="convnext_tiny")], DATA)
    assert said[0].startswith("Use convnext_tiny with a logistic head (20 epochs): right")


def test_a_tie_that_no_figure_could_break_is_no_reason_to_take_the_cheapest() -> None:
    few = [replace(row, n=32, accuracy=accuracy) for row, accuracy in ((BEST, 0.844), (TIED, 0.688))]
    assert summarise(few, DATA)[1] == (
        "efficientnet_b0 + logistic is 4.1 times cheaper (12 s against 50 s), but 15.6 points lower: these test "
        "images can't decide between them."
    )
    lower = replace(TIED, accuracy=0.85)  # 312 images usually prove a gap of 4 points
    assert summarise([BEST, lower], DATA)[1] == (
        "efficientnet_b0 + logistic is 4.1 times cheaper (12 s against 50 s), but 8.1 points lower: these test "
        "images can't decide between them."
    )


def test_the_control_that_is_named_is_the_one_that_raised_the_alarm() -> None:
    majority = replace(MAJORITY, accuracy=0.25, tied_with_best=True)
    untrained = _row("untrained", 0.425, control=True)
    said = summarise([replace(BEST, accuracy=0.725), WORSE, untrained, majority], DATA)
    (warning,) = [text for text in said if text.startswith("Check the warnings")]
    assert warning == (
        "Check the warnings first: a baseline comes near the best row (always answering the commonest class "
        "reaches 25.0 %)."
    )


def test_one_model() -> None:
    said = summarise([replace(BEST, weakest_class=None), COLOUR], DATA, num_openings=1)
    assert said == [
        "convnext_tiny with a logistic head is right on 93.1 % of 312 test images (95 % interval 89.7 to 95.4). "
        "It is the only row, so there is no ranking: add a second model.",
        "No shortcut seen: colour and brightness statistics alone reach 31.0 % at most.",
    ]


def test_nothing_finished() -> None:
    assert summarise([], DATA) == ["Nothing finished, so there is no ranking."]
    assert summarise([FAILED], DATA) == [
        "Nothing finished: the only run failed.",
        "It was vit + knn: weights are missing: put them back",
    ]
    assert summarise([COLOUR, FAILED, FAILED], DATA) == [
        "Nothing finished: all 2 runs failed.",
        "The first was vit + knn: weights are missing: put them back",
        "Only baselines have figures: colour and brightness statistics alone reach 31.0 %.",
    ]


def test_a_control_comes_near() -> None:
    rows = [BEST, WORSE, replace(COLOUR, accuracy=0.71), MAJORITY]
    assert control_warnings(rows) == [
        "Colour and brightness statistics alone reach 71 % where the best row reaches 93 %: the data may have a "
        "shortcut: look at background, light and camera of each class."
    ]
    said = " ".join(summarise(rows, DATA))
    assert "Check the warnings first: a baseline makes more than half of the gain over the commonest class" in said
    near = [BEST, replace(COLOUR, accuracy=0.92, tied_with_best=True), MAJORITY]
    assert "Check the warnings first: a baseline comes near the best row" in " ".join(summarise(near, DATA))
    assert "No shortcut" not in said
    assert control_warnings([BEST, WORSE, COLOUR, MAJORITY]) == []
    assert control_warnings([]) == []


def test_an_untrained_winner() -> None:
    said = summarise([replace(BEST, pretrained=False), WORSE], DATA)[0]
    assert said.endswith("; its weights are untrained, so a pretrained model should do better.")


def test_few_images_and_singular() -> None:
    tiny = replace(BEST, n=1, accuracy=1.0, low=0.2, high=1.0, weakest_n=1, weakest_recall=0.0)
    said = summarise([tiny, replace(WORSE, n=1)], DATA, num_openings=1)
    assert "right on 100.0 % of 1 test image (95" in said[0]
    assert "Weakest class: emperor moth (0 % of 1 test image)." in said
    assert "(evaluated 1 time so far)" in said[-2]
    assert said[-1] == "1 test image of 12 classes decides little: add more."


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (313, "About 310 test images"),
        (2_000_000, "Even a million test images would not"),
        (987_654, "About 990,000"),
    ],
)
def test_needed_images(needed: int, words: str) -> None:
    assert any(
        text.startswith(words) for text in summarise([BEST, replace(TIED, needed_images=needed), WORSE], DATA)
    )


def test_no_estimate_without_a_difference() -> None:
    said = summarise([BEST, replace(TIED, needed_images=None), WORSE], DATA)
    assert not any("would separate" in text for text in said)


def test_perfect_classes_are_not_weak() -> None:
    assert not any("Weakest" in text for text in summarise([replace(BEST, weakest_recall=1.0), WORSE], DATA))


def test_hostile_names_are_written_out() -> None:
    evil = "\x1b[31m\u202ename\n"
    rows = [replace(BEST, model=evil, weakest_class=evil), replace(TIED, model=evil), replace(FAILED, error=evil)]
    for text in [*summarise(rows, DATA), *summarise(rows[2:], DATA)]:
        assert not set(text) & set("\x1b\u202e\n")


def test_a_row_trained_on_test_images_is_named_after_the_verdict() -> None:
    seen = _row("own", 0.99, num_test_seen=40)
    said = summarise([BEST, WORSE, seen, COLOUR], DATA)
    assert said[0].startswith("Use convnext_tiny with a logistic head")
    assert said[1] == "own + logistic is not ranked: its model was trained on 40 of these 312 test images."
    assert any(sentence.startswith("The best of 2 rows") for sentence in said)


def test_when_all_rows_were_trained_on_test_images_none_is_trusted() -> None:
    said = summarise([_row("own", 0.99, num_test_seen=40), _row("b", 0.9, num_test_seen=2), COLOUR], DATA)
    assert said[0].startswith("No row can be trusted")
    assert "own + logistic and b + logistic are not ranked: their models were trained on 2 to 40" in said[1]
    assert not any(sentence.startswith("Use ") for sentence in said)


def test_pretraining_is_judged_only_where_a_row_has_some() -> None:
    plain = _row("untrained", 0.93, control=True, tied_with_best=True)
    (judged,) = control_warnings([BEST, plain, MAJORITY])
    assert "pretraining adds little here" in judged
    (unjudged,) = control_warnings([replace(BEST, pretrained=False), plain, MAJORITY])
    assert "pretraining" not in unjudged
    half = replace(plain, accuracy=0.71, tied_with_best=False)
    (part,) = control_warnings([BEST, half, MAJORITY])
    assert part.endswith("more than half of what can be gained over the commonest class needs no pretraining.")
