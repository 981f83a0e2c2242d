"""The report's page: pure, complete, escaped, small."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re
import shlex
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from backbench.cli import app
from backbench.cli.adapt import parse_settings
from backbench.config import Augment
from backbench.explain.evidence import make_thumbnail
from backbench.records.schema import MethodFacts, Predictions, StoredRun
from backbench.report.cards import render_data_card, render_model_card
from backbench.report.charts.chart import make_axis, make_log_axis
from backbench.report.charts.cost import Point, pareto_front
from backbench.report.export import in_csv, in_markdown, render_csv, render_json, render_markdown
from backbench.report.page import classes, doubt, faults, ranking
from backbench.report.page.inputs import Evidence, Explanation, FeatureMap, Thumbnail
from backbench.report.page.origin import compare_settings, repeat_commands
from backbench.report.page.render import make_environment, render_report
from backbench.report.page.svg import draw_whisker
from backbench.report.page.view import MAX_THUMBNAILS, wanted_images
from backbench.report.ranked import DataDetails, RankedRuns, group_runs, rank_runs
from backbench.report.text import printable
from backbench.runs import rank as study
from backbench.stats.metric import Metric
from backbench.stats.reliability import at_temperature
from reports import CLASSES, HOSTILE_NAMES, make_failure, make_runs

INLINE = {"a", "abbr", "b", "bdi", "code", "em", "small", "span", "strong", "sub", "sup", "text", "tspan", "wbr"}
CELLS = {"td", "th"}
VOID = {"meta", "br", "img", "input", "link", "hr", "wbr"}


class _Reader(HTMLParser):
    """Collects elements, their attributes and the text that a reader sees; checks that tags are balanced."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._break(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def _break(self, tag: str) -> None:
        if tag not in INLINE:
            self.text.append("|" if tag in CELLS else "\n")

    @property
    def lines(self) -> list[str]:
        """The text of each paragraph, heading, item, drawing or row of a table."""
        lines = (re.sub(r"[|\s]+\|[|\s]+", " | ", line) for line in " ".join(self.text).split("\n"))
        return [" ".join(line.split()) for line in lines if line.strip(" |")]

    @property
    def seen(self) -> str:
        return " ".join(" ".join(piece for piece in self.text if piece != "|").split())


