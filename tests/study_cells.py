"""Runs of studies made up for tests of their answers and tables: any model, method, data set, group and seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from backbench.config import DataConfig, MethodConfig, RunConfig
from backbench.records.schema import DataFacts, MethodFacts, ModelFacts, Predictions, RunRecord
from backbench.stats.metric import Metric
from backbench.stats.metrics import score
from backbench.studies.analysis.answers import answer_question
from backbench.studies.analysis.cells import Cell
from backbench.studies.analysis.comparable import Asked
from backbench.studies.analysis.facts import Facts, Kind, Remark, Unlike
from backbench.studies.schema import Published

T = TypeVar("T")
N = 200
CLASSES = ("ant", "bee")
LABELS = np.arange(N) % 2
IDS = tuple(f"{index:03}.png" for index in range(N))
TOLD: dict[str, Predictions] = {}


def make_cell(
    model: str,
    wrong: range,
    *,
    data: str = "small",
    method: str = "logistic",
    group: str = "probe",
    val: float = 0.5,
    num_test_seen: int = 0,
    num_val_seen: int = 0,
    options: dict[str, Any] | None = None,
    choices: dict[str, Any] | None = None,
    elsewhere: dict[str, Any] | None = None,
    seed: int = 0,
    digest: str | None = None,
    num_train: int = 100,
    label: str | None = None,
) -> Cell:
    """A run that answers all test images rightly but those; `val`: its accuracy on validation; `digest`: of the
    split, None: one for each data set and seed; `label`: of weights that an earlier group left."""
    answers = LABELS.copy()
    answers[list(wrong)] = 1 - answers[list(wrong)]
    probabilities = np.full((N, 2), 0.1, dtype=np.float32)
    probabilities[np.arange(N), answers] = 0.9
    run_id = f"{model}-{method}-{data}-{group}-{seed}-{wrong.start}-{wrong.stop}-{wrong.step}"
    TOLD[run_id] = Predictions(IDS, LABELS, probabilities, CLASSES)
    record = RunRecord(
        status="done",
        run_id=run_id,
        started="2025-05-03T12:00:00Z",
        config=RunConfig(data=DataConfig(source=data), model=model, method=MethodConfig(name=method)),
        data=DataFacts(
            name=data,
            classes=CLASSES,
            num_train=num_train,
            num_val=50,
            num_test=N,
            manifest_digest=digest or f"{data}-{seed}",
            image_digest=data,
        ),
        model=ModelFacts(
            name=model,
            architecture=f"timm/{model}",
            dim=8,
            preprocess=None,
            num_parameters=1000,
            weights_digest="",
            flops=None,
            pretrained_on="in1k",
            label=label,
        ),
        method=MethodFacts(name=method, options=options or {}, choices=choices or {}),
        metrics=score(probabilities, LABELS),
        fit={"val_accuracy": Metric(value=val, n=50)},
        num_test_seen=num_test_seen,
        num_val_seen=num_val_seen,
    )
    return Cell(group, data, model, method, seed, record, Path(run_id), Path(f"{run_id}.bundle"), elsewhere or {})


def tuned(model: str, epochs: int, **more: Any) -> Cell:
    return make_cell(model, range(20), method="full", options={"recipe": {"epochs": epochs}}, **more)


def tuned_by(model: str, recipe: dict[str, Any]) -> Cell:
    return make_cell(model, range(20), method="full", options={"recipe": recipe})


def with_fit(cell: Cell, train: float, val: float) -> Cell:
    fit = {"train_accuracy": Metric(value=train, n=100), "val_accuracy": Metric(value=val, n=50)}
    return replace(cell, record=cell.record.model_copy(update={"fit": fit}))


def publish(**more: Any) -> Published:
    return Published.model_validate(
        {
            "table": "Results",
            "row": "A",
            "column": "small",
            "value": 0.8,
            "figure": "accuracy",
            "group": "probe",
            "model": "a",
            "method": "logistic",
            "data": "small",
            "why": None,
        }
        | more
    )


def tried(accuracy: float) -> SimpleNamespace:
    """What a run reaches on 40 images of another source, which has the class ant alone."""
    return SimpleNamespace(
        metrics={"accuracy": Metric(value=accuracy, n=40)},
        mapping={"Ant": "ant"},
        num_images=40,
        common_size=(64, 48, 30),
    )


def ask(by: str, cells: list[Cell], **more: Any) -> Facts:
    """The answer by that rule."""
    return answer_question(by, Asked(cells, TOLD, **more))


def find(facts: Facts, kind: type[T]) -> list[T]:
    """The facts of that class."""
    return [fact for fact in facts if isinstance(fact, kind)]


def find_only(facts: Facts, kind: type[T]) -> T:
    """The one fact of that class that there is."""
    (fact,) = find(facts, kind)
    return fact


def unlike(facts: Facts) -> dict[str, tuple[str, ...]]:
    """Setting -> its values, where compared runs differ."""
    return {setting: values for fact in find(facts, Unlike) for setting, values in fact.settings}


def names_of(facts: Facts, kind: Kind) -> list[str]:
    """What the remarks of that kind are about, in order; runs as 'a + full on small'."""
    return [
        each if isinstance(each, str) else f"{each.title} + {each.method} on {each.data}"
        for fact in find(facts, Remark)
        if fact.kind == kind
        for each in fact.about
    ]
