"""`backbench scan`: the content of a data set and its faults."""

from __future__ import annotations

import sys
from typing import Any

import click

from backbench.cli.options import (
    data_argument,
    json_option,
    layout_options,
    quiet_option,
    size_options,
    split_options,
    table_options,
)


@click.command(short_help="Check images and labels before ranking.")
@data_argument
@split_options
@size_options
@table_options
@layout_options
@json_option
@quiet_option
def scan(
    data: str,
    seed: int,
    split: str | None,
    as_json: bool,
    quiet: bool,
    choices: dict[str, Any],
) -> None:
    """Check images before ranking: counts, sizes, broken files, duplicates, leaks.

    DATA is as for `backbench rank`. Exits with 1 if it finds problems.
    """
    from backbench.cli.output import print_json, wrap_lines
    from backbench.cli.parse import make_data_config
    from backbench.data.audit import audit_source
    from backbench.progress import make_progress

    config = make_data_config(
        data,
        split=split,
        seed=seed,
        on_bad="skip",
        choices=choices,
    )
    with make_progress(quiet=quiet) as progress:
        audit = audit_source(config, progress)
    if as_json:
        print_json(audit.to_json())
    else:
        for sentence in audit.sentences():
            print(wrap_lines(sentence, "  "))
    if audit.has_trouble:
        sys.exit(1)
