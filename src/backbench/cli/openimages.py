"""`backbench study openimages`: a subset of Open Images for the classes of other data sets."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from backbench.cli.options import json_option, quiet_option


@click.command(short_help="Plan and download a subset of Open Images.")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--classes",
    multiple=True,
    metavar="SET",
    help="caltech256, cifar100 or a file with a class on each line; repeatable.  [default: FOLDER/classes.txt]",
)
@click.option(
    "--per-class",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Number of images for each class and split.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["train", "validation", "test"]),
    default=("test",),
    show_default=True,
    help="Split of Open Images; repeatable.",
)
@click.option("--download", is_flag=True, help="Download what is missing; without this option nothing is written.")
@json_option
@quiet_option
def openimages(
    folder: Path,
    classes: tuple[str, ...],
    per_class: int,
    splits: tuple[str, ...],
    download: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Plan a subset of Open Images: official files, classes, images; download missing ones.

    The command lists and checks the official files in FOLDER. Then it lists each class of --classes in Open Images
    with the images on disk and the missing ones. Exit status 1 when a file is damaged or can't be downloaded.

    \b
    Example: backbench study openimages open-images --classes caltech256 --classes cifar100
             backbench study openimages open-images --classes caltech256 --classes cifar100 --download
    """
    from backbench.cli.output import print_json
    from backbench.progress import make_progress
    from backbench.records.commands import write_command
    from backbench.studies.subset import SubsetRequest, describe_subset, get_subset, plan_subset

    request = SubsetRequest(folder, tuple(dict.fromkeys(classes)), per_class, tuple(dict.fromkeys(splits)))
    with make_progress(quiet=quiet) as progress:
        plan = get_subset(request, progress) if download else plan_subset(request)
    words = ["study", "openimages", str(folder)]
    words += [word for name in request.classes for word in ("--classes", name)]
    words += ["--per-class", str(per_class), *(word for part in request.parts for word in ("--split", part))]
    if as_json:
        print_json(plan.to_json())
    else:
        for sentence in describe_subset(plan, write_command([*words, "--download"])):
            print(sentence)
    if any(file.state == "damaged" for file in plan.files) or (download and not plan.is_whole):
        sys.exit(1)
