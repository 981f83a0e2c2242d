"""Terminal, page, notebook, Markdown, card and JSON of one ranking never say two things.

Over many made-up rankings, each statement is held against the findings and against the same on other surfaces.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from backbench.config import Recipe
from backbench.records.commands import keep_command
from backbench.records.schema import MethodFacts, RunRecord, StoredRun
from backbench.report.cards import render_model_card
from backbench.report.export import render_json, render_markdown
from backbench.report.findings import Kind
from backbench.report.notebook import render_ranking
from backbench.report.page.inputs import Evidence
from backbench.report.page.render import render_report
from backbench.report.ranked import RankedRuns, rank_runs
from backbench.report.table import render_table
from reports import make_failure, make_runs

NUM_RANKINGS = 40
KINDS: tuple[Kind, ...] = ("nothing", "untrusted", "chance", "alone", "unproved", "tied", "winner")
CHEAPER = re.compile(r"is ([\d.,]+) times cheaper \(([^)]*)\)(, but [^.:;]*)?")


def _change(run: StoredRun, **changes: object) -> StoredRun:
    return StoredRun(run.record.model_copy(update=changes), run.predictions)


def _to_control(run: StoredRun, name: str) -> StoredRun:
    assert run.record.model is not None
    model = run.record.model.model_copy(update={"name": name, "is_control": True, "preprocess": None})
    return _change(run, model=model)


def _vary(run: StoredRun, rng: np.random.Generator) -> StoredRun:
    """The run with another price, and mostly as one of few models by a method that trains, with a recipe."""
    record = run.record
    assert record.cost is not None
    assert record.model is not None
    seconds = {"read": 0.1, "forward": float(rng.choice([1.0, 1.1, 2.0, 10.0]))}
    changes: dict[str, object] = {"cost": record.cost.model_copy(update={"seconds": seconds})}
    if rng.random() < 0.6:
        # type: ignore[arg-type]
        recipe = Recipe(epochs=int(rng.integers(1, 4)), optimizer=("adamw", "sgd")[rng.integers(2)])
        method = MethodFacts(name="full", options={"recipe": recipe.model_dump(mode="json")})
        config = record.config.model_copy(
            update={
                "method": record.config.method.model_copy(update={"name": "full"}),
                "precision": ("fp32", "bf16")[rng.integers(2)],
            }
        )
        model = record.model.model_copy(update={"name": f"model_{rng.integers(2)}"})
        changes |= {"method": method, "config": config, "model": model}
    if rng.random() < 0.1:
        changes["num_test_seen"] = 3
    return _change(run, **changes)


def make_ranking(seed: int) -> RankedRuns:
    """One of a family: from all failed to a clear winner, with and without controls, near the best and far."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(0, 6))
    level = float(rng.choice([0.34, 0.6, 0.9]))
    spread = float(rng.choice([0.0, 0.05, 0.4]))
    accuracies = np.clip(level - spread * rng.random(num), 0.3, 0.98).tolist()
    names = ("majority", "colour", "file-facts", "untrained")[: rng.integers(0, 5)]
    guesses = [0.34, *(float(rng.choice([0.34, 0.5, level])) for _ in names[1:])][: len(names)]
    num_images = int(rng.choice([12, 60, 300]))
    runs = make_runs([*accuracies, *guesses], num_images=num_images, has_control=False)
    shown = [_vary(run, rng) for run in runs[:num]]
    shown += [_to_control(run, name) for run, name in zip(runs[num:], names, strict=True)]
    if not shown or rng.random() < 0.2:
        shown.append(make_failure())
    manifest = {run.record.data.manifest_digest for run in shown}
    assert len(manifest) == 1
    data = shown[0].record.data
    return rank_runs([_change(run, data=data) for run in shown])


@cache
def render_all(seed: int) -> tuple[RankedRuns, dict[str, str]]:
    """The ranking, and what a reader sees of it on each surface; percent signs and spaces alike."""
    ranked = make_ranking(seed)
    page = render_report([ranked], [Evidence(root="my runs")])
    page = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", page, flags=re.DOTALL)
    surfaces = {
        "terminal": "\n".join([render_table(ranked.rows, width=200, colour=False), *ranked.summary])
        + "\n".join(ranked.warnings),
        "page": html.unescape(re.sub(r"</?[a-z][^>]*>", "", page)),
        "notebook": html.unescape(re.sub(r"<style.*?</style>|</?[a-z][^>]*>", "", render_ranking(ranked))),
        "markdown": render_markdown([ranked]).replace("\\", ""),
        "json": render_json([ranked]),
        "card": render_model_card([ranked]).replace("\\", ""),
    }
    return ranked, {key: " ".join(text.replace("\u00a0", " ").split()) for key, text in surfaces.items()}


