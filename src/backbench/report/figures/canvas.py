"""A canvas in pixels from the upper left corner, in the colours of a theme, with a title."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from PIL import Image

from backbench.report.charts.chart import Axis
from backbench.report.figures.style import (
    LARGE,
    LINE,
    MARGIN,
    SMALL,
    find_look,
    fit_text,
    font_families,
    new_figure,
)

Align = Literal["left", "center", "right"]
Box = tuple[float, float, float, float]
_SHARPNESS = 2  # image pixels for each pixel of the figure, as in the PNG
_MIN_SMOOTHED = 64  # smaller images are enlarged with hard edges, because their pixels are the content


class Canvas:
    """A figure with its title and subtitle, each on one line; the drawing is below `top`.

    Colours are given by their role, as in `style.ROLES`.

    Args:
        title, subtitle: '' for none. width, height: in pixels, the height without the area above `top`.
    """

    def __init__(self, title: str, subtitle: str, width: float, height: float, theme: str) -> None:
        self.look = find_look(theme)
        self.top = MARGIN + (24 if title else 0) + (LINE if subtitle else 0) + (12 if title or subtitle else 0)
        self.figure: Figure = new_figure(width, self.top + height, theme)
        self.axes = self.figure.axes[0]
        room, y = width - 2 * MARGIN, MARGIN
        if title:
            y += LARGE
            self.write(MARGIN, y, fit_text(title, room, LARGE, bold=True), size=LARGE, bold=True)
            y += 8
        if subtitle:
            self.write(MARGIN, y + SMALL, fit_text(subtitle, room), "muted")

    def write(
        self,
        x: float,
        y: float,
        text: str,
        role: str = "text",
        *,
        size: int = SMALL,
        bold: bool = False,
        align: Align = "left",
        valign: Literal["baseline", "center"] = "baseline",
        rotation: float = 0,
    ) -> None:
        """Write plain text at a point, without markup or maths."""
        self.axes.text(
            x,
            y,
            text,
            color=self.look[role],
            fontsize=size,
            fontweight="bold" if bold else "normal",
            fontfamily=list(font_families()),
            ha=align,
            va="center_baseline" if valign == "center" else valign,
            rotation=rotation,
            rotation_mode="anchor",
            parse_math=False,
            usetex=False,
            zorder=5,
        )

    def line(self, xs: Sequence[float], ys: Sequence[float], role: str, width: float = 1, **more: Any) -> None:
        """A line through points; `more` as matplotlib has it: linestyle, marker, alpha, zorder, ..."""
        self.axes.plot(xs, ys, color=self.look[role], linewidth=width, **more)

    def boxes(self, boxes: np.ndarray | Sequence[Box], role: str, *, edge: str = "none", **more: Any) -> None:
        """(n, 4) boxes (left, top, width, height), all as one shape, so that thousands stay one element."""
        if not len(boxes):
            return
        left, top, wide, high = np.asarray(boxes, dtype=np.float64).T
        corners = np.stack(
            [[left, top], [left + wide, top], [left + wide, top + high], [left, top + high], [left, top]], axis=-1
        ).transpose(1, 2, 0)
        codes = np.tile([Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY], len(boxes))
        outline = Outline(corners.reshape(-1, 2), codes.astype(Outline.code_type))
        fill, rim = (self.look.get(name, name) for name in (role, edge))
        width = 0 if edge == "none" else 1
        self.axes.add_patch(PathPatch(outline, facecolor=fill, edgecolor=rim, linewidth=width, **more))

    def marks(
        self,
        points: Sequence[tuple[float, float]] | np.ndarray,
        shape: str,
        fill: str,
        edge: str = "",
        *,
        size: float = 8,
        edge_width: float = 1,
        alpha: float = 1.0,
        zorder: float = 3,
    ) -> None:
        """A mark at each of (n, 2) points; `edge`: the role of its outline, or as `fill`."""
        x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
        self.axes.plot(
            x,
            y,
            linestyle="none",
            marker=shape,
            markersize=size,
            markerfacecolor=self.look.get(fill, fill),
            markeredgecolor=self.look[edge or fill],
            markeredgewidth=edge_width,
            alpha=alpha,
            zorder=zorder,
        )

    def image(self, pixels: np.ndarray, box: Box) -> None:
        """(height, width, 3) uint8 into (left, top, width, height); small ones as tiles, large ones shrunk."""
        left, top, width, height = box
        size = (max(1, round(width * _SHARPNESS)), max(1, round(height * _SHARPNESS)))
        if pixels.shape[1] > size[0] or pixels.shape[0] > size[1]:
            pixels = np.asarray(Image.fromarray(pixels).convert("RGB").resize(size, Image.Resampling.LANCZOS))
        limits = self.axes.get_xlim(), self.axes.get_ylim()
        extent = (left, left + width, top + height, top)
        smoothing = "nearest" if max(pixels.shape[:2]) < _MIN_SMOOTHED else "antialiased"
        self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation=smoothing, zorder=2)
        self.axes.set_xlim(*limits[0])
        self.axes.set_ylim(*limits[1])

    def scale_across(self, axis: Axis, left: float, width: float, top: float, bottom: float) -> None:
        """Upright lines at the ticks of an axis, with their texts below."""
        for tick, text in zip(axis.ticks, axis.texts, strict=True):
            x = left + axis.at(tick) / 100 * width
            self.line([x, x], [top, bottom], "rule", zorder=0)
            self.write(x, bottom + 20, text, "muted", align="center")

    def scale_up(self, axis: Axis, left: float, width: float, top: float, bottom: float) -> None:
        """Level lines at the ticks of an axis, with their texts at the left."""
        for tick, text in zip(axis.ticks, axis.texts, strict=True):
            y = bottom - axis.at(tick) / 100 * (bottom - top)
            self.line([left, left + width], [y, y], "rule", zorder=0)
            self.write(left - 8, y, text, "muted", align="right", valign="center")
