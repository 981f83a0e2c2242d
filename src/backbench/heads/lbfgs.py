"""Minimise several smooth convex functions at once by L-BFGS, each with its own step and stopping point.

One evaluation gives the value and the gradient of every function still running, so that callers can
share work (one matrix product for all weights of a sweep). A converged function is no longer evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backbench.errors import BackbenchError

HISTORY = 10
ARMIJO = 1e-4
APPROXIMATE_WOLFE = 0.1
VALUE_NOISE = 2e-7
"""Relative rounding error of a value: below it differences are noise, so the slope decides."""
MAX_REJECTIONS = 12

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points (a, p), which (a,) int64: row numbers in `start`) -> values (a,) float64, gradients (a, p)."""
Precondition = Callable[[Tensor, Tensor], Tensor]
"""(vectors (a, p), which (a,)) -> an estimate of the inverse Hessian times each vector, (a, p)."""


class Diverged(BackbenchError):
    """The function had a non-finite value."""


@dataclass(frozen=True)
class Minimum:
    """points (s, p), values (s,) float64, evaluations (s,) int64 of each function, converged (s,) bool."""

    points: Tensor
    values: Tensor
    evaluations: Tensor
    converged: Tensor


@dataclass
class _State:
    """The state of the functions still running; one axis of each tensor is over functions."""

    which: Tensor
    point: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    slope: Tensor
    step: Tensor
    rejections: Tensor
    moves: Tensor
    changes: Tensor
    curvature: Tensor

    def keep(self, rows: Tensor) -> _State:
        return _State(
            which=self.which[rows],
            point=self.point[rows],
            value=self.value[rows],
            gradient=self.gradient[rows],
            direction=self.direction[rows],
            slope=self.slope[rows],
            step=self.step[rows],
            rejections=self.rejections[rows],
            moves=self.moves[:, rows],
            changes=self.changes[:, rows],
            curvature=self.curvature[:, rows],
        )


def minimise(
    evaluate: Evaluate,
    start: Tensor,
    precondition: Precondition,
    *,
    tolerance: float,
    value_floor: float,
    max_evaluations: int,
) -> Minimum:
    """Minimise s convex functions of p variables.

    Args:
        evaluate: values and gradients of some of the functions, each at its own point.
        start: (s, p) first points; not changed.
        precondition: the first guess of the inverse Hessian; called once after each evaluation, and may
            depend on it.
        tolerance: a function ends when its expected further decrease, half of gradient x inverse Hessian x
            gradient, is at most `tolerance` x |value|, or x `value_floor` if that is more.
        max_evaluations: of each function.

    Returns:
        The best points found, and whether each met the tolerance.

    Raises:
        Diverged: a value at `start` is not finite, or none can be found near a point.

    Cost: O(s p) numbers x 20 of history; beside the evaluations 40 products of length p each.
    Source: Nocedal and Wright, Numerical Optimization, algorithm 7.4; approximate Wolfe conditions of Hager and
    Zhang 2005, which also work if rounding hides the decrease.
    """
    num, length = start.shape
    points, values = start.clone(), start.new_zeros(num, dtype=scalar_type(start))
    evaluations = torch.zeros(num, dtype=torch.int64, device=start.device)
    converged = torch.zeros(num, dtype=torch.bool, device=start.device)
    state = _begin(evaluate, start, precondition, length)
    for count in range(1, max_evaluations + 1):
        is_done = -0.5 * state.slope <= tolerance * state.value.abs().clamp_min(value_floor)
        is_stuck = state.rejections > MAX_REJECTIONS
        ends = is_done | is_stuck if count < max_evaluations else torch.ones_like(is_done)
        if bool(ends.any()):
            which = state.which[ends]
            points[which], values[which] = state.point[ends], state.value[ends]
            evaluations[which], converged[which] = count, is_done[ends]
            state = state.keep(~ends)
            if len(state.which) == 0:
                break
        _advance(state, evaluate, precondition, slot=count % HISTORY)
    return Minimum(points, values, evaluations, converged)