def read_page(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == [], "every element is closed"
    return reader


def full_evidence(ranked) -> Evidence:
    """Thumbnails, a map and an explanation, as the gathering part would give them."""
    picture = make_thumbnail(np.zeros((20, 30, 3), np.uint8))
    rows = np.arange(len(ranked.ids))
    positions = np.random.default_rng(0).random((len(rows), 2))
    model = ranked.candidates[0].row.model
    return Evidence(
        thumbnails=dict.fromkeys(wanted_images(ranked), picture),
        maps=(FeatureMap(model, "pca", rows, positions),),
        explanations=(Explanation(ranked.ids[0], model, picture, "answers cat (Grad-CAM)"),),
        bundles={ranked.candidates[0].row.run_id: ("best.bundle", 9_000_000)},
    )


@pytest.fixture(scope="module")
def ranked():
    return rank_runs(make_runs(), DataDetails(counts={"cat": (100, 20, 40)}, num_openings=4))


@pytest.fixture(scope="module")
def page(ranked) -> str:
    return render_report([ranked], [full_evidence(ranked)])


EPOCHS = [
    {
        "epoch": float(n),
        "train_accuracy": 0.5 + n / 10,
        "val_accuracy": 0.4 + n / 10,
        "train_loss": float("inf") if n == 3 else 2 / n,
        "val_loss": 1 / n,
    }
    for n in (1, 2, 3)
]
HISTORY = {
    "head": {"best_epoch": 2, "ended": "patience", "history": EPOCHS},
    "all": {"best_epoch": 0, "ended": "budget", "history": EPOCHS[:1]},
}
SHARED_GROUPS = "10 groups are in several of the given splits: the models were trained on images of test groups"


def _tempered(run: StoredRun, temperature: float, **choices: float) -> StoredRun:
    metrics = run.record.metrics | {"calibrated_ece": Metric(value=0.0123, n=120)}
    method = MethodFacts(name="full", choices={"temperature": temperature, **choices})
    return replace(run, record=run.record.model_copy(update={"metrics": metrics, "method": method}))


def _trained(history: dict[str, object]) -> list[StoredRun]:
    first, *rest = make_runs()
    return [replace(first, history=history), *rest]


def _with_facts(**facts: object) -> list[StoredRun]:
    runs = make_runs()
    return [
        replace(run, record=run.record.model_copy(update={"data": run.record.data.model_copy(update=facts)}))
        for run in runs
    ]


def _seen(*runs: StoredRun) -> list[StoredRun]:
    return [replace(run, record=run.record.model_copy(update={"num_test_seen": 9})) for run in runs]


def states() -> dict[str, list[RankedRuns]]:
    """Rankings of which a page has sentences of its own."""
    grouped = _with_facts(num_groups=10)
    one_epoch = {"head": HISTORY["all"], "body": HISTORY["all"]}
    two_epochs = {"head": HISTORY["head"], "body": HISTORY["head"]}
    first, *rest = make_runs()
    return {
        "one row, no baseline": [rank_runs(make_runs((0.9,), has_control=False))],
        "no baseline": [rank_runs(make_runs((0.9, 0.8), has_control=False))],
        "few images": [rank_runs(make_runs((0.9, 0.9), num_images=12))],
        "nothing finished": [rank_runs([make_failure()])],
        "nothing wrong": [rank_runs(make_runs((1.0, 1.0)))],
        "no ties": [rank_runs(make_runs((0.95, 0.4)))],
        "at chance": [rank_runs(make_runs((0.34, 0.3)))],
        "one saw test images": [rank_runs([*_seen(first), *rest])],
        "all saw test images": [rank_runs(_seen(*make_runs((0.95, 0.7), has_control=False)))],
        "two data sets": [rank_runs(make_runs()), rank_runs(make_runs(manifest="d" * 64, data_name="birds"))],
        "training": [rank_runs(_trained(HISTORY))],
        "training of one epoch": [rank_runs(_trained(one_epoch))],
        "training on one scale": [rank_runs(_trained(two_epochs))],
        "a temperature and a threshold": [rank_runs([_tempered(first, 2.0, threshold=0.5), *rest])],
        "whole groups": [rank_runs(grouped)],
        "shared groups": [rank_runs(grouped, DataDetails(warnings=(SHARED_GROUPS,)))],
    }


# what is on it


def test_the_page_of_each_state_reads_as_the_golden_file(golden):
    """Its sentences alone, without those that an earlier state or the plain ranking has too."""
    known = read_page(render_report([rank_runs(make_runs())])).lines
    lines = []
    for state, rankings in states().items():
        shown = list(dict.fromkeys(read_page(render_report(rankings)).lines))
        own = [
            line
            for line in shown
            if re.search(r"\w [a-z]+ [a-z]+ ", line) and not re.match(r"\||true |\d of", line)
        ]
        lines += [f"# {state}", *(line for line in own if line not in known), ""]
        known += own
    golden("report-states.txt", "\n".join(lines))


def test_groups_in_several_parts_are_not_told_as_kept_whole():
    for rankings in (states()["whole groups"], states()["shared groups"]):
        is_whole = SHARED_GROUPS not in rankings[0].warnings
        for text in (render_data_card(rankings), render_report(rankings)):
            assert bool(re.search("[Gg]roups?,? each in one split|each group in one split", text)) == is_whole


def test_the_page_reads_as_the_golden_file(golden):
    details = DataDetails(counts={"cat": (100, 20, 40)}, skipped=(("cat/9.png", "truncated"),), num_openings=4)
    ranked = rank_runs([*make_runs(), make_failure()], details)
    page = render_report([ranked], [full_evidence(ranked)])
    golden("report.txt", "\n".join(read_page(page).lines) + "\n")


def test_the_first_screen_says_the_verdict_the_boxes_and_a_link_to_the_errors(page, ranked):
    seen = read_page(page).seen
    assert ranked.summary[0].replace(" %", "\u00a0%") in page
    assert "9.0 MB" in seen
    assert "MIT" in seen
    assert 'href="#c-wrong"' in page
    assert 'id="c-wrong"' in page


def test_every_sentence_of_the_summary_is_somewhere(page, ranked):
    seen = read_page(page).seen.replace("\u00a0", " ")
    for sentence in ranked.summary:
        assert sentence in seen


def test_every_inner_link_leads_somewhere_and_ids_are_unique(page):
    reader = read_page(page)
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"] for tag, attrs in reader.elements if (attrs.get("href") or "").startswith("#")]
    assert len(targets) > 8
    assert {target[1:] for target in targets} <= set(ids)


def test_thumbnails_are_embedded_once_however_often_they_are_shown(page):
    assert page.count("data:image/jpeg") == page.count("<symbol ") + 1  # and one explanation
    uses = re.findall(r'<use href="#(c-t\d+)"', page)
    assert len(uses) > len(set(uses))


def test_pictures_have_words_and_charts_have_sentences(page):
    reader = read_page(page)
    for tag, attrs in reader.elements:
        if tag == "img":
            assert attrs["alt"]
        if attrs.get("role") == "img":
            assert len(attrs["aria-label"] or "") > 15
        if tag == "svg" and attrs.get("class") in ("whisker", "plot", "scale"):
            assert attrs["aria-hidden"] == "true"
    assert "true cat, predicted" in page


def test_a_failed_run_stays_with_its_reason():
    ranked = rank_runs([*make_runs(), make_failure()])
    seen = read_page(render_report([ranked])).seen
    assert "broken + logistic" in seen
    assert "its weights are damaged" in seen


def test_runs_on_other_images_are_never_ranked_together():
    runs = [*make_runs(), *make_runs(manifest="d" * 64, data_name="birds")]
    groups = group_runs(runs)
    assert [len(group) for group in groups] == [4, 4]
    page = render_report([rank_runs(group) for group in groups])
    assert page.count("<article") == 2
    assert 'id="c1-table"' in page
    assert 'id="c2-table"' in page


def test_splits_of_one_data_set_are_told_apart_where_they_are_listed():
    few, whole = make_runs(manifest="d" * 64), make_runs()
    few = [
        replace(
            run, record=run.record.model_copy(update={"data": run.record.data.model_copy(update={"num_train": 7})})
        )
        for run in few
    ]
    seen = read_page(render_report([rank_runs(few), rank_runs(whole)])).seen
    assert "2 comparisons" in seen
    name = few[0].record.data.name
    assert f"{name}, 7 training images" in seen
    assert f"{name}, {whole[0].record.data.num_train} training images" in seen


def _with_groups(run: StoredRun, column: str | None) -> StoredRun:
    data = run.record.config.data.model_copy(update={"group_column": column})
    config = run.record.config.model_copy(update={"data": data})
    return replace(run, record=run.record.model_copy(update={"config": config}))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("camera", ["pets, no groups", "pets, groups from 'camera'"]),
        (None, ["pets, manifest aaaaaaaa", "pets, manifest dddddddd"]),
    ],
)
def test_parts_of_one_page_never_have_the_same_name(column: str | None, told: list[str]):
    other = [_with_groups(run, column) for run in make_runs(manifest="d" * 64)]
    page = render_report([rank_runs(make_runs()), rank_runs(other)])
    assert "2 comparisons" in read_page(page).seen
    for name in told:
        assert html.unescape(page).count(name) == 2, name  # in the list, and over its own part


