"""Arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Verb = Callable[..., Any]

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
    help="Unreadable images: stop, or leave them out before the split.",
)


map_option = click.option(
    "--map",
    "class_map",
    metavar="FILE",
    help="zeroshot: CSV with rows class,id: which of the model's own classes stand for yours.",
)

precision_option = click.option(
    "--precision", default="auto", show_default=True, help="auto (bf16 where it is fast), fp32, bf16, fp16."
)


def hardware_options(verb: Verb) -> Verb:
    """--precision, --device and --exact-resize."""
    exact = "Resize with Pillow, to reproduce published figures."
    verb = click.option("--exact-resize", is_flag=True, help=exact)(verb)
    return precision_option(device_option(verb))


split_option = click.option("--split", help="Use the parts of this manifest.json or CSV (columns id and part).")


def split_options(verb: Verb) -> Verb:
    """--seed and --split."""
    verb = split_option(verb)
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Decides the split and everything random.",
    )(verb)


def table_options(verb: Verb) -> Verb:
    """The columns of a CSV or Parquet table."""
    for name, help_text in (
        ("--group-column", "Table: values never split over two parts (camera, patient, ...)."),
        ("--label-column", "Table: the column with the class names."),
        ("--image-column", "Table: the column with the image paths."),
    ):
        verb = click.option(name, help=help_text)(verb)
    return verb


def inference_options(verb: Verb) -> Verb:
    """As `hardware_options`, but fp32 by default, so that every way of asking a model gives the same answer."""
    verb = click.option("--exact-resize", is_flag=True, help="Resize with Pillow.")(verb)
    precision = "fp32, bf16, fp16, or auto (bf16 where it is fast)."
    verb = click.option("--precision", default="fp32", show_default=True, help=precision)(verb)
    return device_option(verb)
