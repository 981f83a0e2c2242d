"""Accuracy against cost: the cost of each row, and the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from backbench.report.charts.chart import Chart, Dot, Line, Name, make_axis, make_log_axis
from backbench.report.rows import Row
from backbench.report.text import printable, quantity, shorten


@dataclass(frozen=True)
class Cost:
    """A cost of a row: label of the axis, its value (None: unknown), its format."""

    label: str
    read: Callable[[Row], float | None]
    show: Callable[[float], str]


def _milliseconds(row: Row) -> float | None:
    return 1000.0 / row.images_per_second if row.images_per_second else None


def _show(value: float) -> str:
    return quantity(value) if value >= 1000 else f"{value:.3g}"


SECONDS = Cost(
    "seconds",
    lambda row: row.seconds.get("total"),
    lambda value: f"{value:,.0f} s" if value >= 10 else f"{value:.3g} s",
)
COSTS: Mapping[str, Cost] = MappingProxyType(
    {
        "milliseconds": Cost("milliseconds per image, measured", _milliseconds, _show),
        "parameters": Cost("parameters", lambda row: row.parameters, _show),
        "flops": Cost("operations per image (multiply and add count as two)", lambda row: row.flops, _show),
    }
)
"""Costs that a figure can show."""


@dataclass(frozen=True)
class Point:
    """One row: its place in the ranking from 1, its cost, its accuracy with interval, its kind (`row_kind`)."""

    label: str
    number: int
    cost: float
    value: float
    low: float
    high: float
    kind: str
    is_important: bool


def row_kind(row: Row) -> str:
    """How a row is marked: best, tied, other, control or failed."""
    if row.accuracy is None:
        return "failed"
    if row.control:
        return "control"
    return "best" if row.is_best else "tied" if row.tied_with_best else "other"


def cost_points(
    rows: Sequence[Row], cost: Cost, *, important: Collection[str] = (), pinned: Collection[str] = ()
) -> list[Point]:
    """The rows with accuracy and this cost, best first, without baselines.

    Args:
        rows: of one ranking. important: ids of the runs whose names have priority. pinned: names or models.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        price = cost.read(row)
        if row.accuracy is None or not row.is_candidate or not price or price <= 0:
            continue
        low, high = (row.accuracy if end is None else end for end in (row.low, row.high))
        label = f"{shorten(printable(row.model), 26)} + {shorten(printable(row.how), 40)}"
        kind = "pinned" if row.name in pinned or row.model in pinned else row_kind(row)
        found.append(Point(label, number, price, row.accuracy, low, high, kind, row.run_id in important))
    return found


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front (no cheaper point is as accurate), cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    return front


def cost_chart(points: Sequence[Point], cost: Cost) -> Chart:
    """Accuracy against cost by logarithm, with the Pareto front as steps."""
    x = make_log_axis([point.cost for point in points], cost.show)
    y = make_axis([end for point in points for end in (point.low, point.high)])
    steps: list[tuple[float, float]] = []
    for point in pareto_front(points):
        steps += [(point.cost, steps[-1][1])] if steps else []
        steps.append((point.cost, point.value))
    steps += [(x.high, steps[-1][1])] if steps else []
    ordered = sorted(points, key=lambda point: (not point.is_important, -point.value))
    return Chart(
        x,
        y,
        lines=(Line(tuple(steps), "front"),),
        dots=tuple(Dot(point.cost, point.value, point.kind, point.low, point.high) for point in points),
        names=tuple(
            Name(point.cost, point.value, point.label, str(point.number), point.kind, point.is_important)
            for point in ordered
        ),
    )
