"""Carrying out a study: what a budget or an interrupt leaves undone is said, and the best goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from backbench.cli import app
from backbench.records import Metric
from backbench.studies import carry_out
from backbench.studies.carry_out import Outcome, estimate_steps, run_study
from backbench.studies.schema import StudyFile
from backbench.studies.steps import Settings, plan_steps

STUDY: dict[str, Any] = {
    "name": "mine",
    "title": "t",
    "source": "s",
    "about": "a",
    "groups": [
        {"name": "one", "data": ["digits"], "models": ["pixels", "tiny_cnn"], "methods": ["knn", "ridge"]},
        {
            "name": "two",
            "data": ["digits"],
            "models": ["pixels", "tiny_cnn"],
            "methods": ["centroid"],
            "best_of": "one",
        },
    ],
}


def _row(model: str, method: str, status: str = "done") -> Any:
    return SimpleNamespace(
        model=model, method=method, has_failed=status != "done", control=False, run_id="x", error="why"
    )


def _ranking(*rows: Any, interrupted: bool = False) -> Any:
    return SimpleNamespace(rows=list(rows), interrupted=interrupted)


def test_what_the_budget_leaves_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(carry_out, "rank", lambda request, progress: _ranking(_row("pixels", "knn", "failed")))
    outcome = run_study(StudyFile.model_validate(STUDY), Settings(out=tmp_path), budget_seconds=1000)
    assert outcome.failures == [
        "one: digits, pixels + knn: why",
        "one: digits, tiny_cnn + knn: the budget ended; the same command goes on from there",
        "one: digits, tiny_cnn + ridge: the budget ended; the same command goes on from there",
        "two: digits: nothing to go on from: no finished run of 'one'",
    ]


def test_an_interrupt_ends_the_study_and_draws_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = []

    def write_up(outcome: Outcome, settings: Settings, *, has_figures: bool, progress: Any) -> Any:
        drawn.append(has_figures)
        (tmp_path / "tables.md").write_text(" ".join(outcome.failures))
        return [tmp_path / "tables.md"], []

    monkeypatch.setattr(carry_out, "rank", lambda request, progress: _ranking(interrupted=True))
    monkeypatch.setattr("backbench.studies.write_up.write_up", write_up)
    file = Path(__file__).parents[2] / "studies" / "default.toml"
    done = CliRunner().invoke(app, ["study", "run", str(file), "--out", str(tmp_path), "--quiet"])
    assert done.exit_code == 130
    assert "interrupted in probes: digits: the same command goes on from there" in done.stdout
    assert drawn == [False]


def test_the_best_on_validation_goes_on_whatever_the_test_images_say(tmp_path: Path) -> None:
    step = plan_steps(StudyFile.model_validate(STUDY), Settings(out=tmp_path))[1]

    def cell(model: str, accuracy: float, nll: float, test: float, seen: int = 0) -> Any:
        figures = {"val_accuracy": accuracy, "val_nll": nll, "accuracy": test}
        return SimpleNamespace(
            group="one",
            data="digits",
            seed=0,
            model=model,
            record=SimpleNamespace(num_val_seen=seen),
            figure=lambda name: Metric(value=figures[name], n=10),
        )

    def best(*cells: Any) -> str | None:
        return carry_out._find_best(step, Outcome(StudyFile.model_validate(STUDY), cells=list(cells)))

    assert best(cell("pixels", 0.8, 1.0, 0.2), cell("tiny_cnn", 0.7, 0.1, 0.9)) == "pixels"
    assert best(cell("pixels", 0.8, 1.0, 0.2), cell("tiny_cnn", 0.8, 0.5, 0.1)) == "tiny_cnn"
    assert best(cell("pixels", 0.8, 1.0, 0.2, seen=3), cell("tiny_cnn", 0.1, 2.0, 0.1)) == "tiny_cnn"
    assert best() is None


def test_an_estimate_of_the_best_is_one_model_long(tmp_path: Path) -> None:
    steps = estimate_steps(StudyFile.model_validate(STUDY), Settings(out=tmp_path))
    assert [step.num_runs for step in steps] == [4, 1]


@pytest.mark.parametrize(
    ("earlier", "seed", "expected"),
    [((0, 1), 0, "bundle-0"), ((0, 1), 1, "bundle-1"), ((3,), 0, "bundle-3"), ((1, 2), 0, None)],
)
def test_a_chain_goes_on_from_the_same_seed_or_the_only_one(
    earlier: tuple[int, ...], seed: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = SimpleNamespace(after="one", after_data="digits", after_method="full")
    cells = [
        SimpleNamespace(
            group="one", data="digits", method="full", seed=number, model="cnn", bundle=f"bundle-{number}"
        )
        for number in earlier
    ]
    monkeypatch.setattr(carry_out, "chain", lambda step, bundles: bundles["cnn"])
    step: Any = SimpleNamespace(group=group, seed=seed, names={"cnn": "cnn"})
    outcome: Any = SimpleNamespace(cells=cells)
    assert carry_out._chain(step, outcome) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("seeds", [-1], "seeds"), ("seeds", [0, 0], "seeds names 0 twice"), ("methods", ["knn", "knn"], "twice")],
)
def test_a_group_that_makes_no_sense_is_refused(key: str, value: list[Any], message: str) -> None:
    first, *others = STUDY["groups"]
    with pytest.raises(ValueError, match=message):
        StudyFile.model_validate(STUDY | {"groups": [first | {key: value}, *others]})
