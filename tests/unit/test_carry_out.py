"""Carrying out a study: what a budget or an interrupt leaves undone is said, and the best goes on."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from backbench.classifier import bundle
from backbench.cli import app
from backbench.cli.study import render_estimates, split_pairs
from backbench.errors import ConfigError, MissingExtra
from backbench.progress import SILENT
from backbench.stats.metric import Metric
from backbench.studies import drawings
from backbench.studies import run as carry_out
from backbench.studies.analysis.facts import Choice
from backbench.studies.analysis.wording import count_rivals
from backbench.studies.document import is_less_than_there, make_document
from backbench.studies.estimate import estimate_steps
from backbench.studies.run import Outcome, run_study
from backbench.studies.schema import StudyFile
from backbench.studies.steps import Settings, find_missing, plan_steps
from backbench.studies.write import _tell_apart, write_up
from listings import write_image

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
    records = [SimpleNamespace(config=SimpleNamespace(model=row.model)) for row in rows]
    entries = [SimpleNamespace(row=row, record=record) for row, record in zip(rows, records, strict=True)]
    return SimpleNamespace(entries=entries, interrupted=interrupted)


def test_what_the_budget_leaves_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(carry_out, "rank", lambda request, progress: _ranking(_row("pixels", "knn", "failed")))
    outcome = run_study(StudyFile.model_validate(STUDY), Settings(out=tmp_path), budget_seconds=1000)
    assert [str(undone) for undone in outcome.undone] == [
        "one: digits, pixels + knn: why",
        "one: digits, tiny_cnn + knn: the budget ended; the same command resumes from there",
        "one: digits, tiny_cnn + ridge: the budget ended; the same command resumes from there",
        "two: digits: waits for 'one', where the budget left out tiny_cnn + knn and tiny_cnn + ridge; the same "
        "command resumes from there",
    ]
    assert outcome.by_reason()["the budget ended; the same command resumes from there"] == [
        "one: digits, tiny_cnn + knn",
        "one: digits, tiny_cnn + ridge",
    ]


def test_a_method_that_failed_does_not_hide_what_the_budget_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def make(step: Any, model: str, *_: Any) -> Any:
        return SimpleNamespace(**vars(_cell(model, 0.5, method="ridge")) | {"bundle": tmp_path})

    rows = [_row("pixels", "knn", "failed"), _row("pixels", "ridge"), _row("tiny_cnn", "ridge")]
    monkeypatch.setattr(carry_out, "rank", lambda request, progress: _ranking(*rows))
    monkeypatch.setattr(carry_out, "_make_cell", make)
    monkeypatch.setattr(carry_out, "_evaluate_elsewhere", lambda cell, *_: cell)
    first = STUDY["groups"][0] | {"methods": ["knn", "ridge", "centroid"]}
    study = StudyFile.model_validate(STUDY | {"groups": [first]})
    outcome = run_study(study, Settings(out=tmp_path), budget_seconds=1000)
    said = [str(undone) for undone in outcome.undone]
    for run in ("pixels + centroid", "tiny_cnn + knn", "tiny_cnn + centroid"):
        assert f"one: digits, {run}: the budget ended; the same command resumes from there" in said
    assert len(said) == 4
    left_out = ["pixels + centroid", "tiny_cnn + knn", "tiny_cnn + centroid"]
    assert outcome.cut == {("one", "digits", 0): left_out}


def test_training_that_was_cut_is_no_run_of_the_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cut, whole = _row("tiny_cnn", "knn"), _row("pixels", "ridge")
    cut.run_id = "digits-tiny_cnn-full-123.cut-4"
    monkeypatch.setattr(carry_out, "rank", lambda request, progress: _ranking(cut, whole))
    monkeypatch.setattr(carry_out, "_make_cell", lambda step, model, *_: _cell(model, 0.5, method="ridge"))
    monkeypatch.setattr(carry_out, "_evaluate_elsewhere", lambda cell, *_: cell)
    outcome = run_study(
        StudyFile.model_validate(STUDY | {"groups": STUDY["groups"][:1]}),
        Settings(out=tmp_path),
        budget_seconds=99,
    )
    assert [cell.model for cell in outcome.cells] == ["pixels"]
    assert str(outcome.undone[0]) == (
        "one: digits, tiny_cnn + knn: training was cut; the same command resumes from there"
    )
    left_out = ["tiny_cnn + knn", "pixels + knn", "tiny_cnn + ridge"]
    assert outcome.cut == {("one", "digits", 0): left_out}


def test_the_text_of_an_error_stands_on_one_line() -> None:
    outcome = Outcome(StudyFile.model_validate(STUDY))
    assert str(outcome.note("one: digits", "first line\n  second line")) == "one: digits: first line second line"


def test_an_interrupt_ends_the_study_and_draws_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = []

    def write_up(outcome: Outcome, settings: Settings, *, has_figures: bool, progress: Any) -> Any:
        drawn.append(has_figures)
        (tmp_path / "tables.md").write_text(" ".join(map(str, outcome.undone)))
        return [tmp_path / "tables.md"], []

    monkeypatch.setattr(carry_out, "rank", lambda request, progress: _ranking(interrupted=True))
    monkeypatch.setattr("backbench.studies.write.write_up", write_up)
    file = Path(__file__).parents[2] / "studies" / "default.toml"
    done = CliRunner().invoke(app, ["study", "run", str(file), "--out", str(tmp_path), "--quiet"])
    assert done.exit_code == 130
    assert "probes: digits: interrupted; the same command resumes from there" in done.stdout
    assert drawn == [False]


def test_an_interrupt_before_any_work_ends_with_the_status_of_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Path) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("backbench.studies.schema.read_study", interrupt)
    done = CliRunner().invoke(app, ["study", "run", "any.toml"])
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_after_an_interrupt_all_that_was_not_started_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(carry_out, "rank", lambda request, progress: _ranking(interrupted=True))
    first = STUDY["groups"][0]
    study = StudyFile.model_validate(STUDY | {"groups": [first, first | {"name": "more", "seeds": [0, 1]}]})
    settings = Settings(out=tmp_path)
    outcome = run_study(study, settings)
    assert [str(undone) for undone in outcome.undone] == [
        "one: digits: interrupted; the same command resumes from there",
        "more: digits, seed 0: not started because of the interrupt; the same command resumes from there",
        "more: digits, seed 1: not started because of the interrupt; the same command resumes from there",
    ]
    write_up(outcome, settings)
    assert "seeds 0, 1. No run of it is finished." in (tmp_path / "tables.md").read_text()


def test_the_best_on_validation_goes_on_whatever_the_test_images_say(tmp_path: Path) -> None:
    step = plan_steps(StudyFile.model_validate(STUDY), Settings(out=tmp_path))[1]

    def best(*cells: Any) -> str | None:
        found = carry_out._choose_models(step, Outcome(StudyFile.model_validate(STUDY), cells=list(cells)))
        return found[0] if found else None

    assert best(_cell("pixels", 0.8, 1.0, 0.2), _cell("tiny_cnn", 0.7, 0.1, 0.9)) == "pixels"
    assert best(_cell("pixels", 0.8, 1.0, 0.2), _cell("tiny_cnn", 0.8, 0.5, 0.1)) == "tiny_cnn"
    assert best(_cell("pixels", 0.8, 1.0, 0.2, seen=3), _cell("tiny_cnn", 0.1, 2.0, 0.1)) == "tiny_cnn"
    assert best() is None


def _cell(
    model: str, accuracy: float, nll: float = 1.0, test: float = 0.5, seen: int = 0, method: str = "knn"
) -> Any:
    figures = {"val_accuracy": accuracy, "val_nll": nll, "accuracy": test}
    return SimpleNamespace(
        group="one",
        data="digits",
        seed=0,
        model=model,
        method=method,
        record=SimpleNamespace(num_val_seen=seen),
        figure=lambda name: Metric(value=figures[name], n=10),
    )


def test_the_best_of_what_is_there_says_among_how_many_it_was_chosen(tmp_path: Path) -> None:
    step = plan_steps(StudyFile.model_validate(STUDY), Settings(out=tmp_path))[1]
    whole = [
        _cell(model, 0.8 + (model == "pixels") / 10, method=method)
        for model in ("pixels", "tiny_cnn")
        for method in ("knn", "ridge")
    ]
    outcome = Outcome(StudyFile.model_validate(STUDY), cells=whole)
    assert carry_out._choose_models(step, outcome) == ["pixels"]
    assert outcome.undone == []
    assert outcome.choices == [Choice("two: digits", ("pixels",), "one", num_runs=4, num_asked=4)]
    outcome = Outcome(StudyFile.model_validate(STUDY), cells=whole[:3])  # the fourth failed
    assert carry_out._choose_models(step, outcome) == ["pixels"]
    (undone,) = outcome.undone
    assert outcome.choices == [Choice("two: digits", ("pixels",), "one", num_runs=3, num_asked=4)]
    assert count_rivals(outcome.choices[0]) in undone.why
    assert undone.why.endswith("(missing, or its weights saw validation images: tiny_cnn + ridge)")
    cut = {("one", "digits", 0): ["tiny_cnn + ridge", "cnn + ridge"]}  # of which the second has no say
    outcome = Outcome(StudyFile.model_validate(STUDY), cells=whole[:3], cut=cut)
    assert carry_out._choose_models(step, outcome) == []  # the fourth comes with the same command
    assert "waits for 'one', where the budget left out tiny_cnn + ridge; the same" in outcome.undone[0].why
    cut[("one", "digits", 0)].remove("tiny_cnn + ridge")
    outcome = Outcome(StudyFile.model_validate(STUDY), cells=whole, cut=cut)
    assert carry_out._choose_models(step, outcome) == ["pixels"]


def test_models_that_an_earlier_group_left_nothing_of_are_named_with_the_reason(tmp_path: Path) -> None:
    group = STUDY["groups"][1] | {"after": "one", "after_data": "digits", "after_method": "knn", "best_of": None}
    study = StudyFile.model_validate(STUDY | {"groups": [STUDY["groups"][0], group]})
    step = plan_steps(study, Settings(out=tmp_path))[1]
    for cut, why in (
        ({}, "see above"),
        (
            {("one", "digits", 0): ["tiny_cnn + knn"]},
            "which the budget ended; the same command resumes from there",
        ),
    ):
        left = SimpleNamespace(**vars(_cell("pixels", 0.8)) | {"bundle": tmp_path / "pixels.bundle"})
        outcome = Outcome(study, cells=[left], cut=dict(cut))
        ready = carry_out._chain(step, outcome)
        assert ready is not None
        assert list(ready.names) == ["pixels"]
        assert str(outcome.undone[0]) == (
            f"two: digits, tiny_cnn: no weights to start from: no finished knn of 'one' on digits, {why}"
        )
        assert carry_out._chain(step, Outcome(study, cut=dict(cut))) is None


def test_a_link_after_the_best_of_a_group_goes_on_with_that_one_model(tmp_path: Path) -> None:
    link = STUDY["groups"][1] | {"name": "on", "after": "two", "after_data": "digits", "after_method": "centroid"}
    study = StudyFile.model_validate(STUDY | {"groups": [*STUDY["groups"], link | {"best_of": None}]})
    step = plan_steps(study, Settings(out=tmp_path))[2]
    best = _cell("pixels", 0.8, method="centroid")
    best = SimpleNamespace(**vars(best) | {"group": "two", "bundle": tmp_path / "pixels.bundle"})
    outcome = Outcome(study, cells=[best])
    ready = carry_out._chain(step, outcome)
    assert ready is not None
    assert list(ready.names) == ["pixels"]
    assert outcome.undone == []  # nobody asked for the other
    outcome = Outcome(study)
    assert carry_out._chain(step, outcome) is None
    assert "no finished centroid of 'two' on digits" in outcome.undone[0].why


def test_an_estimate_of_the_best_is_one_model_long(tmp_path: Path) -> None:
    steps = estimate_steps(StudyFile.model_validate(STUDY), Settings(out=tmp_path))
    assert [step.num_runs for step in steps] == [4, 1]
    assert [(cell.model, cell.method) for cell in steps[0].cells] == [
        (model, method) for model in ("pixels", "tiny_cnn") for method in ("knn", "ridge")
    ]
    assert [cell.model for cell in steps[1].cells] == ["the best of 'one'"]


def estimate_one(data: str, place: Path | None = None, **settings: Any) -> tuple[Any, str]:
    group = {"name": "one", "data": [data], "models": ["tiny_cnn", "hf/some/one"], "methods": ["ridge", "head"]}
    study = StudyFile.model_validate(STUDY | {"groups": [group]})
    places = {} if place is None else {data: str(place)}
    (step,) = estimate_steps(study, Settings(out=Path("out"), data=places, **settings))
    return step, render_estimates("t", [step])


def test_an_estimate_counts_the_images_that_lie_here_whatever_name_they_go_by(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for number in range(6):
            write_image(tmp_path / "mine" / label / f"{number}.png")
    for name in ("cifar10", "photos"):
        step, text = estimate_one(name, tmp_path / "mine")
        assert (step.num_images, step.is_size_known, step.fault) == (12, True, "")
        assert "Size not known" not in text
    assert estimate_one("photos", tmp_path / "mine", limit=8)[0].num_images == 8
    assert estimate_one("cifar10")[0].num_images == 60_000
    for name in ("hub:uoft-cs/cifar10", "hub:cifar10", "hub:uoft-cs/cifar100:cifar100"):
        step, text = estimate_one(name)
        assert (step.num_images, step.is_size_known) == (60_000, True)
        assert "Size not known" not in text
    step, text = estimate_one("hub:someone/photos")
    assert (step.num_images, step.is_size_known) == (10_000, False)
    assert "counted by a guess: hub:someone/photos as 10,000 images" in text
    assert step.cells[0].seconds == step.cells[1].seconds  # one pass for both
    assert "tiny_cnn + head" in text


def test_an_estimate_says_what_is_wrong_with_a_folder_and_what_is_a_guess(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    step, text = estimate_one("photos", tmp_path / "empty")
    assert (step.num_images, step.is_size_known) == (10_000, False)
    assert step.fault.startswith("photos: ")
    assert step.guessed == ("hf/some/one",)
    assert "The cost of hf/some/one is unknown" in text
    study = tmp_path / "study.toml"
    study.write_text(
        'name = "mine"\ntitle = "t"\nsource = "s"\nabout = "a"\n[[groups]]\nname = "one"\ndata = ["photos"]\n'
        'models = ["tiny_cnn"]\nmethods = ["ridge"]\n'
    )
    call = ["study", "run", str(study), "--dry-run", "--data", f"photos={tmp_path / 'empty'}"]
    assert f"Missing: {step.fault}" in " ".join(CliRunner().invoke(app, call).stdout.split())
    assert json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)["warnings"] == [step.fault]


def test_a_trial_names_data_of_ones_own_that_is_not_here(tmp_path: Path) -> None:
    study = StudyFile.model_validate(STUDY | one_group(data=["photos"]))
    with pytest.raises(ConfigError, match=r"there is no data set, folder or file 'photos'.* --data photos=PATH"):
        plan_steps(study, Settings(out=tmp_path, random_weights=True))


def one_group(**changes: Any) -> dict[str, Any]:
    return {
        "groups": [{"name": "one", "data": ["digits"], "models": ["tiny_cnn"], "methods": ["ridge"]} | changes]
    }


def test_data_that_there_is_not_is_refused_before_any_work(tmp_path: Path) -> None:
    for key in ("data", "test_on"):
        study = StudyFile.model_validate(STUDY | one_group(**{key: ["cifr10"]}))
        with pytest.raises(ConfigError, match=r"no data set, folder or file 'cifr10'. Did you mean 'cifar10'"):
            plan_steps(study, Settings(out=tmp_path))
        plan_steps(study, Settings(out=tmp_path, data={"cifr10": str(tmp_path)}))


def test_a_folder_that_has_to_be_there_and_is_not_is_said(tmp_path: Path) -> None:
    study = StudyFile.model_validate(STUDY | one_group(test_on=[f"openimages:{tmp_path}/images"]))
    (note,) = find_missing(study, Settings(out=tmp_path))
    assert f"no folder '{tmp_path}/images'" in note
    (tmp_path / "images").mkdir()
    assert not find_missing(study, Settings(out=tmp_path))


def test_columns_go_to_tables_and_to_the_hub_alone(tmp_path: Path) -> None:
    columns = {"hub:me/pets": {"image": "photo", "label": "kind"}}
    study = StudyFile.model_validate(STUDY | one_group(data=["hub:me/pets"]) | {"columns": columns})
    (table := tmp_path / "pets.csv").write_text("photo,kind\n")
    for place in ("hub:me/pets", str(table)):
        (step,) = plan_steps(study, Settings(out=tmp_path, data={"hub:me/pets": place}))
        assert (step.request.data.image_column, step.request.data.label_column) == ("photo", "kind")
    for settings in (
        Settings(tmp_path, data={"hub:me/pets": str(tmp_path)}),
        Settings(tmp_path, random_weights=True),
    ):
        (step,) = plan_steps(study, settings)
        assert step.request.data.image_column is None
    study = StudyFile.model_validate(STUDY | {"columns": {"digits": {"image": "a"}}})
    with pytest.raises(ConfigError, match="columns: 'digits' has none"):
        plan_steps(study, Settings(out=tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"digit": {"image": "a"}}}, "'digit' is no data set of the study. Did you mean 'digits'"),
        ({"columns": {"digits": {"imag": "a"}}}, "Extra inputs"),
        ({"grid_images": [0]}, "greater than or equal to 1"),
        ({"grid_images": []}, "at least 1"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyFile.model_validate(STUDY | one_group() | change)


@pytest.mark.parametrize(
    ("asked", "earlier", "seed", "expected"),
    [
        ((0, 1), (0, 1), 0, "bundle-0"),
        ((0, 1), (0, 1), 1, "bundle-1"),
        ((3,), (3,), 0, "bundle-3"),
        ((1, 2), (1, 2), 0, None),
        ((0, 1), (0,), 1, None),  # seed 1 failed or was cut, and the weights of seed 0 are not to stand for it
    ],
)
def test_a_chain_goes_on_from_the_same_seed_or_the_only_one(
    asked: tuple[int, ...],
    earlier: tuple[int, ...],
    seed: int,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = SimpleNamespace(after="one", after_data="digits", after_method="full")
    cells = [
        SimpleNamespace(
            group="one", data="digits", method="full", seed=number, model="cnn", bundle=f"bundle-{number}"
        )
        for number in earlier
    ]
    monkeypatch.setattr(carry_out, "chain", lambda step, bundles: bundles["cnn"])
    step: Any = SimpleNamespace(group=group, seed=seed, names={"cnn": "cnn"}, title="two: digits")
    study = StudyFile.model_validate(STUDY | {"groups": [STUDY["groups"][0] | {"seeds": list(asked)}]})
    outcome: Any = Outcome(study, cells=cells)  # type: ignore[arg-type]
    assert carry_out._chain(step, outcome) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", " ", "name"),
        ("seeds", [-1], "seeds"),
        ("seeds", [0, 0], "seeds names 0 twice"),
        ("methods", ["knn", "knn"], "twice"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(key: str, value: list[Any], message: str) -> None:
    first, *others = STUDY["groups"]
    with pytest.raises(ValueError, match=message):
        StudyFile.model_validate(STUDY | {"groups": [first | {key: value}, *others]})


@pytest.mark.parametrize(("seeds", "is_refused"), [([0, 1], True), ([2, 1], False), ([3], False)])
def test_a_group_goes_on_from_seeds_that_the_earlier_one_has(seeds: list[int], is_refused: bool) -> None:
    first, best = STUDY["groups"]
    after = best | {"best_of": None, "after": "one", "after_data": "digits", "after_method": "knn"}
    for later in (best, after):
        earlier = first | {"seeds": [1, 2] if seeds != [3] else [3]}
        study = STUDY | {"groups": [earlier, later | {"seeds": seeds}]}
        if is_refused:
            with pytest.raises(ValueError, match="group 'two', seeds: 0 is not in group 'one', which has 1, 2"):
                StudyFile.model_validate(study)
        else:
            StudyFile.model_validate(study)
    if not is_refused:  # the weights of a single seed are where all may go on from
        StudyFile.model_validate(STUDY | {"groups": [first | {"seeds": [0]}, after | {"seeds": seeds}]})


def test_groups_and_seeds_have_folders_of_pictures_of_their_own(tmp_path: Path) -> None:
    groups = [STUDY["groups"][0] | {"name": name, "seeds": [0, 2]} for name in ("a b", "a-b")]
    study = StudyFile.model_validate(STUDY | {"groups": groups})
    cells = [
        SimpleNamespace(group=group, data="digits", seed=seed, model="pixels", method="knn")
        for group in ("a b", "a-b")
        for seed in (0, 2)
    ]
    pen = SimpleNamespace(study=study, is_trial=False)
    jobs = list(drawings._list_jobs(pen, cells, tmp_path))  # type: ignore[arg-type]
    folders = [folder.name for what, folder, _ in jobs if what == "comparison"]
    assert folders == ["a-b-digits", "a-b-digits-seed-2", "a-b-digits-2", "a-b-digits-seed-2-2"]
    assert {folder.name for what, folder, _ in jobs if what == "run"} == {"pixels-knn"}


def test_maps_by_another_method_than_umap_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(runs: Any, method: str, **_: Any) -> Any:
        if method == "umap":
            raise MissingExtra("umap-learn", "umap", "UMAP")
        return method, []

    monkeypatch.setattr(drawings, "draw_map", draw)
    monkeypatch.setattr(drawings, "_save", lambda figures, folder, kind="png": [folder / figures["map"]])
    study = StudyFile.model_validate(STUDY | {"drawings": ["map"]})
    cells: Any = [
        SimpleNamespace(group=group, data="digits", seed=0, model="pixels", method="knn", folder=tmp_path)
        for group in ("one", "two")
    ]
    written, faults = drawings.draw_study(study, cells, tmp_path, device="cpu")
    assert [path.name for path in written] == ["tsne", "tsne"]
    (fault,) = faults  # once, however many maps
    assert "maps are by t-SNE: UMAP needs the package 'umap-learn'" in fault


def test_what_is_not_there_stands_in_tables_and_on_top_of_the_report(tmp_path: Path) -> None:
    second = {
        "name": "on",
        "after": "one",
        "after_data": "digits",
        "after_method": "full",
        "data": ["digits"],
        "models": ["tiny_cnn", "cnn"],
        "methods": ["centroid"],
    }
    first = {"name": "one", "data": ["digits"], "models": ["tiny_cnn", "cnn"], "methods": ["full"]}
    recipe = {"full": {"recipe": {"epochs": 1}}}
    study = StudyFile.model_validate(STUDY | {"groups": [first | {"options": recipe}, second], "drawings": []})
    settings = Settings(out=tmp_path, limit=60, image_size=8)  # where our CNN has nothing left to convolve
    outcome = run_study(study, settings)
    assert [cell.model for cell in outcome.cells] == ["tiny_cnn", "tiny_cnn"]
    write_up(outcome, settings, has_figures=False)
    tables, page = (tmp_path / "tables.md").read_text(), (tmp_path / "report.html").read_text()
    assert "- run with --limit 60: at most so many images of each data set" in tables
    assert "- run with --image-size 8: input of all models in pixels" in tables
    assert "--only" not in tables
    for said in ("one: digits, cnn + full: ", "on: digits, cnn: no weights to start from"):
        assert said in tables
    assert "Incomplete: 2 parts of this study are missing" in page
    assert "no weights to start from: no finished full of" in page
    assert "tiny_cnn@8 after full on digits" in page
    outcome.undone.clear()
    write_up(outcome, settings, has_figures=False)
    assert "Incomplete" not in (tmp_path / "report.html").read_text()


def test_the_report_tells_runs_of_one_model_in_several_groups_apart(tmp_path: Path) -> None:
    groups = [
        {
            "name": name,
            "data": ["digits"],
            "models": ["tiny_cnn", "pixels"],
            "methods": ["knn"],
            "options": options,
        }
        for name, options in (
            ("near", {"knn": {"ks": [1]}}),
            ("far", {"knn": {"ks": [9]}}),
        )
    ]
    groups.append(STUDY["groups"][0] | {"name": "once", "methods": ["ridge"]})
    study = StudyFile.model_validate(STUDY | {"groups": groups, "drawings": []})
    settings = Settings(out=tmp_path, limit=60)
    outcome = run_study(study, settings)
    write_up(outcome, settings, has_figures=False)
    page = (tmp_path / "report.html").read_text()
    for name in ("tiny_cnn (near)", "tiny_cnn (far)", "pixels (near)", "pixels (far)"):
        assert name in page
    assert "(once)" not in page  # which stands there by its method


def test_what_two_groups_left_of_one_model_has_two_names(tmp_path: Path) -> None:
    def cell(group: str, method: str, weights: str, label: str = "a after full on big") -> Any:
        facts = SimpleNamespace(manifest_digest="m")
        record = SimpleNamespace(
            run_id=f"{group}-{method}",
            data=facts,
            model_name=label,
            model=SimpleNamespace(weights_digest=weights),
        )
        return SimpleNamespace(group=group, method=method, seed=0, record=record)

    left = [cell("one", "logistic", "x"), cell("two", "full", "y")]
    assert _tell_apart(left) == {
        "one-logistic": "a after full on big (one)",
        "two-full": "a after full on big (two)",
    }
    assert _tell_apart([cell("one", "logistic", "x"), cell("two", "full", "x")]) == {}
    assert len(_tell_apart([cell("one", "full", "x"), cell("two", "full", "x"), cell("one", "knn", "x")])) == 2


def test_two_models_that_are_one_at_the_size_asked_for_are_both_there(tmp_path: Path) -> None:
    models = ["tiny_cnn.cifar100", "tiny_cnn.cifar100@64"]
    groups = [
        {"name": "one", "data": ["digits"], "models": models, "methods": ["full"]},
        {"name": "two", "data": ["digits"], "models": models, "methods": ["knn"]}
        | {"after": "one", "after_data": "digits", "after_method": "full"},
    ]
    groups[0]["options"] = {"full": {"recipe": {"epochs": 1}}}
    study = StudyFile.model_validate(STUDY | {"groups": groups, "drawings": []})
    settings = Settings(out=tmp_path, limit=60, image_size=16)
    outcome = run_study(study, settings)
    assert outcome.undone == []
    assert [(cell.group, cell.model) for cell in outcome.cells] == [
        (group, model) for group in ("one", "two") for model in models
    ]
    assert len({cell.record.run_id for cell in outcome.cells}) == 2
    write_up(outcome, settings, has_figures=False)
    for text in ((tmp_path / "tables.md").read_text(), (tmp_path / "report.html").read_text()):
        assert re.search("[hH]ere tiny_cnn.cifar100@64 runs as tiny_cnn.cifar100@16", text)
        assert re.search("[hH]ere tiny_cnn.cifar100 runs as tiny_cnn.cifar100@16", text)


def test_what_is_asked_of_some_groups_leaves_the_pages_of_the_whole(tmp_path: Path) -> None:
    group = STUDY["groups"][0] | {"models": ["pixels"], "methods": ["knn"]}
    study = StudyFile.model_validate(
        STUDY | {"groups": [group, group | {"name": "other", "methods": ["ridge"]}], "drawings": ["comparison"]}
    )
    for only in ((), ("other",)):
        settings = Settings(out=tmp_path, limit=60, only=only)
        written, _ = write_up(run_study(study, settings), settings)
        assert {path.relative_to(tmp_path).parts[0] == "only" for path in written} == {bool(only)}
    whole, part = (tmp_path / "tables.md").read_text(), (tmp_path / "only" / "tables.md").read_text()
    assert "pixels x knn" in whole
    assert "pixels x knn" not in part
    assert "run with --only 'other': these groups alone" in part


def test_images_from_elsewhere_are_not_taken_for_those_that_are_cited(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for index in range(60):
        write_image(photos / "ab"[index % 2] / f"{index}.png", index)
    group = STUDY["groups"][0] | {"models": ["pixels"], "methods": ["knn"], "data": ["cifar10"]}
    study = StudyFile.model_validate(STUDY | {"groups": [group], "drawings": []})
    settings = Settings(out=tmp_path / "out", data={"cifar10": str(photos)})
    write_up(run_study(study, settings), settings, has_figures=False)
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert f"- data: cifar10 was read from {photos}; it was not checked against the published data set" in tables
    assert re.search(r"\n- data: cifar10: .*Krizhevsky", tables)


def test_weights_that_a_card_gives_another_name_are_runs_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backbench.backbones.included import FOLDER

    name = "mobilenetv2_100.ra_in1k"
    card = (FOLDER / "tiny_cnn.cifar100.toml").read_text()
    (tmp_path / f"{name}.toml").write_text(card)
    for file in FOLDER.glob("tiny_cnn.cifar100.safetensors"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("BACKBENCH_WEIGHTS", str(tmp_path))
    group = STUDY["groups"][0] | {"models": [name], "methods": ["ridge"]}
    study = StudyFile.model_validate(STUDY | {"groups": [group]})
    outcome = run_study(study, Settings(out=tmp_path / "out", limit=60))
    assert outcome.undone == []
    assert [(cell.model, cell.method) for cell in outcome.cells] == [(name, "ridge")]
    assert outcome.cells[0].record.model.name != name  # type: ignore[union-attr]


def test_a_data_set_lies_in_one_place() -> None:
    assert split_pairs(("a=x", "b=y=z")) == {"a": "x", "b": "y=z"}
    with pytest.raises(ConfigError, match="a already has the path x"):
        split_pairs(("a=x", "a=y"))


def test_a_stand_in_that_there_is_not_is_said_before_any_trial(tmp_path: Path) -> None:
    study = StudyFile.model_validate(STUDY | {"trial": {"pixels": "tiny_cnm"}})
    with pytest.raises(ConfigError, match=r"unknown model 'tiny_cnm' in \[trial\]. Did you mean 'tiny_cnn'"):
        plan_steps(study, Settings(out=tmp_path))


def test_what_failed_on_another_source_says_which_run_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConfigError("no class in common")

    monkeypatch.setattr(carry_out, "evaluate_elsewhere", fail)
    asked: list[Any] = []
    monkeypatch.setattr(carry_out, "read_source", lambda config, _: asked.append(config))
    group = {"data": ["digits"], "models": ["pixels"], "methods": ["knn"], "seeds": [0, 1], "test_on": ["cifar10"]}
    study = StudyFile.model_validate(STUDY | {"groups": [group | {"name": "one"}]})
    steps = plan_steps(study, Settings(out=tmp_path))
    cell = carry_out.Cell("one", "digits", "pixels", "knn", 1, None, tmp_path, tmp_path)  # type: ignore[arg-type]
    outcome = Outcome(study, cells=[cell])
    carry_out._evaluate_elsewhere(steps[1], outcome, Settings(out=tmp_path), None, SILENT)
    assert outcome.cells[0].elsewhere == {}
    assert [config.on_bad for config in asked] == ["skip"]  # a broken image of another source stops no study
    monkeypatch.setattr(carry_out, "read_source", fail)
    carry_out._evaluate_elsewhere(steps[1], outcome, Settings(out=tmp_path), None, SILENT)
    assert [str(undone) for undone in outcome.undone] == [
        "one: digits, seed 1, pixels + knn on cifar10: no class in common",
        "one: digits, seed 1 on cifar10: no class in common",
    ]


def study_tried_elsewhere(folder: Path, num: int = 6) -> StudyFile:
    """`tiny_cnn` on digits, tried on pictures of noise that a folder calls 1 and 2."""
    for index in range(num):
        write_image(folder / "12"[index % 2] / f"{index}.png", seed=index)
    groups = [
        {
            "name": "one",
            "data": ["digits"],
            "models": ["tiny_cnn"],
            "methods": ["knn", "ridge"],
            "test_on": [str(folder)],
        }
    ]
    return StudyFile.model_validate(STUDY | {"groups": groups, "drawings": []})


def test_figures_on_another_source_are_kept_beside_the_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = []
    real = bundle.load_bundle
    monkeypatch.setattr(bundle, "load_bundle", lambda folder: loaded.append(folder) or real(folder))
    photos, settings = tmp_path / "photos", Settings(out=tmp_path / "out", limit=60)
    study = study_tried_elsewhere(photos)

    def figures() -> list[Any]:
        loaded.clear()
        return [cell.elsewhere[str(photos)] for cell in run_study(study, settings).cells]

    first = figures()
    assert len(loaded) == 2
    assert [found.num_images for found in first] == [6, 6]
    assert figures() == first
    assert loaded == []
    kept = sorted(tmp_path.glob("out/runs/.elsewhere/*/*.json"))
    assert len(kept) == 2
    photos.rename(tmp_path / "moved")
    moved = Settings(out=tmp_path / "out", limit=60, data={str(photos): str(tmp_path / "moved")})
    loaded.clear()
    again = [cell.elsewhere[str(photos)] for cell in run_study(study, moved).cells]
    assert [(found.metrics, found.name) for found in again] == [(found.metrics, "moved") for found in first]
    assert loaded == []
    (tmp_path / "moved").rename(photos)
    kept[0].write_text("{")  # damaged: it is computed again
    assert figures() == first
    assert len(loaded) == 1
    write_image(photos / "2" / "more.png", seed=99)
    assert [found.num_images for found in figures()] == [7, 7]
    assert len(loaded) == 2
    (photos / "2" / "more.png").rename(photos / "1" / "more.png")  # the same image, of another class
    figures()
    assert len(loaded) == 2


def test_past_the_budget_figures_on_another_source_are_read_and_none_is_made(tmp_path: Path) -> None:
    settings = Settings(out=tmp_path / "out", limit=60)
    study = study_tried_elsewhere(tmp_path / "photos")
    plain = study.model_copy(update={"groups": (study.groups[0].model_copy(update={"test_on": ()}),)})
    run_study(plain, settings)
    late = run_study(study, settings, budget_seconds=0)
    where, why = f"on {tmp_path / 'photos'}", "the budget ended; the same command resumes from there"
    assert [str(undone) for undone in late.undone] == [f"one: digits {where}: {why}"]
    assert [cell.elsewhere for cell in late.cells] == [{}, {}]
    whole = run_study(study, settings)
    again = run_study(study, settings, budget_seconds=0)
    assert again.undone == []
    assert [cell.elsewhere for cell in again.cells] == [cell.elsewhere for cell in whole.cells]
    next(tmp_path.glob("out/runs/.elsewhere/*-ridge-*/*.json")).unlink()
    late = run_study(study, settings, budget_seconds=0)
    assert [str(undone) for undone in late.undone] == [f"one: digits, tiny_cnn + ridge {where}: {why}"]
    write_image(tmp_path / "more" / "1" / "a.png")
    both = (*study.groups[0].test_on, str(tmp_path / "more"))
    more = study.model_copy(update={"groups": (study.groups[0].model_copy(update={"test_on": both}),)})
    run_study(study, settings)
    late = run_study(more, settings, budget_seconds=0)  # of which one source was never read
    assert [str(undone) for undone in late.undone] == [f"one: digits on {tmp_path / 'more'}: {why}"]
    assert all(cell.elsewhere.keys() == {str(tmp_path / "photos")} for cell in late.cells)
    runs = [str(path) for path in (tmp_path / "out" / "runs").glob("[!.]*")]  # RUNS/* of a shell
    page = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", *runs, "-o", str(page), "--no-images", "--quiet"])
    assert done.exit_code == 0, done.output


def test_an_interrupt_on_another_source_loses_no_finished_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(carry_out, "evaluate_elsewhere", interrupt)
    outcome = run_study(study_tried_elsewhere(tmp_path / "photos"), Settings(out=tmp_path / "out", limit=60))
    assert outcome.interrupted
    assert sorted(cell.method for cell in outcome.cells) == ["knn", "ridge"]


def test_what_is_finished_is_read_whatever_the_budget(tmp_path: Path) -> None:
    second = STUDY["groups"][0] | {"name": "two", "methods": ["centroid"]}
    study = StudyFile.model_validate(STUDY | {"groups": [STUDY["groups"][0], second], "drawings": []})
    settings = Settings(out=tmp_path, limit=60)
    part = StudyFile.model_validate(STUDY | {"groups": STUDY["groups"][:1], "drawings": []})
    whole = run_study(part, settings)
    late = run_study(study, settings, budget_seconds=0)
    assert [cell.record for cell in late.cells[:4]] == [cell.record for cell in whole.cells]
    assert {undone.what.partition(",")[0] for undone in late.undone} == {"two: digits"}
    assert late.cut[("two", "digits", 0)] == ["pixels + centroid", "tiny_cnn + centroid"]
    fresh = run_study(part, Settings(out=tmp_path / "other", limit=60), budget_seconds=0)
    assert fresh.cells == []
    assert [str(undone) for undone in fresh.undone] == [
        "one: digits: not started, beyond the budget; the same command resumes from there"
    ]


def test_an_interrupt_while_pictures_are_drawn_still_writes_the_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("backbench.studies.write.draw_study", interrupt)
    file = Path(__file__).parents[2] / "studies" / "default.toml"
    call = ["study", "run", str(file), "--out", str(tmp_path), "--quiet", "--json", "--limit", "60"]
    done = CliRunner().invoke(app, [*call, "--random-weights"])
    assert done.exit_code == 130
    document = json.loads(done.stdout)
    assert [Path(path).name for path in document["files"]] == ["tables.md", "report.html", "study.json"]
    assert (tmp_path / "tables.md").is_file()
    assert json.loads((tmp_path / "study.json").read_text()) == document


def test_an_interrupt_before_all_was_read_leaves_pages_that_tell_of_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = Path(__file__).parents[2] / "studies" / "default.toml"
    call = ["study", "run", str(file), "--out", str(tmp_path), "--no-figures", "--limit", "60", "--random-weights"]
    assert CliRunner().invoke(app, [*call, "--quiet"]).exit_code == 0
    pages = {path: path.read_bytes() for path in (tmp_path / "tables.md", tmp_path / "report.html")}
    real = carry_out.rank

    def interrupt_second(request: Any, progress: Any) -> Any:
        if len(request.methods) == 1:
            raise KeyboardInterrupt
        return real(request, progress)

    monkeypatch.setattr(carry_out, "rank", interrupt_second)
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 130
    assert f"the existing report in {tmp_path}/ covers more runs, so it is not overwritten" in done.stderr
    assert done.stdout == ""
    assert {path: path.read_bytes() for path in pages} == pages
    (tmp_path / "study.json").unlink()
    done = CliRunner().invoke(app, [*call, "--json"])  # of which nobody knows what they tell
    assert done.exit_code == 130
    assert {cell["group"] for cell in json.loads(done.stdout)["cells"]} == {"probes"}


def test_what_is_forgotten_was_not_seen(tmp_path: Path) -> None:
    models = {"models": ["tiny_cnn"], "options": {"full": {"recipe": {"epochs": 1}}}}
    first = {"name": "one", "data": ["digits"], "methods": ["full"], **models}
    again = {"after": "one", "after_data": "digits", "after_method": "full", "data": ["digits"], "seeds": [1]}
    again |= {"models": ["tiny_cnn"], "methods": ["scratch", "ridge"]}
    again |= {"name": "on", "options": {"scratch": {"recipe": {"epochs": 1}}}}
    again["models"] = first["models"] = ["tiny_cnn.cifar100"]
    outcome = run_study(StudyFile.model_validate(STUDY | {"groups": [first, again]}), Settings(out=tmp_path))
    assert outcome.undone == []
    seen = {cell.method: cell.record.num_test_seen for cell in outcome.cells if cell.group == "on"}
    assert seen["ridge"] > 0
    assert seen["scratch"] == 0
    (scratch,) = [cell for cell in outcome.cells if cell.method == "scratch"]
    assert not any("training images of" in warning for warning in scratch.record.warnings)
    learnt = bundle.read_bundle_seen(scratch.bundle, bundle.read_facts(scratch.bundle))
    assert learnt is not None
    assert len(learnt.all) <= scratch.record.data.num_train + scratch.record.data.num_val
    card = (scratch.bundle / "README.md").read_text()
    assert "pretrained on nothing" in card
    assert "It contains no pretrained weights" in card
    assert bundle.read_facts(scratch.bundle).backbone.source == "random weights"


@pytest.mark.parametrize(
    ("there", "keeps"),
    [
        ({}, False),
        ({"elsewhere": {"photos": {}}}, True),  # where the run was tried
        ({"group": "two"}, True),  # the same run in another group
        ({"run_id": "other"}, True),
    ],
)
def test_pages_stay_where_they_tell_anything_that_was_not_read(
    there: dict[str, Any], keeps: bool, tmp_path: Path
) -> None:
    study = StudyFile.model_validate(STUDY | {"groups": [STUDY["groups"][0] | {"models": ["pixels"]}]})
    settings = Settings(out=tmp_path, limit=60)
    outcome = run_study(study, settings)
    document = make_document(outcome, [])
    document["cells"].append(document["cells"][0] | there)
    (tmp_path / "study.json").write_text(json.dumps(document))
    assert not is_less_than_there(outcome, settings)  # it was not interrupted
    outcome.interrupted = True
    assert is_less_than_there(outcome, settings) == keeps
    (tmp_path / "study.json").write_text("{")
    assert not is_less_than_there(outcome, settings)


def test_a_group_that_goes_on_from_two_others_asks_for_both(tmp_path: Path) -> None:
    link = STUDY["groups"][1] | {"name": "on", "after": "two", "after_data": "digits", "after_method": "centroid"}
    study = StudyFile.model_validate(STUDY | {"groups": [*STUDY["groups"], link | {"best_of": "one"}]})
    for missing, only in (("one", ("on", "two")), ("two", ("on", "one"))):
        with pytest.raises(ConfigError, match=rf"starts from '{missing}'. Give --only '{missing}' too"):
            plan_steps(study, Settings(out=tmp_path, only=only))


def test_a_report_of_other_settings_does_not_stand_beside_tables_without_a_run(tmp_path: Path) -> None:
    settings = Settings(out=tmp_path)
    (tmp_path / "report.html").write_text("of before")
    (tmp_path / "study.json").write_text("{}")
    written, faults = write_up(Outcome(StudyFile.model_validate(STUDY)), settings)
    assert [path.name for path in written] == ["tables.md"]
    assert faults == [
        f"no run is finished, so report.html and study.json of an earlier run were deleted from {tmp_path}/; its "
        "runs are kept"
    ]
    assert not (tmp_path / "report.html").exists()
    assert write_up(Outcome(StudyFile.model_validate(STUDY)), settings)[1] == []


def test_a_limit_below_what_the_classes_need_is_told_as_it_came_out(tmp_path: Path) -> None:
    for limit, said in (
        (4, "20 images for training and validation (4 requested; each class needs one in both)"),
        (40, "40 images for training and validation"),
    ):
        group = STUDY["groups"][0] | {"train_limit": limit, "models": ["pixels"], "methods": ["knn"]}
        study = StudyFile.model_validate(STUDY | {"groups": [group], "drawings": []})
        settings = Settings(out=tmp_path / str(limit))
        outcome = run_study(study, settings)
        write_up(outcome, settings, has_figures=False)
        tables = (settings.pages / "tables.md").read_text()
        assert f"on digits, {said}." in tables
        facts = outcome.cells[0].record.data
        assert said.startswith(f"{facts.num_train + facts.num_val} ")


FRONT: dict[str, Any] = {
    "families": {"pixels": "flat", "tiny_cnn": "net", "tiny_vit": "net"},
    "groups": [
        {"name": "one", "data": ["digits"], "models": ["pixels", "tiny_cnn", "tiny_vit"], "methods": ["knn"]},
        {
            "name": "two",
            "data": ["digits"],
            "models": ["pixels", "tiny_cnn", "tiny_vit"],
            "methods": ["centroid"],
            "front_of": "one",
            "front_size": 2,
        },
        {
            "name": "three",
            "data": ["digits"],
            "models": ["pixels", "tiny_cnn", "tiny_vit"],
            "methods": ["ridge"],
            "best_of": "two",
        },
        {"name": "four", "data": ["digits"], "models": ["pixels"], "methods": ["ridge"], "optional": True},
    ],
}


def test_the_front_goes_on_with_the_reason_for_each_and_the_best_of_it_after_that(tmp_path: Path) -> None:
    study, settings = StudyFile.model_validate(STUDY | FRONT), Settings(out=tmp_path)
    small = StudyFile.model_validate(STUDY | FRONT | {"groups": FRONT["groups"][:1]})
    assert [len(step.cells) for step in estimate_steps(study, settings)] == [3, 2, 1]
    assert estimate_steps(study, settings)[1].cells[0].model == "model 1 of the front of 'one'"
    settings = Settings(out=tmp_path, limit=200)
    outcome = run_study(study, settings)
    assert outcome.undone == []
    chosen = [cell.model for cell in outcome.cells if cell.group == "two"]
    assert len(chosen) == 2
    assert "pixels" in chosen  # the only one of its family
    assert set(outcome.chosen["two", "digits", 0]) == set(chosen)
    (last,) = [cell.model for cell in outcome.cells if cell.group == "three"]
    assert last in chosen
    first, best = outcome.choices
    assert (first.ranking, first.num_runs, first.num_asked) == ("two: digits", 3, 3)
    assert sorted(first.models) == sorted(chosen)
    assert first.selection is not None
    assert (len(first.selection.taken), len(first.selection.left)) == (2, 1)
    assert best == Choice("three: digits", (last,), "two", num_runs=2, num_asked=2)
    written, _ = write_up(outcome, settings, has_figures=False)
    for page in written[:2]:
        text = unescape(page.read_text())
        assert all(reason in text for reason in outcome.describe_choices())
        assert "most common size in train" in text
        assert "8 x 8 (all)" in text
        assert "ot run: 'four', an optional group (add it with --only)" in text
    assert run_study(small, settings).choices == []
    only = run_study(study, Settings(out=tmp_path, limit=200, only=("four",)))
    assert [cell.group for cell in only.cells] == ["four"]
