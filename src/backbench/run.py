"""run(config) -> record: the steps of one run, readable on one screen.

A ranking runs many cells that share data and features, so the steps are functions of their own:
`decide_run_id`, `extract_for`, `complete_run`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from backbench import ledger
from backbench.catalog import MethodSpec, ModelSpec, find_method, find_model
from backbench.config import Frozen, MethodConfig, Precision, RunConfig, digest_json
from backbench.data.load import Data, load_data
from backbench.data.manifest import write_manifest
from backbench.data.seen import find_seen, read_seen
from backbench.data.sizes import common_sizes
from backbench.engine.task import Features, Task
from backbench.errors import (
    OUT_OF_MEMORY,
    BackbenchError,
    ConfigError,
    TrainingDiverged,
    is_out_of_memory,
    nearest,
)
from backbench.evaluate.calibrate import softmax
from backbench.evaluate.metrics import fit_figures, per_class_recall, score
from backbench.openings import log_opening
from backbench.progress import SILENT, Progress
from backbench.records import (
    Cost,
    DataFacts,
    Failure,
    MethodFacts,
    Metric,
    ModelFacts,
    Predictions,
    RunRecord,
)
from backbench.runtime import describe_environment, peak_memory_bytes
from backbench.speeds import remember_speed
from backbench.unfinished import hold_probe

if TYPE_CHECKING:
    from backbench.backbones.networks.base import Backbone
    from backbench.engine.heads import Fitted

MOST_ROUNDING = 0.1
"""See `records.Cost.rounding`: 0.01 to 0.03 is usual in bf16, and one MobileNetV2 was met at 0.36."""
PROTOCOL_VERSION = 4
"""Part of every run id: raised when the same config would give other figures than before."""


class SeenCounts(NamedTuple):
    """How many validation and test images taught a model's weights in an earlier run of one's own."""

    num_val: int = 0
    num_test: int = 0


NOTHING_SEEN = SeenCounts()


@dataclass(frozen=True)
class Extracted:
    """Features of every image of a manifest, in its order: values (n, dim) float32, and what they cost.

    `backbone` is the network that made them, or could: whoever wants it as well need not load it again.
    """

    model: ModelFacts
    values: np.ndarray
    cost: Cost
    warnings: tuple[str, ...] = ()
    seen: SeenCounts = NOTHING_SEEN
    backbone: Backbone | None = None


def run(
    config: RunConfig, *, out: Path = Path("runs"), device: str = "cpu", progress: Progress = SILENT
) -> RunRecord:
    """Carry out one run, or give back its record if it is finished already.

    Raises:
        BackbenchError: the data, the model or the output folder can't be used. A ranking turns errors of a
            model or a method into failure records instead; here they reach the caller.
    """
    data = load_data(config.data, progress)
    model = find_model(config.model_file or config.model)
    run_id = decide_run_id(config, data, model)
    with hold_probe(out, run_id, progress=progress):
        finished = ledger.find_finished(out, run_id, progress=progress)
        if finished is not None:
            return finished
        extracted = extract_for(model, config, data, device=device, progress=progress)
        return complete_run(config, run_id, data, extracted, out=out, device=device)[0]


def decide_run_id(config: RunConfig, data: Data, model: ModelSpec) -> str:
    """The name of a run: readable, and different whenever a figure could differ.

    What counts is content: the manifest (ids, labels, parts, bytes of every image), the weights, the method
    with all its options, seed, precision and resize path. Where the data lies, the device and the output
    folder do not count.
    """
    method = find_method(config.method.name)
    identity = {
        "protocol": PROTOCOL_VERSION,
        "manifest": data.manifest.digest,
        "model": [model.name, model.identity],
        "method": [method.name, resolve_options(method, config.method).model_dump(mode="json")],
        "seed": config.seed,
        "precision": config.precision,
        "exact_resize": config.exact_resize,
    }
    words = "-".join(slug(word) for word in (data.manifest.name, model.name, method.name))
    return f"{words}-{digest_json(identity)[:10]}"


def is_begun(out: Path, model: ModelSpec) -> bool:
    """Whether there are runs of the model, or of one whose name begins alike: finished ones need no weights."""
    return any(out.glob(f"*-{slug(model.name)}-*"))


def resolve_options(method: MethodSpec, config: MethodConfig, *, from_file: bool = False) -> Frozen:
    """All options of a method, checked; ConfigError names the option, what was given and what is allowed.

    `from_file`: they were read from one, so that is where to write them, and not on the command line.
    """
    try:
        defaults: Frozen = method.options()
        merged = _merge(defaults.model_dump(), config.options)
        options: Frozen = method.options.model_validate(merged)  # type: ignore[attr-defined]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # or a kind of a union
        allowed = _list_options(method.options)
        if first["type"] == "extra_forbidden":
            group = name[: name.rfind(".") + 1]
            within = [other for other in allowed if other.startswith(group)]
            close = nearest(name.removeprefix(group), [other.removeprefix(group) for other in within])
            hint = f"Did you mean '{group}{close[0]}'?" if close else f"Allowed: {', '.join(within)}."
            raise ConfigError(f"method '{method.name}' has no option '{name}'. {hint}") from error
        raise ConfigError(
            f"option '{name}' of method '{method.name}' can't be {first['input']!r}: "
            f"{first['msg'].removeprefix('Value error, ')}."
            f"{_say_how_to_write(name, first['type'], allowed, from_file=from_file)}"
        ) from error
    return options


def _say_how_to_write(name: str, mistake: str, allowed: Sequence[str], *, from_file: bool) -> str:
    """How a list and a group of options are given, where that was the mistake."""
    within = [other for other in allowed if other.startswith(f"{name}.")]
    if mistake == "tuple_type":
        return (
            f" Write a list as in: {name} = [...]" if from_file else f" Write a list as in: --set '{name}=[...]'"
        )
    if mistake == "model_type" and within:
        return f" Set what is in it, as in: {f'{within[0]} = ...' if from_file else f'--set {within[0]}=...'}"
    return ""


def _merge(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` over `defaults`, group by group: one option of a recipe changes that option alone."""
    merged = dict(defaults)
    for name, value in given.items():
        before = merged.get(name)
        merged[name] = _merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def _list_options(options: type, prefix: str = "") -> list[str]:
    """The names of all options, those within an option as 'recipe.epochs'."""
    names = []
    for name, field in options.model_fields.items():  # type: ignore[attr-defined]
        names.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Frozen):
            names += _list_options(field.annotation, f"{prefix}{name}.")
    return names


