"""The ranking as text: it fits, it lines up, and no name can break it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from backbench.config import Augment, DataConfig, MethodConfig, Preprocess, RunConfig
from backbench.records.schema import Cost, DataFacts, Failure, MethodFacts, ModelFacts, RunRecord
from backbench.report.record_text import describe_record
from backbench.report.rows import Row
from backbench.report.table import printable, render_live_line, render_record, render_table
from backbench.report.text import cell_width, duration, pad, percent, quantity, shorten, wrap
from backbench.stats.metric import Metric
from backbench.wording import join_names

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def _row(model: str, accuracy: float | None, **changes: object) -> Row:
    low, high = (None, None) if accuracy is None else (max(0.0, accuracy - 0.03), min(1.0, accuracy + 0.02))
    given: dict[str, object] = {
        "model": model,
        "method": "logistic",
        "run_id": model,
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "n": 0 if accuracy is None else 312,
        "seconds": {"read": 0.2, "decode": 3.1, "resize": 0.8, "forward": 50.0, "head": 0.9, "total": 55.0},
        "images_per_second": 23.4,
        "parameters": 28_600_000,
        "input_size": 224,
        "top5": 0.99,
        "per_class_mean": 0.92,
        "peak_memory_bytes": 1_300_000_000,
    }
    return Row(**given | changes)  # type: ignore[arg-type]


ROWS = [
    _row("convnext_tiny.in12k_ft_in1k", 0.931, rank_low=1, rank_high=2, tied_with_best=True, is_best=True),
    _row(
        "vit_small_patch14_dinov2.lvd142m_40_characters",
        0.917,
        rank_low=1,
        rank_high=2,
        tied_with_best=True,
        warnings=("input 518 px, most rows 224",),
    ),
    _row("tiny_cnn", 0.60, rank_low=3, rank_high=3, pretrained=False, warnings=("untrained weights",)),
    _row("colour", 0.31, rank_low=4, rank_high=4, control=True, parameters=0, input_size=None),
    Row(model="lost", method="knn", run_id="x", status="failed", error="weights are missing: put them back"),
]


@pytest.mark.parametrize("width", [40, 60, 72, 80, 100, 120, 140, 160, 200, 400])
@pytest.mark.parametrize("colour", [False, True])
def test_fits_every_width(width: int, colour: bool) -> None:
    lines = ANSI.sub("", render_table(ROWS, width=width, colour=colour, num_expected=9)).splitlines()
    assert max(map(cell_width, lines)) <= width
    assert lines[0].startswith("Rank  Model")
    for words in ("93.1 %", "91.7 %", "── baselines", "── failed", "31.0 %", "(untrained)", "5 of 9 rows so far."):
        assert any(words in line for line in lines), words


def test_columns_leave_in_order_of_importance() -> None:
    def headings(width: int) -> set[str]:
        return set(
            re.split(r"\s{2,}|(?<=\w) (?=[a-zI])", render_table(ROWS, width=width, colour=False).split("\n")[0])
        )

    assert {"Rank", "Model", "Method", "Accuracy", "Seconds"} <= headings(80)
    assert "Memory" not in headings(120)
    assert "px" in headings(120)
    text = render_table(ROWS, width=200, colour=False).split("\n")[0]
    for heading in ("Top-5", "Class mean", "px", "Params", "img/s", "read", "decode", "forward", "head", "Memory"):
        assert heading in text


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_reads_as_the_golden_file(width: int, golden: Callable[[str, str], None]) -> None:
    seen = _row("own", 0.99, num_test_seen=3)
    rows = [*ROWS[:3], seen, *ROWS[3:]]
    golden(f"table-{width}.txt", render_table(rows, width=width, colour=False, num_expected=9) + "\n")


def test_whiskers_share_one_scale() -> None:
    lines = render_table(ROWS, width=120, colour=False).split("\n")
    assert re.search(r"\b\d+ +100 %|\b\d+ +\d\d %", lines[0])
    best, tied = lines[2], lines[3]
    assert best.index("●") > tied.index("●")
    assert "├" in best
    assert "┤" in best
    assert "◂" in next(line for line in lines if line.strip().startswith("4  colour"))  # far left of the scale
    alone = render_table([ROWS[0], _row("worse", 0.80, rank_low=2, rank_high=2)], width=120, colour=False)
    assert "○" in alone
    control = _row("colour", 0.90, rank_low=1, rank_high=2, tied_with_best=True, control=True)
    assert "×" in render_table([ROWS[0], control], width=120, colour=False).split("\n")[4]


def test_shape_and_word_besides_colour() -> None:
    plain = render_table(ROWS, width=120, colour=False)
    coloured = render_table(ROWS, width=120, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    assert ANSI.sub("", coloured) == plain
    assert re.search(r"\bbest\b", plain)
    assert re.search(r"\btied\b", plain)


def test_ascii_only() -> None:
    assert render_table(ROWS, width=120, colour=False, ascii_only=True).isascii()


def test_notes_name_each_warning_once() -> None:
    rows = [_row(f"m{index}", 0.9, warnings=("the same note",)) for index in range(6)]
    text = render_table(rows, width=160, colour=False)
    assert text.count("the same note") == 1
    assert [f"m{index} + logistic" in text.partition("the same note")[2] for index in range(6)] == [True] * 3 + [
        False
    ] * 3


def test_cached_features_are_said_once() -> None:
    rows = [_row("a", 0.9, features_from_cache=True), _row("b", 0.8, features_from_cache=True)]
    assert render_table(rows, width=160, colour=False).count("from the cache") == 1
    assert "cache" not in render_table(ROWS, width=160, colour=False)


def test_decimals_follow_the_number_of_images() -> None:
    assert percent(0.93125, 312) == "93.1 %"
    assert percent(0.93125, 10_001) == "93.12 %"
    assert percent(0.93125, 10_000, unit=False) == "93.1"
    assert percent(1.0, 50) == "100.0 %"
    assert percent(0.99999, 100) == "99.9 %"  # not all were right
    assert percent(0.00001, 100) == "0.1 %"
    assert percent(0.0, 100) == "0.0 %"
    assert percent(None, 5) == ""


def test_nothing_and_only_failures() -> None:
    assert render_table([], width=80, colour=False) == "No run has finished yet."
    text = render_table([ROWS[-1]], width=80, colour=False)
    assert "failed" in text
    assert "test image" not in text
    assert "95 %" not in text.split("\n")[0]


HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\nb\r\nc\td",
    "\u202eevil\u202c",
    "\u2066isolate\u2069",
    "nul\x00",
    "\x9b31m",
    "zero\u200bwidth",
    "line\u2028separator",
    "lone\udcffsurrogate",
    "back\x08space",
    "[bold]markup[/bold]",
    "名前の長いモデル" * 6,
    "e\u0301" * 50,
    "x" * 10_000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_break_the_table(name: str) -> None:
    rows = [
        _row(
            name,
            0.9,
            rank_low=1,
            rank_high=1,
            is_best=True,
            tied_with_best=True,
            warnings=(name,),
            method=name[:20],
        ),
        Row(model=name, method="knn", run_id="x", status="failed", error=name),
    ]
    for width in (60, 80, 160):
        text = render_table(rows, width=width, colour=False)
        assert not re.search(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text
        )
        if cell_width(name) < 10_000:
            assert max(map(cell_width, text.splitlines())) <= width
    line = render_live_line(rows, 1, 3.0)
    assert "\n" not in line
    assert "\x1b" not in line


def test_printable_keeps_names_of_the_world() -> None:
    for name in ("papillon d'été", "Аполлон", "揚羽蝶", "فراشه", "می‌خواهم", "Ringel*natter #1", "ant + bee"):
        assert printable(name) == name
    assert printable("a\x1b[0mb") == "a\\x1b[0mb"
    assert printable("a\u202eb") == "a\\u202eb"
    assert printable("\udcff") == "\\udcff"


def test_shorten_keeps_both_ends() -> None:
    assert shorten("vit_base_patch14_dinov2.lvd142m", 15) == "vit_bas…lvd142m"
    assert shorten("short", 5) == "short"
    for width in range(8):
        assert cell_width(shorten("揚羽蝶揚羽蝶", width)) <= width
    assert pad("揚羽", 6) == "揚羽  "
    assert pad("ab", 4, ">") == "  ab"


def test_quantities() -> None:
    assert [quantity(number) for number in (None, 870, 5_300, 999_960, 28_600_000, 304e6, 1.2e9)] == [
        "", "870", "5.3k", "1.0M", "28.6M", "304M", "1.2B",
    ]  # fmt: skip
    assert [duration(value) for value in (None, 0.03, 4.12, 9.97, 312.4, 5040)] == [
        "",
        "0.03",
        "4.1",
        "10",
        "312",
        "5,040",
    ]
    assert join_names([]) == ""
    assert join_names(["a", "b"]) == "a and b"
    assert join_names(list("abcd")) == "a, b, c and 1 more"


def _record(status: str) -> RunRecord:
    return RunRecord(
        run_id="4f3a-convnext",
        status=status,  # type: ignore[arg-type]
        started="2025-05-03T12:00:00Z",
        config=RunConfig(data=DataConfig(source="photos"), model="convnext", method=MethodConfig(name="logistic")),
        data=DataFacts(
            name="photos\x1b[31m",
            classes=("ant", "bee"),
            num_train=744,
            num_val=186,
            num_test=312,
            manifest_digest="c" * 64,
            image_digest="e" * 64,
            num_skipped=3,
        ),
        model=ModelFacts(
            name="convnext",
            architecture="convnext",
            dim=768,
            preprocess=Preprocess(size=(224, 224)),
            num_parameters=28_600_000,
            flops=8.9e9,
            weights_digest="ab" * 32,
            weights_bytes=114_000_000,
            pretrained_on="in12k",
            licence="apache-2.0",
        ),
        method=MethodFacts(name="logistic", choices={"C": 0.1234567}),
        metrics={
            "accuracy": Metric(value=0.931, low=0.897, high=0.954, n=312),
            "nll": Metric(value=0.25, low=0.2, high=0.3, n=312),
        },
        per_class={"ant": Metric(value=0.7, n=20), "bee": Metric(value=0.95, n=292)},
        cost=Cost(
            seconds={"decode": 3.1, "forward": 50.0},
            images_per_second=23.0,
            peak_memory_bytes=10**9,
            rounding=0.0184,
        ),
        environment={"python": "3.11.9"},
        warnings=("watch out",),
        failure=Failure(kind="ModelError", message="weights are missing") if status == "failed" else None,
    )


def _variants() -> dict[str, RunRecord]:
    """Records of which the text has words of its own."""
    done = _record("done")
    calibrated = {
        "calibrated_nll": Metric(value=0.21, low=0.2, high=0.22, n=312),
        "ece": Metric(value=0.1, n=312),
        "calibrated_ece": Metric(value=0.02, n=312),
    }
    quantized = MethodFacts(
        name="quantized",
        options={"recipe": {"epochs": 1, "momentum": 0.9}},
        choices={"head": {"C": 0.5}, "heads": [{"a": 1}, {"a": 2}], "int8_bytes": 7, "source_digest": "f" * 64},
    )
    asked = MethodConfig(name="quantized", options={"recipe": {"epochs": 1}})
    augment = Augment(crop="pad", flip=True, rand_augment=(2, 9)).model_dump(mode="json")
    scratch = MethodFacts(name="scratch", choices={"augment": augment, "scratch_best_epoch": 2})
    mapping = {"ant": ["n1 ant", "n2 red ant", "n3 fire ant", "n4 emmet"], "bee": []}
    zeroshot = MethodFacts(name="zeroshot", choices={"mapping": mapping, "num_found": 1})
    config = done.config.model_copy(update={"method": asked})
    return {
        "done": done,
        "failed": _record("failed"),
        "calibrated": done.model_copy(update={"metrics": done.metrics | calibrated}),
        "quantized": done.model_copy(update={"method": quantized, "config": config}),
        "scratch": done.model_copy(update={"method": scratch}),
        "zeroshot": done.model_copy(update={"method": zeroshot}),
    }


def test_records_read_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    texts = {name: render_record(record, width=80) for name, record in _variants().items()}
    plain = texts["done"].splitlines()
    lines = [f"# done\n{texts.pop('done')}\n"]
    for name, text in texts.items():
        lines += [f"# {name}", *(line for line in text.splitlines() if line not in plain), ""]
    golden("record.txt", "\n".join(lines))


def test_options_that_were_not_given_are_not_shown() -> None:
    assert "momentum" not in render_record(_variants()["quantized"])


def test_augmentation_that_a_method_decided_was_not_chosen_on_validation() -> None:
    method = dict(describe_record(_variants()["scratch"]))["Method"]
    assert "flip" not in method.partition("chosen")[2]


def test_the_line_of_a_ranking_at_work_reads_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    crowd = [ROWS[0], *(_row(name, 0.9, tied_with_best=True) for name in "abcd")]
    states = [(ROWS, 3, 70), (ROWS[3:4], 1, None), ([], 2, -1), (ROWS[:1], 0, 5), (crowd, 0, None)]
    golden("live.txt", "\n".join(render_live_line(*state) for state in states) + "\n")


def test_record_fits_a_screen() -> None:
    text = render_record(_record("done"), width=80)
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(cell_width, lines)) <= 80
    assert "\x1b" not in text
    assert ANSI.sub("", render_record(_record("done"), width=80, colour=True)) == text


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_lines_break_at_spaces_alone(width: int) -> None:
    path = "/home/somebody/pictures/of/moths/" + "a_long_folder_name/" * 6 + "model.safetensors"
    text = (
        f"run vit + knn failed: there is no file {path}: put it back, or name another folder of weights with --out"
    )
    lines = wrap(text, width, indent="  ")
    assert " ".join(line.removeprefix("  ") for line in lines) == text
    assert all(path in line or cell_width(line) <= width for line in lines)
    failed = Row(model="lost", method="knn", run_id="x", status="failed", error=f"no file {path}")
    assert path in render_table([*ROWS, failed], width=width, colour=False)
