"""Multinomial logistic regression on frozen features: a whole sweep of regularisation strengths.

The objective is scikit-learn's. Up to four strengths share each pass over the rows, and start from an
extrapolation of earlier solutions. The initial inverse Hessian of L-BFGS is the bound of Böhning 1992 with the
mean variance of each class's probability instead of 1/2. At zero weights it is the exact Hessian, so the first
step is Newton's; it saves four fifths of the iterations or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backbench.heads.heads import spread_classes
from backbench.heads.lbfgs import minimise, scalar_type
from backbench.heads.standardise import Rows, to_tensor

LOGITS_PER_BLOCK = {"cpu": 1 << 19}
LOGITS_PER_BLOCK_ELSEWHERE = 1 << 24
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 256, 8192
COLUMNS_PER_GROUP, MAX_GROUP = 40, 4
APPROACH_FROM, APPROACH_FACTOR, APPROACH_TOLERANCE = 1e-3, 4.0, 1e-2
APPROACH_ROWS_PER_DIM, APPROACH_ROWS_PER_CLASS = 4, 40
MAX_RANK = 2048
NARROW = 64
MIN_VARIANCE, MIN_SHARE = 1e-9, 0.1
MIN_EIGENVALUE = 1e-5
LOSS_FLOOR = 1e-2
"""Minimum loss for the relative tolerance: float32 has no more precision below it."""

IsEnough = Callable[[np.ndarray, np.ndarray], bool]
"""(weights (k, classes, dim), bias (k, classes)) of the next k strengths -> whether the sweep can stop."""


@dataclass(frozen=True)
class LogisticFits:
    """One solution for each strength that was solved, on standardised features.

    weights: (strengths, classes, dim) float32; bias: (strengths, classes) float32; losses: the objective, which
    counts only the classes that have examples; evaluations: passes over the rows; converged: tolerance met;
    approach_evaluations: passes spent on stronger penalties to get near the first.
    """

    weights: np.ndarray
    bias: np.ndarray
    losses: np.ndarray
    evaluations: np.ndarray
    converged: np.ndarray
    approach_evaluations: int

    @property
    def num_evaluations(self) -> int:
        """Passes over the rows, in total."""
        return self.approach_evaluations + int(self.evaluations.sum())


@dataclass(frozen=True)
class Spectrum:
    """Covariance of standardised rows ~ vectors x values x vectors' + rest x (projection orthogonal to vectors).

    vectors: (dim, rank); values: (rank,).
    """

    vectors: Tensor
    values: Tensor
    rest: float


def measure_spectrum(rows: Rows) -> Spectrum:
    """Eigenvectors of the covariance of (a sample of) the rows: at most 2,048 of them.

    Cost: O(m dim min(m, dim) + min(m, dim)^3) for a sample of m = 4 min(dim, 2048) rows.
    """
    sample = rows.sample(4 * rows.dim if rows.dim <= MAX_RANK else MAX_RANK)
    num, dim = sample.shape
    if num >= dim:
        values, vectors = torch.linalg.eigh((sample.T @ sample / num).cpu())
    else:
        values, outer = torch.linalg.eigh((sample @ sample.T / num).cpu())
        is_kept = values > 1e-6 * values[-1]
        values = values[is_kept]
        vectors = (sample.T.cpu() @ outer[:, is_kept]) / torch.sqrt(values * num)
    total = float(sample.square().sum() / num)
    rest = max((total - float(values.sum())) / max(1, dim - len(values)), MIN_EIGENVALUE)
    values = values.clamp_min(MIN_EIGENVALUE)
    return Spectrum(vectors.to(rows.device), values.to(rows.device), rest)


def fit_logistic(
    rows: Rows,
    labels: np.ndarray,
    *,
    num_classes: int,
    strengths: Sequence[float],
    tolerance: float = 1e-5,
    loss_floor: float = LOSS_FLOOR,
    max_evaluations: int = 300,
    spectrum: Spectrum | None = None,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    is_enough: IsEnough | None = None,
) -> LogisticFits:
    """Minimise mean cross-entropy + |weights|^2 / (2 n C) for every C of `strengths`.

    For two classes the penalty is doubled, which makes it scikit-learn's, whose two-class problem has one
    vector of weights: the difference of ours. The intercepts are not penalised. A class without examples is left
    out and gets a constant logit far below the others.

    Args:
        rows: n standardised rows.
        labels: (n,) int in 0..num_classes-1.
        strengths: values of C > 0, strictly ascending; as in scikit-learn.
        tolerance: the loss ends within about this fraction of its minimum.
        loss_floor: a smaller loss counts as this much in the tolerance.
        max_evaluations: passes over the rows for each strength.
        spectrum: of these or similar rows, if known.
        start: initial weights (classes, dim) and bias (classes,) from a fit with the same classes.
        is_enough: called after each group of strengths solved together; True ends the sweep.

    Raises:
        Diverged: the rows hold values that are not finite.

    Cost: an evaluation is 4 n dim classes FLOP for each strength. A sweep takes 5 to 40 for each while the loss
    stays well above 0, and hundreds otherwise (C > 1 on separable features). Memory
    beyond the rows is a constant + 30 x max(classes, 40) x dim x 4 bytes.
    """
    present, dense = np.unique(labels, return_inverse=True)
    spectrum = spectrum or measure_spectrum(rows)
    point = _first_point(dense, rows, None if start is None else (start[0][present], start[1][present]))
    path: list[tuple[float, Tensor]] = []
    parts, solved, passes = [], [], 0
    plan = _plan(strengths, tolerance, len(present), is_warm=start is not None)
    num_approach = len(plan) - math.ceil(len(strengths) / _group_size(len(present)))
    few, step = rows.thin(max(APPROACH_ROWS_PER_DIM * rows.dim, APPROACH_ROWS_PER_CLASS * len(present)))
    for number, (some, some_tolerance) in enumerate(plan):
        if number < num_approach:  # the approach need not be exact, so a sample of the rows is enough
            same_penalty = [strength * len(rows) / len(few) for strength in some]
            objective = _Objective(few, dense[::step], len(present), same_penalty, spectrum)
        else:
            objective = _Objective(rows, dense, len(present), some, spectrum)
        found = minimise(
            objective.evaluate,
            _continue_path(path, point, some),
            objective.precondition,
            tolerance=some_tolerance / 4,
            value_floor=loss_floor,
            max_evaluations=max_evaluations,
        )
        path = [*path, *zip(some, found.points, strict=True)][-2:]
        passes += int(found.evaluations.sum()) if number < num_approach else 0
        if number >= num_approach:
            parts.append(found)
            solved.append(_spread(found.points, present, rows.dim, num_classes))
            if is_enough is not None and is_enough(*solved[-1]):
                break
    return LogisticFits(
        weights=np.concatenate([weights for weights, _ in solved]),
        bias=np.concatenate([bias for _, bias in solved]),
        losses=torch.cat([part.values for part in parts]).cpu().numpy(),
        evaluations=torch.cat([part.evaluations for part in parts]).cpu().numpy(),
        converged=torch.cat([part.converged for part in parts]).cpu().numpy(),
        approach_evaluations=passes,
    )


def _spread(points: Tensor, present: np.ndarray, dim: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Solutions of the classes with examples -> weights (k, num_classes, dim) and bias (k, num_classes)."""
    rows = points.cpu().numpy().reshape(len(points), len(present), dim + 1)
    spread = [spread_classes(each[:, :-1], each[:, -1], present, num_classes) for each in rows]
    return np.stack([weights for weights, _ in spread]), np.stack([bias for _, bias in spread])


