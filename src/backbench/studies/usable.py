"""Finds the models of a study that can be used, before its first ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backbench.backbones.faults import describe_faults, find_faults, refuse_faulty
from backbench.errors import BackbenchError
from backbench.progress import Progress
from backbench.registry import find_model
from backbench.runs.run import is_begun
from backbench.studies.steps import Settings, Step


@dataclass(frozen=True)
class Usable:
    """Which models of a study can be used, by the names they have here.

    Args:
        faults: models that can't be used -> why.
        checked: models that can. Models with existing runs are in neither: finished runs need no weights.
    """

    faults: dict[str, BackbenchError]
    checked: frozenset[str]

    def split(self, step: Step) -> tuple[dict[str, str], dict[str, BackbenchError]]:
        """Return the usable models of a step (the study's name -> the name here), and the others -> why."""
        if step.group.after is not None:  # its models start from weights of earlier runs
            return step.names, {}
        names = {asked: here for asked, here in step.names.items() if here not in self.faults}
        return names, {asked: self.faults[here] for asked, here in step.names.items() if asked not in names}


def find_usable(steps: Sequence[Step], settings: Settings, progress: Progress) -> Usable:
    """Check the weights of all models that the study starts from, and report every fault once.

    Raises:
        ConfigError: a name is wrong. ModelError: no model can be used.
    """
    names = dict.fromkeys(here for step in steps if step.group.after is None for here in step.names.values())
    models = {here: find_model(here) for here in names}
    new = {here: model for here, model in models.items() if not is_begun(settings.runs, model)}
    found = find_faults(new.values())
    num_models = len({model.name for model in models.values()})
    refuse_faulty(found, num_models)
    if found:
        progress.warn(f"{len(found)} of {num_models} models can't be used.\n{describe_faults(found)}")
    return Usable(
        faults={here: found[model.name] for here, model in new.items() if model.name in found},
        checked=frozenset(model.name for model in new.values() if model.name not in found),
    )
