"""Draws the figure of Stepwise Patch Merging in the README: `python zoo/figure.py`."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

TARGET = pathlib.Path(__file__).parent / "stepwise_patch_merging.png"

INK = "#22313f"
GROUPS = ("#8ecae6", "#219ebc", "#f4a261", "#e76f51")
WIDE = "#b8b8d1"
GUIDE = "#2a9d8f"


def grid(axis: Axes, left: float, bottom: float, cells: int, side: float, color: str) -> None:
    """Draws a square map of cells x cells."""
    step = side / cells
    for row in range(cells):
        for column in range(cells):
            corner = (left + column * step, bottom + row * step)
            axis.add_patch(Rectangle(corner, step, step, fc=color, ec="white", lw=0.8))


def stack(
    axis: Axes, left: float, bottom: float, cells: int, side: float, colors: Sequence[str]
) -> None:
    """Draws a map with channels: one sheet per color, the last one in front."""
    for sheet, color in enumerate(colors):
        shift = 0.09 * (len(colors) - 1 - sheet)
        grid(axis, left + shift, bottom + shift, cells, side, color)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws an arrow."""
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK))


def label(axis: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Writes text, centered at (x, y)."""
    axis.text(x, y, text, **{"ha": "center", "va": "center", "color": INK, "fontsize": 9, **style})


def main() -> None:
    figure = Figure(figsize=(11, 4.1))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(0, 11)
    axis.set_ylim(0, 4.1)
    axis.axis("off")

    # The input, with its channels in four groups.
    stack(axis, 0.25, 1.45, 4, 1.2, GROUPS)
    label(axis, 1.0, 1.15, "H × W × C")
    label(axis, 1.0, 3.25, "channels in\nfour groups")

    # One depthwise convolution per group.
    for index, (size, color) in enumerate(zip((3, 5, 7, 9), GROUPS, strict=True)):
        center = 3.15 - 0.68 * index
        side = 0.17 + 0.045 * size
        grid(axis, 2.75 - side / 2, center - side / 2, size, side, color)
        label(axis, 3.38, center, f"{size}×{size}", fontsize=8)
        arrow(axis, (1.9, 2.1), (2.4, center))
        arrow(axis, (3.68, center), (4.15, 2.1))
    label(axis, 2.85, 0.55, "depthwise,\none scale per group")

    # Mixing.
    axis.add_patch(Rectangle((4.2, 1.6), 1.05, 1.0, fc="#edf2f4", ec=INK, lw=1))
    label(axis, 4.725, 2.1, "mix across\nscales,\nwiden", fontsize=8)
    arrow(axis, (5.28, 2.1), (5.6, 2.1))

    # The wide map, its 2x2 windows, and the guides.
    stack(axis, 5.65, 1.45, 4, 1.2, (WIDE,) * 5)
    for row in range(2):
        for column in range(2):
            corner = (5.65 + 0.6 * column, 1.45 + 0.6 * row)
            axis.add_patch(Rectangle(corner, 0.6, 0.6, fill=False, ec=INK, lw=1.6))
    label(axis, 6.4, 1.15, "H × W × C′")
    grid(axis, 7.75, 2.95, 2, 0.6, GUIDE)
    label(axis, 8.05, 3.66, "guides: 7×7 depthwise, stride 2", fontsize=8)
    arrow(axis, (6.9, 2.95), (7.65, 3.25))

    # One window's attention.
    grid(axis, 7.75, 1.65, 2, 0.9, WIDE)
    axis.add_patch(Rectangle((7.75, 1.65), 0.9, 0.9, fill=False, ec=INK, lw=1.6))
    axis.add_patch(Rectangle((9.05, 1.95), 0.3, 0.3, fc=GUIDE, ec="white"))
    arrow(axis, (7.3, 2.1), (7.7, 2.1))
    for row in range(2):
        for column in range(2):
            start = (7.975 + 0.45 * column, 1.875 + 0.45 * row)
            axis.plot((start[0], 9.05), (start[1], 2.1), color=GUIDE, lw=1.2)
    arrow(axis, (8.3, 2.93), (9.15, 2.3))
    label(axis, 8.6, 1.2, "each guide attends to\nits 2×2 window", fontsize=8)

    # The output.
    arrow(axis, (9.42, 2.1), (9.75, 2.1))
    stack(axis, 9.8, 1.75, 2, 0.6, (GUIDE,) * 5)
    label(axis, 10.3, 1.45, "H/2 × W/2 × C′")

    label(axis, 3.1, 3.9, "1  Multi-Scale Aggregation", fontsize=12, weight="bold")
    label(axis, 8.3, 3.9, "2  Guided Local Enhancement", fontsize=12, weight="bold")
    figure.savefig(TARGET, dpi=120)


if __name__ == "__main__":
    main()
