"""`backbench show`: one record, readable."""

from __future__ import annotations

from pathlib import Path

import click

from backbench.cli.options import json_option, out_option


@click.command(short_help="Show one run: settings, results and cost.")
@click.argument("run", metavar="RUN")
@out_option
@json_option
def show(run: str, out: str, as_json: bool) -> None:
    """Show one run: its settings, its results and its cost.

    RUN is a run folder, a run id, or the first characters of one.
    """
    from backbench.cli.output import is_colourful, print_json, terminal_width
    from backbench.records.folders import find_run, read_whole
    from backbench.report.table import render_record

    record, _ = read_whole(find_run(Path(out), run))
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print(render_record(record, width=terminal_width(), colour=is_colourful()))
