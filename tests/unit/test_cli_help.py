"""Help is understood at first reading: one golden file holds all of it, and no verb's summary is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner

from backbench.cli import app

MAX_SUMMARY = 60


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


def test_help_of_every_verb_reads_as_the_golden_file(golden: Callable[[str, str], None]) -> None:
    texts = [CliRunner().invoke(app, [*path, "--help"], terminal_width=80).output for path in commands(app)]
    assert len(texts) > len(app.commands)
    golden("help.txt", f"\n{'─' * 80}\n".join(texts))


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
