"""Which models of a study can be used, found before its first ranking begins."""

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
    """What was found out about the models of a study, by the names they have here.

    Args:
        faults: those that can't be used -> why.
        checked: those that can. Models with runs that are there are in neither: finished runs need no weights.
    """

    faults: dict[str, BackbenchError]
    checked: frozenset[str]

    def split(self, step: Step) -> tuple[dict[str, str], dict[str, BackbenchError]]:
        """The models of a step that may run, by the study's name -> by the one here; and the others -> why."""
        if step.group.after is not None:  # its models start from what earlier runs left
            return step.names, {}
        names = {asked: here for asked, here in step.names.items() if here not in self.faults}
        return names, {asked: self.faults[here] for asked, here in step.names.items() if asked not in names}


def find_usable(steps: Sequence[Step], settings: Settings, progress: Progress) -> Usable:
    """Look for the weights of all models that begin the study, and tell what is wrong, all of it once.

    Raises:
        ConfigError: a name that is wrong. ModelError: no model can be used.
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
