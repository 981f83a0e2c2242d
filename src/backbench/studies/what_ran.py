"""Describes what was run: groups, data sets, and differences from the study file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backbench.registry import find_source
from backbench.studies.analysis.cells import Cell
from backbench.studies.run import Outcome
from backbench.studies.steps import Settings, chosen_groups, source_of


def list_groups(outcome: Outcome, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the name and a description of each requested group."""
    for group in chosen_groups(outcome.study, settings):
        own = [cell for cell in outcome.cells if cell.group == group.name]
        after = f", after '{group.after}' on {group.after_data}" if group.after else ""
        limit = f", {_describe_limit(group.train_limit, own)}" if group.train_limit else ""
        seeds = f", seeds {', '.join(map(str, group.seeds))}" if len(group.seeds) > 1 else ""
        note = f" {group.note}" if group.note else ""
        nothing = "" if own else " No run of it is finished."
        yield (
            group.name,
            f"{', '.join(group.models)} x {', '.join(group.methods)} on {', '.join(group.data)}"
            f"{limit}{seeds}{after}.{note}{nothing}",
        )


def _describe_limit(asked: int, cells: Sequence[Cell]) -> str:
    """The number of images, which is above the limit where each class needs one image in both splits."""
    most = max((cell.record.data.num_train + cell.record.data.num_val for cell in cells), default=0)
    if most > asked:
        return f"{most:,} images for training and validation ({asked:,} requested; each class needs one in both)"
    return f"{asked:,} images for training and validation"


def describe_here(outcome: Outcome, settings: Settings) -> list[str]:
    """Sentences on options that change the study, optional groups, and models with another name here."""
    where = "in this trial" if settings.random_weights else "here"
    options = (
        ("--only", " --only ".join(map(repr, settings.only)), "these groups alone"),
        ("--limit", f"{settings.limit}" if settings.limit else "", "at most so many images of each data set"),
        ("--image-size", str(settings.image_size or ""), "input of all models in pixels"),
    )
    optional = [group.name for group in outcome.study.groups if group.optional and group.name not in settings.only]
    chained = {group.name for group in outcome.study.groups if group.after}  # these have names of runs
    ran = {cell.model: cell.record.config.model for cell in outcome.cells if cell.group not in chained}
    return [
        *(f"run with {option} {value}: {meaning}" for option, value, meaning in options if value),
        *(f"not run: '{name}', an optional group (add it with --only)" for name in optional),
        *(f"{where} {name} runs as {there}" for name, there in ran.items() if there != name),
    ]


def describe_data(outcome: Outcome, settings: Settings) -> Iterator[str]:
    """Yield where each data set was read from, its citation and its licence."""
    groups = chosen_groups(outcome.study, settings)
    for name in dict.fromkeys(data for group in groups for data in group.sources):
        place = source_of(name, settings)
        named, spec = find_source(name), find_source(place)
        if place != name and name not in settings.data:
            yield f"in this trial {name} is replaced by generated images ({place})"
            continue
        if place != name:
            unchecked = (
                "" if named is None or spec is not None else "; it was not checked against the published data set"
            )
            yield f"data: {name} was read from {place}{unchecked}"
        told = spec or named
        if told is not None and told.citation:
            source, licence = name if spec is None else place, told.licence or "not stated"
            yield f"data: {source}: {told.citation}; licence: {licence}"