def test_training_is_drawn_on_one_scale_and_one_epoch_is_a_line_of_the_table():
    runs = make_runs()
    page = render_report([rank_runs([replace(runs[0], history=HISTORY), *runs[1:]])])
    assert "nan" not in page.partition("<table")[0]
    losses = re.findall(r'class="curve other dashed" d="M([^"]+)"', page)[1]
    assert losses.count(" ") == 3  # two points: a loss that is not finite is left out


@pytest.mark.parametrize(
    ("num_classes", "kind"), [(15, "matrix"), (16, "cells-frame"), (300, "cells-frame"), (301, None)]
)
def test_the_matrix_changes_form_with_the_number_of_classes(num_classes: int, kind: str | None):
    classes = [f"class {index}" for index in range(num_classes)]
    page = render_report([rank_runs(make_runs((0.5, 0.5), classes=classes, num_images=num_classes * 4))])
    shown = re.findall(r'class="(matrix|cells-frame)["\s]', page)
    assert shown == ([] if kind is None else [kind])


# pure and small


def test_the_same_inputs_give_the_same_bytes(page):
    again = rank_runs(make_runs(), DataDetails(counts={"cat": (100, 20, 40)}, num_openings=4))
    assert render_report([again], [full_evidence(again)]) == page


def test_doubled_and_failed_attempts_of_one_run_count_once():
    runs = make_runs()
    failed = StoredRun(runs[0].record.model_copy(update={"status": "failed", "metrics": {}}))
    ranked = rank_runs([failed, *runs, runs[1]])
    assert len(ranked.entries) == len(runs)
    assert all(row.status == "done" for row in ranked.rows)
    assert not any("several folders" in warning for warning in ranked.warnings)


