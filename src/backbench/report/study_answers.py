"""Answers to a study's questions, in sentences made from its figures by fixed rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backbench.report.study_tables import Cell, show_figure

Answer = Callable[[Sequence[Cell], str | None], str]
NOTHING = "No run that could answer it is finished."


def answer_question(by: str, cells: Sequence[Cell], model: str | None = None) -> str:
    """One or two sentences.

    Args:
        by: the rule, one of `RULES`.
        cells: finished runs of the question's groups.
        model: the model in question, for rules that need one.
    """
    usable = [cell for cell in cells if cell.figure("accuracy") is not None]
    return RULES[by](usable, model) if usable else NOTHING


def best_features(cells: Sequence[Cell], _model: str | None = None) -> str:
    """The best frozen features on each data set, and what can't be told apart from them."""
    sentences = []
    for data in dict.fromkeys(cell.data for cell in cells):
        own = sorted((cell for cell in cells if cell.data == data), key=_accuracy, reverse=True)
        best = own[0]
        near = [cell.model for cell in own[1:] if _high(cell) >= _low(best) and cell.model != best.model]
        also = f"; the intervals of {_join(near)} reach its own" if near else ""
        sentences.append(f"On {data}: {best.model}, {_show(best)}{also}.")
    return " ".join(sentences)


def both_resolutions(cells: Sequence[Cell], _model: str | None = None) -> str:
    """The model whose worst place over the data sets is the best."""
    data = list(dict.fromkeys(cell.data for cell in cells))
    if len(data) < 2:
        return f"Only {data[0]} is finished: it takes two data sets."
    places: dict[str, list[int]] = {}
    for name in data:
        ordered = sorted((cell for cell in cells if cell.data == name), key=_accuracy, reverse=True)
        for place, model in enumerate(dict.fromkeys(cell.model for cell in ordered), start=1):
            places.setdefault(model, []).append(place)
    whole = {model: found for model, found in places.items() if len(found) == len(data)}
    if not whole:
        return "No model has finished on all data sets."
    best = min(whole, key=lambda model: (max(whole[model]), sum(whole[model])))
    shown = ", ".join(f"place {place} on {name}" for place, name in zip(whole[best], data, strict=True))
    return f"{best}: {shown}, of {len(whole)} models on all of them."


def own_network(cells: Sequence[Cell], model: str | None = None) -> str:
    """The study's own network against the best of the pretrained ones."""
    own = [cell for cell in cells if cell.model == model]
    others = [cell for cell in cells if cell.model != model]
    if not own or not others:
        return NOTHING
    mine = max(own, key=_accuracy)
    rivals = [cell for cell in others if cell.data == mine.data] or others
    best = max(rivals, key=_accuracy)
    gap = 100 * (_accuracy(best) - _accuracy(mine))
    verb = f"{gap:.1f} points above" if gap > 0 else f"{-gap:.1f} points below"
    return (
        f"{mine.model} ({mine.method}) reaches {_show(mine)} on {mine.data}; the best pretrained model, "
        f"{best.model} ({best.method}), is {verb} it with {_show(best)}."
    )


def generalisation(cells: Sequence[Cell], _model: str | None = None) -> str:
    """What is left of the accuracy on images of another source."""
    drops = [
        (cell, source, _accuracy(cell) - found.metrics["accuracy"].value)
        for cell in cells
        for source, found in cell.elsewhere.items()
    ]
    if not drops:
        return NOTHING
    best = min(drops, key=lambda drop: drop[2])
    mean = sum(drop for _, _, drop in drops) / len(drops)
    return (
        f"On images of another source accuracy falls by {100 * mean:.1f} points on average ({len(drops)} "
        f"comparisons); least for {best[0].model} + {best[0].method}, by {100 * best[2]:.1f} points on {best[1]}. "
        "Only classes that both have are counted, and a source differs in more than its images' look."
    )


TRANSFORMERS = ("vit", "deit", "swin", "mixer", "pvt", "beit", "dinov2")


def families(cells: Sequence[Cell], _model: str | None = None) -> str:
    """Patch models against convolutional ones, by the mean accuracy of frozen features."""
    sentences = []
    for data in dict.fromkeys(cell.data for cell in cells):
        own = [cell for cell in cells if cell.data == data]
        patch = [cell for cell in own if any(word in cell.model.lower() for word in TRANSFORMERS)]
        other = [cell for cell in own if cell not in patch]
        if patch and other:
            best_patch, best_other = max(patch, key=_accuracy), max(other, key=_accuracy)
            sentences.append(
                f"On {data} the best transformer or patch model is {best_patch.model} with {_show(best_patch)}, "
                f"the best convolutional one {best_other.model} with {_show(best_other)}."
            )
    return " ".join(sentences) or NOTHING


def fine_tuning_gain(cells: Sequence[Cell], _model: str | None = None) -> str:
    """How much each model gained over its probe by being trained."""
    probes = {
        (cell.model, cell.data): cell for cell in cells if cell.method in ("logistic", "knn", "ridge", "centroid")
    }
    sentences = []
    for cell in cells:
        probe = probes.get((cell.model, cell.data))
        if probe is not None and cell is not probe and cell.method != probe.method:
            gain = 100 * (_accuracy(cell) - _accuracy(probe))
            sentences.append(f"{cell.model} on {cell.data}: {cell.method} {gain:+.1f} points over its probe.")
    return " ".join(sentences) or NOTHING


RULES: dict[str, Answer] = {
    "best-features": best_features,
    "both-resolutions": both_resolutions,
    "own-network": own_network,
    "generalisation": generalisation,
    "families": families,
    "fine-tuning-gain": fine_tuning_gain,
}


def _accuracy(cell: Cell) -> float:
    metric = cell.figure("accuracy")
    return 0.0 if metric is None else metric.value


def _high(cell: Cell) -> float:
    metric = cell.figure("accuracy")
    return 0.0 if metric is None or metric.high is None else metric.high


def _low(cell: Cell) -> float:
    metric = cell.figure("accuracy")
    return 1.0 if metric is None or metric.low is None else metric.low


def _show(cell: Cell) -> str:
    return show_figure("accuracy", cell.figure("accuracy"))


def _join(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return " and ".join([", ".join(unique[:-1]), unique[-1]]) if len(unique) > 1 else unique[0]
