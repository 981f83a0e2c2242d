"""`logistic`: multinomial logistic regression, with C chosen on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from backbench.config import Frozen
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from backbench.heads.choose import Score
    from backbench.heads.heads import Fitted, LinearHead
    from backbench.heads.logistic import LogisticFits, Spectrum
    from backbench.heads.standardise import Rows, Scale
    from backbench.task import Task


SWEEP_TOLERANCE = 1e-3
"""Sufficient for the choice: it changes validation losses in the third digit and needs a third of the passes of
1e-5. The final head is refitted to the tolerance of the options."""
PATIENCE = 4


class LogisticOptions(Frozen):
    """C is scikit-learn's: the penalty is |weights|^2 / (2 n C) on standardised features.

    The default sweep doubles C from 1e-5 to 1e2: on standardised features of 200 to 2,000 dimensions the best
    value has been found between 1e-4 and 1e-1, and beyond 1e2 a loss without any penalty hardly differs.
    """

    min_strength: float = Field(default=1e-5, ge=1e-9, le=1e9, description="smallest C of the sweep")
    max_strength: float = Field(default=1e2, ge=1e-9, le=1e9, description="largest C of the sweep")
    num_values: int = Field(default=24, ge=1, le=200, description="values of C, evenly spaced on a log scale")
    default_strength: float = Field(default=1e-2, ge=1e-9, le=1e9, description="C without a validation split")
    tolerance: float = Field(
        default=1e-5,
        ge=1e-8,
        le=1e-2,
        description="tolerance of the final fit, relative to the loss at its minimum",
    )
    max_evaluations: int = Field(
        default=300, ge=10, le=100_000, description="maximum passes over the features, for each C"
    )

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.min_strength > self.max_strength:
            raise ValueError(f"min_strength = {self.min_strength:g} is above max_strength = {self.max_strength:g}")
        return self

    def strengths(self) -> list[float]:
        """The values of C, strictly ascending."""
        low, high = np.log10([self.min_strength, self.max_strength])
        return [float(value) for value in np.unique(np.logspace(low, high, self.num_values))]


def adapt(task: Task, options: LogisticOptions) -> Fitted:
    """Sweep C on train, choose it on validation (see `choose_best`), refit on both.

    Cost: a sweep costs 100 to 300 passes over the features, the refit 10 to 100.
    """
    from backbench.heads.choose import choose_best, fit_prior, is_beyond_edge
    from backbench.heads.heads import Fitted
    from backbench.heads.logistic import fit_logistic, measure_spectrum
    from backbench.heads.standardise import Rows, measure_scale

    scale = measure_scale([task.train.values])
    if not scale.inverse_std.any():
        return fit_prior(task)
    limits: dict[str, Any] = {
        "num_classes": task.num_classes,
        "tolerance": options.tolerance,
        "max_evaluations": options.max_evaluations,
    }
    rows = Rows([task.train.values], scale, task.device)
    spectrum = measure_spectrum(rows)
    if not len(task.val):
        fits = fit_logistic(
            rows, task.train.labels, strengths=[options.default_strength], spectrum=spectrum, **limits
        )
        choices = {"C": options.default_strength, "evaluations": fits.num_evaluations}
        return Fitted(_unfold(fits.weights[0], fits.bias[0], scale), choices, None, "train", _unconverged(fits))
    heads, scores, num_evaluations = _sweep(task, rows, scale, options, limits | {"spectrum": spectrum})
    del rows
    strengths = options.strengths()[: len(heads)]
    best = choose_best(scores, len(task.val))
    final, refit = _refit(task, strengths[best], heads[best], limits, spectrum)
    choices = {
        "C": strengths[best],
        "val_accuracy": scores[best].accuracy,
        "val_nll": scores[best].nll,
        "num_values": len(strengths),
        "evaluations": num_evaluations + refit.num_evaluations,
        "at_edge": best in (0, len(strengths) - 1),
    }
    warnings = _unconverged(refit)
    if is_beyond_edge(scores, best):
        warnings += (
            f"the best C, {strengths[best]:g}, is at the edge of the sweep ({strengths[0]:g} to "
            f"{strengths[-1]:g}): a wider one may be better",
        )
    return Fitted(final, choices, heads[best].logits(task.val.values), "train+val", warnings)


def _sweep(
    task: Task, rows: Rows, scale: Scale, options: LogisticOptions, limits: dict[str, Any]
) -> tuple[list[LinearHead], list[Score], int]:
    """Heads and their validation scores, from the strongest penalty on, until no improvement is expected.

    The weakest penalties cost by far the most passes, and on separable features they only overfit:
    the sweep ends when `PATIENCE` values in a row have neither been chosen nor been the most accurate.
    """
    from backbench.heads.choose import choose_best, score_logits
    from backbench.heads.logistic import fit_logistic

    heads: list[LinearHead] = []
    scores: list[Score] = []

    def is_enough(weights: np.ndarray, bias: np.ndarray) -> bool:
        for each in zip(weights, bias, strict=True):
            heads.append(_unfold(*each, scale))
            scores.append(score_logits(heads[-1].logits(task.val.values), task.val.labels))
        best = choose_best(scores, len(task.val))
        most = max(range(len(scores)), key=lambda index: scores[index].accuracy)
        return len(scores) - 1 - max(best, most) >= PATIENCE

    fits = fit_logistic(
        rows,
        task.train.labels,
        strengths=options.strengths(),
        is_enough=is_enough,
        **limits | {"tolerance": max(options.tolerance, SWEEP_TOLERANCE)},
    )
    return heads, scores, fits.num_evaluations


def _refit(
    task: Task, strength: float, before: LinearHead, limits: dict[str, Any], spectrum: Spectrum
) -> tuple[LinearHead, LogisticFits]:
    """Fit train and validation together, from the weights found on train alone."""
    from backbench.heads.logistic import fit_logistic
    from backbench.heads.standardise import Rows, measure_scale

    parts = [task.train.values, task.val.values]
    labels = np.concatenate([task.train.labels, task.val.labels])
    scale = measure_scale(parts)
    std = np.divide(1.0, scale.inverse_std, out=np.zeros_like(scale.mean), where=scale.inverse_std > 0)
    start = (before.weights * std, before.bias + before.weights.astype(np.float64) @ scale.mean)
    knows_all = np.array_equal(np.unique(labels), np.unique(task.train.labels))
    rows = Rows(parts, scale, task.device)
    fits = fit_logistic(
        rows, labels, strengths=[strength], spectrum=spectrum, start=start if knows_all else None, **limits
    )
    return _unfold(fits.weights[0], fits.bias[0], scale), fits


def _unfold(weights: np.ndarray, bias: np.ndarray, scale: Scale) -> LinearHead:
    """The head for raw features, from weights for standardised ones."""
    from backbench.heads.heads import LinearHead
    from backbench.heads.ridge import unfold

    raw_weights, raw_bias = unfold(weights, bias, scale)
    return LinearHead(raw_weights.astype(np.float32), raw_bias.astype(np.float32))


def _unconverged(fits: LogisticFits) -> tuple[str, ...]:
    if bool(fits.converged.all()):
        return ()
    passes = int(fits.evaluations.max())
    return (f"logistic regression stopped after {passes} passes before reaching its tolerance",)


SPECS = (
    MethodSpec("logistic", "multinomial logistic regression, C chosen on validation", adapt, LogisticOptions),
)
