"""All sentences of a study: its answers, each made from one fact, its choices, and the notes below its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch

from backbench.report.text import show_p
from backbench.studies.analysis import facts
from backbench.studies.analysis.cells import show_figure
from backbench.studies.analysis.facts import Change, Fact, Kind, PairedTest, Remark, Run
from backbench.wording import join_names, list_some

MAX_VALUES = 4
"""Of a setting in which runs differ, before the rest is counted."""
REMARKS = {
    Kind.NOTHING: "No finished run can answer this question.",
    Kind.TRIAL: "(A trial answers no question.)",
    Kind.ONE_DATA_SET: "Only {about} is finished; this question needs two data sets.",
    Kind.NO_COMMON_MODEL: "No model is finished on all data sets.",
    Kind.NOT_FOLLOWED: "No method is finished on all data sets for {about}.",
    Kind.SHARED_CLASSES: (
        "Both accuracies count only images of the classes that both sources have. The sources may differ in more "
        "than the look of their images."
    ),
    Kind.OTHER_TRAINING_IMAGES: "Not compared on {about}: the two sides had different training images.",
    Kind.SAME_MODEL: "{about} are the same model here.",
    Kind.WITHOUT_PROBE: "No finished probe of the same weights and images to compare with: {about}.",
    Kind.KEPT_START: "No training figures, as no epoch was better than the start: {about}.",
    Kind.TRAINING_FIGURES: (
        "For methods that train, training figures are measured during training: on augmented images, with "
        "dropout, while the weights change."
    ),
    Kind.SMOOTHED_LABELS: (
        "Where the recipe smooths or mixes labels, the training loss uses those labels. The validation loss uses "
        "the true labels, so do not compare the two."
    ),
}
SIZE_NOTE = "Sizes are width x height in pixels; in brackets the share of the split's images with that size."
PROBE_SECONDS = (
    "Seconds of probes: decoding, resizing, network and head, measured when the features were computed."
)
TRAINING_SECONDS = (
    "Seconds of methods that train: wall-clock time of training and testing; for cached features, the time when "
    "they were computed."
)
RECIPE_NOTE = (
    "A learning rate of '-' is the default of the model's family. The head's is ten times that, or equal to it "
    "where the head was solved before or all weights started random. Epoch 0 is the state before training."
)
LAYER_DECAY_NOTE = (
    "Layer decay: each stage learns at this fraction of the next stage's rate; 1 means the same rate for all."
)
NOT_COMPARED = "Differences from published figures are not shown: in a trial they mean nothing."


def describe_facts(found: Iterable[Fact]) -> tuple[str, ...]:
    """Return a sentence or two for each fact, in plain text."""
    return tuple(map(describe, found))


@singledispatch
def describe(fact: Fact) -> str:
    """Return the sentences of one fact."""
    raise TypeError(fact)


@describe.register
def _describe_remark(fact: Remark) -> str:
    about = [each if isinstance(each, str) else _name(each) for each in fact.about]
    return REMARKS[fact.kind].format(about=_join(about))


@describe.register
def _describe_best(fact: facts.BestFeatures) -> str:
    title, rivals = fact.best.title, (*fact.tied, *fact.worse)
    tied = [run.title for run in fact.tied if run.title != title]
    how = f" + {fact.best.method}" if any(run.method != fact.best.method for run in rivals) else ""
    also = ""
    if tied:
        also = f"; {_join(tied)} may be the best too"
    elif rivals and not fact.tied:
        also = "; no other run may be the best"
    elif any(run.title != title for run in rivals):  # its own other methods are tied
        also = "; no other model may be the best"
    tests = " (95 % confidence)" if also else ""
    return f"On {fact.data}: {title}{how}, {_show(fact.best)}{also}{tests}."


@describe.register
def _describe_own(fact: facts.OwnNetwork) -> str:
    own, rival = fact.first, fact.later
    gap = f"{abs(100 * fact.gain):.1f} points {'more' if fact.gain > 0 else 'less'}" if fact.gain else "equal"
    return (
        f"On {fact.data}, {own.title} ({own.method}) reaches {_show(own)}. Of the other models the best on "
        f"validation, {rival.title} ({rival.method}), reaches {_show(rival)}: {gap} "
        f"({_describe_test(fact.test)}).{_count_above(fact)}"
    )


def _count_above(fact: facts.OwnNetwork) -> str:
    """' Of the 4 other models 1 is significantly better: ...'; '' where there is one other model."""
    num_others = len(fact.above) + len(fact.not_above)
    if num_others == 1:
        return ""
    num = "all" if not fact.not_above else "none" if not fact.above else f"{len(fact.above)}"
    rest = (
        f", all but {_join(fact.not_above)}" if len(fact.above) > len(fact.not_above) else f": {_join(fact.above)}"
    )
    rest = rest if fact.above and fact.not_above else ""
    return (
        f" Of the {num_others} other models {num} {'is' if len(fact.above) < 2 else 'are'} significantly "
        f"better{rest} (exact paired tests, Holm-adjusted; each model by its best method on validation)."
    )


@describe.register
def _describe_family(fact: facts.FamilyAverage) -> str:
    gap, best, other = fact.accuracy - fact.accuracy_of_others, fact.best, fact.best_other
    reach = "reaches" if len(fact.family) == 1 else "reach"
    verdict = "significantly worse" if gap < 0 else "significantly better"
    if not fact.test.is_significant:
        verdict = "no significant difference"
    return (
        f"On {fact.data}, {_join(fact.family)} {reach} {_percent(fact.accuracy)} on average, the others "
        f"{_percent(fact.accuracy_of_others)}: {verdict} ({_points(gap)}, {show_p(fact.test.p_value)}, exact "
        f"paired test on {fact.test.num_images:,} images). The best of each on validation: {best.title} with "
        f"{_show(best)}, {other.title} with {_show(other)} ({_describe_test(fact.test_of_best)})."
    )


@describe.register
def _describe_group_gain(fact: facts.GroupGain) -> str:
    first, later = fact.first, fact.later
    changes = f" Settings that differ: {_list_changes(fact.changes)}." if fact.changes else ""
    return (
        f"{_name(first)}: {_show(first)} in '{fact.groups[0]}', {_show(later)} in '{fact.groups[1]}', "
        f"{_points(fact.gain)} ({_describe_test(fact.test)})."
        f"{' Both are the same run.' if fact.is_same_run else changes}"
    )


@describe.register
def _describe_training_gain(fact: facts.TrainingGain) -> str:
    probe, trained = fact.first, fact.later
    start = "" if fact.is_of_start else " with the original weights"
    return (
        f"{trained.title} on {trained.data}: {trained.method} {_points(fact.gain)} over {probe.method}{start} "
        f"({_describe_test(fact.test)})."
    )


@describe.register
def _describe_gaps(fact: facts.TrainingGaps) -> str:
    shown = [
        f"{gap.run.title} + {gap.run.method} {_points(gap.train - gap.val)} "
        f"({_percent(gap.train)}, {_percent(gap.val)})"
        for gap in fact.gaps
    ]
    return f"On {fact.data}, training accuracy minus validation accuracy: {', '.join(shown)}."


@describe.register
def _describe_places(fact: facts.BestPlaces) -> str:
    has_open = any(place.low != place.high for place in fact.places)
    return (
        f"Of {fact.num_models} models on all data sets, {fact.model} has the best worst place: "
        f"{', '.join(map(_describe_place, fact.places))}."
        f"{' In brackets: the places that paired tests allow.' if has_open else ''}"
    )


def _describe_place(place: facts.Place) -> str:
    open_to = f" ({place.low} to {place.high})" if place.low != place.high else ""
    return f"place {place.place}{open_to} on {place.data}"


@describe.register
def _describe_source(fact: facts.SourceGain) -> str:
    over = f" on average ({fact.num_runs} runs)" if fact.num_runs > 1 else ""
    said = (
        f"From {fact.data} to {fact.source} accuracy {'falls' if fact.mean <= 0 else 'rises'} by "
        f"{abs(100 * fact.mean):.1f} points{over}."
    )
    if fact.own is not None:
        said += f" {_describe_gain(*fact.own)}."
    if fact.best is not None:
        said += f" Best {'of the others ' if fact.own else ''}on validation: {_describe_gain(*fact.best)}."
    return said


def _describe_gain(run: Run, gain: float) -> str:
    return f"{run.title} + {run.method}, {_points(gain)}"


@describe.register
def _describe_followed(fact: facts.Followed) -> str:
    start = fact.means[0].accuracy
    figures: list[str] = []
    for mean in fact.means:
        group = "" if mean.group is None else f" in '{mean.group}'"
        change = f" ({_points(mean.accuracy - start)})" if figures else ""
        figures.append(f"{_percent(mean.accuracy)} on {mean.data}{group}{change}")
    over = f", means over {' and '.join(map(str, fact.num_seeds))} seeds" if fact.num_seeds != (1,) else ""
    besides = f" Other differences: {_list_by_data(fact.changes)}." if fact.changes else ""
    return f"{fact.model} + {fact.method}: {', '.join(figures)}{over}.{besides}"


@describe.register
def _describe_common(fact: facts.CommonChanges) -> str:
    return f"Other differences, for all models: {_list_by_data(fact.changes)}."


def _list_by_data(found: Iterable[tuple[str, Sequence[Change]]]) -> str:
    return "; ".join(f"on {data}, {_list_changes(changes)}" for data, changes in found)


def _list_changes(changes: Iterable[Change]) -> str:
    """'epochs 20 to 10, input 32 x 32 px to 64 x 64 px (seed 1)'."""
    return ", ".join(
        f"{change.setting} {change.before}"
        f"{f' to {change.after}' if change.after != change.before else ' (other weights)'}"
        f"{'' if change.seed is None else f' (seed {change.seed})'}"
        for change in changes
    )


@describe.register
def _describe_unlike(fact: facts.Unlike) -> str:
    shown = [f"{setting} ({list_some(values, MAX_VALUES, '; ')})" for setting, values in fact.settings]
    return f"These runs also differ in {', '.join(shown)}."


@describe.register
def _describe_seen(fact: facts.Seen) -> str:
    runs = _join([f"{_name(run)} ({num:,} of {among:,})" for run, num, among in fact.runs])
    if fact.is_left_out:
        return f"Left out, because their weights were trained on {fact.split} images: {runs}."
    return f"Last where validation chooses, because their weights were trained on validation images: {runs}."


@describe.register
def _describe_precisions(fact: facts.Precisions) -> str:
    return f"Precision: {_join(fact.probes)} for the features of probes, {_join(fact.training)} for training."


def describe_choice(choice: facts.Choice) -> list[str]:
    """Return which models go on to a ranking, and of those on a front each with its reason."""
    names, selection = join_names(choice.models), choice.selection
    if selection is None:
        return [f"{choice.ranking}: {names}, best on validation {count_rivals(choice)}"]
    rule = "by accuracy on validation against FLOPs, one of each family first"
    said = [f"{choice.ranking}: {names}, chosen {count_rivals(choice)} {rule}"]
    for one in selection.taken:
        again = "" if one is selection.first_of(one.family) else " again"
        said.append(
            f"{choice.ranking}: {one.model} is taken: family {one.family}{again}, {_describe_candidate(one)}"
        )
    for one in selection.left:
        first = selection.first_of(one.family)
        why = "others came first" if first is None else f"family {one.family} has {first.model}"
        said.append(f"{choice.ranking}: {one.model} is left out: {_describe_candidate(one)}; {why}")
    return said


def count_rivals(choice: facts.Choice) -> str:
    """Return among how many runs a choice was made."""
    num = f"{choice.num_runs} of " if choice.num_runs < choice.num_asked else "all "
    return f"among {num}{choice.num_asked} runs of these models in '{choice.group}'"


def _describe_candidate(one: facts.Candidate) -> str:
    """'on the front, 81.2 % on validation, 4.1 GFLOPs an image'."""
    cost = "cost not known" if one.flops is None else f"{one.flops / 1e9:.3g} GFLOPs an image"
    place = "on the front" if one.beaten_by is None else f"behind {one.beaten_by}"
    return f"{place}, {_percent(one.accuracy)} on validation, {cost}"


def _describe_test(test: PairedTest) -> str:
    """'p = 0.03, exact paired test on 1,000 images': whether two runs on the same images differ."""
    apart = "" if test.is_significant else "no significant difference: "
    return f"{apart}{show_p(test.p_value)}, exact paired test on {test.num_images:,} images"


def _name(run: Run) -> str:
    """'resnet18 + full on cifar10'."""
    return f"{run.title} + {run.method} on {run.data}"


def _show(run: Run) -> str:
    return show_figure("accuracy", run.accuracy)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f} points"


def _join(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    return join_names(unique, limit=len(unique))
