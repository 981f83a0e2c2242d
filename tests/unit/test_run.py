"""One path for a run: every method by the same call, and what a run that is finished does not do again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backbench.backbones.core.original_head import OriginalHead
from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.data.load import load_data
from backbench.errors import ConfigError
from backbench.records.commands import bundle_of
from backbench.records.folders import read_record, read_run
from backbench.records.resume import lock_path, working_folder
from backbench.registry import MethodSpec, list_methods
from backbench.runs import probe
from backbench.runs import run as runs
from backbench.runs.context import RunContext
from backbench.runs.identity import Resolved, resolve
from backbench.runs.probe import Shared
from backbench.runs.run import keep_run, run

DIGITS = DataConfig(source="digits", limit=80)


MODELS = {"parts": "tiny_vit"}  # it trains parts of transformers


def resolve_quickly(method: str, model: str = "tiny_cnn") -> Resolved:
    """A run on a few digits, of one epoch where epochs are asked for; `zeroshot` with a classifier to take."""
    (spec,) = (spec for spec in list_methods() if spec.name == method)
    fields = spec.options.model_fields  # type: ignore[attr-defined]
    options = {"recipe": {"epochs": 1}} if "recipe" in fields and "qat_epochs" not in fields else {}
    resolved = resolve(RunConfig(data=DIGITS, model=model, method=MethodConfig(name=method, options=options)))
    if not spec.needs_head:
        return resolved
    assert resolved.model.load is not None
    dim, classes = resolved.model.load(0).facts.dim, load_data(DIGITS).manifest.classes
    weights = np.random.default_rng(0).standard_normal((len(classes), dim)).astype(np.float32)
    head = OriginalHead(weights, np.zeros(len(classes), dtype=np.float32), classes)
    return replace(resolved, model=replace(resolved.model, load_head=lambda: head))


def count_openings(out: Path) -> int:
    return len((out / "openings.jsonl").read_text().splitlines())


def refuse_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "fit_probe", "finish"):
        monkeypatch.setattr(runs, name, lambda *_: pytest.fail("a finished run was carried out again"))


@pytest.mark.parametrize("method", list_methods(), ids=lambda method: method.name)
def test_every_method_runs_once(method: MethodSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve_quickly(method.name, MODELS.get(method.name, "tiny_cnn"))
    context, data = RunContext(tmp_path), load_data(DIGITS)
    record = run(resolved, context)
    assert (record.status, record.run_id) == ("done", resolved.run_id(data))
    stored, rows = read_run(tmp_path / record.run_id), data.manifest.part_rows("test")
    assert stored.record == record
    assert stored.predictions is not None
    assert stored.predictions.ids == tuple(data.manifest.ids[row] for row in rows)
    assert stored.predictions.labels.tolist() == data.manifest.labels[rows].tolist()
    assert record.metrics["accuracy"].n == len(rows)
    assert ("calibrated_ece" in record.metrics, stored.history is not None) == (method.trains, method.trains)
    assert bundle_of(tmp_path / record.run_id).is_dir() is method.trains
    assert not working_folder(tmp_path, record.run_id).exists()
    assert not lock_path(tmp_path, record.run_id).exists()
    refuse_work(monkeypatch)
    assert run(resolved, context) == record
    assert count_openings(tmp_path) == 1


@pytest.mark.parametrize("method", ["ridge", "head"])
def test_a_missing_bundle_is_made_without_the_test_split(method: str, tmp_path: Path) -> None:
    resolved, context = resolve_quickly(method), RunContext(tmp_path, keeps_probes=True)
    record = run(resolved, context)
    bundle = bundle_of(tmp_path / record.run_id)
    weights = (bundle / "weights.safetensors").read_bytes()
    shutil.rmtree(bundle)
    assert run(resolved, context) == record
    assert (bundle / "weights.safetensors").read_bytes() == weights
    shutil.rmtree(bundle)
    assert keep_run(tmp_path / record.run_id, RunContext()).bundle == bundle
    assert bundle.is_dir()
    assert count_openings(tmp_path) == 1


def test_a_model_that_the_budget_cut_is_not_that_of_the_finished_run(tmp_path: Path) -> None:
    resolved = resolve_quickly("two-phase")
    record = run(resolved, RunContext(tmp_path))
    shutil.rmtree(bundle_of(tmp_path / record.run_id))
    cut = run(resolved, RunContext(tmp_path, deadline=0.0))
    assert cut.run_id.startswith(f"{record.run_id}.cut-")
    assert bundle_of(tmp_path / cut.run_id).is_dir()
    assert not bundle_of(tmp_path / record.run_id).exists()
    assert read_record(tmp_path / record.run_id) == record


def test_probes_share_one_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, data = Shared(), load_data(DIGITS)
    first = run(resolve_quickly("ridge"), RunContext(tmp_path), data=data, shared=shared)
    monkeypatch.setattr(probe, "extract_for", lambda *_: pytest.fail("features were extracted again"))
    monkeypatch.setattr(runs, "load_data", lambda *_: pytest.fail("images were read again"))
    second = run(resolve_quickly("knn"), RunContext(tmp_path), data=data, shared=shared)
    assert first.model == second.model
    assert run(resolve_quickly("knn"), RunContext(tmp_path), data=data) == second


@pytest.mark.parametrize(("method", "is_refused"), [("ridge", False), ("full", True)])
def test_a_control_is_probed_and_never_trained(method: str, is_refused: bool, tmp_path: Path) -> None:
    resolved, context = resolve_quickly(method, "colour"), RunContext(tmp_path, keeps_probes=True)
    if is_refused:
        with pytest.raises(ConfigError, match="no network to adapt"):
            run(resolved, context)
        assert not any(tmp_path.iterdir())
    else:
        record = run(resolved, context)
        assert record.status == "done"
        assert not bundle_of(tmp_path / record.run_id).exists()  # there is no network to keep
