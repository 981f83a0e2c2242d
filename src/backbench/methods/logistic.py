"""`logistic`: multinomial logistic regression, its strength of regularisation chosen on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from backbench.catalog import MethodSpec
from backbench.config import Frozen

if TYPE_CHECKING:
    from backbench.engine.heads import Fitted, LinearHead
    from backbench.engine.logistic import LogisticFits, Spectrum
    from backbench.engine.standardise import Scale
    from backbench.engine.task import Task


class LogisticOptions(Frozen):
    """C is scikit-learn's: the penalty is |weights|^2 / (2 n C) on standardised features.

    The default sweep doubles C from 1e-5 to 1e2: on standardised features of 200 to 2,000 dimensions the best
    value has been found between 1e-4 and 1e-1, and beyond 1e2 a loss without any penalty hardly differs.
    """

    min_strength: float = Field(default=1e-5, ge=1e-9, le=1e9, description="smallest C of the sweep")
    max_strength: float = Field(default=1e2, ge=1e-9, le=1e9, description="largest C of the sweep")
    num_values: int = Field(default=24, ge=1, le=200, description="values of C, evenly spaced on a log scale")
    default_strength: float = Field(default=1e-2, ge=1e-9, le=1e9, description="C where there is no validation")
    tolerance: float = Field(default=1e-5, ge=1e-8, le=1e-2, description="relative to the loss at its minimum")
    max_evaluations: int = Field(
        default=300, ge=10, le=100_000, description="passes over the features, for each C"
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

    Cost: a sweep of 24 values costs about 100 passes over the features, the refit some 10 to 40.
    """
    from backbench.engine.choose import choose_best, fit_prior, is_beyond_edge, score_logits
    from backbench.engine.heads import Fitted
    from backbench.engine.logistic import fit_logistic, measure_spectrum
    from backbench.engine.standardise import Rows, measure_scale

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
        return Fitted(_head(fits, 0, scale), choices, None, "train", _unconverged(fits))
    strengths = options.strengths()
    fits = fit_logistic(rows, task.train.labels, strengths=strengths, spectrum=spectrum, **limits)
    del rows
    heads = [_head(fits, i, scale) for i in range(len(strengths))]
    scores = [score_logits(head.logits(task.val.values), task.val.labels) for head in heads]
    best = choose_best(scores, len(task.val))
    final, refit = _refit(task, strengths[best], heads[best], limits, spectrum)
    choices = {
        "C": strengths[best],
        "val_accuracy": scores[best].accuracy,
        "val_nll": scores[best].nll,
        "num_values": len(strengths),
        "evaluations": fits.num_evaluations + refit.num_evaluations,
        "at_edge": best in (0, len(strengths) - 1),
    }
    warnings = _unconverged(refit)
    if is_beyond_edge(scores, best):
        warnings += (
            f"the best C, {strengths[best]:g}, is at the edge of the sweep "
            f"({strengths[0]:g} to {strengths[-1]:g}): a wider one may do better",
        )
    return Fitted(final, choices, heads[best].logits(task.val.values), "train+val", warnings)


def _refit(
    task: Task, strength: float, before: LinearHead, limits: dict[str, Any], spectrum: Spectrum
) -> tuple[LinearHead, LogisticFits]:
    """Fit train and validation together, from the weights found on train alone."""
    from backbench.engine.logistic import fit_logistic
    from backbench.engine.standardise import Rows, measure_scale

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
    return _head(fits, 0, scale), fits


def _head(fits: LogisticFits, index: int, scale: Scale) -> LinearHead:
    from backbench.engine.heads import LinearHead
    from backbench.engine.ridge import unfold

    weights, bias = unfold(fits.weights[index], fits.bias[index], scale)
    return LinearHead(weights.astype(np.float32), bias.astype(np.float32))


def _unconverged(fits: LogisticFits) -> tuple[str, ...]:
    if bool(fits.converged.all()):
        return ()
    passes = int(fits.evaluations.max())
    return (f"logistic regression stopped after {passes} passes, short of its tolerance",)


SPECS = (
    MethodSpec("logistic", "multinomial logistic regression, C chosen on validation", adapt, LogisticOptions),
)
