"""Arguments and options that several verbs share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

Verb = Callable[..., Any]
UNSAID = (None, (), False)

data_argument = click.argument("data", metavar="DATA")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress and no messages on stderr.")
out_option = click.option("--out", default="runs", show_default=True, help="Folder of the run records.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
bad_option = click.option(
    "--on-bad",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Unreadable images: stop, or skip them.",
)


map_option = click.option(
    "--map",
    "class_map",
    metavar="FILE",
    help="zeroshot: CSV with rows class,id that maps your classes to the model's own classes.",
)

projection_option = click.option(
    "--map",
    "map_method",
    type=click.Choice(["tsne", "pca", "umap", "none"]),
    default="tsne",
    show_default=True,
    help="Projection of the features to two dimensions.",
)

precision_option = click.option(
    "--precision", default="auto", show_default=True, help="auto (bf16 if it is fast), fp32, bf16, fp16."
)


def hardware_options(verb: Verb) -> Verb:
    """--precision, --device and --exact-resize."""
    exact = "Resize with Pillow, to reproduce published figures."
    verb = click.option("--exact-resize", is_flag=True, help=exact)(verb)
    return precision_option(device_option(verb))


split_option = click.option(
    "--split", help="Take the splits from this manifest.json or CSV (columns id and split)."
)


def split_options(verb: Verb) -> Verb:
    """--seed and --split."""
    verb = split_option(verb)
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Random seed of the split and of training.",
    )(verb)


def table_options(verb: Verb) -> Verb:
    """The columns of a CSV or Parquet table: given to the verb in `choices`."""
    options = (
        click.option("--image-column", help="Table: the column with the image paths."),
        click.option("--label-column", help="Table: the column with the class names."),
        click.option("--group-column", help="Table: column of groups that stay in one split (camera, ...)."),
    )
    return _gather(verb, options)


def layout_options(verb: Verb) -> Verb:
    """Which folders and columns are splits, and the place of images: given to the verb in `choices`."""
    options = (
        click.option(
            "--split-folders",
            metavar="NAME=SPLIT,...",
            help="Folder: which top folders are train, val and test; none: all are classes.",
        ),
        click.option(
            "--ignore", multiple=True, metavar="PATH", help="Folder: leave out this file or folder below DATA."
        ),
        click.option("--follow-links", is_flag=True, help="Folder: also follow links that point outside DATA."),
        click.option(
            "--split-column",
            metavar="NAME",
            help="Table: column with train, val, test; none: ignore it.  [default: found by its values]",
        ),
        click.option(
            "--image-root", metavar="FOLDER", help="Table: base folder of relative paths.  [default: the table's]"
        ),
    )
    return _gather(verb, options)


def size_options(verb: Verb) -> Verb:
    """Sizes of splits and classes: given to the verb in `choices`."""
    options = (
        click.option(
            "--test-fraction",
            type=float,
            help="Share of each class for the test split, if none is given.  [default: 0.2]",
        ),
        click.option(
            "--val-fraction",
            type=float,
            help="Share of the remaining images for validation, if none is given.  [default: 0.2]",
        ),
        click.option(
            "--min-images",
            type=click.IntRange(min=2),
            metavar="N",
            help="Minimum images in a class; --small-classes decides what happens to smaller ones.",
        ),
        click.option(
            "--small-classes",
            type=click.Choice(["drop", "merge"]),
            help="Leave small classes out, or merge them into one class.  [default: drop]",
        ),
    )
    return _gather(verb, options)


def _gather(verb: Verb, options: Sequence[Verb]) -> Verb:
    """Add these options to the verb, which gets the used ones as one dictionary, `choices`."""

    def collect(**given: Any) -> Any:
        ours = {name: given.pop(name) for name in names}
        before = given.pop("choices", {})
        return verb(**given, choices=before | {name: ours[name] for name in names if ours[name] not in UNSAID})

    wrapped: Any = functools.wraps(verb)(collect)
    num_before = len(getattr(wrapped, "__click_params__", ()))
    for option in reversed(options):
        wrapped = option(wrapped)
    names = [parameter.name for parameter in wrapped.__click_params__[num_before:]]
    return wrapped


def inference_options(verb: Verb) -> Verb:
    """As `hardware_options`, but fp32 by default, so that all verbs give the same predictions."""
    verb = click.option("--exact-resize", is_flag=True, help="Resize with Pillow.")(verb)
    precision = "fp32, bf16, fp16, or auto (bf16 if it is fast)."
    verb = click.option("--precision", default="fp32", show_default=True, help=precision)(verb)
    return device_option(verb)