def _all() -> Iterator[tuple[RankedRuns, dict[str, str]]]:
    return (render_all(seed) for seed in range(NUM_RANKINGS))


def test_the_family_holds_every_kind_of_ranking() -> None:
    found = [ranked.findings for ranked, _ in _all()]
    assert {each.kind for each in found} == set(KINDS)
    assert any(each.cheaper is not None and not each.cheaper.is_as_good for each in found)
    assert any(each.recommended is not each.best for each in found)
    assert any(each.unbeaten and not each.alarms for each in found)


def test_every_surface_has_the_same_sentences() -> None:
    for ranked, surfaces in _all():
        for sentence in ranked.summary:
            told = " ".join(sentence.split())
            for key in ("terminal", "page", "notebook", "markdown", "json"):
                assert told in surfaces[key], (key, told)


def test_only_the_recommended_row_is_to_be_kept() -> None:
    for ranked, surfaces in _all():
        row = ranked.findings.recommended
        (document,) = json.loads(render_json([ranked]))["comparisons"]
        assert document["verdict"] == ranked.findings.kind
        if row is None:
            assert document["recommended"] is None
            for text in surfaces.values():
                assert not re.search(r"backbench keep|\bUse \w|[Tt]ake (it|the)\b|\.keep\(\)", text), text
            continue
        assert document["recommended"]["run_id"] == row.run_id
        assert keep_command_of(row.run_id) in surfaces["page"]
        assert f"model{row.name}" in surfaces["page"].replace("model ", "model"), "the box What you get"
        assert surfaces["card"].startswith(f"# {row.name} on pets")
        assert row.is_candidate
        assert not row.at_chance or ranked.findings.kind in ("unproved", "winner")


def keep_command_of(run_id: str) -> str:
    return keep_command(Path("my runs") / run_id)


def test_a_saving_is_told_in_one_way() -> None:
    for ranked, surfaces in _all():
        cheaper = ranked.findings.cheaper
        told = {match.groups() for text in surfaces.values() for match in CHEAPER.finditer(text)}
        assert len(told) <= 1, told
        if told and cheaper is not None:
            assert (told.pop()[2] is None) == cheaper.is_as_good
        if cheaper is None:
            assert not told


def test_no_shortcut_is_claimed_beside_a_row_that_no_control_is_worse_than() -> None:
    for ranked, surfaces in _all():
        has_unproved = bool(ranked.findings.unbeaten) or bool(ranked.findings.alarms)
        for text in surfaces.values():
            if has_unproved:
                assert "No shortcut seen" not in text
                assert "No problems found. Checked for" not in text
            else:
                assert "not significantly better than all baselines" not in text


@pytest.mark.parametrize("key", ["terminal", "page", "notebook", "markdown"])
def test_verdicts_exclude_one_another(key: str) -> None:
    for ranked, surfaces in _all():
        kind, text = ranked.findings.kind, surfaces[key]
        assert bool(re.search(r"(Both rows|All \d+ rows) are tied", text)) == (kind == "tied")
        assert ("significantly better than always predicting one class" in text) == (kind == "chance")
        assert bool(re.search(r"\bUse \w+ with", text)) == (kind == "winner")
        if kind == "chance":
            assert not CHEAPER.search(text)


def test_names_are_unique_and_shown_everywhere() -> None:
    for ranked, surfaces in _all():
        rows = [row for row in ranked.rows if not row.control]
        names = [row.name for row in rows]
        assert len(set(names)) == len(names)
        for row in rows:
            for key in ("terminal", "page", "notebook", "markdown"):
                assert row.how in surfaces[key], (key, row.how)


def test_failed_rows_are_unlike_those_that_finished() -> None:
    record: RunRecord = make_failure().record
    runs = [_change(make_failure(), run_id=f"run-failed-{number}") for number in range(2)]
    assert record.method is None
    assert len({row.name for row in rank_runs(runs).rows}) == 2
