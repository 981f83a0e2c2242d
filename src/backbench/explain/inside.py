"""Pictures of a network's parts: its first filters and its position embedding."""

from __future__ import annotations

import contextlib

from matplotlib.figure import Figure
from torch import nn

from backbench.errors import ModelError
from backbench.explain.filters import first_filters, principal_filters
from backbench.explain.positions import position_similarity
from backbench.explain.sheet import MAX_FILTERS, draw_filters, draw_positions


def draw_inside(body: nn.Module, name: str, *, theme: str = "light") -> dict[str, Figure]:
    """Figures by kind: 'filters', 'principal-filters' and 'positions', if the network has them."""
    figures = {}
    with contextlib.suppress(ModelError):
        filters = first_filters(body)
        principal = principal_filters(body)
        num = (
            f"{len(filters):,}" if len(filters) <= MAX_FILTERS else f"the first {MAX_FILTERS} of {len(filters):,}"
        )
        size = f"{filters.shape[2]} x {filters.shape[3]} pixels"
        said = f"{num} filters of {size}; brighter: positive weights, darker: negative, mid-grey: 0"
        figures["filters"] = draw_filters(filters, title=f"{name}: first filters", subtitle=said, theme=theme)
        figures["principal-filters"] = draw_filters(
            principal,
            title=f"{name}: main patterns of the first filters",
            subtitle=f"their first {len(principal)} principal components, largest first",
            theme=theme,
        )
    with contextlib.suppress(ModelError):
        similarity = position_similarity(body)
        figures["positions"] = draw_positions(similarity, title=f"{name}: position embedding", theme=theme)
    return figures