def test_runs_of_one_id_that_differ_are_said_to_be_left_out():
    runs = make_runs()
    other = replace(runs[1], record=runs[1].record.model_copy(update={"run_id": runs[0].record.run_id}))
    ranked = rank_runs([*runs, other])
    assert len(ranked.entries) == len(runs)
    (warning,) = [warning for warning in ranked.warnings if "several folders" in warning]
    assert runs[0].record.run_id in warning


def test_predictions_in_another_order_of_images_and_classes_are_put_in_one():
    runs = make_runs()
    plain = rank_runs(runs)
    told = runs[1].predictions
    assert told is not None
    order, columns = np.arange(len(told.ids))[::-1], np.array([2, 0, 1])
    place = np.argsort(columns)
    turned = type(told)(
        tuple(told.ids[i] for i in order),
        place[told.labels[order]],
        told.probabilities[order][:, columns],
        tuple(told.classes[c] for c in columns),
    )
    mixed = rank_runs([runs[0], replace(runs[1], predictions=turned), *runs[2:]])
    assert [np.array_equal(a.told, b.told) for a, b in zip(plain.candidates, mixed.candidates, strict=True)] == [
        True
    ] * 3


def test_twenty_runs_of_ten_thousand_images_stay_small():
    runs = make_runs(np.linspace(0.6, 0.9, 20), num_images=10_000, classes=[f"class {n}" for n in range(20)])
    ranked = rank_runs(runs)
    wanted = wanted_images(ranked)
    assert 0 < len(wanted) <= MAX_THUMBNAILS
    picture = Thumbnail("data:image/jpeg;base64," + "A" * 6_700, 128, 96)
    rows = np.arange(600)
    maps = tuple(FeatureMap(f"model_{n}", "pca", rows, np.zeros((600, 2))) for n in range(4))
    page = render_report([ranked], [Evidence(thumbnails=dict.fromkeys(wanted, picture), maps=maps)])
    assert len(page.encode()) < 3_000_000
    assert len(read_page(page).elements) < 6_000


# nothing from outside becomes markup


def hostile_comparison():
    runs = make_runs(
        (0.3,) * 8,
        classes=HOSTILE_NAMES,
        num_images=len(HOSTILE_NAMES) * 2,
        models=HOSTILE_NAMES[:8],
        image_name="{label}/{number}",
        data_name=HOSTILE_NAMES[2],
    )
    details = DataDetails(
        counts=dict.fromkeys(HOSTILE_NAMES, (1, 1, 1)),
        skipped=tuple((name, name) for name in HOSTILE_NAMES),
        warnings=HOSTILE_NAMES,
    )
    return rank_runs([*runs, make_failure(HOSTILE_NAMES[3], HOSTILE_NAMES[5])], details)


def test_sixty_hostile_names_inject_no_element_and_no_attribute():
    assert len(set(HOSTILE_NAMES)) >= 60
    ranked = hostile_comparison()
    evidence = replace(full_evidence(ranked), notes=HOSTILE_NAMES)
    page = render_report([ranked], [evidence], title=HOSTILE_NAMES[1])
    reader = read_page(page)
    harmless = read_page(render_report([rank_runs(make_runs())], [Evidence(notes=("x",))]))
    known = {tag for tag, _ in harmless.elements} | {"image", "symbol", "use", "img", "rect"}
    assert {tag for tag, _ in reader.elements} - known <= {"option", "select", "label", "h4"}
    for _, attrs in reader.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("style", "srcdoc", "autofocus")]
        for name in ("href", "src", "action"):
            assert re.match(r"#|data:image/", attrs.get(name) or "#")
    assert sum(tag == "script" for tag, _ in reader.elements) == 2
    assert "49" not in {part.strip() for part in reader.text}
    assert "<img src=x onerror=alert(1)>" in reader.seen  # shown literally
    assert not re.search("[\x00\x08\x1b\u202e\u2066]", page)


def test_data_for_the_script_cannot_end_it():
    page = render_report([hostile_comparison()])
    block = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert block is not None
    assert "<" not in block[1]
    assert "<img src=x onerror=alert(1)>" in json.loads(block[1])["classes"]


