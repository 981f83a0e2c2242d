"""`ridge`: one-against-rest least squares in closed form, its penalty chosen on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field, model_validator

from backbench.config import Frozen
from backbench.registry import MethodSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backbench.heads.heads import Fitted, LinearHead
    from backbench.task import Task

DEFAULT_SCALE = 5.0
"""Factor from scores to logits without validation: targets differ by 2, so a perfect score has odds of e^10."""


class RidgeOptions(Frozen):
    """The penalty is on squared weights per example, on standardised features, with targets +1 and -1.

    Eigenvalues of the covariance of standardised features are between 0 and the number of features, typically
    1e-3 to 1e2, and the default sweep covers them.
    """

    min_l2: float = Field(default=1e-5, ge=1e-9, le=1e9, description="smallest penalty of the sweep")
    max_l2: float = Field(default=1e3, ge=1e-9, le=1e9, description="largest penalty of the sweep")
    num_values: int = Field(default=25, ge=1, le=1000, description="penalties, evenly spaced on a log scale")
    default_l2: float = Field(default=1.0, ge=1e-9, le=1e9, description="penalty without a validation split")

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.min_l2 > self.max_l2:
            raise ValueError(f"min_l2 = {self.min_l2:g} is above max_l2 = {self.max_l2:g}")
        return self

    def penalties(self) -> list[float]:
        """The penalties, strictly descending: the strongest first, so that it wins ties."""
        low, high = np.log10([self.min_l2, self.max_l2])
        return [float(value) for value in np.unique(np.logspace(low, high, self.num_values))[::-1]]


def adapt(task: Task, options: RidgeOptions) -> Fitted:
    """Sweep the penalty on train, choose it on validation, solve again on both.

    Regression scores are not log-odds; they are multiplied by the factor that makes the softmax most likely on
    validation, found for the scores of the fit on train and kept.

    Cost: two eigendecompositions of a matrix of min(n, dim) rows, two products of n x dim^2.
    """
    from backbench.heads.choose import choose_best, fit_prior, fit_scale, is_beyond_edge, score_logits
    from backbench.heads.heads import Fitted
    from backbench.heads.standardise import measure_scale

    if not measure_scale([task.train.values]).inverse_std.any():
        return fit_prior(task)
    if not len(task.val):
        (head,) = _solve([task.train.values], task.train.labels, task, [options.default_l2])
        choices = {"l2": options.default_l2, "scale": DEFAULT_SCALE}
        return Fitted(_scaled(head, DEFAULT_SCALE), choices, None, "train")
    penalties = options.penalties()
    heads = _solve([task.train.values], task.train.labels, task, penalties)
    logits = [head.logits(task.val.values) for head in heads]
    scales = [fit_scale(each, task.val.labels) for each in logits]
    scores = [score_logits(scale * each, task.val.labels) for each, scale in zip(logits, scales, strict=True)]
    best = choose_best(scores, len(task.val))
    labels = np.concatenate([task.train.labels, task.val.labels])
    (final,) = _solve([task.train.values, task.val.values], labels, task, [penalties[best]])
    choices = {
        "l2": penalties[best],
        "scale": scales[best],
        "val_accuracy": scores[best].accuracy,
        "val_nll": scores[best].nll,
        "num_values": len(penalties),
        "at_edge": best in (0, len(penalties) - 1),
    }
    warnings: tuple[str, ...] = ()
    if is_beyond_edge(scores, best):
        warnings = (
            f"the best ridge penalty, {penalties[best]:g}, is at the edge of the sweep ({penalties[-1]:g} to "
            f"{penalties[0]:g}): a wider one may be better",
        )
    before = _scaled(heads[best], scales[best])
    return Fitted(_scaled(final, scales[best]), choices, before.logits(task.val.values), "train+val", warnings)


def _solve(
    parts: Sequence[np.ndarray], labels: np.ndarray, task: Task, penalties: Sequence[float]
) -> list[LinearHead]:
    """One head for each penalty, its logits the regression scores of the classes that have examples."""
    from backbench.heads.heads import LinearHead, spread_classes
    from backbench.heads.ridge import decompose, unfold
    from backbench.heads.standardise import Rows, measure_scale

    scale = measure_scale(parts)
    present, dense = np.unique(labels, return_inverse=True)
    path = decompose(Rows(parts, scale, task.device), dense, len(present))
    heads = []
    for l2 in penalties:
        weights, bias = spread_classes(*path.solve(l2), present, task.num_classes)
        weights, bias = unfold(weights, bias, scale)
        heads.append(LinearHead(weights.astype(np.float32), bias.astype(np.float32)))
    return heads


def _scaled(head: LinearHead, scale: float) -> LinearHead:
    from backbench.heads.heads import LinearHead

    return LinearHead(np.float32(scale) * head.weights, np.float32(scale) * head.bias)


SPECS = (MethodSpec("ridge", "least squares in closed form, penalty chosen on validation", adapt, RidgeOptions),)
