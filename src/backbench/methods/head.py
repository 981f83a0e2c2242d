"""`head` and `mlp-head`: a frozen backbone, and a head trained by gradient steps, with optional augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from backbench.config import CAME_LATER, Frozen, Recipe
from backbench.errors import ConfigError
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from backbench.heads.head_modules import HeadModule
    from backbench.task import ImageTask
    from backbench.training.many_heads import Setting
    from backbench.training.phases import Trained, Training


Rate = Annotated[float, Field(gt=0.0, le=10.0)]
Decay = Annotated[float, Field(ge=0.0, le=10.0)]
RATES: tuple[Rate, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
DECAYS: tuple[Decay, ...] = (0.0, 0.01)
RECIPE = Recipe(epochs=30)


class HeadOptions(Frozen):
    """Trains one head for each rate and decay together, and chooses one on validation.

    Without augmentation the backbone runs once and every epoch trains on its features.
    """

    rates: tuple[Rate, ...] = Field(
        default=RATES,
        min_length=1,
        max_length=64,
        description="peak learning rates to try; recipe.learning_rate replaces them if set",
    )
    weight_decays: tuple[Decay, ...] = Field(
        default=DECAYS,
        min_length=1,
        max_length=64,
        description="weight decays to try; recipe.weight_decay replaces them if it is not the default",
    )
    recipe: Recipe = RECIPE

    @model_validator(mode="after")
    def _check(self) -> Self:
        _decide_values(self)
        for name in CAME_LATER:
            if value := getattr(self.recipe, name):
                raise ConfigError(
                    f"options.recipe.{name}={value:g}: only the head is trained here, and frozen layers have no "
                    "dropout. Leave it out, or use dropout before the head: options.recipe.dropout."
                )
        return self


class MlpHeadOptions(HeadOptions):
    """As `head`, with one hidden layer with ReLU and dropout."""

    hidden: int = Field(default=512, ge=1, le=65_536)
    dropout: float = Field(default=0.25, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _check_one_dropout(self) -> Self:
        if self.recipe.dropout:
            raise ConfigError(
                f"options.recipe.dropout={self.recipe.dropout:g}: 'mlp-head' has dropout after its hidden layer. "
                f"Set options.dropout={self.recipe.dropout:g} instead."
            )
        return self


def adapt_head(task: ImageTask, options: HeadOptions, training: Training) -> Trained:
    """Train linear heads, keep one; the backbone is frozen."""
    from backbench.heads.head_modules import make_linear
    from backbench.runtime import make_torch_rng

    rng = make_torch_rng(task.seed, "head")
    head = make_linear(task.backbone.facts.dim, task.num_classes, rng, options.recipe.dropout)
    return _adapt(task, head, options, training)


def adapt_mlp_head(task: ImageTask, options: MlpHeadOptions, training: Training) -> Trained:
    """Train heads with one hidden layer, keep one; the backbone is frozen."""
    from backbench.heads.head_modules import make_mlp
    from backbench.runtime import make_torch_rng

    rng = make_torch_rng(task.seed, "head")
    head = make_mlp(task.backbone.facts.dim, options.hidden, task.num_classes, options.dropout, rng)
    return _adapt(task, head, options, training)


def _adapt(task: ImageTask, head: HeadModule, options: HeadOptions, training: Training) -> Trained:
    from backbench.training.many_heads import (
        ManyHeads,
        choose_head,
        describe_heads,
        result_of_head,
        spread_phase,
        warn_of_diverged,
    )
    from backbench.training.phases import Trained, make_classifier, make_phase, standardise, train_phase

    grid, warnings = _decide_grid(options, len(task.val))
    heads = ManyHeads(head, len(grid))
    trained = standardise(task, heads, body_learns=False)
    classifier = make_classifier(task, trained)
    phase = make_phase("head", classifier, (), options.recipe, fresh_head=True)
    if len(grid) > 1:
        training.progress.say(
            f"head: training {len(grid)} heads together, each with its own rate and weight decay"
        )
    result = train_phase(classifier, task, spread_phase(phase, "head.inner.", grid), training)
    chosen = choose_head(result, len(task.val))
    trained.inner = heads.head(chosen)
    classifier.head = trained.fold()
    choices = describe_heads(result, grid, chosen)
    warnings += warn_of_diverged(result, grid)
    return Trained(classifier, {"head": result_of_head(result, chosen)}, choices, warnings)


def _decide_grid(options: HeadOptions, num_val: int) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """The rates and decays to try, and warnings; one of each without validation."""
    from backbench.training.many_heads import make_grid
    from backbench.training.phases import HEAD_RATE

    recipe = options.recipe
    rates, decays = _decide_values(options)
    grid = make_grid(rates, decays)
    if num_val or len(grid) == 1:
        return grid, ()
    one = make_grid(
        rates if len(rates) == 1 else (HEAD_RATE,), decays if len(decays) == 1 else (recipe.weight_decay,)
    )
    said = f"rate {one[0].learning_rate:g} and decay {one[0].weight_decay:g}"
    return one, (f"no validation images to choose a head, so only one was trained, with {said}",)


def _decide_values(options: HeadOptions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(rates, decays) to try. ConfigError: two options name a rate, or a decay."""
    recipe = options.recipe
    if recipe.learning_rate and recipe.head_learning_rate:
        raise ConfigError(
            f"options.recipe.learning_rate is {recipe.learning_rate:g} and head_learning_rate "
            f"{recipe.head_learning_rate:g}, but only the head is trained here: leave one of them out."
        )
    in_recipe = "head_learning_rate" if recipe.head_learning_rate else "learning_rate"
    rate = recipe.head_learning_rate or recipe.learning_rate
    decay = recipe.weight_decay if recipe.weight_decay != RECIPE.weight_decay else None
    rates = _take_place("rates", options.rates, RATES, in_recipe, rate)
    return rates, _take_place("weight_decays", options.weight_decays, DECAYS, "weight_decay", decay)


def _take_place(
    name: str, listed: tuple[float, ...], default: tuple[float, ...], in_recipe: str, value: float | None
) -> tuple[float, ...]:
    if value is None:
        return listed
    if listed != default:
        raise ConfigError(
            f"options.{name} is {list(listed)} and options.recipe.{in_recipe} is {value:g}: leave one of them out."
        )
    return (value,)


SPECS = (
    MethodSpec(
        "head",
        "frozen backbone, linear head by gradient steps",
        adapt_head,
        HeadOptions,
        "train",
        trains_body=False,
    ),
    MethodSpec(
        "mlp-head",
        "frozen backbone, head with a hidden layer",
        adapt_mlp_head,
        MlpHeadOptions,
        "train",
        trains_body=False,
    ),
)