def test_the_policy_allows_the_pages_own_style_and_script_alone(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    allowed = policy[1].replace("&#39;", "'")
    assert "default-src 'none'" in allowed
    assert "unsafe" not in allowed
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in allowed
    assert " style=" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_templates_escape_everything_and_never_say_safe():
    environment = make_environment()
    assert environment.autoescape is True
    assert environment.from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"
    from importlib.resources import files

    for entry in files("backbench.report.page").iterdir():
        if entry.name.endswith(".html"):
            assert "|safe" not in entry.read_text().replace(" ", "")


# the figures


def test_faults_count_pairs_shared_errors_and_who_alone_is_right():
    runs = make_runs((0.8, 0.8, 0.8), has_control=False)
    ranked = rank_runs(runs)
    found = faults.find_faults(ranked)
    assert found is not None
    answers = np.stack([entry.told.argmax(axis=1) for entry in ranked.candidates])
    right = answers == ranked.labels
    assert found.num_wrong == int((~right[0]).sum())
    assert sum(pair.count for pair in found.pairs) == found.num_wrong
    assert found.num_shared == int((~right.any(axis=0)).sum())
    assert all(right[alone.row, image] for alone in found.alone for image in alone.images)
    confidence = [float(ranked.candidates[0].told[image].max()) for image in found.wrong]
    assert confidence == sorted(confidence, reverse=True)


def test_pair_tests_mirror_one_another_and_are_adjusted_together():
    ranked = rank_runs(make_runs((0.95, 0.6, 0.5)))
    pairs = doubt.compare_pairs(ranked)
    assert len(pairs) == 6
    for (a, b), cell in pairs.items():
        other = pairs[b, a]
        assert (cell.gap, cell.low, cell.p_value) == (-other.gap, -other.high, other.p_value)
        assert cell.low < cell.gap < cell.high
    assert pairs[0, 2].p_value < 0.05


def test_an_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    n, only_a, only_b = 100, 0.12, 0.06
    draws = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], size=2000)
    hits = [
        low <= only_a - only_b <= high for low, high in (doubt.difference_interval(a, b, n) for a, b, _ in draws)
    ]
    assert 0.93 <= np.mean(hits) <= 0.98


def test_trust_of_honest_and_of_boastful_confidences():
    ranked = rank_runs(make_runs((0.9,), num_images=600))
    entry = ranked.candidates[0]
    honest = doubt.measure_trust(entry, ranked.labels)
    assert sum(found.n for found in honest.bins) == 600
    assert [found.confidence for found in honest.bins] == sorted(found.confidence for found in honest.bins)
    sure = np.full_like(entry.told, 0.0)
    sure[np.arange(600), entry.told.argmax(axis=1)] = 1.0
    told = Predictions(ranked.ids, ranked.labels, sure, ranked.classes)
    boastful = doubt.measure_trust(replace(entry, run=replace(entry.run, predictions=told)), ranked.labels)
    assert boastful.gap == pytest.approx(1 - entry.row.accuracy)


def test_the_front_is_what_nothing_cheaper_beats():
    def point(label: str, cost: float, value: float) -> Point:
        return Point(label, 1, cost, value, value, value, "other", is_important=False)

    points = [point("dear", 9, 0.9), point("bad", 5, 0.5), point("cheap", 1, 0.6), point("equal", 10, 0.9)]
    points += [point("as cheap, but worse", 1, 0.5), point("cheaper than dear", 2, 0.65)]
    assert [found.label for found in pareto_front(points)] == ["cheap", "cheaper than dear", "dear"]
    assert pareto_front([]) == []


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.93, 0.95], [0.999, 1.0], [0.0], [1.0], []])
def test_an_axis_holds_its_values_and_has_round_ticks(values: list[float]):
    axis = make_axis(values)
    assert axis.low <= min(values, default=0.5)
    assert max(values, default=0.5) <= axis.high
    assert 2 <= len(axis.ticks) <= 9
    assert all(0 <= axis.at(tick) <= 100 for tick in axis.ticks)


def test_a_row_far_below_is_marked_at_the_edge_instead_of_drawn_inside():
    axis = make_axis([0.9, 1.0])
    assert "◂" in draw_whisker(0.1, 0.05, 0.2, axis, "control")
    assert "circle" in draw_whisker(0.95, 0.9, 0.99, axis, "best")


