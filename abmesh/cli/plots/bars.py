"""Intervals side by side: every comparison as a row, every analysis as a bar in it.

Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abmesh.cli.plots.canvas import canvas, legend, mark, percent_axis, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from abmesh.analysis.pictures import Bars
    from abmesh.analysis.records import Estimate

_ROW = 0.30
_FRAME = 1.3
_THICK = 0.62


def draw_bars(panels: Sequence[Bars], path: Path) -> None:
    """Draw one panel for each picture, one below the other.

    Raises:
        SettingsError, StartError: the picture cannot be drawn or written; see :mod:`abmesh.cli.plots.canvas`.
    """
    heights = [_FRAME + _ROW * sum(len(bar.estimates) + 0.5 for bar in panel.bars) for panel in panels] or [_FRAME]
    with canvas(path, sum(heights)) as figure:
        grid = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes, panel in zip(grid[:, 0], panels, strict=False):
            _panel(axes, panel)


def _panel(axes: Axes, panel: Bars) -> None:
    low, high = _range(panel)
    analyses = list(dict.fromkeys(name for bar in panel.bars for name, _ in bar.estimates))
    places, labels = [], []
    top = 0.0
    for bar in panel.bars:
        for row, (name, estimate) in enumerate(bar.estimates):
            _bar(axes, top + row, estimate, analyses.index(name), (low, high))
        places.append(top + (len(bar.estimates) - 1) / 2)
        labels.append(bar.label)
        top += len(bar.estimates) + 0.5
    mark(axes, panel.references, across=False)
    for index, name in enumerate(analyses):
        look = style(index)
        axes.barh([math.nan], [0.0], facecolor="0.95", edgecolor=look.grey, hatch=look.hatch, label=name)
    axes.set_yticks(places, labels)
    axes.set_ylim(top - 0.5, -0.75)
    axes.set_xlim(low, high)
    axes.locator_params(axis="x", nbins=6)
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.quantity)
    if panel.percent:
        percent_axis(axes, vertical=False)
    legend(axes)


def _bar(axes: Axes, place: float, estimate: Estimate, index: int, window: tuple[float, float]) -> None:
    low, high = window
    look = style(index)
    left, right = max(estimate.interval.lower, low), min(estimate.interval.upper, high)
    axes.barh(
        [place], [right - left], left=[left], height=_THICK, facecolor="0.95", edgecolor=look.grey, hatch=look.hatch,
        linewidth=0.8, zorder=2,
    )  # fmt: skip
    if estimate.value is not None and low <= estimate.value <= high:
        axes.plot(
            [estimate.value], [place], marker=look.marker, color=look.grey, markerfacecolor="white", markersize=6.0,
            zorder=3,
        )  # fmt: skip
    for edge, beyond, arrow in ((low, estimate.interval.lower < low, "<"), (high, estimate.interval.upper > high, ">")):
        if beyond:  # an arrow where the interval goes on beyond the panel
            axes.plot([edge], [place], marker=arrow, color="0.0", markersize=6.0, clip_on=False, zorder=4)


def _range(panel: Bars) -> tuple[float, float]:
    """Limits of the axis: all reference lines and estimates, and intervals unless they dwarf everything else."""
    estimates = [estimate for bar in panel.bars for _, estimate in bar.estimates]
    core = [item.value for item in panel.references] + [item.value for item in estimates if item.value is not None]
    limits = [side for item in estimates for side in (item.interval.lower, item.interval.upper) if math.isfinite(side)]
    low, high = min(core, default=0.0), max(core, default=0.0)
    widths = sorted(item.interval.upper - item.interval.lower for item in estimates)
    finite = [width for width in widths if math.isfinite(width)]
    reach = 3 * finite[len(finite) // 2] if finite else (high - low) or 1.0
    low = min([low, *(side for side in limits if side >= low - reach)])
    high = max([high, *(side for side in limits if side <= high + reach)])
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room
