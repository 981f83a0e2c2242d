"""The Python API: the same answers as the command line, light to import, safe to show, mistakes in words."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

import backbench
from backbench.arguments import list_methods, list_models
from backbench.cli import app
from backbench.errors import BackbenchError, ConfigError, Interrupted, StorageError
from backbench.explain import evidence
from backbench.records import folders
from backbench.records.schema import StoredRun
from backbench.report import ranked as ranked_module
from backbench.report.notebook import MAX_LINES, render_classifier, render_ranking, render_run
from backbench.report.ranked import RankedRuns, rank_runs
from backbench.report.summary import Sentence
from backbench.runs import probe
from backbench.runs import rank as study
from backbench.stats.metric import Metric
from conftest import make_photos
from reports import HOSTILE_NAMES as HOSTILE
from reports import make_failure, make_runs

ELEMENTS = {
    "div", "style", "p", "strong", "ul", "li", "dl", "dt", "dd", "figure", "figcaption",
    "table", "thead", "tbody", "tr", "th", "td", "svg", "line", "circle", "path", "text",
}  # fmt: skip


class Seen(HTMLParser):
    """What elements and attributes a piece of HTML has, and the text that is shown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def check_harmless(html: str) -> Seen:
    """Only our elements, no script, no address, every element closed."""
    seen = Seen(html)
    assert set(seen.elements) <= ELEMENTS
    assert seen.elements.count("style") == 1
    assert not {name for name in seen.attributes if name.startswith("on") or name in ("href", "src", "style")}
    assert seen.open == []
    assert "url(" not in html
    assert "@import" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    return seen


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, backbench.Ranking]:
    root = tmp_path_factory.mktemp("api")
    photos = make_photos(root / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKBENCH_CACHE", str(root / "cache"))
        made = backbench.rank(photos, "pixels", ["logistic", "centroid"], out=root / "runs", quiet=True)
    return photos, root / "runs", made


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> backbench.Run:
    root = tmp_path_factory.mktemp("adapted")
    options = {"recipe": {"epochs": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKBENCH_CACHE", str(root / "cache"))
        photos = make_photos(root / "photos")
        return backbench.adapt(photos, "tiny_cnn", "head", options, out=root / "runs", quiet=True)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, threading\nimport backbench\nbackbench.rank, backbench.Ranking\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'pydantic', 'PIL', 'matplotlib', 'jinja2', 'click'}\n"
        "print(sorted(heavy & set(sys.modules)), threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 1\n"


def test_no_module_bears_a_public_name() -> None:
    """Importing a module of that name would put it in the place of the function."""
    modules = {path.stem for path in Path(backbench.__file__).parent.iterdir()}
    assert modules & {"api", "runs"}  # the check looked at something
    assert not modules & set(backbench.__all__)


def test_every_public_function_takes_named_arguments_alone_and_says_what_it_does() -> None:
    for name in ("rank", "adapt", "open_run", "open_ranking", "load"):
        function = getattr(backbench, name)
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds
        assert "Raises:" in (inspect.getdoc(function) or "")


def test_a_ranking_is_that_of_the_command_line(ranked: tuple[Path, Path, backbench.Ranking]) -> None:
    photos, runs, made = ranked
    command = [
        "rank",
        str(photos),
        "--models",
        "pixels",
        "--methods",
        "logistic,centroid",
        "--out",
        str(runs),
        "-q",
    ]
    printed = CliRunner().invoke(app, command).stdout
    rows = printed.splitlines()[2:9]
    assert made.rows[0].model == "pixels"
    for line in rows:
        assert line.split()[1] in made.table
    assert [run.record.run_id for run in made.runs] == [row.run_id for row in made.rows]
    assert made.best is made.runs[0]
    assert made.best.metrics["accuracy"].value == made.rows[0].accuracy
    assert made.best.predictions.correct.mean() == pytest.approx(made.rows[0].accuracy)
    assert "test images" in made.summary[0]
    assert max(map(len, made.table.splitlines())) <= 120
    assert repr(made).startswith("Ranking(photos, 6 rows: best pixels + ")


def test_a_study_opened_again_is_the_one_that_was_made(
    ranked: tuple[Path, Path, backbench.Ranking], tmp_path: Path
) -> None:
    _, runs, made = ranked
    again = backbench.open_ranking(runs)
    assert [row.run_id for row in again.rows] == [row.run_id for row in made.rows]
    assert [row.rank_low for row in again.rows] == [row.rank_low for row in made.rows]
    page = again.report(tmp_path / "page.html", has_images=False, quiet=True)
    assert made.summary[0][:40] in page.read_text()
    run = backbench.open_run(made.runs[0].record.run_id, out=runs)
    assert run.path == made.runs[0].path == backbench.open_run(made.runs[0].path).path
    assert run.record == made.runs[0].record
    assert repr(run) == repr(made.runs[0])


def test_rows_are_made_once_for_each_new_run_and_runs_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests between all pairs are most of what a table costs; a run that is read again may have changed."""
    counts: Counter[str] = Counter()

    def count(module: ModuleType, name: str) -> None:
        function = getattr(module, name)

        def counted(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(module, name, counted)

    monkeypatch.setenv("BACKBENCH_CACHE", str(tmp_path / "cache"))
    for module in (study, ranked_module):
        count(module, "make_rows")
    count(folders, "read_record")
    count(evidence, "read_manifest")
    photos, runs = make_photos(tmp_path / "photos"), tmp_path / "runs"
    made = backbench.rank(photos, "pixels", ["logistic", "centroid"], out=runs, quiet=True)
    num = len(made.rows)
    assert counts["make_rows"] == num
    made.report(tmp_path / "page.html", has_images=False, quiet=True)
    assert counts["make_rows"] == num, "the page shows the ranking as it was made"

    counts.clear()
    more = backbench.rank(photos, "pixels", ["logistic", "centroid", "knn"], out=runs, quiet=True)
    assert (counts["make_rows"], len(more.rows)) == (1 + 1, num + 1), "once for what was there, once for the new"
    counts.clear()
    assert [run.record.run_id for run in more.runs] == [row.run_id for row in more.rows]
    assert not counts, "the ranking holds its runs as they were read"

    counts.clear()
    again = backbench.open_ranking(runs)
    assert (again.rows, again.summary) == (more.rows, more.summary)
    assert again.best is not None
    assert again.best.predictions.ids == again.ranked.ids
    again.report(tmp_path / "again.html", has_images=False, quiet=True)
    assert counts == {"make_rows": 1, "read_record": num + 1, "read_manifest": 1}


def test_a_probe_of_a_ranking_has_no_model_and_says_how_to_make_it(
    ranked: tuple[Path, Path, backbench.Ranking],
) -> None:
    best = ranked[2].best
    assert best is not None
    assert best.bundle is None
    with pytest.raises(ConfigError, match=rf"backbench\.open_run\('.*{best.path.name}'\)\.keep\(\)"):
        _ = best.classifier


def test_the_recommended_run_can_be_kept_as_it_was_measured(
    ranked: tuple[Path, Path, backbench.Ranking], tmp_path: Path
) -> None:
    photos, out, made = ranked
    kept = backbench.open_ranking(shutil.copytree(out, tmp_path / "runs"))
    run = kept.recommended
    assert run is not None
    assert made.recommended is not None
    assert run.record == made.recommended.record
    before = (tmp_path / "runs" / "openings.jsonl").read_bytes()
    assert run.keep(quiet=True) == run.path.with_name(f"{run.path.name}.bundle") == run.bundle
    assert (tmp_path / "runs" / "openings.jsonl").read_bytes() == before  # no test image was looked at
    images = {f"{path.parent.name}/{path.name}": path for path in photos.glob("*/*.png")}
    told = run.predictions
    answers = run.classifier.predict([images[name] for name in told.ids])
    said = [told.classes[label] for label in told.probabilities.argmax(axis=1)]
    assert [answer.label for answer in answers] == said


def test_an_adapted_run_predicts_and_shows_its_training(adapted: backbench.Run) -> None:
    assert adapted.bundle is not None
    assert adapted.classifier is adapted.classifier  # read once
    (answer,) = adapted.classifier.predict(next((adapted.path.parents[1] / "photos").glob("*/*.png")))
    assert answer.label in ("circle", "cross", "stripes")
    assert len(adapted.history["head"]["history"]) == 2
    seen = check_harmless(adapted._repr_html_())
    assert "path" in seen.elements  # the curves
    for said in ("Accuracy", "Weakest class", "epoch", "Your model", "Cost", "licence"):
        assert said in seen.text
    assert repr(adapted.classifier) == "Classifier(tiny_cnn, 3 classes, on cpu)"
    shown = check_harmless(adapted.classifier._repr_html_()).text
    for said in (
        "3: circle, cross and stripes",
        "backbench/tiny_cnn",
        "32 x 32 px",
        "MB",
        "calibrated",
        "Apache-2.0",
    ):
        assert said in shown


def test_runs_on_two_data_sets_are_never_one_study(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        photos = make_photos(tmp_path / name, num=8 if name == "one" else 9)
        backbench.rank(photos, "pixels", "centroid", out=runs, quiet=True)
    with pytest.raises(ConfigError, match=r"2 sets of test images: .*one \(5 runs\)"):
        backbench.open_ranking(runs)
    assert backbench.open_ranking(runs, data="two").data_name == "two"
    with pytest.raises(ConfigError, match=r"unknown data set 'thre' in data.*one, two"):
        backbench.open_ranking(runs, data="thre")
    with pytest.raises(ConfigError, match="Did you mean 'two'"):
        backbench.open_ranking(runs, data="twoo")


def test_what_failed_is_a_row_and_what_is_damaged_is_left_out(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = probe.extract_for

    def fail_for_pixels(resolved: Any, *rest: Any) -> Any:
        if resolved.model.name == "pixels":
            raise ValueError("<b>burst</b>")
        return real(resolved, *rest)

    monkeypatch.setattr(probe, "extract_for", fail_for_pixels)
    runs = tmp_path / "runs"
    for _ in range(2):  # a second failure has a folder of its own
        made = backbench.rank(photos, "pixels", "centroid", out=runs, quiet=True)
    assert made.best is None
    assert "nothing finished" in repr(made)
    failed = made.runs[-1]
    assert failed.path.name.endswith(".failed-2")
    with pytest.raises(ConfigError, match="failed, so there are no predictions"):
        _ = failed.predictions
    assert "burst" in check_harmless(made._repr_html_()).text
    assert "burst" in check_harmless(failed._repr_html_()).text
    (made.runs[0].path / "record.json").write_text("{")
    again = backbench.open_ranking(runs)
    assert len(again.runs) == len(again.rows) == len(made.rows) - 1
    assert any("damaged" in warning for warning in again.warnings)


def test_an_interrupt_before_any_run_is_said(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "_rank_one", interrupt)
    with pytest.raises(Interrupted):
        backbench.rank(photos, "pixels", out=tmp_path / "runs", quiet=True)


Call = Callable[[Path], object]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda photos: backbench.rank([photos], "pixels"), "data is a list; expected a folder"),
        (lambda photos: backbench.rank(photos, [1]), "models is a int"),
        (lambda photos: backbench.rank(photos, "pixls"), "Did you mean 'pixels'"),
        (lambda photos: backbench.rank(photos, "pixels", "logistc"), "Did you mean 'logistic'"),
        (lambda photos: backbench.rank(photos, "pixels", []), "methods is empty"),
        (lambda photos: backbench.rank(photos, "pixels", {"knn": {"neighbours": 3}}), "no option 'neighbours'"),
        (lambda photos: backbench.rank(photos, "pixels", {"knn": 3}), "options can't be 3"),
        (lambda photos: backbench.rank(photos, "pixels", on_bad="maybe"), "on_bad can't be 'maybe'"),
        (lambda photos: backbench.rank(photos, "pixels", seed=-1), "seed can't be -1"),
        (lambda photos: backbench.rank(photos, "pixels", limit=2), "limit can't be 2"),
        (lambda photos: backbench.rank(photos, "pixels", min_images=1), "min_images can't be 1"),
        (lambda photos: backbench.rank(photos, "pixels", min_images=10_000), "leaves 0 classes"),
        (lambda photos: backbench.rank(photos, "pixels", test_fraction=1.5), "test_fraction can't be 1.5"),
        (
            lambda photos: backbench.rank(photos, "pixels", split_folders={"a": "tst"}),
            "split_folders.a can't be 'tst'",
        ),
        (lambda photos: backbench.rank(photos, "pixels", ignore="nowhere"), "--ignore nowhere"),
        (lambda photos: backbench.adapt(photos, "tiny_cnn", "head", split_column="x"), "--split-column x"),
        (lambda photos: backbench.rank(photos, "pixels", budget_seconds=0), "budget_seconds is 0"),
        (lambda photos: backbench.rank(photos, "pixels", budget_seconds="10m"), "budget_seconds is '10m'"),
        (lambda photos: backbench.rank(photos, "pixels", ["knn", "full"], top=0), "top is 0"),
        (lambda photos: backbench.rank(photos, "pixels", ["knn", "full"], top="two"), "top is 'two'"),
        (lambda photos: backbench.rank(photos, "pixels", "knn", top=1), ", such as ['logistic'"),
        (lambda photos: backbench.rank(photos, "pixls"), "'pixls' in models."),
        (lambda photos: backbench.rank(photos, "pixels", "logistc"), "'logistc' in methods."),
        (lambda photos: backbench.open_ranking(photos / "missing"), "there is no such folder"),
        (lambda photos: backbench.rank(photos, "pixels", device="gpu"), "unknown device 'gpu'"),
        (lambda photos: backbench.rank(photos / "nowhere", "pixels"), "nowhere"),
        (lambda photos: backbench.adapt(photos, "tiny_cn", "head"), "Did you mean 'tiny_cnn"),
        (lambda photos: backbench.adapt(photos, ["tiny_cnn", "pixels"], "head"), "model is a list"),
        (lambda photos: backbench.adapt(photos, "tiny_cnn", "hed"), "Did you mean 'head'"),
        (lambda photos: backbench.adapt(photos, "colour", "logistic"), "is a control"),
        (lambda photos: backbench.adapt(photos, "tiny_cnn", "head", {"recipe": {"epochs": 0}}), "recipe.epochs"),
        (lambda photos: backbench.open_run(photos), "no run"),
        (lambda photos: backbench.open_ranking(photos), "holds no runs"),
        (lambda photos: backbench.load(photos), "not a bundle"),
    ],
)
def test_mistakes_end_in_words(call: Call, said: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    with pytest.raises(BackbenchError, match=re.escape(said)):
        call(photos)
    assert not (photos.parent / "runs").is_dir() or not list((photos.parent / "runs").glob("*/record.json"))


def test_a_report_that_cannot_be_written_is_said(
    ranked: tuple[Path, Path, backbench.Ranking], tmp_path: Path
) -> None:
    with pytest.raises(StorageError):
        ranked[2].report(tmp_path, has_images=False, quiet=True)


def make_hostile(count: int = 3) -> tuple[RankedRuns, list[StoredRun]]:
    """A ranking whose names and warnings are all from `HOSTILE`."""
    stored = make_runs([0.9 - 0.01 * row for row in range(count)], classes=HOSTILE, data_name=HOSTILE[0])
    runs = []
    for row, run in enumerate(stored):
        word = HOSTILE[row % len(HOSTILE)]
        config = run.record.config.model_copy(update={"model": word + str(row)})
        facts = {"name": word + str(row), "licence": word, "architecture": word, "source": word}
        assert run.record.model is not None
        model = run.record.model.model_copy(update=facts)
        record = run.record.model_copy(update={"config": config, "model": model, "warnings": tuple(HOSTILE)})
        epoch = {"epoch": 1.0, "train_accuracy": 0.5, "train_loss": 1.2, "val_accuracy": 0.4, "val_loss": 1.0}
        history = {word: {"best_epoch": 1, "ended": word, "history": [epoch]}}
        runs.append(replace(run, record=record, history=history))
    return replace(
        rank_runs(runs), warnings=tuple(HOSTILE), sentences=tuple(Sentence(name, "lead") for name in HOSTILE)
    ), runs


def test_hostile_names_are_text_in_every_piece() -> None:
    ranked, runs = make_hostile()
    seen = check_harmless(render_ranking(ranked))
    for word in ("<img src=x onerror=alert(1)>", "</style><script>alert(1)</script>", "{{7*7}}"):
        assert word in HOSTILE
        assert word in seen.text
    assert len(seen.text) < 30_000  # nothing endless
    for run in runs:
        assert HOSTILE[0] in check_harmless(render_run(run, Path(HOSTILE[1]))).text
    facts = runs[1].record.model
    assert facts is not None
    piece = render_classifier(facts, HOSTILE, num_bytes=1000, temperature=1.0, threshold=0.0, device=HOSTILE[0])
    assert "not calibrated" in check_harmless(piece).text
    assert HOSTILE[0] in Seen(piece).text
    made = backbench.Ranking(ranked)
    assert "\n" not in repr(made)
    assert "\x1b" not in repr(made)


def test_a_study_shows_intervals_ties_controls_and_figures_in_text() -> None:
    ranked = rank_runs([*make_runs(), make_failure()])
    seen = check_harmless(render_ranking(ranked))
    assert seen.elements.count("tr") == 1 + 5
    best = ranked.rows[0]
    assert best.accuracy is not None
    assert f"{100 * best.accuracy:.1f}" in seen.text
    for said in ("best", "control", "95 %", "model_0", "pets", "its weights are damaged"):
        assert said in seen.text
    assert "fill:#fff" not in render_ranking(ranked).lower()  # what is around decides the background


def test_long_studies_are_cut_and_say_so() -> None:
    ranked = rank_runs(make_runs([0.9 - 0.005 * row for row in range(MAX_LINES + 5)]))
    seen = check_harmless(render_ranking(ranked))
    assert seen.elements.count("tr") == 1 + MAX_LINES + 1
    assert "5 rows more" in seen.text


def test_a_metric_without_an_interval_is_drawn_as_a_dot_alone() -> None:
    (run,) = make_runs([0.9], has_control=False)
    record = run.record.model_copy(update={"metrics": {"accuracy": Metric(value=0.5, n=10)}, "per_class": {}})
    seen = check_harmless(render_run(StoredRun(record)))
    assert seen.elements.count("circle") == 1
    assert "50.0" in seen.text


def test_methods_may_come_with_options() -> None:
    (one, two) = list_methods({"knn": {"k": [3]}, "logistic": {}})
    assert (one.name, one.options, two.options) == ("knn", {"k": [3]}, {})
    assert [method.name for method in list_methods("knn")] == ["knn"]
    assert list_models(Path("mine.toml")) == ("mine.toml",)