def test_augmentation_stands_apart_from_what_was_chosen_on_validation():
    runs = make_runs()
    choices = {"C": 0.1, "augment": Augment(flip=True).model_dump(mode="json")}
    first = runs[0].record.model_copy(
        update={"method": runs[0].record.method.model_copy(update={"choices": choices})}
    )
    settings = compare_settings(rank_runs([replace(runs[0], record=first), *runs[1:]]))
    names = {name for table in settings.tables for name, _ in table.settings} | dict(settings.shared).keys()
    assert "augment.flip" in names
    assert "chosen on validation.augment.flip" not in names


def test_settings_go_by_model_method_or_run_and_the_command_names_them_all():
    ranked = rank_runs(make_runs())
    settings = compare_settings(ranked)
    by_heading = {table.heading: dict(table.settings) for table in settings.tables}
    assert by_heading["Model"]["chosen on validation.C"] == ("0.1", "0.2", "0.3")
    assert dict(settings.shared)["seed"] == "0"
    (command,) = repeat_commands(ranked)
    assert command.startswith("backbench rank pets --models model_0,model_1,model_2 --methods logistic --seed 0")


def test_options_that_were_set_are_in_the_command_as_the_command_line_reads_them():
    (run,) = make_runs((0.9,), has_control=False)
    options = {"recipe": {"epochs": 3, "augment": "basic"}, "freeze": True, "scale": [0.1, 1.0]}
    method = run.record.config.method.model_copy(update={"options": options})
    config = run.record.config.model_copy(update={"method": method})
    changed = replace(run, record=run.record.model_copy(update={"config": config}))
    (command,) = repeat_commands(rank_runs([changed]))
    settings = [word.partition("=")[::2] for word in shlex.split(command) if word.startswith("options.")]
    assert parse_settings(tuple("=".join(setting) for setting in settings)) == options


def test_warnings_beyond_three_are_counted_in_the_box_and_rows_of_one_name_take_two_lines():
    details = DataDetails(warnings=tuple(f"warning {number}" for number in range(5)))
    page = render_report([rank_runs(make_runs((0.9, 0.8)), details)])
    assert "2 more" in read_page(page).seen.partition("All runs")[0]
    assert 'class="who long"' not in page
    twins = render_report([rank_runs(make_runs((0.9, 0.8), models=["m", "m"]))])
    assert 'class="who long"' in twins


@pytest.mark.parametrize("num", [1, 2])
def test_one_thing_left_out_is_told_in_the_singular(num, monkeypatch):
    ranked = rank_runs(make_runs((0.5, 0.4), num_images=200, classes=[f"c{n}" for n in range(6)]))
    found = faults.find_faults(ranked)
    monkeypatch.setattr(faults, "MAX_PAIRS", found.num_pairs - num)
    monkeypatch.setattr(classes, "MAX_CLASS_ROWS", 6 - num)
    seen = read_page(render_report([ranked])).seen
    is_one = num == 1
    assert f"{num} rarer pair{'s' * (not is_one)} {'is' if is_one else 'are'} not listed." in seen
    assert ("1 stronger class is" if is_one else "2 stronger classes are") + " in the table." in seen
    assert not re.search(
        r"\b1 (?!s\b)(?!less\b)\w+(?:es|[^s]s)\b(?! (?:of|than))", seen.partition("Repeat it")[0]
    ), seen


@pytest.mark.parametrize(
    "changes",
    [
        {"split_folders": {"2019": "train", "2020 b": "test"}},
        {"split_folders": {}},
        {"ignore": ("a b", "c"), "follow_links": True},
        {"split_column": "fold", "image_column": "file", "label_column": "kind", "group_column": "who"},
        {"image_root": "my images", "split": "split.csv", "on_bad": "skip"},
        {"test_fraction": 0.25, "val_fraction": 0.1, "min_images": 7, "small_classes": "merge"},
    ],
)
def test_the_choice_of_images_is_in_the_command_as_the_command_line_reads_it(changes, monkeypatch):
    (run,) = make_runs((0.9,), has_control=False)
    asked = run.record.config.data.model_copy(update=changes)
    config = run.record.config.model_copy(update={"data": asked})
    changed = replace(run, record=run.record.model_copy(update={"config": config}))
    (command,) = repeat_commands(rank_runs([changed]), "my runs")
    read = []
    monkeypatch.setattr(study, "rank", lambda request, _: read.append(request) or sys.exit(0))
    with pytest.raises(SystemExit):
        app(shlex.split(command)[1:], standalone_mode=False)
    (request,) = read
    assert request.data == asked
    assert str(request.out) == "my runs"


# other forms


