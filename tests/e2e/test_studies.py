"""Every study file: read, planned, and carried out in its smoke form, without a download."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backbench.cli import app
from backbench.errors import ConfigError
from backbench.registry import find_method, resolve_options
from backbench.studies.analysis.wording import NOT_COMPARED
from backbench.studies.schema import read_study
from backbench.studies.steps import Settings, plan_steps

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
SMOKE = (
    "--random-weights",
    "--limit",
    "64",
    "--image-size",
    "64",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--quiet",
)


def run_study(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["study", "run", *arguments], catch_exceptions=False)
    return done.exit_code, done.stdout


def test_the_five_studies_and_the_default_are_there() -> None:
    assert [file.stem for file in STUDIES] == [
        "caltech256-vs-cifar100",
        "cifar10-classification",
        "cifar10-transfer",
        "default",
        "minivision",
        "vit-b16",
    ]
    assert all(read_study(file).name == file.stem for file in STUDIES)


def test_studies_among_the_benchmarks_can_be_read() -> None:
    files = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.toml"))
    assert files
    assert [read_study(file).name for file in files] == [file.stem for file in files]


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_name_and_option_in_a_study_is_one_there_is(file: Path) -> None:
    study = read_study(file)
    steps = plan_steps(study, Settings(out=Path("nowhere")))
    assert len(steps) == sum(len(group.data) * len(group.seeds) for group in study.groups if not group.optional)
    everything = Settings(out=Path("nowhere"), only=tuple(group.name for group in study.groups))
    assert len(plan_steps(study, everything)) == sum(len(group.data) * len(group.seeds) for group in study.groups)


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_the_smoke_form_runs_every_cell(file: Path, tmp_path: Path) -> None:
    study = read_study(file)
    status, text = run_study(str(file), "--out", str(tmp_path), "--json", *SMOKE)
    document = json.loads(text)
    assert document["failures"] == []
    assert status == 0
    groups = [group for group in study.groups if not group.optional]
    expected = {
        (group.name, data, model, method)
        for group in groups
        for data in group.data
        for model in group.models
        for method in group.methods
        if group.chosen_from is None
    }
    cells = document["cells"]
    ran = [(cell["group"], cell["data"], cell["model"], cell["method"]) for cell in cells]
    for group in (group for group in groups if group.chosen_from is not None):
        for data in group.data:
            chosen = {key[2] for key in ran if key[:2] == (group.name, data)}
            if group.best_of is not None:
                assert chosen == {best_on_validation(cells, group.best_of, data)}
            else:
                assert len(chosen) == group.front_size
                assert len({study.families[model] for model in chosen}) == group.front_size
            expected |= {(group.name, data, model, method) for model in chosen for method in group.methods}
    assert sorted(ran) == sorted(expected)
    for cell in cells:
        assert 0 <= cell["metrics"]["accuracy"]["value"] <= 1
        assert Path(cell["bundle"], "model.json").is_file()
    elsewhere = {(cell["model"], name) for cell in cells for name in cell["elsewhere"]}
    wanted = {(key[2], name) for group in groups for key in ran if key[0] == group.name for name in group.test_on}
    assert elsewhere == wanted
    tables = (tmp_path / "tables.md").read_text()
    assert "say nothing about any model" in tables
    for entry in study.published:
        assert entry.row in tables
    assert "not run;" not in tables
    assert all(question.ask in tables for question in study.questions)
    assert tables.count("(a trial)") >= 2
    assert (NOT_COMPARED in tables) == bool(study.published)
    assert "than published" not in tables
    page = (tmp_path / "report.html").read_text()
    assert "A trial, its figures mean nothing" in page
    assert all(escape(entry.row) in page for entry in study.published)
    assert all(escape(question.ask) in page for question in study.questions)
    assert len(page) < 5_000_000
    pictures = [path for path in document["files"] if path.endswith((".svg", ".png"))]
    rankings = {(cell["group"], cell["data"], cell["method"]) for cell in cells}
    assert len(pictures) >= 4 * len(rankings) * ("run" in study.drawings)
    bars = [path for path in pictures if path.endswith("/bars.svg")]
    assert len(bars) == sum(len(group.data) > 1 for group in groups) * ("bars" in study.drawings)
    assert {"comparison", "run"} <= set(study.drawings)


def best_on_validation(cells: list[dict[str, Any]], group: str, data: str) -> str:
    rivals = [cell for cell in cells if (cell["group"], cell["data"]) == (group, data)]
    fit = {
        cell["model"]: (cell["fit"]["val_accuracy"]["value"], -cell["fit"]["val_nll"]["value"]) for cell in rivals
    }
    return max(fit, key=fit.__getitem__)


@pytest.mark.parametrize(
    ("given", "settings", "expected"),
    [
        ("resnet18.a1_in1k@random", {}, "resnet18.a1_in1k@random"),
        ("resnet18.a1_in1k@32", {"image_size": 64}, "resnet18.a1_in1k@64"),
        ("resnet18.a1_in1k@random@32", {"image_size": 64}, "resnet18.a1_in1k@random@64"),
        ("resnet18.a1_in1k@32", {"random_weights": True}, "resnet18.a1_in1k@random@32"),
        ("resnet18.a1_in1k@random@32", {"random_weights": True}, "resnet18.a1_in1k@random@32"),
        ("tiny_cnn", {"random_weights": True, "image_size": 16}, "tiny_cnn@16"),
    ],
)
def test_a_variant_of_a_model_stays_what_the_study_says(
    given: str, settings: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(BASE.replace('"pixels"', f'"{given}"'))
    steps = plan_steps(read_study(file), Settings(out=tmp_path, **settings))
    assert steps[0].request.models == (expected,)


def test_a_trial_is_short_where_the_length_proves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(BASE.replace('"knn"', '"logistic", "ridge", "full"').replace('"pixels"', '"tiny_cnn"'))
    for is_trial, expected in ((True, [4, 4, 1]), (False, [24, 25, 10])):
        settings = Settings(out=tmp_path, random_weights=is_trial, epochs=1 if is_trial else None)
        (step,) = plan_steps(read_study(file), settings)
        options = [resolve_options(find_method(method.name), method) for method in step.request.methods]
        # type: ignore[attr-defined]
        assert [options[0].num_values, options[1].num_values, options[2].recipe.epochs] == expected


def test_the_same_command_computes_nothing_twice(tmp_path: Path) -> None:
    file = next(file for file in STUDIES if file.stem == "default")
    arguments = (str(file), "--out", str(tmp_path), "--json", "--no-figures", *SMOKE)
    run_study(*arguments)
    records = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/record.json")}
    assert records
    status, _ = run_study(*arguments)
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/record.json")} == records


def test_a_dry_run_lists_the_cells_and_does_nothing(tmp_path: Path) -> None:
    file = next(file for file in STUDIES if file.stem == "minivision")
    status, text = run_study(str(file), "--out", str(tmp_path / "out"), "--dry-run")
    assert status == 0
    assert re.search(r"CNNs at 32 px: cifar10 +2 runs +about", text)
    assert re.search(r"\n  torchvision/resnet18@32 \+ full +about", text)
    assert not (tmp_path / "out").exists()
    status, text = run_study(str(file), "--out", str(tmp_path / "out"), "--dry-run", "--json")
    first = json.loads(text)["steps"][0]
    assert (first["data"], first["num_images"], first["num_runs"]) == ("cifar10", 60_000, len(first["cells"]))
    assert first["cells"][0].keys() == {"model", "method", "seconds"}


MISTAKES = [
    ('name = "x"', "is missing|Field required"),
    ("name = ", "not valid TOML"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_a_mistake_in_a_study_is_said(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_study(file)


BASE = """
name = "mine"
title = "t"
source = "s"
about = "a"
[[groups]]
name = "one"
data = ["digits"]
models = ["pixels"]
methods = ["knn"]
"""
GROUP = """
[[groups]]
name = "two"
data = ["digits"]
models = ["pixels"]
methods = ["knn"]
after = "one"
after_data = "DATA"
after_method = "knn"
"""
QUESTION = "[[questions]]\nask = 'which?'\n"
PUBLISHED = """
[[published]]
table = "t"
row = "r"
column = "c"
group = "one"
model = "pixels"
method = "knn"
data = "digits"
"""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("options.logistic.C = 1", r"logistic, which is not among its methods \(knn\)"),
        ("seeds = [true]", r"groups 1 \('one'\), seeds.0: Input should be a valid integer"),
        ("train_limit = '40'", r"groups 1 \('one'\), train_limit: Input should be a valid integer"),
        ("seeds = ['0']", r"groups 1 \('one'\), seeds.0: Input should be a valid integer"),
        (PUBLISHED.replace("'r'", "''").replace('"r"', '""'), "published 1 .*, row: must not be empty."),
        ("after = 'none'\nafter_data = 'digits'\nafter_method = 'knn'", "no earlier group"),
        ("after = 'one'", "needs 'after_data'"),
        (
            "[[groups]]\nname = 'two'\nmodles = ['x']",
            "groups 2 \\('two'\\), modles: there is no such key. Did you mean 'models'",
        ),
        ("tset_on = ['x']", r"groups 1 \('one'\), tset_on: there is no such key. Did you mean 'test_on'"),
        ("best_of = 'two'", "takes the best of 'two', which is no earlier group"),
        ("front_of = 'two'\nfront_size = 1", "takes the front of 'two', which is no earlier group"),
        ("front_of = 'two'", "'front_of', a group, and 'front_size', .* belong together"),
        ("front_size = 2", "'front_of', a group, and 'front_size', .* belong together"),
        ("front_size = 0\nfront_of = 'two'", r"groups 1 \('one'\), front_size: .* greater than or equal to 1"),
        ("front_of = 'two'\nfront_size = 1\nbest_of = 'two'", "both choose its models: remove one of them"),
        (
            "optional = true" + GROUP.replace("DATA", "digits"),
            "starts from 'one', which is optional, so it has to be optional too",
        ),
        ("[families]\npixls = 'x'", "families: 'pixls' is no model of the study. Did you mean 'pixels'"),
        ("after_data = 'digits'", "need 'after'"),
        ("seeds = []", r"groups 1 \('one'\), seeds: .* at least 1 item"),
        (GROUP.replace("DATA", "digit"), "after_data: 'digit' is not in group 'one'. Did you mean 'digits'"),
        (GROUP.replace("DATA", "digits").replace("pixels", "tiny_cnn"), "'two': 'tiny_cnn' is not in group 'one'"),
        ("[trial]\npixls = 'x'", "'pixls' is no model of the study. Did you mean 'pixels'"),
        (
            QUESTION + "by = 'familys'\ngroups = ['one']",
            r"questions 1 \('which\?'\), by: Input should be .*'families'",
        ),
        (
            QUESTION + "by = 'best-features'\nmodels = ['pixels']\ngroups = ['one']",
            "'models', the family in question, belong to",
        ),
        (QUESTION + "by = 'own-network'\ngroups = ['one']", "'model', the network in question, belongs to"),
        (QUESTION + "by = 'own-network'\nmodel = 'cnn'\ngroups = ['one']", "'cnn' is in none of its groups"),
        (QUESTION + "by = 'best-features'\ngroups = ['ome']", "which does not exist. Did you mean 'one'"),
        (
            "[[published]]\ntable='t'\nrow='r'\ncolumn='c'\ngroup='two'\nmodel='m'\nmethod='x'\ndata='d'",
            "group 'two'",
        ),
        (
            "[[published]]\ntable='t'\nrow='r'\ncolumn='c'\ngroup='one'\nmodel='m'\nmethod='knn'\ndata='digits'",
            "'m' is not in group 'one'",
        ),
        (QUESTION + "by = 'families'\ngroups = ['one']", "'models', the family in question, belong to"),
        (
            QUESTION + "by = 'families'\nmodels = ['pixels']\ngroups = ['one']",
            "needs another model to compare with",
        ),
        (
            QUESTION + "by = 'own-network'\nmodel = 'pixels'\ngroups = ['one']",
            "needs another model to compare with",
        ),
        (QUESTION + "by = 'across-data'\ngroups = ['one']", "needs groups with two data sets"),
        (QUESTION + "by = 'both-resolutions'\ngroups = ['one']", "needs groups with two data sets"),
        (QUESTION + "by = 'generalisation'\ngroups = ['one']", "needs a group with 'test_on'"),
        (QUESTION + "by = 'between-groups'\ngroups = ['one']", "needs two groups or more"),
        (PUBLISHED + PUBLISHED, "published: table 't' has 'r', 'c' twice"),
        (PUBLISHED + "figure = 'recall'", "'label', a class, belongs to figure = 'recall'"),
        (PUBLISHED + "label = 'cat'", "'label', a class, belongs to figure = 'recall'"),
        (PUBLISHED + "over = 'ome'", "over group 'ome', which does not exist. Did you mean 'one'"),
        (PUBLISHED + "over = 'one'\nfigure = 'nll'", "'over' is for shares such as accuracy, and not for nll"),
        (PUBLISHED + "value = 97.5", "accuracy = 97.5 is no share from 0 to 1; 93.1 % is written 0.931"),
        (
            PUBLISHED + "value = -3\nfigure = 'seconds'",
            r"published 1 \('r'\): seconds = -3 is below 0; only a gain",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(more: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(BASE + more)
    with pytest.raises(ConfigError, match=said):
        read_study(file)


def test_wrong_names_are_found_before_any_work(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for good, bad, said in (
        ('"pixels"', '"pixls"', "Did you mean .pixels"),
        ('"knn"', '"kmm"', "unknown method 'kmm' in group 'one'"),
    ):
        file.write_text(BASE.replace(good, bad))
        with pytest.raises(ConfigError, match=said):
            plan_steps(read_study(file), Settings(out=tmp_path / "out"))
    file.write_text(BASE)
    with pytest.raises(ConfigError, match=r"Did you mean .one"):
        plan_steps(read_study(file), Settings(out=tmp_path, only=("ome",)))
    with pytest.raises(ConfigError, match="the study uses digits"):
        plan_steps(read_study(file), Settings(out=tmp_path, data={"cifar10": "here"}))
    with pytest.raises(ConfigError, match=r"digits. Did you mean 'digits'"):
        plan_steps(read_study(file), Settings(out=tmp_path, data={"digit": "here"}))
    with pytest.raises(ConfigError, match="--data digits=nowhere: there is no such folder, file or data set"):
        plan_steps(read_study(file), Settings(out=tmp_path, data={"digits": "nowhere"}))
    assert plan_steps(read_study(file), Settings(out=tmp_path, data={"digits": str(tmp_path)}))
    file.write_text(BASE + GROUP.replace("DATA", "digits"))
    with pytest.raises(ConfigError, match=r"it starts from 'one'\. Give --only 'one' too"):
        plan_steps(read_study(file), Settings(out=tmp_path, only=("two",)))
    with pytest.raises(ConfigError, match=r"Did you mean '.*mine.toml'"):
        read_study(tmp_path / "mien.toml")
    with pytest.raises(ConfigError, match=r"is a folder; name a file. There is .*mine.toml"):
        read_study(tmp_path)
