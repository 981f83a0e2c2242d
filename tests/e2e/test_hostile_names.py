"""Names with escape sequences, direction marks and line separators: none reaches a terminal or a table."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from backbench import cli
from backbench.cli import app
from backbench.errors import BackbenchError, printable
from backbench.progress import PlainProgress
from backbench.report.text import in_csv
from conftest import make_photos

HOSTILE = "\x1b[31mred\x07\u202egnp\u2028x\x9b\u2066"
DANGEROUS = ("Cc", "Cf", "Zl", "Zp", "Cs")


def find_dangerous(text: str) -> set[str]:
    return {char for char in text if char != "\n" and unicodedata.category(char) in DANGEROUS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_photos(tmp_path_factory.mktemp("hostile") / f"data{HOSTILE}", num=12)
    for place in sorted(root.iterdir()):
        named = place.rename(place.with_name(place.name + HOSTILE))
        image = min(named.iterdir())
        image.rename(image.with_name(f"=1{HOSTILE}.png"))
    return root


def run(*arguments: object) -> Result:
    """What the command prints, with the message of an error as `main` prints it."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, BackbenchError):
        return done
    assert done.exit_code in (0, 1), (arguments, done.output, done.exception)
    assert not find_dangerous(done.stdout), arguments
    assert not find_dangerous(done.stderr), arguments
    return done


def test_no_verb_hands_a_name_to_the_terminal_as_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = f"runs{HOSTILE}"
    run("scan", folder)
    run("rank", folder, "--models", "tiny_cnn", "--methods", "centroid", "--out", out)
    run("adapt", folder, "--model", "tiny_cnn", "--method", "centroid", "--out", out)
    (bundle,) = Path(out).glob("*.bundle")
    run("show", bundle.with_suffix(""))
    run("evaluate", bundle, folder)
    run("predict", bundle, folder)
    run("predict", bundle, folder, "--csv", f"table{HOSTILE}.csv")
    run("explain", bundle, folder, "--out", f"pictures{HOSTILE}")
    for kind in ("md", "csv", "card", "data-card"):
        run("report", out, "--format", kind)
    run("report", out, "-o", f"report{HOSTILE}.html")
    for arguments in (
        ("rank", f"{folder}x"),
        ("predict", bundle, f"{folder}/none"),
        ("show", f"none{HOSTILE}"),
        ("study", "run", f"none{HOSTILE}.toml"),
        ("resume", f"none{HOSTILE}"),
        ("inbox", "list", "--inbox", f"none{HOSTILE}"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, BackbenchError)
        cli._print_error(error)
    said = capsys.readouterr().err
    assert said.count("error: ") >= 6
    assert not find_dangerous(said)


def test_a_table_of_answers_is_plain_and_json_is_exact(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run("adapt", folder, "--model", "tiny_cnn", "--method", "centroid", "--out", out)
    (bundle,) = out.glob("*.bundle")
    run("predict", bundle, folder, "--csv", tmp_path / "table.csv")
    table = (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert not find_dangerous(table)
    rows = list(csv.DictReader(io.StringIO(table)))
    exact = json.loads(run("predict", bundle, folder, "--json").stdout)["predictions"]
    assert [row["path"] for row in rows] == [printable(entry["path"]) for entry in exact]
    assert any(HOSTILE in entry["path"] for entry in exact)
    assert {row["label"] for row in rows} <= {printable(entry["label"]) for entry in exact}


@pytest.mark.parametrize(
    ("given", "cell"),
    [
        ("=1", "'=1"), ("+1", "'+1"), ("-1", "'-1"), ("@a", "'@a"), (" =1", "' =1"), ("＝1", "'＝1"),
        ("\t=", "'\\t="), ("\r", "'\\r"), ("\n=1", "'\\n=1"), ("\ufeff=1", "\\ufeff=1"), ("a=1", "a=1"),
        ("", ""), (None, ""), (-1.5, "-1.5"), ("\x1b[2Jx", "\\x1b[2Jx"), ("a\x00b", "a\\x00b"),
        ("\u202eb", "\\u202eb"), ("\u2028", "\\u2028"), ("\x85", "\\x85"), ("\udce9", "\\udce9"),
        ("Ä 猫 🐈", "Ä 猫 🐈"),
    ],
)  # fmt: skip
def test_one_function_makes_cells_safe(given: object, cell: str) -> None:
    assert in_csv(given) == cell


def test_progress_says_names_in_plain_characters() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    progress.say(f"reading {HOSTILE}\nand more")
    progress.warn(HOSTILE)
    assert not find_dangerous(stream.getvalue())
    assert stream.getvalue().count("\n") == 3
