"""`evaluate` and a bundle's card name figures as the record does: plain ones, and those after the temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backbench.classifier.card import render_bundle_card
from backbench.cli.evaluate import render_evaluation
from backbench.config import DataConfig, MethodConfig, Preprocess, RunConfig
from backbench.records.schema import DataFacts, MethodFacts, ModelFacts, RunRecord
from backbench.report.record_text import describe_figures
from backbench.report.text import percent
from backbench.runs.evaluate import measure
from backbench.runs.labelled import Labelled
from backbench.stats.calibrate import measure_answered, softmax
from backbench.stats.intervals import wilson_interval
from backbench.stats.metric import Metric
from backbench.stats.metrics import measure_share, score

CLASSES = ("ant", "bee", "fly")
LABELS = np.arange(60) % 3
LOGITS = np.random.default_rng(0).normal(size=(60, 3)) + 2 * np.eye(3)[LABELS]
IMAGES = Labelled(
    name="insects",
    part="test",
    labels=tuple(CLASSES[label] for label in LABELS),
    groups=(None,) * 60,
    ids=tuple(str(index) for index in range(60)),
    read=lambda index: np.zeros((1, 1, 3), np.uint8),
    said="the test split of 'insects'",
    digest="aa",
    num_seen=295,
)


def _measure(threshold: float) -> dict[str, Any]:
    return measure(IMAGES, LOGITS, LABELS, CLASSES, temperature=2.0, threshold=threshold).to_document()


def test_figures_are_named_as_in_the_record() -> None:
    metrics = _measure(0.6)["metrics"]
    plain, after = score(softmax(LOGITS), LABELS), score(softmax(LOGITS, 2.0), LABELS)
    for name in ("accuracy", "nll", "ece", "brier"):
        assert metrics[name]["value"] == pytest.approx(plain[name].value), name
    for name in ("nll", "ece"):
        assert metrics[f"calibrated_{name}"]["value"] == pytest.approx(after[name].value), name
        assert abs(after[name].value - plain[name].value) > 0.001, "else this tells nothing"
    answered = measure_answered(softmax(LOGITS, 2.0), LABELS, 0.6)
    for name in ("coverage", "answered_accuracy"):
        assert metrics[name] == answered[name].model_dump(), name
    assert "coverage" not in _measure(0.0)["metrics"]


def test_the_accuracy_of_what_is_answered_has_its_interval() -> None:
    found = measure_answered(softmax(LOGITS), LABELS, 0.6)["answered_accuracy"]
    assert (found.low, found.high) == wilson_interval(round(found.value * found.n), found.n)
    groups = [f"camera {row // 20}" for row in range(len(LABELS))]
    grouped = measure_answered(softmax(LOGITS), LABELS, 0.6, groups)["answered_accuracy"]
    rows = np.flatnonzero(softmax(LOGITS).max(axis=1) >= 0.6)
    right = softmax(LOGITS).argmax(axis=1)[rows] == LABELS[rows]
    assert grouped == measure_share(right, [groups[row] for row in rows])
    assert (grouped.low, grouped.high) != (found.low, found.high)


def test_the_heading_says_how_many_were_left_out() -> None:
    text = render_evaluation(_measure(0.6) | {"bundle": "b"})
    assert text.startswith("b on the test split of 'insects': 60 of the 355 test images (295 left out: the model")


def test_figures_are_printed_as_show_prints_them_and_the_threshold_is_explained() -> None:
    document = _measure(0.6)
    lines = render_evaluation({"bundle": "b", **document}).splitlines()
    metrics = {name: Metric.model_validate(metric) for name, metric in document["metrics"].items()}
    for label, text in describe_figures(metrics, 60, is_tempered=True):
        assert f"{label:<18}{text}" in lines
    accuracy = metrics["accuracy"]
    assert f"Accuracy          {percent(accuracy.value, 60):<9}" in "\n".join(lines)
    assert any(line.startswith("Log loss") and "(calibrated; " in line for line in lines)
    assert any("at least 60.0 %, the model's threshold" in line for line in lines)
    assert any(line.startswith("ant ") and " % " in line and line.endswith("  of 20") for line in lines)
    assert not any("likelihood" in line or "0.6000" in line for line in lines)
    plain = measure(IMAGES, LOGITS, LABELS, CLASSES, temperature=1.0, threshold=0.0).to_document()
    text = render_evaluation({"bundle": "b", **plain})
    assert "temperature" not in text
    assert "threshold" not in text


def test_a_card_says_which_confidences_a_figure_is_of() -> None:
    facts = ModelFacts(
        name="m",
        architecture="m",
        dim=4,
        preprocess=None,
        num_parameters=10,
        flops=None,
        weights_digest="",
        pretrained_on=None,
    )
    metrics = {name: Metric(value=0.1, n=60) for name in ("accuracy", "ece", "calibrated_ece")}
    record = RunRecord(
        run_id="r",
        status="done",
        started="2025-05-03T12:00:00Z",
        config=RunConfig(data=DataConfig(source="insects"), model="m", method=MethodConfig(name="full")),
        data=DataFacts(
            name="insects",
            classes=CLASSES,
            num_train=1,
            num_val=1,
            num_test=60,
            manifest_digest="a",
            image_digest="b",
        ),
        method=MethodFacts(name="full", choices={"temperature": 2.0}),
        metrics=metrics,
    )

    def render(record: RunRecord) -> str:
        return render_bundle_card(
            "m", facts, CLASSES, preprocess=Preprocess(size=(8, 8)), temperature=2.0, threshold=0.0, record=record
        )

    text = render(record)
    assert "| calibration error, calibrated | 0.100 |" in text
    assert "| calibration error, uncalibrated | 0.100 |" in text
    assert "| accuracy | 0.100 |" in text
    del metrics["calibrated_ece"]
    assert "the temperature |" not in render(record.model_copy(update={"metrics": metrics}))
