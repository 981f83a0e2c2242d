"""Records that were changed after they were written: noticed wherever they are read, and never believed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter, ValidationError

import backbench
from backbench.backbones.core.bundle_files import TrainingFacts
from backbench.cli import app
from backbench.config import DataConfig, MethodConfig, RunConfig, digest_json
from backbench.data.manifest import Manifest, write_manifest
from backbench.errors import StorageError
from backbench.explain.evidence import ReportRequest, gather_report
from backbench.progress import Progress
from backbench.records import folders
from backbench.records.schema import DataFacts, MethodFacts, Predictions, RunRecord
from backbench.runs.cross_dataset import Elsewhere, _read_found, _write_found
from backbench.stats.calibrate import measure_answered, softmax
from backbench.stats.metric import Metric
from backbench.stats.metrics import per_class_recall, score

NUM, CLASSES, TEMPERATURE = 120, tuple("abcdefg"), 1.7


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def make_manifest(ids: list[str], labels: np.ndarray) -> Manifest:
    """All of them test images; what else a manifest holds does not matter here."""
    num = len(ids)
    hashes = tuple(f"{row:064x}" for row in range(num))
    parts, groups = ("test",) * num, (None,) * num
    return Manifest("photos", CLASSES, tuple(ids), labels, groups, parts, hashes, np.arange(num))


def write(root: Path, run_id: str, *, skill: float = 2.0) -> Path:
    """A finished run of plausible answers, with every figure that a run that trains has."""
    labels = np.random.default_rng(0).integers(0, len(CLASSES), NUM)
    rng = np.random.default_rng(len(run_id))
    logits = rng.normal(size=(NUM, len(CLASSES))) + skill * np.eye(len(CLASSES))[labels]
    manifest = make_manifest([f"img/{row}.png" for row in range(NUM)], labels)
    predictions = Predictions(manifest.ids[:NUM], labels, softmax(logits), CLASSES)
    tempered = score(softmax(logits, TEMPERATURE), labels)
    metrics = score(predictions.probabilities, labels)
    metrics |= {f"calibrated_{name}": tempered[name] for name in ("nll", "ece")}
    metrics |= measure_answered(softmax(logits, TEMPERATURE), labels, 0.5)
    record = RunRecord(
        run_id=run_id,
        status="done",
        started="2026-01-01T00:00:00Z",
        config=RunConfig(data=DataConfig(source="photos"), model=run_id, method=MethodConfig(name="ridge")),
        data=DataFacts(
            name="photos",
            classes=CLASSES,
            num_train=6,
            num_val=2,
            num_test=NUM,
            manifest_digest=manifest.digest,
            image_digest=manifest.image_digest,
        ),
        method=MethodFacts(name="ridge", choices={"temperature": TEMPERATURE, "val_accuracy": 0.5}),
        metrics=metrics,
        per_class=per_class_recall(predictions.probabilities, labels, CLASSES),
        fit={"val_accuracy": Metric(value=0.5, low=0.3, high=0.7, n=20)},
        num_test_seen=3,
    )
    return folders.write_run(root, record, predictions, lambda path: write_manifest(manifest, path))[1]


def edit(folder: Path, change: Any, *, checksum: str = "kept") -> None:
    """Change record.json; its checksum is 'kept', 'made' anew, or 'none', as in an old record."""
    path = folder / "record.json"
    document = json.loads(path.read_bytes())
    change(document)
    if checksum != "kept":
        document.pop("checksum", None)
    if checksum == "made":
        document["checksum"] = digest_json(document)
    elif checksum == "none":
        document["schema_version"] = 1
    path.write_text(json.dumps(document))


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inside is None:
        yield place
    for key, part in inside or ():
        yield from leaves(part, (*place, key))


def put(document: Any, place: tuple[Any, ...], value: Any = None) -> None:
    """Another value at that place: that one, or one near to what is there."""
    for key in place[:-1]:
        document = document[key]
    there = document[place[-1]]
    if value is None:
        value = (
            there + 1 if isinstance(there, int) else there * 0.5 + 0.01 if isinstance(there, float) else "other"
        )
    document[place[-1]] = value


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for name in ("first", "second-run"):
        write(root, name)
    return root


@pytest.fixture
def runs(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "runs"))


def test_whole_runs_are_believed_and_nothing_is_said(runs: Path) -> None:
    record, predictions = folders.read_whole(runs / "first")
    assert predictions is not None
    assert record.checksum is not None
    assert record.warnings == ()
    path = runs / "first" / "record.json"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_bytes()).items())), indent=3))  # another layout
    assert folders.find_finished(runs, "first") == record
    assert gather_report(ReportRequest((str(runs),), has_images=False, map_method="none"))[2] == []


def test_every_value_of_a_record_is_covered_by_its_checksum(runs: Path) -> None:
    path = runs / "first" / "record.json"
    content = path.read_bytes()
    places = list(leaves(json.loads(content)))
    assert len(places) > 100
    for place in places:
        edit(runs / "first", lambda document, place=place: put(document, place))
        with pytest.raises(
            StorageError, match=r"first/record\.json (was changed after it was written|is damaged|was written by)"
        ):
            folders.read_record(runs / "first")
        path.write_bytes(content)
    assert folders.read_record(runs / "first").num_test_seen == 3


WITH_INTERVAL = ("accuracy", "top5", "per_class_mean", "nll", "calibrated_nll")
FIGURES = (*WITH_INTERVAL, "macro_f1", "ece", "brier", "calibrated_ece")
PARTS = [(name, part) for name in FIGURES for part in ("value", "n")]
PARTS += [(name, part) for name in WITH_INTERVAL for part in ("low", "high")]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_figures_of_an_old_record_are_those_of_its_predictions(runs: Path, name: str, part: str) -> None:
    true, _ = folders.read_whole(runs / "first")
    edit(runs / "first", lambda document: put(document, ("metrics", name, part)), checksum="none")
    record, _ = folders.read_whole(runs / "first")
    assert record.metrics[name].value == pytest.approx(true.metrics[name].value, abs=1e-3)
    assert record.metrics[name].n == NUM or name in ("per_class_mean", "macro_f1")
    assert re.match(
        f"record.json disagrees with its predictions: (the interval of )?{name}[ .]", record.warnings[0]
    )


def test_an_interval_that_alone_was_changed_is_named(runs: Path) -> None:
    edit(runs / "first", lambda document: put(document, ("metrics", "accuracy", "low"), 0.001), checksum="none")
    (warning,) = folders.read_whole(runs / "first")[0].warnings
    assert "predictions: the interval of accuracy. The values from the predictions" in warning


def test_classes_of_an_old_record_are_those_of_its_predictions(runs: Path) -> None:
    true, _ = folders.read_whole(runs / "first")
    edit(runs / "first", lambda document: document["per_class"].pop("a"), checksum="none")
    record, _ = folders.read_whole(runs / "first")
    assert record.per_class == true.per_class
    assert "metrics of its classes" in record.warnings[0]


@pytest.mark.parametrize("name", ["accuracy", "nll"])
def test_a_checksum_made_anew_does_not_help(runs: Path, name: str) -> None:
    edit(runs / "first", lambda document: put(document, ("metrics", name, "value"), 0.001), checksum="made")
    record, _ = folders.read_whole(runs / "first")
    assert record.metrics[name].value > 0.1
    assert record.warnings[0].startswith("record.json disagrees with its predictions")


def test_an_old_record_that_is_right_is_read_and_said_once(runs: Path) -> None:
    for name in ("first", "second-run"):
        edit(runs / name, lambda document: None, checksum="none")
    assert folders.read_whole(runs / "first")[0].warnings == ()
    *_, warnings = gather_report(ReportRequest((str(runs),), has_images=False, map_method="none"))
    assert len(warnings) == 1
    assert warnings[0].startswith("2 of 2 records were written before records had a checksum")
    shown = " ".join(CliRunner().invoke(app, ["show", str(runs / "first")]).output.split())
    assert "Warning the record was written before records had a checksum" in shown


def swap_labels(folder: Path) -> None:
    with np.load(folder / "predictions.npz") as arrays:
        kept = dict(arrays)
    kept["labels"] = kept["probabilities"].argmax(axis=1)  # all right
    np.savez(folder / "predictions.npz", **kept)


DAMAGES = {
    "accuracy": lambda folder: edit(
        folder, lambda document: put(document, ("metrics", "accuracy", "value"), 0.999)
    ),
    "no files": lambda folder: edit(folder, lambda document: document.update(files={})),
    "no files, old": lambda folder: edit(folder, lambda document: document.update(files={}), checksum="none"),
    "no checksum": lambda folder: edit(folder, lambda document: document.pop("checksum")),
    "another's id": lambda folder: edit(folder, lambda document: document.update(run_id="../../home")),
    "an id that leads out": lambda folder: edit(
        folder, lambda document: document.update(run_id="r/../../../../home/me"), checksum="none"
    ),
    "predictions": swap_labels,
    "deep": lambda folder: (folder / "record.json").write_text("[" * 200_000),
    "deep options": lambda folder: (folder / "record.json").write_text('{"config": ' * 50_000),
    "zeros": lambda folder: (folder / "record.json").write_bytes(b"\0" * 3000),
    "bad byte": lambda folder: (folder / "record.json").write_bytes(
        (folder / "record.json").read_bytes().replace(b"photos", b"ph\xfftos", 1)
    ),
    "empty": lambda folder: (folder / "record.json").write_bytes(b""),
    "a list": lambda folder: (folder / "record.json").write_text("[]"),
    "huge": lambda folder: edit(
        folder, lambda document: put(document, ("metrics", "accuracy", "value"), 10**400), checksum="none"
    ),
    "not a number": lambda folder: (folder / "record.json").write_text(
        (folder / "record.json").read_text().replace('"n": 120', '"n": NaN')
    ),
    "torn": lambda folder: os.truncate(folder / "record.json", 700),
    "no predictions": lambda folder: (folder / "predictions.npz").unlink(),
    "a folder": lambda folder: ((folder / "predictions.npz").unlink(), (folder / "predictions.npz").mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_run_is_left_out_of_a_report_and_refused_by_name(runs: Path, damage: str) -> None:
    folder = runs / "first"
    (folder / "record.json").chmod(0o644)
    DAMAGES[damage](folder)
    *_, warnings = gather_report(ReportRequest((str(runs),), has_images=False, map_method="none"))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"left out: {folder.resolve()}/")
    ranking = backbench.open_ranking(runs)
    assert [row.run_id for row in ranking.rows] == ["second-run"]
    assert any(warning.startswith("left out") for warning in ranking.warnings)
    with pytest.raises(StorageError, match="first"):
        backbench.open_run(folder)
    for arguments in (["show", str(folder)], ["report", str(folder), "--format", "md"]):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, StorageError), result.exception
        assert "0.999" not in result.output
        assert "99.9" not in result.output


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_run_is_kept_aside_and_run_again_and_that_is_said(runs: Path, damage: str) -> None:
    DAMAGES[damage](runs / "first")
    log = Log()
    assert folders.find_finished(runs, "first", progress=log) is None
    (line,) = log.lines
    assert "first/" in line
    (kept,) = runs.glob("first.damaged-*")
    assert line.endswith(f"The folder is kept as {kept.name}, and the run starts again")
    assert folders.find_finished(runs, "second-run") is not None


def test_a_manifest_that_was_changed_is_no_part_of_a_report(runs: Path) -> None:
    path = runs / "first" / "manifest.json"
    text = path.read_text().replace('"label": ["', '"label": ["a", "', 1)
    path.unlink()  # its place on the disk is shared
    path.write_text(text)
    _, (evidence,), _ = gather_report(ReportRequest((str(runs),), has_images=False, map_method="none"))
    assert any("missing: " in note for note in evidence.notes)
    assert folders.find_finished(runs, "first") is None


@pytest.mark.parametrize(
    ("checksum", "said"), [("kept", "changed after"), ("none", "not the manifest of the run")]
)
def test_the_manifest_of_other_images_is_not_taken(runs: Path, checksum: str, said: str) -> None:
    other = make_manifest(["x/1.png", "x/2.png"], np.array([0, 1]))
    for name in ("first", "second-run"):
        (runs / name / "manifest.json").unlink()
        write_manifest(other, runs / name / "manifest.json")
        edit(runs / name, lambda document: None, checksum=checksum)
    _, (evidence,), _ = gather_report(ReportRequest((str(runs),), has_images=False, map_method="none"))
    assert any(said in note for note in evidence.notes)


def test_a_kept_manifest_that_was_changed_is_not_linked_into_new_runs(runs: Path) -> None:
    (kept,) = (runs / ".manifests").iterdir()
    content = (runs / "first" / "manifest.json").read_bytes()
    kept.unlink()
    kept.write_text("{}")
    for name in ("third", "one more"):
        assert (write(runs, name) / "manifest.json").read_bytes().startswith(b'{"schema": 1')
    assert (runs / "first" / "manifest.json").read_bytes() == content


def test_figures_kept_for_other_data_that_were_changed_are_computed_again(tmp_path: Path) -> None:
    place = tmp_path / "x.json"
    found = Elsewhere("other", {"a": "b"}, {"accuracy": Metric(value=0.5, low=0.4, high=0.6, n=9)}, 9, 1, 2)
    _write_found(place, found)
    assert _read_found(place) == found
    whole = json.loads(place.read_bytes())
    for change in (
        lambda kept: put(kept, ("metrics", "accuracy", "value"), 0.999),
        lambda kept: kept.pop("checksum"),
    ):
        kept = json.loads(json.dumps(whole))
        change(kept)
        place.write_text(json.dumps(kept))
        assert _read_found(place) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "r/../../../../home/me", "/etc", "a\\b", "C:x", "a\0b", "a\nb"]
)
def test_an_id_that_leads_out_of_a_folder_is_no_runs(name: str) -> None:
    for kind in (RunRecord, TrainingFacts):
        field = TypeAdapter(Annotated[str, *kind.model_fields["run_id"].metadata])
        assert field.validate_python("digits-pixels-logistic-c3a4860873.cut-12") != name
        with pytest.raises(ValidationError, match="not a folder name"):
            field.validate_python(name)