def scalar_type(like: Tensor) -> torch.dtype:
    """The dtype of sums: float64 if the device has it."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _begin(evaluate: Evaluate, start: Tensor, precondition: Precondition, length: int) -> _State:
    num = len(start)
    which = torch.arange(num, device=start.device)
    value, gradient = evaluate(start, which)
    if not bool(torch.isfinite(value).all()):
        raise Diverged("the loss is not finite at the first point. Check that all features are finite")
    direction = -precondition(gradient, which)
    return _State(
        which=which,
        point=start,
        value=value,
        gradient=gradient,
        direction=direction,
        slope=_dot(direction, gradient),
        step=torch.ones_like(value),
        rejections=torch.zeros_like(which),
        moves=start.new_zeros(HISTORY, num, length),
        changes=start.new_zeros(HISTORY, num, length),
        curvature=value.new_zeros(HISTORY, num),
    )


def _advance(state: _State, evaluate: Evaluate, precondition: Precondition, slot: int) -> None:
    """Evaluate every function once, at its trial point; accept the point or shorten the step."""
    trial = torch.addcmul(state.point, state.step.to(state.point.dtype)[:, None], state.direction)
    value, gradient = evaluate(trial, state.which)
    slope = _dot(state.direction, gradient)
    taken = _is_acceptable(state, value, slope)
    move, change = trial - state.point, gradient - state.gradient
    curvature = _dot(move, change)
    useful = taken & (curvature > 1e-10 * _dot(change, change).clamp_min(1e-300))
    state.curvature[slot] = torch.where(useful, 1.0 / curvature, torch.zeros_like(curvature))
    state.moves[slot] = torch.where(useful[:, None], move, 0.0)
    state.changes[slot] = torch.where(useful[:, None], change, 0.0)
    state.step = torch.where(taken, 1.0, _shorter_step(state, slope))
    state.rejections = torch.where(taken, 0, state.rejections + 1)
    state.value = torch.where(taken, value, state.value)
    state.point = torch.where(taken[:, None], trial, state.point)
    state.gradient = torch.where(taken[:, None], gradient, state.gradient)
    direction = _two_loops(state, precondition, newest=slot)
    state.direction = torch.where(taken[:, None], direction, state.direction)
    state.slope = torch.where(taken, _dot(state.direction, state.gradient), state.slope)


def _is_acceptable(state: _State, value: Tensor, slope: Tensor) -> Tensor:
    falls = value <= state.value + ARMIJO * state.step * state.slope
    is_level = value <= state.value + VALUE_NOISE * state.value.abs().clamp_min(0.01)
    is_flat = slope <= (2 * APPROXIMATE_WOLFE - 1) * state.slope
    return torch.isfinite(value) & torch.isfinite(slope) & (falls | (is_level & is_flat))


def _shorter_step(state: _State, slope: Tensor) -> Tensor:
    """The zero of the slope, assumed linear along the step; between a tenth and six tenths of the step."""
    fraction = state.slope / (state.slope - slope)
    fraction = torch.where(torch.isfinite(fraction), fraction, torch.full_like(fraction, 0.1))
    return state.step * fraction.clamp(0.1, 0.6)


def _two_loops(state: _State, precondition: Precondition, newest: int) -> Tensor:
    """-(inverse Hessian) x gradient, from the last moves and changes; an empty slot has curvature 0: no effect."""
    order = [(newest - age) % HISTORY for age in range(HISTORY)]
    order = [slot for slot in order if bool(state.curvature[slot].any())]
    vector, weights = state.gradient.clone(), {}
    for slot in order:
        weights[slot] = state.curvature[slot] * _dot(state.moves[slot], vector)
        vector.addcmul_(state.changes[slot], weights[slot].to(vector.dtype)[:, None], value=-1.0)
    vector = precondition(vector, state.which)
    for slot in reversed(order):
        rest = weights[slot] - state.curvature[slot] * _dot(state.changes[slot], vector)
        vector.addcmul_(state.moves[slot], rest.to(vector.dtype)[:, None])
    return vector.neg_()


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(dim=1, dtype=scalar_type(left))
