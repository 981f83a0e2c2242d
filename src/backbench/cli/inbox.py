"""`backbench inbox`: images that people marked right or wrong on the page of `backbench serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from backbench.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backbench.serve.inbox import Entry

folder_option = click.option("--inbox", default="inbox", show_default=True, help="The folder given to serve.")


@click.group(short_help="List or export images marked on the page of serve.")
def inbox() -> None:
    """List or export images that people marked right or wrong on the page of `backbench serve`."""


@inbox.command("list", short_help="List the judged images, one line each.")
@folder_option
@json_option
def list_inbox(inbox: str, as_json: bool) -> None:
    """List the images, one line each: time, prediction, and correct class."""
    from backbench.cli.output import print_json
    from backbench.progress import make_progress
    from backbench.serve.inbox import latest_entries

    with make_progress() as progress:
        entries = latest_entries(Path(inbox), progress)
    if as_json:
        print_json({"schema": 1, "entries": [entry.model_dump(mode="json") for entry in entries]})
    else:
        print(render_entries(entries))


@inbox.command("export", short_help="Write judged images and their labels to a folder.")
@click.argument("target", metavar="FOLDER")
@folder_option
@json_option
def export_inbox(target: str, inbox: str, as_json: bool) -> None:
    """Write the images whose class is known to FOLDER, with a table labels.csv: images to train on.

    People chose these images, often because the model failed. Use them for training, never as a test split: an
    accuracy on them would mean nothing.
    """
    from backbench.cli.output import print_json
    from backbench.progress import make_progress
    from backbench.serve.inbox import TABLE_FILE, export_entries
    from backbench.wording import count

    with make_progress() as progress:
        entries = export_entries(Path(inbox), Path(target), progress)
    table = Path(target) / TABLE_FILE
    if as_json:
        print_json({"schema": 1, "table": str(table), "num_images": len(entries)})
    else:
        print(f"{count(len(entries), 'image')}: {table}")


def render_entries(entries: Sequence[Entry]) -> str:
    """The entries as lines, and their number."""
    from backbench.report.text import pad, printable, shorten
    from backbench.wording import count

    lines = [
        "  ".join(
            [
                f"{entry.saved[:19]}Z",
                pad(entry.verdict, 6),
                pad(shorten(printable(entry.answer), 24), 24),
                pad(shorten(printable(entry.label or "?"), 24), 24),
                printable(entry.name),
            ]
        ).rstrip()
        for entry in entries
    ]
    num_labelled = sum(entry.label is not None for entry in entries)
    head = "  ".join([pad("saved", 20), pad("", 6), pad("answered", 24), pad("truly", 24), "image"])
    return "\n".join([head, *lines, f"{count(len(entries), 'image')}, {num_labelled:,} with a label"])
