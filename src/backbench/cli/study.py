"""`backbench study`: a whole study from one file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbench.cli.openimages import openimages
from backbench.cli.options import device_option, json_option, precision_option, quiet_option

if TYPE_CHECKING:
    from backbench.studies.estimate import Estimate


@click.group(short_help="Run a whole study from one TOML file.")
def study() -> None:
    """Run a whole study from one TOML file: rankings, tables and pictures."""


study.add_command(openimages)


@study.command(short_help="Run a study: rankings, tables and pictures.")
@click.argument("file", metavar="STUDY.toml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of all results.  [default: results/NAME]")
@click.option("--budget", help="Time limit such as 90s, 10m or 2h; the same command resumes from there.")
@click.option("--only", multiple=True, metavar="GROUP", help="Only this group of the study; repeatable.")
@click.option(
    "--data",
    "data",
    multiple=True,
    metavar="NAME=PATH",
    help="Folder or file of a data set of the study; repeatable.",
)
@click.option(
    "--weights-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of weights named after their models (resnet50.a1_in1k.safetensors), or of cards.",
)
@click.option(
    "--random-weights", is_flag=True, help="A trial without downloads: random weights and generated images."
)
@click.option("--limit", type=click.IntRange(min=8), help="Maximum number of images of each data set.")
@click.option("--image-size", type=click.IntRange(8, 2048), help="Input size of all models, in pixels.")
@click.option("--figures/--no-figures", "has_figures", default=True, help="Draw the study's pictures.")
@click.option("--dry-run", is_flag=True, help="Show the runs and their estimated cost, and stop.")
@precision_option
@device_option
@json_option
@quiet_option
def run(
    file: Path,
    out: Path | None,
    budget: str | None,
    only: tuple[str, ...],
    data: tuple[str, ...],
    weights_dir: Path | None,
    random_weights: bool,
    limit: int | None,
    image_size: int | None,
    has_figures: bool,
    dry_run: bool,
    precision: str,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Carry out STUDY.toml: every ranking in it, then tables.md, report.html and figures/.

    Finished runs are never computed again: the same command resumes an interrupted study.

    \b
    Example: backbench study run studies/minivision.toml --dry-run
             backbench study run studies/minivision.toml --data cifar10=/data/cifar10
    """
    from backbench.backbones.weights_folder import FOLDER_VARIABLE
    from backbench.cli.output import print_json
    from backbench.cli.parse import parse_duration
    from backbench.progress import make_progress
    from backbench.runtime import decide_device, decide_precision
    from backbench.stopping import stop_status
    from backbench.studies.document import is_less_than_there, make_document
    from backbench.studies.estimate import estimate_steps
    from backbench.studies.run import run_study
    from backbench.studies.schema import read_study
    from backbench.studies.steps import Settings, find_missing
    from backbench.studies.write import write_up

    seconds = None if budget is None else parse_duration(budget)
    found = read_study(file)
    if weights_dir is not None:
        os.environ[FOLDER_VARIABLE] = str(weights_dir.absolute())
    decided = decide_device(device)
    settings = Settings(
        out=out if out is not None else Path("results") / found.name,
        device=decided,
        precision=decide_precision(precision, decided),
        training_precision=decide_precision(precision, decided, training=True),
        data=split_pairs(data),
        random_weights=random_weights,
        image_size=image_size,
        limit=limit,
        epochs=1 if random_weights else None,
        only=only,
    )
    if dry_run:
        estimates = estimate_steps(found, settings)
        unusable = dict.fromkeys(step.fault for step in estimates if step.fault)
        missing = [*find_missing(found, settings), *unusable]
        if as_json:
            rankings = [asdict(step) | {"num_runs": step.num_runs} for step in estimates]
            print_json({"schema": 1, "study": found.name, "steps": rankings, "warnings": missing})
        else:
            print(render_estimates(found.title, estimates, missing))
        return
    with make_progress(quiet=quiet) as progress:
        outcome = run_study(found, settings, budget_seconds=seconds, progress=progress)
        written: list[Path] = []
        if is_less_than_there(outcome, settings):
            progress.warn(
                f"interrupted: the existing report in {settings.pages}/ covers more runs, so it is not overwritten"
            )
        else:
            # after an interrupt, do not make the user wait for pictures
            has_figures = has_figures and not outcome.interrupted
            try:
                written, faults = write_up(outcome, settings, has_figures=has_figures, progress=progress)
            except KeyboardInterrupt:  # also during drawing
                outcome.interrupted = True
                written, faults = write_up(outcome, settings, has_figures=False, progress=progress)
            for fault in faults:
                progress.warn(fault)
    if as_json:
        print_json(make_document(outcome, written))
    elif written:
        print(written[0].read_text(encoding="utf-8"), end="")
        there = dict.fromkeys(path.relative_to(settings.pages).parts[0] for path in written)
        print(f"\nThe results are in {settings.pages}/: {', '.join(there)}")
    if outcome.interrupted:
        sys.exit(stop_status())
    if outcome.undone:
        sys.exit(1)


def split_pairs(given: Sequence[str]) -> dict[str, str]:
    """'NAME=PATH' options as a mapping. ConfigError for one without '='."""
    from backbench.errors import ConfigError

    pairs: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--data '{text}': expected NAME=PATH, for example cifar10=/data/cifar10.")
        if name in pairs:
            raise ConfigError(f"--data '{text}': {name} already has the path {pairs[name]}. Give it once.")
        pairs[name] = path
    return pairs


def render_estimates(title: str, estimates: Sequence[Estimate], missing: Sequence[str] = ()) -> str:
    """Rankings, their runs and rough times as a text table, with their assumptions."""
    from backbench.cli.output import wrap_lines
    from backbench.progress import format_seconds
    from backbench.runs.estimate import describe_guessed
    from backbench.wording import count

    names = [step.title for step in estimates]
    names += [f"  {cell.model} + {cell.method}" for step in estimates for cell in step.cells]
    width = max(map(len, names))
    lines = [title]
    for step in estimates:
        num = f"{step.num_runs} run{' ' if step.num_runs == 1 else 's'}"
        lines += ["", f"{step.title:<{width}}  {num:>7}  about {format_seconds(step.seconds)}"]
        lines += [
            f"{f'  {cell.model} + {cell.method}':<{width}}           about {format_seconds(cell.seconds)}"
            for cell in step.cells
        ]
    total = sum(step.seconds for step in estimates)
    runs = sum(step.num_runs for step in estimates)
    lines += [
        "",
        f"{count(len(estimates), 'ranking')}, {count(runs, 'run')}, about {format_seconds(total)} in total "
        "(roughly). Not counted:",
        "baselines, downloads and evaluation on other sources. Runs of one model share its features, so a ranking",
        "takes less time than its runs separately.",
    ]
    lines += describe_guessed(list(dict.fromkeys(name for step in estimates for name in step.guessed)))
    unknown = {step.data: step.num_images for step in estimates if not step.is_size_known}
    if unknown:
        counted = ", ".join(f"{name} as {count(num, 'image')}" for name, num in unknown.items())
        lines += [f"Data sets of unknown size, counted by a guess: {counted}."]
    return "\n".join([*lines, *(wrap_lines(f"Missing: {note}", "  ") for note in missing)])
