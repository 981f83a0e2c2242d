"""Help is understood at first reading: no verb's summary is cut."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from backbench.cli import app

MAX_SUMMARY = 60


def groups(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Group]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from groups(command, (*path, name))


@pytest.mark.parametrize(
    ("path", "group"), [*groups(app)], ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_no_summary_of_a_verb_is_cut(path: tuple[str, ...], group: click.Group) -> None:
    text = CliRunner().invoke(app, [*path, "--help"], terminal_width=80).output
    listed = text[text.index("Commands:") :]
    for name, command in group.commands.items():
        assert command.short_help is not None, f"{name} has no short_help"
        assert len(command.short_help) <= MAX_SUMMARY
        assert command.short_help in listed