def test_csv_holds_every_run_and_no_formula():
    text = render_csv([hostile_comparison()])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 10
    assert not [cell for line in lines for cell in line.values() if cell[:1] in ("=", "+", "@", "\t", "\r")]
    assert float(lines[0]["accuracy"]) == pytest.approx(hostile_comparison().rows[0].accuracy)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_becomes_a_formula_or_a_line_of_a_table(name: str):
    cell = in_csv(name)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert cell.endswith(printable(name))
    assert "\n" not in in_markdown(name)
    assert not re.search(r"(?<!\\)[|<`*]", in_markdown(name))


def test_json_is_one_document_with_the_rows_of_rank():
    ranked = rank_runs(make_runs())
    (only,) = json.loads(render_json([ranked]))["comparisons"]
    assert [row["model"] for row in only["rows"]] == [row.model for row in ranked.rows]


def test_markdown_and_cards_read_as_the_golden_file_and_escape_names(golden):
    ranked = rank_runs(make_runs(), DataDetails(counts=dict.fromkeys(CLASSES, (100, 20, 40))))
    table = render_markdown([ranked])
    assert table.count("\n| ") == 2 + 4
    golden("cards.md", "\n\n".join((table, render_model_card([ranked]), render_data_card([ranked]))))
    for text in (render_markdown, render_model_card, render_data_card):
        told = [
            line for line in text([hostile_comparison()]).splitlines() if not line.startswith("    ")
        ]  # but code
        assert not re.search("<(img|script|svg)|[\x00\x1b\u202e]", "\n".join(told))


def test_a_thumbnail_is_small_and_keeps_its_proportions():
    noise = np.random.default_rng(0).integers(0, 256, (400, 200, 3), dtype=np.uint8)
    picture = make_thumbnail(noise)
    assert (picture.width, picture.height) == (64, 128)
    assert len(picture.address) < 9_000
    assert picture.address.startswith("data:image/jpeg;base64,")


def test_confidences_are_those_of_the_answers_given() -> None:
    runs = make_runs((0.95, 0.7))
    plain = rank_runs(runs)
    ranked = rank_runs([_tempered(runs[0], 2.0), *runs[1:]])
    before = doubt.measure_trust(plain.candidates[0], plain.labels)
    after = doubt.measure_trust(ranked.candidates[0], ranked.labels)
    assert after.calibration_error == 0.0123
    assert after.is_tempered
    assert not before.is_tempered
    assert after.bins[-1].confidence < before.bins[-1].confidence, "a temperature of 2 makes it less sure"


def test_the_threshold_of_the_model_is_marked_where_it_lies() -> None:
    runs = make_runs((0.95, 0.7))
    ranked = rank_runs([_tempered(runs[0], 2.0, threshold=0.5), *runs[1:]])
    entry = ranked.candidates[0]
    kept = entry.told.max(axis=1) >= 0.5
    right = entry.told.argmax(axis=1) == ranked.labels
    found = doubt.measure_trust(entry, ranked.labels).curve.at_threshold
    assert found == pytest.approx((kept.mean(), right[kept].mean()))
    assert doubt.measure_trust(rank_runs(runs).candidates[0], ranked.labels).curve.at_threshold is None