def extract_for(
    model: ModelSpec,
    config: RunConfig,
    data: Data,
    *,
    device: str,
    deadline: float | None = None,
    progress: Progress = SILENT,
) -> Extracted:
    """Features of all images of the manifest, from the cache where they are known.

    Args:
        deadline: `time.monotonic()` at which it must be done; BudgetExceeded as soon as that can't be.

    Raises:
        ModelError: weights missing or unfit. BadImage: a file changed since it was checked.
        BudgetExceeded: see `deadline`.
    """
    if model.describe is not None:
        return _describe_control(model, data)
    from backbench.backbones.networks.selftest import check_backbone
    from backbench.engine.features import extract_features

    backbone = load_backbone(model, config.seed, progress)
    check_backbone(backbone)
    doubts = warn_of_input(config, backbone)
    extraction = extract_features(
        backbone,
        data.read,
        data.manifest.hashes,
        names=data.manifest.ids,
        device=device,
        precision=config.precision,
        exact_resize=config.exact_resize,
        deadline=deadline,
        is_shared=True,
        progress=progress,
        stage_seconds=data.stage_seconds,
        grey=data.manifest.grey,
    )
    if not extraction.cost.features_from_cache:
        remember_speed(
            model,
            extraction.cost.num_images,
            extraction.cost.seconds.get("forward", 0.0),
            flops=backbone.facts.flops,
            device=device,
            precision=config.precision,
        )
    seen = count_seen(model, data)
    warnings = (*doubts, *_warn_of_rounding(extraction.cost, config.precision), *warn_of_seen(model, data))
    return Extracted(backbone.facts, extraction.values, extraction.cost, warnings, seen, backbone)


_TOLD: set[tuple[str, str]] = set()
"""Name and content of models whose choice of weights was told."""


def load_backbone(model: ModelSpec, seed: int, progress: Progress = SILENT) -> Backbone:
    """The network of a model that sees pixels; which tensors of its file were taken is told once.

    Raises:
        ModelError: weights missing or unfit.
    """
    assert model.load is not None  # every spec but those of controls has it
    backbone: Backbone = model.load(seed)
    if backbone.facts.checkpoint and (model.name, model.identity) not in _TOLD:
        _TOLD.add((model.name, model.identity))
        progress.say(f"{model.name}: used of its weights file: {backbone.facts.checkpoint}.")
    return backbone


