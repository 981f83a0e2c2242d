"""The example notebook runs from top to bottom, and every cell that ends in a value shows one."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "first_ranking.py"


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


def test_the_example_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = split_cells(EXAMPLE.read_text())
    assert len(cells) == 8
    shown = [value for code in cells if (value := run_cell(code, names)) is not None]
    assert [type(value).__name__ for value in shown] == ["Study", "Run", "Classifier", "Image"]
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