def _first_point(labels: np.ndarray, rows: Rows, start: tuple[np.ndarray, np.ndarray] | None) -> Tensor:
    """(classes x (dim + 1),): the given weights, or zeros with intercepts that give the classes' shares."""
    if start is not None:
        point = np.concatenate([start[0], start[1][:, None]], axis=1)
    else:
        shares = np.bincount(labels) / len(labels)
        point = np.zeros((len(shares), rows.dim + 1))
        point[:, -1] = np.log(shares)
    return to_tensor(point.astype(np.float32), rows.device).flatten()


def _group_size(num_classes: int) -> int:
    return max(1, min(MAX_GROUP, COLUMNS_PER_GROUP // num_classes))


def _plan(
    strengths: Sequence[float], tolerance: float, num_classes: int, *, is_warm: bool
) -> list[tuple[Sequence[float], float]]:
    """Groups of strengths to be solved together, each with its tolerance, in order.

    Without a start, a weak penalty is approached from stronger ones, solved roughly: from zero weights the first
    steps would overshoot, and with 100 classes never converge.
    """
    size = _group_size(num_classes)
    plan = [(strengths[first : first + size], tolerance) for first in range(0, len(strengths), size)]
    strength = strengths[0] / APPROACH_FACTOR
    while strength > APPROACH_FROM / APPROACH_FACTOR and not is_warm:
        plan.insert(0, ([strength], max(tolerance, APPROACH_TOLERANCE)))
        strength /= APPROACH_FACTOR
    return plan


def _continue_path(path: list[tuple[float, Tensor]], point: Tensor, strengths: Sequence[float]) -> Tensor:
    """The start for each strength: on the line, in log C, through the last two solutions of `path`.

    Solutions are close to that line, so this saves five sixths of the iterations of a sweep.
    """
    if len(path) < 2:
        return (path[-1][1] if path else point).repeat(len(strengths), 1)
    (before, older), (last, newer) = path
    steps = [math.log(strength / last) / math.log(last / before) for strength in strengths]
    along = torch.tensor(steps, dtype=newer.dtype, device=newer.device)
    return newer + along[:, None] * (newer - older)


class _Objective:
    """The stacked problems: values, gradients, and the initial inverse Hessian."""

    def __init__(
        self, rows: Rows, labels: np.ndarray, num_classes: int, strengths: Sequence[float], spectrum: Spectrum
    ) -> None:
        self.rows, self.num_classes, self.spectrum = rows, num_classes, spectrum
        self.labels = to_tensor(labels, rows.device)
        self.sums = scalar_type(rows.mean)
        inverse = [(2.0 if num_classes == 2 else 1.0) / (len(rows) * strength) for strength in strengths]
        self.penalty = torch.tensor(inverse, dtype=self.sums, device=rows.device)
        self.counts = torch.bincount(self.labels, minlength=num_classes).to(self.sums)
        self.variance = torch.zeros(len(strengths), num_classes, device=rows.device)

    def evaluate(self, points: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient of problem which[i] at points[i]; notes the variance of each class's probability."""
        num, classes, dim = len(which), self.num_classes, self.rows.dim
        weights = points.view(num * classes, dim + 1)[:, :dim].contiguous()
        bias = points.view(num * classes, dim + 1)[:, dim].contiguous()
        loss = torch.zeros(num, dtype=self.sums, device=points.device)
        residuals = torch.zeros(num, classes, dtype=self.sums, device=points.device)
        squares = torch.zeros(num, classes, device=points.device)
        gradient = torch.zeros_like(weights)
        for first, block in self.rows.blocks(self._block_rows(num)):
            labels = self.labels[first : first + len(block)]
            # Classes before rows: the softmax then runs along memory, ten times faster for few classes.
            shares = torch.log_softmax(_transposed_logits(block, weights, bias).view(num, classes, -1), dim=1)
            loss -= shares.gather(1, labels.expand(num, 1, -1)).sum(dim=(1, 2), dtype=self.sums)
            shares.exp_()
            squares += shares.square().sum(dim=2)
            shares[:, labels, torch.arange(len(block), device=block.device)] -= 1.0
            gradient.addmm_(shares.view(num * classes, -1), block)
            residuals += shares.sum(dim=2, dtype=self.sums)
        count, penalty = len(self.rows), self.penalty[which]
        self.variance[which] = ((self.counts + residuals - squares) / count).to(points.dtype)
        full = torch.empty_like(points).view(num * classes, dim + 1)
        full[:, :dim] = gradient / count
        full[:, :dim] += penalty.repeat_interleave(classes).to(points.dtype)[:, None] * weights
        full[:, dim] = (residuals / count).to(points.dtype).flatten()
        norms = weights.view(num, -1).square().sum(dim=1, dtype=self.sums)
        return loss / count + 0.5 * penalty * norms, full.view(num, -1)

    def precondition(self, vectors: Tensor, which: Tensor) -> Tensor:
        """(variance x covariance + penalty)^-1 for each class, in the eigenvectors of the covariance."""
        num, classes, dim = len(which), self.num_classes, self.rows.dim
        basis, values = self.spectrum.vectors, self.spectrum.values
        share = classes / max(1, classes - 1)  # at equal probabilities this makes 1 / classes, the Hessian's
        variance = self.variance[which] * share
        # A perfectly separated class has almost no variance, and would step as far as the penalty allows.
        least = MIN_SHARE * variance.mean(dim=1, keepdim=True)
        curvature = torch.maximum(variance, least).clamp_min(MIN_VARIANCE).view(-1, 1)
        penalty = self.penalty[which].to(vectors.dtype).repeat_interleave(classes)[:, None]
        rows = vectors.view(num * classes, dim + 1)
        outside = 1.0 / (curvature * self.spectrum.rest + penalty)
        inside = 1.0 / (curvature * values + penalty) - outside
        out = torch.empty_like(rows)
        weights = rows[:, :dim].contiguous()
        out[:, :dim] = weights * outside + ((weights @ basis) * inside) @ basis.T
        out[:, dim:] = rows[:, dim:] / curvature
        return out.view(num, -1)

    def _block_rows(self, num: int) -> int:
        budget = LOGITS_PER_BLOCK.get(self.rows.device.type, LOGITS_PER_BLOCK_ELSEWHERE)
        return max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, budget // (num * self.num_classes)))


def _transposed_logits(block: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """(n, dim), (k, dim), (k,) -> (k, n), with the fastest order of products for this k."""
    if len(weights) >= NARROW:
        return torch.addmm(bias[:, None], weights, block.T)
    return _linear(block, weights, bias).T.contiguous()


def _linear(block: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """`F.linear`, on the CPU through oneDNN: twice as fast for few classes, and on every CPU but Intel's."""
    if block.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.ops.mkldnn._linear_pointwise(block, weights, bias, "none", [], "")
    return torch.nn.functional.linear(block, weights, bias)