def warn_of_input(config: RunConfig, backbone: Backbone) -> tuple[str, ...]:
    """What its weights say against the scale of pixels that a card gives; other models come with their own."""
    if config.model_file is None:
        return ()
    from backbench.backbones.networks.input_check import doubt_input

    doubt = doubt_input(backbone)
    return () if doubt is None else (doubt,)


def _warn_of_rounding(cost: Cost, precision: Precision) -> tuple[str, ...]:
    if cost.rounding is None or cost.rounding < MOST_ROUNDING:
        return ()
    return (
        f"{precision} moves the features by {100 * cost.rounding:.0f} % of how far those of different images lie "
        "apart: its figures may be worse than those of --precision fp32",
    )


def count_seen(model: ModelSpec, data: Data) -> SeenCounts:
    """Images that decide here, but taught the model's weights in an earlier run of one's own.

    Raises:
        StorageError: the list of those images can't be read.
    """
    if model.seen_file is None:
        return NOTHING_SEEN
    known = read_seen(Path(model.seen_file)).backbone

    def count(part: str) -> int:
        hashes = [data.manifest.hashes[row] for row in data.manifest.part_rows(part)]
        return int(find_seen(hashes, known).sum())

    return SeenCounts(num_val=count("val"), num_test=count("test"))


def warn_of_seen(model: ModelSpec, data: Data) -> tuple[str, ...]:
    """What to say where images that decide here taught the model's weights in an earlier run of one's own.

    Raises:
        StorageError: the list of those images can't be read.
    """
    seen, counts = count_seen(model, data), data.manifest.counts
    found = []
    for num, total, word, consequence in (
        (seen.num_test, counts["test"], "test", "its figures are too good"),
        (seen.num_val, counts["val"], "validation", "what is chosen on them is chosen too confidently"),
    ):
        if num:
            share = f"{num:,} of {total:,} {word} images"
            found.append(f"{share} were in the training images of {model.name}: {consequence}")
    return tuple(found)


def _describe_control(model: ModelSpec, data: Data) -> Extracted:
    started = time.perf_counter()
    assert model.describe is not None
    values = np.asarray(model.describe(data.census), dtype=np.float32)[data.manifest.rows]
    seconds = {"read": data.census.read_seconds, "decode": data.census.decode_seconds}
    facts = ModelFacts(
        name=model.name,
        architecture=model.name,
        dim=values.shape[1],
        preprocess=None,
        num_parameters=0,
        flops=None,
        weights_digest="",
        pretrained_on=None,
        is_control=True,
    )
    forward = time.perf_counter() - started
    return Extracted(
        facts,
        values,
        Cost(seconds=seconds | {"forward": forward}, images_per_second=None, num_images=len(values)),
    )


def _load_engine() -> None:
    """Load what every head needs before the clock starts: no run is to pay for being the first."""
    import backbench.engine.logistic  # noqa: F401 - and with it torch


def complete_run(
    config: RunConfig, run_id: str, data: Data, extracted: Extracted, *, out: Path, device: str
) -> tuple[RunRecord, Fitted]:
    """Fit the method on train and validation, open the test part once, score, write the run folder.

    Returns:
        The record, and the head it is of.

    Raises:
        StorageError: the output folder can't be written.
    """
    started = ledger.utc_now()
    method = find_method(config.method.name)
    options = resolve_options(method, config.method)
    manifest = data.manifest
    _load_engine()
    clock = time.perf_counter()
    task = feature_task(config, data, extracted.values, device)
    fitted = method.adapt(task, options)

    log_opening(out, manifest.digest, run_id)
    test = features_of("test", data, extracted.values)
    probabilities = softmax(fitted.head.logits(test.values))
    head_seconds = time.perf_counter() - clock

    record = RunRecord(
        run_id=run_id,
        status="done",
        started=started,
        config=config,
        data=describe_data(data),
        model=extracted.model,
        method=MethodFacts(
            name=method.name,
            options=options.model_dump(mode="json"),
            choices=fitted.choices,
            fitted_on=fitted.fitted_on,
        ),
        metrics=score(probabilities, test.labels, test_groups(data)),
        per_class=per_class_recall(probabilities, test.labels, manifest.classes),
        fit=_fit_figures(task, fitted),
        cost=extracted.cost.model_copy(
            update={
                "seconds": extracted.cost.seconds | {"head": head_seconds},
                "peak_memory_bytes": extracted.cost.peak_memory_bytes or peak_memory_bytes(device),
            }
        ),
        environment=describe_environment(device),
        warnings=(*fitted.warnings, *extracted.warnings),
        num_val_seen=extracted.seen.num_val,
        num_test_seen=extracted.seen.num_test,
    )
    predictions = Predictions(test.ids, test.labels, probabilities, manifest.classes)
    record, _ = ledger.write_run(out, record, predictions, lambda path: write_manifest(manifest, path))
    return record, fitted


