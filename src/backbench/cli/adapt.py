"""`backbench adapt` and `backbench resume`: one model, one method, and a bundle as the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import (
    bad_option,
    data_argument,
    device_option,
    hardware_options,
    json_option,
    layout_options,
    map_option,
    out_option,
    quiet_option,
    size_options,
    split_options,
    table_options,
)
from backbench.cli.parse import make_data_config, parse_duration, with_map

if TYPE_CHECKING:
    from backbench.config import OnBad, RunConfig
    from backbench.runs.context import RunContext
    from backbench.runs.identity import Resolved
    from backbench.runs.run import Adapted

FINISHED = "finished"


@click.command(short_help="Adapt one model to your images and keep it.")
@data_argument
@click.option(
    "--model", required=True, help="A model name, a card file, or one of your runs or bundles to start from."
)
@click.option(
    "--method", default="two-phase", show_default=True, help="How to adapt the model; see: backbench list methods."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="options.blocks=3, recipe.epochs=20, ..."
)
@map_option
@split_options
@out_option
@hardware_options
@bad_option
@click.option("--budget", help="Time limit such as 90s, 10m or 2h; the best weights so far are kept.")
@click.option("--dry-run", is_flag=True, help="Show what the command would do, and stop.")
@click.option("--no-gallery", is_flag=True, help="Store no small training images in the bundle.")
@size_options
@table_options
@layout_options
@json_option
@quiet_option
def adapt(
    data: str,
    model: str,
    method: str,
    settings: tuple[str, ...],
    class_map: str | None,
    seed: int,
    split: str | None,
    out: str,
    precision: str,
    device: str,
    exact_resize: bool,
    on_bad: OnBad,
    budget: str | None,
    dry_run: bool,
    no_gallery: bool,
    as_json: bool,
    quiet: bool,
    choices: dict[str, Any],
) -> None:
    """Adapt one model to your images and save it as a bundle: a folder that predicts on any machine.

    The same command, or `backbench resume RUN`, resumes an interrupted run. Several processes train one model
    together with: torchrun --nproc-per-node 2 -m backbench adapt ...

    \b
    Example: backbench adapt photos/ --model vit_base_patch14_dinov2.lvd142m \\
               --method last-blocks --set options.blocks=3
             backbench adapt birds/ --model runs/RUN      (the trained weights of RUN, a new head)
    """
    from backbench.cli.output import print_json
    from backbench.config import MethodConfig, RunConfig
    from backbench.distributed import launched_number
    from backbench.registry import find_method, find_model
    from backbench.runs.context import RunContext, deadline_after
    from backbench.runs.identity import resolve
    from backbench.runs.run import refuse_model
    from backbench.runtime import decide_device, decide_precision

    budget_seconds = None if budget is None else parse_duration(budget)
    method_spec = find_method(method, "--method")
    (method_config,) = with_map([MethodConfig(name=method, options=parse_settings(settings))], class_map)
    spec = find_model(model, "--model")
    decided = decide_device(device)
    config = RunConfig(
        data=make_data_config(
            data,
            split=split,
            seed=seed,
            on_bad=on_bad,
            choices=choices,
        ),
        model=spec.name,
        model_file=spec.file,
        method=method_config,
        seed=seed,
        precision=decide_precision(precision, decided, training=method_spec.trains),
        exact_resize=exact_resize,
    )
    resolved = resolve(config, spec)
    refuse_model(resolved)
    if dry_run:
        if launched_number():
            return
        document, plan = _plan(resolved, Path(out), decided, budget_seconds, quiet=quiet)
        if as_json:
            print_json(document)
        else:
            print(plan)
        return
    context = RunContext(Path(out), decided, deadline_after(budget_seconds), with_gallery=not no_gallery)
    _run(resolved, context, as_json=as_json, quiet=quiet)


def _plan(
    resolved: Resolved, out: Path, device: str, budget_seconds: float | None, *, quiet: bool
) -> tuple[dict[str, Any], str]:
    """The plan of `adapt`, as a JSON document and as lines; writes nothing below `out`.

    Cost: reads the images once, for the id of the run, unless they must be downloaded first.
    """
    from backbench.cli.output import wrap_lines
    from backbench.config import MethodConfig
    from backbench.data.load import load_data
    from backbench.data.survey import survey
    from backbench.progress import format_seconds, make_progress
    from backbench.report.text import printable
    from backbench.runs.estimate import describe_guessed, describe_power
    from backbench.runs.speeds import list_guessed

    config, method, options = resolved.config, resolved.method, resolved.options
    with make_progress(quiet=quiet) as progress:
        found = survey(config.data, progress)
        for sentence in (*found.sentences(), describe_power(found.num_test)):
            progress.say(sentence)
        run_id = None
        if found.listing is not None:
            run_id = resolved.run_id(load_data(config.data, progress, listing=found.listing))
    changed = _list_changed(method.options().model_dump(mode="json"), options.model_dump(mode="json"))
    state = "unknown before the data is downloaded" if run_id is None else _describe_state(out, run_id)
    seconds = _estimate(resolved, found.num_images, found.parts["train"], device)
    guessed = list_guessed([resolved.model], device=device)
    whole = MethodConfig(name=method.name, options=options.model_dump(mode="json"))
    document = config.model_copy(update={"method": whole}).model_dump(mode="json") | {
        "run_id": run_id,
        "state": state,
        "changed_options": changed,
        "estimated_seconds": seconds,
        "budget_seconds": budget_seconds,
    }
    takes = f"about {format_seconds(seconds)}"
    if method.trains:
        takes += " (roughly; it may stop early)"
    if state == FINISHED:
        takes = "no time: the run is finished"
    lines = [
        ("run", run_id or "unknown before the data is downloaded"),
        ("state", state),
        ("data", f"{found.name}: {', '.join(f'{num:,} {part}' for part, num in found.parts.items())}"),
        ("model", resolved.model.name),
        ("method", f"{method.name}: {', '.join(changed) or 'default options'}"),
        ("runs on", f"{device}, {config.precision}, seed {config.seed}"),
        ("takes", takes),
        *[("", sentence) for sentence in describe_guessed(guessed)],
        *([] if budget_seconds is None else [("budget", format_seconds(budget_seconds))]),
    ]
    return document, "\n".join(wrap_lines(f"{name:8}{printable(text)}", " " * 8) for name, text in lines)


def _estimate(resolved: Resolved, num_images: int, num_train: int, device: str) -> float:
    """Seconds of the features and of the training."""
    from backbench.runs.estimate import estimate_training, guess_seconds

    model, precision = resolved.model, resolved.config.precision
    methods = [(resolved.method, resolved.options)]
    training = estimate_training([model], methods, num_train, top=None, device=device, precision=precision)
    return training + guess_seconds([model], num_images, device=device, precision=precision)[model.name]


def _describe_state(out: Path, run_id: str) -> str:
    from backbench.records.commands import bundle_of
    from backbench.records.resume import CONFIG, working_folder

    if (out / run_id / "record.json").is_file():
        is_whole = bundle_of(out / run_id).is_dir()
        return FINISHED if is_whole else "finished; only its bundle would be made"
    is_begun = (working_folder(out, run_id) / f"{CONFIG}.json").is_file()
    return "interrupted: it would resume" if is_begun else "new"


def _list_changed(defaults: dict[str, Any], options: dict[str, Any], prefix: str = "") -> list[str]:
    """`recipe.epochs=3` for each option that is not its default."""
    changed = []
    for name, value in options.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict) and default:
            changed += _list_changed(default, value, f"{prefix}{name}.")
        elif value != default:
            changed.append(f"{prefix}{name}={json.dumps(value, ensure_ascii=False)}")
    return changed


@click.command(short_help="Resume an interrupted run.")
@click.argument("run", metavar="RUN")
@out_option
@device_option
@click.option("--budget", help="Time limit from now, such as 90s, 10m or 2h.")
@click.option("--no-gallery", is_flag=True, help="Store no small training images in the bundle.")
@json_option
@quiet_option
def resume(
    run: str, out: str, device: str, budget: str | None, no_gallery: bool, as_json: bool, quiet: bool
) -> None:
    """Resume an interrupted run. RUN is a run id or its first characters."""
    from backbench.records.resume import find_unfinished
    from backbench.runs.context import RunContext, deadline_after
    from backbench.runtime import decide_device

    budget_seconds = None if budget is None else parse_duration(budget)
    run_id, config = find_unfinished(Path(out), run)
    deadline = deadline_after(budget_seconds)
    context = RunContext(Path(out), decide_device(device), deadline, with_gallery=not no_gallery)
    _run(config, context, resume=run_id, as_json=as_json, quiet=quiet)


def _run(
    config: RunConfig | Resolved, context: RunContext, *, as_json: bool, quiet: bool, resume: str | None = None
) -> None:
    from backbench.distributed import is_first, join_processes
    from backbench.progress import make_progress
    from backbench.runs.context import stoppable
    from backbench.runs.run import adapt as adapt_model

    with (
        join_processes(context.device) as device,
        make_progress(quiet=quiet or not is_first()) as progress,
        stoppable(replace(context, device=device, progress=progress)) as context,
    ):
        adapted = adapt_model(config, context, resume=resume)
        if not is_first():
            return
    print_adapted(adapted, as_json=as_json)


def print_adapted(adapted: Adapted, *, as_json: bool) -> None:
    """The metrics of a run and the path of its model."""
    if as_json:
        _print_document(adapted)
    else:
        _print_figures(adapted)


def _print_document(adapted: Adapted) -> None:
    from backbench.cli.output import print_json

    record = adapted.record
    metrics = [{"name": name} | metric.model_dump(mode="json") for name, metric in record.metrics.items()]
    print_json(
        {
            "schema": 1,
            "run_id": record.run_id,
            "run": str(adapted.run),
            "bundle": str(adapted.bundle),
            "metrics": metrics,
            "warnings": list(record.warnings),
        }
    )


def _print_figures(adapted: Adapted) -> None:
    from backbench.cli.output import as_called, is_colourful, terminal_width
    from backbench.records.commands import predict_command
    from backbench.report.table import render_record
    from backbench.report.text import printable

    print(render_record(adapted.record, width=terminal_width(), colour=is_colourful()))
    print(
        f"\nYour model: {printable(str(adapted.bundle))}\nUse it:     {as_called(predict_command(adapted.bundle))}"
    )


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """`("options.blocks=3", "recipe.epochs=2")` -> `{"blocks": 3, "recipe": {"epochs": 2}}`.

    A value is read as JSON if possible, else as text.

    Raises:
        ConfigError: no '=', a key that is both a value and a group, or too deep nesting.
    """
    from backbench.documents import MAX_LEVELS, TooDeep, parse_json
    from backbench.errors import ConfigError

    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = key.strip().removeprefix("options.").split(".")
        if not equals or not all(path):
            raise ConfigError(f"--set '{setting}' is not KEY=VALUE, such as options.blocks=3 or recipe.epochs=20.")
        try:
            if len(path) > MAX_LEVELS:
                raise TooDeep
            value = parse_json(text)
        except TooDeep as error:
            raise ConfigError(f"--set {setting[:60]}... can't be used: {error}.") from error
        except ValueError:
            value = text
        target = found
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {setting}: '{part}' already has a value.")
        if isinstance(target.get(path[-1]), dict):
            raise ConfigError(f"--set {setting}: options inside '{path[-1]}' already have values.")
        target[path[-1]] = value
    return found