def test_confidences_on_cards_are_those_that_predict_gives() -> None:
    runs = make_runs((0.8, 0.7))
    given = runs[0].predictions
    assert given is not None
    entry = rank_runs([_tempered(runs[0], 2.0), *runs[1:]]).candidates[0]
    np.testing.assert_allclose(entry.told, at_temperature(given.probabilities, 2.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("rate", "words"), [(1200.0, "0.83 ms"), (120.0, "8.3 ms"), (8.3, "120 ms"), (1.2, "833 ms"), (0.5, "2.0 s")]
)
def test_the_time_of_one_image_is_written_as_people_do(rate: float, words: str) -> None:
    assert ranking._time_of_one(rate) == words


@pytest.mark.parametrize("values", [[3.1, 3.3], [2.0, 2.0], [0.5, 50], [1, 9], [0.01, 1000]])
def test_a_cost_axis_has_ticks_however_near_its_values_lie(values: list[float]) -> None:
    assert 2 <= len(make_log_axis(values, str).ticks) <= 7


def test_a_page_of_rows_that_all_saw_test_images() -> None:
    runs = [
        replace(run, record=run.record.model_copy(update={"num_test_seen": 9}))
        for run in make_runs((0.95, 0.7), has_control=False)
    ]
    ranked = rank_runs(runs)
    assert (ranked.best, ranked.findings.kind) == (None, "untrusted")
    assert ranked.summary[0] in render_report([ranked])
    assert ranked.summary[0] in render_model_card([ranked])


def test_a_seen_row_is_said_beside_the_verdict() -> None:
    runs = make_runs((0.95, 0.93, 0.92))
    seen = replace(runs[0], record=runs[0].record.model_copy(update={"num_test_seen": 9}))
    ranked = rank_runs([seen, *runs[1:]])
    assert ranked.best is not None
    assert ranked.best.row.model == "model_1"
    text = render_report([ranked])
    lead = text[text.index('<p class="lead">') :].split("</p>")[0]
    assert "is not ranked" in lead
    assert "no significant difference" in lead or "tied" in lead or "cheap" in lead


def test_a_narrow_screen_says_what_its_first_chart_leaves_out() -> None:
    assert 'class="on-phones"' in render_report([rank_runs(make_runs((0.95, 0.94, 0.5)))])
    assert 'class="on-phones"' not in render_report([rank_runs(make_runs((0.95, 0.94)))])


@pytest.mark.parametrize("num", [3, 10, 11])
def test_maps_tell_classes_by_colour_and_shape_while_these_last_and_cross_what_is_wrong(num: int) -> None:
    classes = tuple(f"class{index}" for index in range(num))
    ranked = rank_runs(make_runs((0.8,), classes=classes))
    positions = np.random.default_rng(0).random((len(ranked.ids), 2))
    found = FeatureMap("model_0", "PCA", np.arange(len(ranked.ids)), positions)
    page = render_report([ranked], [Evidence(maps=(found,))], title="maps")
    figure = page[page.index("<figure data-map") :].partition("</figure>")[0]
    kinds = re.findall(r'<path class="cloud ([^"]+)" d="([^"]+)"', figure)
    told = ranked.candidates[0].told
    num_wrong = int((told.argmax(axis=1) != ranked.labels).sum())
    assert num_wrong
    assert kinds[-1][0] == "wrong"
    assert kinds[-1][1].count("m0-14") == num_wrong
    dots = {kind: path.count("M") for kind, path in kinds[:-1]}
    assert sum(dots.values()) == len(ranked.ids)
    keys = re.findall(r'<span class="bullet ([^"]+)">', figure)
    if num <= 10:
        assert len(dots) == num
        assert list(dots) == keys
    else:
        assert list(dots) == ["plain"]
        assert not keys
    named = [label for label in classes if f">{label}</text>" in figure]
    assert bool(named) is (num > 5)


def test_a_large_matrix_draws_the_commonest_confusions_and_says_what_it_leaves_out() -> None:
    classes = [f"class {index}" for index in range(100)]
    ranked = rank_runs(make_runs((0.2, 0.1), classes=classes, num_images=4000))
    page = render_report([ranked])
    drawn = re.findall(r'data-pair="(\d+)\|(\d+)" data-n="(\d+)"', page)
    best = next(entry for entry in ranked.candidates if entry.row.is_best)
    counts = np.zeros((100, 100), int)
    np.add.at(counts, (ranked.labels, best.told.argmax(axis=1)), 1)
    left = int((counts > 0).sum()) - 1500
    assert len(drawn) == 1500
    assert left > 0
    assert f"The {left:,} rarest confusions are not drawn." in page
    assert all(counts[int(truth), int(answer)] == int(n) for truth, answer, n in drawn)
    missing = counts.copy()
    for truth, answer, _ in drawn:
        missing[int(truth), int(answer)] = 0
    assert missing.max() <= min(int(n) for truth, answer, n in drawn if truth != answer)


@pytest.mark.parametrize(("fitted_on", "num"), [("train", "1,000"), ("train+val", "1,200")])
def test_the_box_says_on_how_many_images_the_best_was_trained(fitted_on: str, num: str) -> None:
    runs = make_runs((0.95, 0.7))
    facts = {"num_train": 1000, "num_val": 200}
    changed = []
    for run in runs:
        method = run.record.method and run.record.method.model_copy(update={"fitted_on": fitted_on})
        data = run.record.data.model_copy(update=facts)
        changed.append(replace(run, record=run.record.model_copy(update={"method": method, "data": data})))
    box = dict(ranking.describe_certainty(rank_runs(changed)).facts)
    assert box["the best was trained on"] == f"{num} images"
