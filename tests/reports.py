"""Records and predictions made up for tests of the report: any number of runs, classes, images and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backbench.config import DataConfig, MethodConfig, Preprocess, RunConfig
from backbench.records.schema import (
    Cost,
    DataFacts,
    Failure,
    MethodFacts,
    ModelFacts,
    Predictions,
    RunRecord,
    StoredRun,
)
from backbench.stats.metrics import per_class_recall, score

CLASSES = ("cat", "dog", "owl")


def make_runs(
    accuracies: Sequence[float] = (0.95, 0.93, 0.7),
    *,
    num_images: int = 120,
    classes: Sequence[str] = CLASSES,
    models: Sequence[str] | None = None,
    has_control: bool = True,
    manifest: str = "a" * 64,
    image_name: str = "{label}/{number:04d}.png",
    data_name: str = "pets",
) -> list[StoredRun]:
    """Runs of about these accuracies on the same test images, and a control that guesses."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % len(classes)
    ids = tuple(image_name.format(label=classes[label], number=n) for n, label in enumerate(labels.tolist()))
    models = models or [f"model_{index}" for index in range(len(accuracies))]
    runs = [
        _make_run(rng, name, accuracy, labels, ids, tuple(classes), manifest, data_name, number=index)
        for index, (name, accuracy) in enumerate(zip(models, accuracies, strict=True))
    ]
    if has_control:
        guess = 1 / len(classes)
        runs.append(
            _make_run(rng, "colour", guess, labels, ids, tuple(classes), manifest, data_name, is_control=True)
        )
    return runs


def _make_run(
    rng: np.random.Generator,
    model: str,
    accuracy: float,
    labels: np.ndarray,
    ids: tuple[str, ...],
    classes: tuple[str, ...],
    manifest: str,
    data_name: str,
    *,
    number: int = 0,
    is_control: bool = False,
) -> StoredRun:
    n, k = len(labels), len(classes)
    answers = np.where(rng.random(n) < accuracy, labels, (labels + rng.integers(1, max(2, k), n)) % k)
    told = rng.random((n, k)) * 0.2
    told[np.arange(n), answers] += 0.3 + rng.random(n)
    told = (told / told.sum(axis=1, keepdims=True)).astype(np.float32)
    record = RunRecord(
        run_id=f"run-{number}-{manifest[:2]}{'-control' if is_control else ''}",
        status="done",
        started="2026-01-02T03:04:05Z",
        config=_make_config(model),
        data=_make_data(classes, n, manifest, data_name),
        model=ModelFacts(
            name=model,
            architecture="timm/none",
            dim=8,
            preprocess=None if is_control else Preprocess(size=(224, 224)),
            num_parameters=1_000_000 * (number + 1),
            flops=1e9,
            weights_digest="b" * 64,
            weights_bytes=4_000_000,
            pretrained_on="ImageNet-1k",
            licence="MIT",
            is_control=is_control,
        ),
        method=MethodFacts(name="logistic", options={"tolerance": 1e-5}, choices={"C": 0.1 * (number + 1)}),
        metrics=score(told, labels),
        per_class=per_class_recall(told, labels, classes),
        cost=Cost(
            seconds={"read": 0.5, "forward": 2.0 + number, "head": 0.25}, images_per_second=50.0, num_images=n
        ),
        environment={"backbench": "0.1.0", "device": "cpu"},
    )
    return StoredRun(record, Predictions(ids, labels, told, classes))


def make_failure(model: str = "broken", message: str = "its weights are damaged") -> StoredRun:
    """A run that failed on the data of `make_runs`."""
    record = RunRecord(
        run_id="run-failed",
        status="failed",
        started="2026-01-02T03:04:05Z",
        config=_make_config(model),
        data=_make_data(CLASSES, 120, "a" * 64, "pets"),
        failure=Failure(kind="ModelError", message=message),
    )
    return StoredRun(record)


def _make_config(model: str) -> RunConfig:
    return RunConfig(data=DataConfig(source="pets"), model=model, method=MethodConfig(name="logistic"))


def _make_data(classes: Sequence[str], num_test: int, manifest: str, name: str) -> DataFacts:
    return DataFacts(
        name=name,
        classes=tuple(classes),
        num_train=300,
        num_val=60,
        num_test=num_test,
        manifest_digest=manifest,
        image_digest="c" * 64,
    )


# What a class, a file, a run or a data set may be called to harm a page, a table or a terminal.
HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)>",
    "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>",
    "<body onload=alert(1)>",
    "<style>*{display:none}</style>",
    "</style><script>alert(1)</script>",
    "<!--",
    "-->",
    "<!--<script>",
    "]]>",
    "<![CDATA[x]]>",
    "{{7*7}}",
    "{%raw%}",
    "{{config}}",
    "{#x#}",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
    "=cmd|'/C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\tx=1",
    "\rx",
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x00null",
    "\x08\x08back",
    "\u202eevil\u202c",
    "\u2066iso\u2069",
    "\u200bzero",
    "\ufeffbom",
    "\u2028line",
    "\u2029para",
    "&lt;b&gt;",
    "&amp;",
    "&#60;script&#62;",
    "%3Cscript%3E",
    "\\u003cscript\\u003e",
    '"onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "`-alert(1)-`",
    'x" style="position:fixed',
    "<math><mi xlink:href=data:x>",
    "<template><script>alert(1)",
    "<object data=x>",
    "<meta http-equiv=refresh content=0>",
    "<base href=//evil.example>",
    "<form action=//evil.example>",
    "http://evil.example/x.png",
    "a|b`c*d[e](f)",
    "x" * 10_000,
)
