"""`backbench adapt` and `backbench resume`: one model, one method, and a bundle to walk away with."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import (
    bad_option,
    data_argument,
    device_option,
    hardware_options,
    json_option,
    out_option,
    quiet_option,
    split_options,
    table_options,
)
from backbench.cli.rank import make_data_config, parse_duration

if TYPE_CHECKING:
    from backbench.adapt import Adapted
    from backbench.config import OnBad, RunConfig


@click.command()
@data_argument
@click.option("--model", required=True, help="A name, a card file, or an own run or bundle to go on from.")
@click.option("--method", default="two-phase", show_default=True, help="See: backbench list methods.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="options.blocks=3, recipe.epochs=20, ..."
)
@split_options
@out_option
@hardware_options
@bad_option
@click.option("--budget", help="Time limit such as 90s, 10m or 2h; the best weights by then are kept.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and stop.")
@click.option("--no-gallery", is_flag=True, help="Put no small training images into the bundle.")
@table_options
@json_option
@quiet_option
def adapt(
    data: str,
    model: str,
    method: str,
    settings: tuple[str, ...],
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
    image_column: str | None,
    label_column: str | None,
    group_column: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Adapt one model to your images and keep it: a folder that predicts anywhere.

    Runs that are cut go on where they were with the same command, or with `backbench resume RUN`. Several
    processes train one model together with: torchrun --nproc-per-node 2 -m backbench adapt ...

    \b
    Example: backbench adapt photos/ --model vit_base_patch14_dinov2.lvd142m \\
               --method last-blocks --set options.blocks=3
             backbench adapt birds/ --model runs/RUN      (its tuned weights, a new head)
    """
    from backbench.adapt import refuse_control
    from backbench.catalog import find_method, find_model
    from backbench.config import MethodConfig, RunConfig
    from backbench.engine.distributed import launched_number
    from backbench.run import resolve_options
    from backbench.runtime import decide_device, decide_precision

    method_config = MethodConfig(name=method, options=parse_settings(settings))
    method_spec = find_method(method, "--method")
    options = resolve_options(method_spec, method_config)
    spec = find_model(model, "--model")
    refuse_control(spec)
    decided = decide_device(device)
    config = RunConfig(
        data=make_data_config(
            data,
            split=split,
            seed=seed,
            on_bad=on_bad,
            image_column=image_column,
            label_column=label_column,
            group_column=group_column,
        ),
        model=spec.name,
        model_file=spec.file,
        method=method_config,
        seed=seed,
        precision=decide_precision(precision, decided, training=method_spec.kind == "tune"),
        exact_resize=exact_resize,
    )
    if dry_run:
        if launched_number():
            return
        _survey(config, quiet=quiet)
        whole = MethodConfig(name=method, options=options.model_dump(mode="json"))
        print(config.model_copy(update={"method": whole}).model_dump_json(indent=1))
        return
    _run(config, Path(out), decided, budget, with_gallery=not no_gallery, as_json=as_json, quiet=quiet)


def _survey(config: RunConfig, *, quiet: bool) -> None:
    """Say what the data holds, or what is wrong with it, as far as names and headers tell."""
    from backbench.data.survey import survey
    from backbench.plan import describe_power
    from backbench.progress import make_progress

    with make_progress(quiet=quiet) as progress:
        found = survey(config.data, progress)
        for sentence in (*found.sentences(), describe_power(found.num_test)):
            progress.say(sentence)


@click.command()
@click.argument("run", metavar="RUN")
@out_option
@device_option
@click.option("--budget", help="Time limit from now, such as 90s, 10m or 2h.")
@click.option("--no-gallery", is_flag=True, help="Put no small training images into the bundle.")
@json_option
@quiet_option
def resume(
    run: str,
    out: str,
    device: str,
    budget: str | None,
    no_gallery: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Go on with a run that was cut. RUN is its id, or the beginning of one."""
    from backbench.runtime import decide_device
    from backbench.unfinished import find_unfinished

    run_id, config = find_unfinished(Path(out), run)
    _run(
        config,
        Path(out),
        decide_device(device),
        budget,
        resume=run_id,
        with_gallery=not no_gallery,
        as_json=as_json,
        quiet=quiet,
    )


def _run(
    config: RunConfig,
    out: Path,
    device: str,
    budget: str | None,
    *,
    as_json: bool,
    quiet: bool,
    with_gallery: bool,
    resume: str | None = None,
) -> None:
    from backbench.adapt import adapt as adapt_model
    from backbench.engine.distributed import is_first, join_processes
    from backbench.progress import make_progress
    from backbench.runtime import catch_signals

    deadline = None if budget is None else time.monotonic() + parse_duration(budget)
    with (
        join_processes(device) as device,
        make_progress(quiet=quiet or not is_first()) as progress,
        catch_signals() as stop_signal,
    ):
        adapted = adapt_model(
            config,
            out=out,
            device=device,
            deadline=deadline,
            stop_signal=stop_signal,
            resume=resume,
            with_gallery=with_gallery,
            progress=progress,
        )
        if not is_first():
            return
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
    from backbench.cli.output import is_colourful, terminal_width
    from backbench.report.table import render_record

    print(render_record(adapted.record, width=terminal_width(), colour=is_colourful()))
    print(f"\nYour model: {adapted.bundle}\nUse it:     backbench predict {adapted.bundle} IMAGE")


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """`("options.blocks=3", "recipe.epochs=2")` -> `{"blocks": 3, "recipe": {"epochs": 2}}`.

    A value is read as JSON where it is JSON, else as text.

    Raises:
        ConfigError: no '=', or one key both a value and a group.
    """
    from backbench.errors import ConfigError

    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = key.strip().removeprefix("options.").split(".")
        if not equals or not all(path):
            raise ConfigError(f"--set '{setting}' is no KEY=VALUE, such as options.blocks=3 or recipe.epochs=20.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        target = found
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {setting}: '{part}' was already given a value.")
        target[path[-1]] = value
    return found