def feature_task(config: RunConfig, data: Data, values: np.ndarray, device: str) -> Task:
    """Train and validation as features; `values` are those of all images of the manifest."""
    return Task(
        train=features_of("train", data, values),
        val=features_of("val", data, values),
        class_names=data.manifest.classes,
        seed=config.seed,
        device=device,
        load_head=_find_head_loader(config, find_method(config.method.name)),
    )


def _find_head_loader(config: RunConfig, method: MethodSpec) -> Callable[[], Any] | None:
    """What loads the classifier that the model was published with; None without one, or if `method` needs none."""
    return find_model(config.model_file or config.model).load_head if method.needs_head else None


def _fit_figures(task: Task, fitted: Fitted) -> dict[str, Metric]:
    """How well the head does on what it was fitted to, and the one fitted on train alone on validation."""
    from backbench.engine.heads import LinearHead

    parts = {}
    if isinstance(fitted.head, LinearHead):  # of others it is costly, or says nothing
        parts["train"] = softmax(fitted.head.logits(task.train.values)), task.train.labels
    if fitted.val_logits is not None:
        parts["val"] = softmax(fitted.val_logits), task.val.labels
    return fit_figures(parts)


def record_failure(
    config: RunConfig,
    run_id: str,
    data: Data,
    error: Exception,
    model: ModelFacts | None,
    *,
    out: Path,
    device: str,
) -> RunRecord:
    """Write the record of a run that has no figures, with the reason."""
    expected = isinstance(error, BackbenchError)
    record = RunRecord(
        run_id=run_id,
        status="diverged" if isinstance(error, TrainingDiverged) else "failed",
        started=ledger.utc_now(),
        config=config,
        data=describe_data(data),
        model=model,
        environment=describe_environment(device),
        failure=Failure(
            kind=type(error).__name__,
            message=_describe(error),
            step=error.step if isinstance(error, TrainingDiverged) else None,
            traceback=None if expected else "".join(traceback.format_exception(error)),
        ),
    )
    record, _ = ledger.write_run(out, record, None, lambda path: write_manifest(data.manifest, path))
    return record


def _describe(error: Exception) -> str:
    if isinstance(error, BackbenchError):
        return str(error)
    return f"{OUT_OF_MEMORY}." if is_out_of_memory(error) else f"{type(error).__name__}: {error}"


def describe_data(data: Data) -> DataFacts:
    """What a record says of the images."""
    manifest = data.manifest
    counts = manifest.counts
    groups = {group for group in manifest.groups if group is not None}
    return DataFacts(
        name=manifest.name,
        classes=manifest.classes,
        num_train=counts["train"],
        num_val=counts["val"],
        num_test=counts["test"],
        manifest_digest=manifest.digest,
        image_digest=manifest.image_digest,
        num_skipped=len(data.census.bad),
        num_groups=len(groups) or None,
        common_sizes=common_sizes(data.census, manifest.rows.tolist(), manifest.parts),
    )


def test_groups(data: Data) -> tuple[str | None, ...] | None:
    """The group of each test image, in manifest order; None where no group is known."""
    groups = tuple(data.manifest.groups[row] for row in data.manifest.part_rows("test"))
    return groups if any(group is not None for group in groups) else None


def features_of(part: str, data: Data, values: np.ndarray) -> Features:
    """The rows of one part, of the features of all images of the manifest."""
    rows = data.manifest.part_rows(part)
    return Features(
        values=values[rows],
        labels=data.manifest.labels[rows],
        ids=tuple(data.manifest.ids[row] for row in rows),
    )


def slug(text: str, limit: int = 32) -> str:
    """A word of run ids: `text` with nothing that a file system or a shell could object to."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "_.") else "-" for char in text)
    return kept.strip("-.")[:limit].rstrip("-.") or "x"
