"""Confidence sequences over time: how an estimate and its interval narrowed. Called by :mod:`abmesh.cli.analyze`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abmesh.cli.plots.canvas import canvas, legend, mark, percent_axis, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from abmesh.analysis.pictures import Line, TimeSeries

_PANEL = 3.4
_ROOM = 1.6
"""How far the axis reaches beyond the middle interval's width: early intervals may be a hundred times as wide."""


def draw_series(series: Sequence[TimeSeries], path: Path) -> None:
    """Draw one panel for each series, one below the other.

    Raises:
        SettingsError, StartError: the picture cannot be drawn or written; see :mod:`abmesh.cli.plots.canvas`.
    """
    with canvas(path, max(1, len(series)) * _PANEL) as figure:
        panels = figure.subplots(max(1, len(series)), 1, squeeze=False)
        for axes, each in zip(panels[:, 0], series, strict=False):
            _panel(axes, each)


def _panel(axes: Axes, series: TimeSeries) -> None:
    low, high = _range(series)
    for index, line in enumerate(series.lines):
        _line(axes, line, index, series.dated, (low, high))
    mark(axes, series.references, across=True)
    axes.set_ylim(low, high)
    axes.set_title(series.title, loc="left")
    axes.set_ylabel(series.quantity)
    axes.set_xlabel(series.time)
    if series.percent:
        percent_axis(axes, vertical=True)
    legend(axes)


def _line(axes: Axes, line: Line, index: int, dated: bool, window: tuple[float, float]) -> None:
    low, high = window
    look = style(index)
    margin = high - low
    moments: list[Any] = [datetime.fromtimestamp(point.at, UTC) if dated else point.at for point in line.points]
    estimates = [math.nan if point.estimate.value is None else point.estimate.value for point in line.points]
    # Endless limits are drawn beyond the panel's edge: the band just leaves it.
    lower = [max(point.estimate.interval.lower, low - margin) for point in line.points]
    upper = [min(point.estimate.interval.upper, high + margin) for point in line.points]
    every = max(1, len(moments) // 15)
    axes.fill_between(
        moments, lower, upper, facecolor="0.93", edgecolor=look.grey, hatch=look.hatch, linewidth=0.0, alpha=0.45
    )
    axes.plot(moments, lower, color=look.grey, linestyle=look.line, linewidth=0.7)
    axes.plot(moments, upper, color=look.grey, linestyle=look.line, linewidth=0.7)
    axes.plot(
        moments,
        estimates,
        color=look.grey,
        linestyle=look.line,
        linewidth=1.6,
        marker=look.marker,
        markevery=every,
        markersize=4.0,
        markerfacecolor="white",
        label=line.label,
    )


def _range(series: TimeSeries) -> tuple[float, float]:
    """Limits of the vertical axis that show the later half of every line and all reference lines."""
    values = [item.value for item in series.references]
    for line in series.lines:
        for point in line.points[len(line.points) // 2 :]:
            interval = point.estimate.interval
            values += [point.estimate.value or 0.0, interval.lower, interval.upper]
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = (high - low) * (_ROOM - 1) / 2 or abs(high) or 1.0
    return low - room, high + room
