"""Run folders: written once, whole or absent, read back as they were, damage noticed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.errors import ConfigError, StorageError
from backbench.records import folders
from backbench.records.folders import find_run_folders
from backbench.records.openings import count_openings, log_opening
from backbench.records.schema import DataFacts, Failure, Predictions, RunRecord
from backbench.stats.metric import Metric


def make_record(run_id: str = "digits-pixels-ridge-0123456789", status: str = "done") -> RunRecord:
    return RunRecord(
        run_id=run_id,
        status=status,  # type: ignore[arg-type]
        started="2026-01-01T00:00:00Z",
        config=RunConfig(data=DataConfig(source="digits"), model="pixels", method=MethodConfig(name="ridge")),
        data=DataFacts(
            name="digits",
            classes=("0", "1"),
            num_train=6,
            num_val=2,
            num_test=2,
            manifest_digest="ab" * 32,
            image_digest="cd" * 32,
        ),
        metrics={"accuracy": Metric(value=0.5, low=0.1, high=0.9, n=2)} if status == "done" else {},
        failure=None if status == "done" else Failure(kind="ModelError", message="no weights"),
    )


def make_predictions(ids: tuple[str, ...] = ("a/1.png", "a/\udce9 ünï\n2.png")) -> Predictions:
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5]], dtype=np.float32)
    return Predictions(ids, np.array([0, 1]), probabilities, ("0", "1"))


def write_manifest(path: Path) -> None:
    path.write_text("{}")


def write(root: Path, record: RunRecord | None = None) -> RunRecord:
    return folders.write_run(root, record or make_record(), make_predictions(), write_manifest)[0]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = write(tmp_path)
    folder = tmp_path / written.run_id
    assert folders.read_record(folder) == written
    assert set(written.files) == {"predictions.npz", "manifest.json"}
    predictions = folders.read_predictions(folder)
    assert predictions.ids == make_predictions().ids
    assert predictions.classes == ("0", "1")
    np.testing.assert_array_equal(predictions.probabilities, make_predictions().probabilities)
    assert folders.find_finished(tmp_path, written.run_id) == written


def test_two_runs_share_one_manifest_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path, make_record(name))
    if os.name == "posix":
        assert (tmp_path / "one" / "manifest.json").samefile(tmp_path / "two" / "manifest.json")


def test_a_record_is_not_overwritten(tmp_path: Path) -> None:
    first = write(tmp_path)
    second = write(tmp_path, make_record().model_copy(update={"started": "2027-01-01T00:00:00Z"}))
    assert second == first
    assert not list(tmp_path.glob(".writing-*"))


def test_failures_get_folders_of_their_own(tmp_path: Path) -> None:
    for _ in range(2):
        folders.write_run(tmp_path, make_record(status="failed"), None, write_manifest)
    names = sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("."))
    assert names == [f"{make_record().run_id}.failed-1", f"{make_record().run_id}.failed-2"]
    assert folders.find_finished(tmp_path, make_record().run_id) is None


@pytest.mark.parametrize("name", ["predictions.npz", "manifest.json", "record.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_run_is_run_again_and_nothing_is_lost(tmp_path: Path, name: str, damage: str) -> None:
    run_id = write(tmp_path).run_id
    path = tmp_path / run_id / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        content[0] ^= 255
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1] if name != "record.json" else content[:-5])
    assert folders.find_finished(tmp_path, run_id) is None
    assert list(tmp_path.glob(f"{run_id}.damaged-*"))


def test_an_unwritable_root_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"can't write .*file.*--out"):
        folders.prepare_root(tmp_path / "file" / "runs")
    with pytest.raises(StorageError, match="can't write"):
        folders.write_run(tmp_path / "file" / "runs", make_record(), make_predictions(), write_manifest)


def test_a_failed_write_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path)
    assert [entry for entry in tmp_path.iterdir() if entry.name != ".manifests"] == []


@pytest.mark.parametrize("error", [StorageError("the disk is full"), KeyboardInterrupt(), MemoryError()])
def test_whatever_ends_a_write_leaves_no_half_written_run(tmp_path: Path, error: BaseException) -> None:
    def fail(_: Path) -> None:
        raise error

    with pytest.raises(type(error)):
        folders.write_run(tmp_path, make_record(), make_predictions(), fail)
    assert not list(tmp_path.iterdir())


def test_old_orphans_are_swept_and_young_ones_kept(tmp_path: Path) -> None:
    for name, age in (("old", 100 * 3600), ("young", 60)):
        folder = tmp_path / f".writing-{name}"
        folder.mkdir()
        stamp = folder.stat().st_mtime - age
        os.utime(folder, (stamp, stamp))
    folders.prepare_root(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".writing-young"]


def test_a_newer_schema_is_named_not_guessed(tmp_path: Path) -> None:
    run_id = write(tmp_path).run_id
    path = tmp_path / run_id / "record.json"
    document = json.loads(path.read_text()) | {"schema_version": 99}
    path.write_text(json.dumps(document))
    with pytest.raises(StorageError, match="newer backbench"):
        folders.read_record(tmp_path / run_id)


def test_find_run_takes_a_folder_an_id_or_its_beginning(tmp_path: Path) -> None:
    for name in ("digits-a-ridge-11", "digits-b-ridge-22"):
        write(tmp_path, make_record(name))
    assert folders.find_run(tmp_path, "digits-a").name == "digits-a-ridge-11"
    assert folders.find_run(tmp_path, "digits-b-ridge-22").name == "digits-b-ridge-22"
    assert folders.find_run(tmp_path, str(tmp_path / "digits-a-ridge-11")).name == "digits-a-ridge-11"
    assert folders.find_run(Path("elsewhere"), str(tmp_path / "digits-a")) == tmp_path / "digits-a-ridge-11"
    with pytest.raises(ConfigError, match=rf"not a run folder or a run id in {tmp_path}. Did you mean"):
        folders.find_run(Path("elsewhere"), str(tmp_path / "digits-a-rigde-11"))
    with pytest.raises(ConfigError, match="beginning of 2 runs"):
        folders.find_run(tmp_path, "digits")
    with pytest.raises(ConfigError, match="Did you mean 'digits-a-ridge-11"):
        folders.find_run(tmp_path, "digits-a-rigde-11")
    with pytest.raises(ConfigError, match="no run"):
        folders.find_run(tmp_path / "nowhere", "x")


def test_of_attempts_at_one_run_a_folder_of_runs_means_the_one_that_got_furthest(tmp_path: Path) -> None:
    attempts = [
        "a.failed-1",
        "a.cut-9",
        "a.cut-10",
        "b",
        "b.cut-99",
        "b.failed-2",
        "c.failed-9",
        "c.failed-10",
        "d.cut",
    ]
    for name in attempts:
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").touch()
    means = [folder.name for folder in find_run_folders([str(tmp_path)], tmp_path)]
    assert means == ["a.cut-10", "b", "c.failed-10", "d.cut"]
    assert [name for name in attempts if folders.is_whole(name)] == ["b", "d.cut"]
    by_name = find_run_folders([str(tmp_path / "a.cut-9"), "b.cut-99"], tmp_path)  # what is asked for is given
    assert [folder.name for folder in by_name] == ["a.cut-9", "b.cut-99"]


def _write_many(root: Path, worker: int) -> None:
    for number in range(20):
        log_opening(root, "m", f"{worker}-{number}")
        write(root, make_record(f"run-{number}"))


def test_processes_that_write_the_same_runs_do_not_disturb_one_another(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    workers = [context.Process(target=_write_many, args=(tmp_path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert count_openings(tmp_path, "m") == 80
    for number in range(20):
        assert folders.find_finished(tmp_path, f"run-{number}") is not None
    assert not list(tmp_path.glob(".writing-*"))
    shutil.rmtree(tmp_path)
