"""The example notebooks run from top to bottom, Jupyter opens them, and cells that end in a value show it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "cifar10_efficientnet": ["Ranking", "Run", "Run"],
    "cifar10_resnet50": ["Ranking", "Run", "Run"],
    "cifar10_vit": ["Run", "Run", "Image"],
    "first_ranking": ["Ranking", "Run", "Classifier", "Image"],
    "pipeline": ["Run", "Image", "Image", "Image", "Image"],
}
"""Notebook -> what its cells show, in order."""
OF_STUDIES = sorted(SHOWN.keys() - {"first_ranking"})


def split_cells(text: str) -> list[str]:
    """The code of each code cell of a script in jupytext's percent format."""
    cells = text.split("\n# %%")[1:]
    return [cell.partition("\n")[2] for cell in cells if not cell.startswith(" [markdown]")]


def run_cell(code: str, names: dict[str, Any]) -> Any:
    """Run it as a notebook does: the value of a last expression is what is shown."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def run_notebook(name: str) -> tuple[dict[str, Any], list[Any]]:
    """Its names and what its cells showed, run from top to bottom in the current folder."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = split_cells((EXAMPLES / f"{name}.py").read_text())
    shown = [value for code in cells if (value := run_cell(code, names)) is not None]
    assert [type(value).__name__ for value in shown] == SHOWN[name]
    return names, shown


def test_every_notebook_is_tried_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_jupyter_opens_it_with_the_same_cells(name: str) -> None:
    jupytext = pytest.importorskip("jupytext")
    nbformat = pytest.importorskip("nbformat")
    path = EXAMPLES / f"{name}.py"
    notebook = jupytext.read(path)
    nbformat.validate(notebook)
    assert nbformat.reads(jupytext.writes(notebook, fmt="ipynb"), as_version=4).cells == notebook.cells
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert [source.strip() for source in split_cells(path.read_text())] == code
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].source.startswith("# ")  # a title first, and words before each kind of step
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= len(code) / 2


@pytest.mark.parametrize("name", OF_STUDIES)
def test_a_notebook_of_a_study_runs_in_its_trial_form(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKBENCH_TRIAL", "1")
    names, shown = run_notebook(name)
    printed = capsys.readouterr()
    assert "mean nothing" in printed.out
    assert printed.err == ""
    for value in shown:
        if hasattr(value, "_repr_html_"):
            assert value._repr_html_().startswith('<div class="backbench">')
    if name == "cifar10_efficientnet":
        record = names["large"].record
        assert record.method.options["recipe"]["batch_size"] == 32
        assert "steps of 32 images, 4 of them at a time" in printed.out
        assert [row.method for row in names["ranking"].rows if not row.control].count("full") == 2
    if name == "cifar10_vit":
        trained = {kind: names[kind]["ViT"].record.data for kind in ("few", "many")}
        assert trained["few"].num_train < trained["many"].num_train
        assert trained["few"].num_test == trained["many"].num_test
    if name == "pipeline":
        assert all(f"{model} " in printed.out for model in names["MODELS"])
        assert {path.name for path in Path("runs/pipeline").glob("*.png")} == {
            "answers.png",
            "clusters.png",
            "confusion.png",
        }


@pytest.mark.parametrize("name", OF_STUDIES)
def test_every_name_in_the_real_form_is_one_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings cell alone, without the trial: its models and data set are known to the catalog."""
    from backbench.registry import find_model, find_source

    monkeypatch.delenv("BACKBENCH_TRIAL", raising=False)
    names: dict[str, Any] = {"__name__": "__main__"}
    run_cell(split_cells((EXAMPLES / f"{name}.py").read_text())[0], names)
    assert not names["TRIAL"]
    assert find_source(names["DATA"]) is not None
    models = [names[key] for key in ("MODEL", "SMALL", "LARGE") if key in names] + [
        *names.get("MODELS", {}).values()
    ]
    assert models
    assert not [model for model in models if "random" in find_model(model).name]


def test_the_first_example_shows_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names, shown = run_notebook("first_ranking")
    for value in shown[:3]:
        assert value._repr_html_().startswith('<div class="backbench">')
    printed = capsys.readouterr()
    assert "majority" in printed.out  # the table with its controls
    assert "Grad-CAM for 0" in printed.out
    assert printed.err == ""
    assert names["run"].metrics["accuracy"].value > 0.8
    assert [answer.label for answer in names["answers"]][:2] == ["0", "1"]
    assert "digits" in (tmp_path / "first_ranking.html").read_text()


def test_every_cell_is_told_apart() -> None:
    assert split_cells("# %% [markdown]\n# words\n\n# %%\na = 1\n\n# %%\na\n") == ["a = 1\n", "a\n"]
