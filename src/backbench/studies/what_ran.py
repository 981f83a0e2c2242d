"""What of a study was run here, in words: its groups, where its images came from, what differs from its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backbench.registry import find_source
from backbench.studies.analysis.cells import Cell
from backbench.studies.run import Outcome
from backbench.studies.steps import Settings, chosen_groups, source_of


def list_groups(outcome: Outcome, settings: Settings) -> Iterator[tuple[str, str]]:
    """Of each group that was asked for its name, and what it is in words."""
    for group in chosen_groups(outcome.study, settings):
        own = [cell for cell in outcome.cells if cell.group == group.name]
        after = f", after '{group.after}' on {group.after_data}" if group.after else ""
        limit = f", {_describe_limit(group.train_limit, own)}" if group.train_limit else ""
        seeds = f", seeds {', '.join(map(str, group.seeds))}" if len(group.seeds) > 1 else ""
        note = f" {group.note}" if group.note else ""
        nothing = "" if own else " Nothing of it is finished."
        yield (
            group.name,
            f"{', '.join(group.models)} x {', '.join(group.methods)} on {', '.join(group.data)}"
            f"{limit}{seeds}{after}.{note}{nothing}",
        )


def _describe_limit(asked: int, cells: Sequence[Cell]) -> str:
    """So many images as were asked for, or as many as it took to have each class in both parts."""
    most = max((cell.record.data.num_train + cell.record.data.num_val for cell in cells), default=0)
    if most > asked:
        return f"{most:,} images for training and validation ({asked:,} asked for: each class has one in either)"
    return f"{asked:,} images for training and validation"


def describe_here(outcome: Outcome, settings: Settings) -> list[str]:
    """How this differs from what the study file says: what was asked for, and what stands in for what."""
    where = "in this trial" if settings.random_weights else "here"
    asked = {
        "only these groups": ", ".join(settings.only),
        "at most so many images of each data set": f"{settings.limit:,}" if settings.limit else "",
        "input of all models, in pixels": str(settings.image_size or ""),
    }
    optional = [group.name for group in outcome.study.groups if group.optional and group.name not in settings.only]
    chained = {group.name for group in outcome.study.groups if group.after}  # these have names of runs
    ran = {cell.model: cell.record.config.model for cell in outcome.cells if cell.group not in chained}
    return [
        *(f"asked for here: {what}: {value}" for what, value in asked.items() if value),
        *(f"not asked for: '{name}', an option of this study (--only)" for name in optional),
        *(f"{where} {name} is {there}" for name, there in ran.items() if there != name),
    ]


def describe_data(outcome: Outcome, settings: Settings) -> Iterator[str]:
    """Of each data set where it was read from, and whose it is."""
    groups = chosen_groups(outcome.study, settings)
    for name in dict.fromkeys(data for group in groups for data in (*group.data, *group.test_on)):
        place = source_of(name, settings)
        named, spec = find_source(name), find_source(place)
        if place != name and name not in settings.data:
            yield f"in this trial {name} is {place}: drawn images"
            continue
        if place != name:
            unchecked = (
                "" if named is None or spec is not None else ", and was not compared with what is published"
            )
            yield f"data: {name} was read from {place}{unchecked}"
        told = spec or named
        if told is not None and told.citation:
            source, licence = name if spec is None else place, told.licence or "not stated"
            yield f"data: {source}: {told.citation}; licence: {licence}"
