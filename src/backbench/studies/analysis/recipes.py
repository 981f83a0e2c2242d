"""Makes the table of recipes of a study. Pure, from records."""

from __future__ import annotations

from collections.abc import Sequence

from backbench.report.markdown import Table
from backbench.report.text import describe_augment
from backbench.studies.analysis.cells import Cell, name_data, show_setting
from backbench.studies.analysis.wording import LAYER_DECAY_NOTE, RECIPE_NOTE

RECIPE = ("optimizer", "learning_rate", "head_learning_rate", "weight_decay", "batch_size")
"""Settings that always have a column."""
MORE_OF_RECIPE = (
    "momentum",
    "schedule",
    "warmup_epochs",
    "plateau_factor",
    "plateau_patience",
    "patience",
    "min_improvement",
    "label_smoothing",
    "class_weights",
    "ema_decay",
    "clip_norm",
    "layer_decay",
    "dropout",
    "attention_dropout",
    "mlp_dropout",
)
"""Settings that have a column where runs differ, and else are named below the table."""


def make_recipe_table(cells: Sequence[Cell]) -> list[Table]:
    """The settings of each trained run; those that all runs share stand below the table."""
    trained = [cell for cell in cells if cell.recipe]
    if not trained:
        return []
    more = {
        "method options": [_describe_options(cell) for cell in trained],
        **{
            name.replace("_", " "): [show_setting(cell.recipe.get(name)) for cell in trained]
            for name in MORE_OF_RECIPE
        },
        "augmentation": [describe_augment(cell.augment) or "-" for cell in trained],
    }
    unlike = [name for name, values in more.items() if len(set(values)) > 1]
    rows = []
    for number, cell in enumerate(trained):
        choices = {} if cell.record.method is None else cell.record.method.choices
        kept = [show_setting(value) for key, value in choices.items() if key.endswith("best_epoch")]
        epochs = (show_setting(cell.recipe.get("epochs")), " + ".join(kept) or "-")
        own = [other for other in cells if other.group == cell.group]
        always = [show_setting(cell.recipe.get(name)) for name in RECIPE]
        where = (cell.group, cell.model, cell.method, name_data(cell, own))
        rows.append((*where, *epochs, *always, *(more[name][number] for name in unlike)))
    columns = ("group", "model", "method", "data", "epochs at most", "epoch kept")
    names = (*(name.replace("_", " ") for name in RECIPE), *unlike)
    common = [f"{name} {values[0]}" for name, values in more.items() if name not in unlike and values[0] != "-"]
    notes = [RECIPE_NOTE]
    if any(cell.recipe.get("layer_decay", 1.0) != 1.0 for cell in trained):
        notes.append(LAYER_DECAY_NOTE)
    if common:
        notes.append(f"The same for all: {', '.join(common)}.")
    return [Table("How it was trained", columns + names, tuple(rows), tuple(notes))]


def _describe_options(cell: Cell) -> str:
    """'blocks 3': the method's options without its recipe and without lists of values to choose from."""
    options = {} if cell.record.method is None else cell.record.method.options
    shown = []
    for name, value in options.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if name == "recipe" or value is None or (len(values) > 1 and not all(isinstance(v, str) for v in values)):
            continue
        said = f" {' + '.join(map(show_setting, values))}"
        if isinstance(value, bool):
            said = "" if value else " off"
        shown.append(f"{name.replace('_', ' ')}{said}")
    return ", ".join(shown) or "-"
