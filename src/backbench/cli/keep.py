"""`backbench keep`: the model of a finished run, as a folder that predicts anywhere."""

from __future__ import annotations

from pathlib import Path

import click

from backbench.cli.options import device_option, json_option, out_option, quiet_option


@click.command(short_help="Keep the model of a finished run, ready to predict.")
@click.argument("run", metavar="RUN")
@out_option
@device_option
@click.option("--no-gallery", is_flag=True, help="Store no small training images in the bundle.")
@json_option
@quiet_option
def keep(run: str, out: str, device: str, no_gallery: bool, as_json: bool, quiet: bool) -> None:
    """Save the model of a finished run as a bundle beside the run: a folder that predicts on any machine.

    RUN is a run folder, a run id, or the first characters of one. Nothing is trained or tested again. The images
    must still be at the same place.

    \b
    Example: backbench keep runs/photos-resnet50.a1_in1k-logistic-0123456789
    """
    from backbench.cli.adapt import print_adapted
    from backbench.progress import make_progress
    from backbench.records.folders import find_run
    from backbench.runs.context import RunContext, stoppable
    from backbench.runs.run import keep_run
    from backbench.runtime import decide_device

    folder, decided = find_run(Path(out), run), decide_device(device)
    with make_progress(quiet=quiet) as progress:
        how = RunContext(device=decided, with_gallery=not no_gallery, progress=progress)
        with stoppable(how) as context:
            adapted = keep_run(folder, context)
    print_adapted(adapted, as_json=as_json)
