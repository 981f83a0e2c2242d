"""`backbench rank`: rank models x methods on the user's images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backbench.cli.options import (
    bad_option,
    data_argument,
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
from backbench.cli.parse import make_data_config, parse_duration, split_names, with_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backbench.config import MethodConfig, OnBad
    from backbench.progress import Progress
    from backbench.report.ranked import RankedRuns


@click.command(context_settings={"allow_extra_args": True}, short_help="Rank pretrained models on your images.")
@data_argument
@click.option(
    "--models",
    default="",
    help="Names, cards (TOML files of your own weights) or folders of cards, with commas.  "
    "[default: a short list for this machine]",
)
@click.option(
    "--methods", default="logistic", show_default=True, help="Names with commas; see: backbench list methods."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option, as recipe.epochs=20, of every method that has it; METHOD:KEY=VALUE sets it for one method.",
)
@map_option
@split_options
@out_option
@hardware_options
@bad_option
@click.option("--top", type=click.IntRange(min=1), help="Train only the N models with the best probes.")
@click.option("--budget", help="Time limit such as 90s, 10m or 2h; the ranking shows all runs finished by then.")
@size_options
@click.option(
    "--keep",
    "is_kept",
    is_flag=True,
    help="Save the recommended model as a bundle, a folder that predicts on any machine.",
)
@table_options
@layout_options
@json_option
@quiet_option
def rank(
    data: str,
    models: str,
    methods: str,
    settings: tuple[str, ...],
    class_map: str | None,
    seed: int,
    split: str | None,
    out: str,
    precision: str,
    device: str,
    exact_resize: bool,
    on_bad: OnBad,
    top: int | None,
    budget: str | None,
    is_kept: bool,
    as_json: bool,
    quiet: bool,
    choices: dict[str, Any],
) -> None:
    """Rank pretrained models on your images: accuracy with intervals, ties, baselines and cost.

    DATA is a folder of class folders, a folder with train/ and test/, a CSV or Parquet table of images and
    labels, or a name: digits, cifar10, cifar100.

    \b
    Example: backbench rank photos/ --budget 10m \\
               --models resnet50.a1_in1k,vit_small_patch14_dinov2.lvd142m
    """
    from backbench.cli.output import has_line_drawing, is_colourful, print_json, terminal_width
    from backbench.config import MethodConfig
    from backbench.progress import make_progress
    from backbench.report.table import render_table
    from backbench.runs.rank import RankRequest
    from backbench.runs.rank import rank as rank_models
    from backbench.runtime import decide_device, decide_precision
    from backbench.stopping import stop_status

    data, models = take_cards(click.get_current_context(), data, models)
    names = dict.fromkeys(split_names(methods, "--methods"))
    decided_device = decide_device(device)
    request = RankRequest(
        data=make_data_config(
            data,
            split=split,
            seed=seed,
            on_bad=on_bad,
            choices=choices,
        ),
        models=split_names(models),
        methods=with_map(with_settings([MethodConfig(name=name) for name in names], settings), class_map),
        seed=seed,
        precision=decide_precision(precision, decided_device),
        training_precision=decide_precision(precision, decided_device, training=True),
        device=decided_device,
        exact_resize=exact_resize,
        out=Path(out),
        top=top,
        budget_seconds=None if budget is None else parse_duration(budget),
    )
    with make_progress(quiet=quiet) as progress:
        ranking = rank_models(request, progress)
        fault: BaseException | None = None
        try:
            if is_kept and not ranking.interrupted:
                _keep(ranking, decided_device, progress)
        except (Exception, KeyboardInterrupt) as error:
            fault = error  # printed after the complete ranking
    if as_json:
        print_json(ranking.to_json())
    else:
        table = render_table(
            ranking.rows, width=terminal_width(), colour=is_colourful(), ascii_only=not has_line_drawing()
        )
        print(table)
        _print_conclusion(ranking)
    if fault is not None:
        raise fault
    if ranking.interrupted:
        sys.exit(stop_status())
    if ranking.has_failures:
        sys.exit(1)


def _keep(ranking: RankedRuns, device: str, progress: Progress) -> None:
    """Save the model of the recommended run; warn if there is none."""
    from backbench.runs.context import RunContext, stoppable
    from backbench.runs.run import keep_run

    if ranking.recommended is None:
        progress.warn("--keep: no model saved, because no row is recommended")
        return
    with stoppable(RunContext(device=device, progress=progress)) as context:
        keep_run(ranking.recommended.path, context)


def _print_conclusion(ranking: RankedRuns) -> None:
    from backbench.cli.output import as_called, wrap_lines
    from backbench.report.text import printable

    print()
    for sentence in ranking.summary:
        print(wrap_lines(sentence))
    for warning in ranking.warnings:
        print(wrap_lines(printable(f"warning: {warning}"), indent="  "))
    if ranking.rows:
        print("\n" + "\n".join(f"{label + ':':<17} {as_called(text)}" for label, text in _list_next(ranking)))


def _list_next(ranking: RankedRuns) -> list[tuple[str, str]]:
    """Next steps as (purpose, command); commands stay on one line for copying."""
    from backbench.records.commands import keep_command, predict_command, report_command, show_command
    from backbench.report.text import printable

    entry = ranking.recommended
    shown, lines = entry or ranking.best or ranking.entries[0], []
    if entry is not None and entry.bundle is not None:
        lines += [("Your model", printable(str(entry.bundle))), ("Use it", predict_command(entry.bundle))]
    elif entry is not None:
        lines.append(("Keep this model", keep_command(entry.path)))
    return [
        *lines,
        ("Show its run", show_command(shown.path)),
        ("Show all runs", report_command(shown.path.parent)),
    ]


def take_cards(context: click.Context, data: str, models: str) -> tuple[str, str]:
    """DATA and --models, if the shell expanded `--models *.toml` to several words. UsageError for other words."""
    words = [data, *context.args]
    cards = [word for word in words if word.lower().endswith(".toml")]
    rest = [word for word in words if word not in cards]
    if not context.args:
        return data, models
    if not models or len(rest) != 1:
        raise click.UsageError(f"Got unexpected extra arguments ({' '.join(context.args)})", context)
    return rest[0], ",".join([models, *cards])


def with_settings(methods: Sequence[MethodConfig], settings: Sequence[str]) -> list[MethodConfig]:
    """The methods with the options of `--set`: KEY=VALUE for each that has it, METHOD:KEY=VALUE for one.

    Raises:
        ConfigError: no method has the option, or the value is invalid.
    """
    from backbench.cli.adapt import parse_settings
    from backbench.registry import find_method, resolve_options

    given: dict[str, list[str]] = {method.name: [] for method in methods}
    for setting in settings:
        key, equals, value = setting.partition("=")
        only, colon, own = key.rpartition(":")
        plain = f"{own}{equals}{value}"
        parse_settings((plain,))  # check its syntax first
        for name in _find_takers(setting, only.strip() if colon else None, own, list(given)):
            given[name].append(plain)
    changed = []
    for method in methods:
        options = {**method.options, **parse_settings(tuple(given[method.name]))}
        changed.append(method.model_copy(update={"options": options}))
        resolve_options(find_method(method.name, "--methods"), changed[-1])
    return changed


def _find_takers(setting: str, only: str | None, key: str, methods: Sequence[str]) -> list[str]:
    """The methods with the option `key`; only the method `only` if it is given."""
    from backbench.errors import ConfigError
    from backbench.registry import find_method
    from backbench.wording import did_you_mean

    if only is not None and only not in methods:
        hint = did_you_mean(only, methods, otherwise=f"Ranked methods: {', '.join(methods)}.", limit=1)
        raise ConfigError(f"--set {setting}: '{only}' is not one of the ranked methods.{hint}")
    asked = list(methods) if only is None else [only]
    options: dict[str, list[str]] = {
        name: list(find_method(name, "--methods").options.model_fields)  # type: ignore[attr-defined]
        for name in asked
    }
    option = key.strip().removeprefix("options.").split(".")[0]
    takers = [name for name in asked if option in options[name]]
    if not takers:
        known = sorted({other for name in asked for other in options[name]})
        hint = did_you_mean(option, known, otherwise=f"Its options: {', '.join(known) or 'none'}.", limit=1)
        raise ConfigError(f"--set {setting}: no option '{option}' of the method {' or '.join(asked)}.{hint}")
    return takers
