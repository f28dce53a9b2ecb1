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

    from abmesh.analysis.pictures import Course, Line

_PANEL = 3.4
_ROOM = 1.6
"""How far the axis reaches beyond the middle interval's width: early intervals may be a hundred times as wide."""


def draw_courses(courses: Sequence[Course], path: Path) -> None:
    """Draw one panel for each course, one below the other.

    Raises:
        SettingsError, StartError: the picture cannot be drawn or written; see :mod:`abmesh.cli.plots.canvas`.
    """
    with canvas(path, max(1, len(courses)) * _PANEL) as figure:
        panels = figure.subplots(max(1, len(courses)), 1, squeeze=False)
        for axes, course in zip(panels[:, 0], courses, strict=False):
            _panel(axes, course)


def _panel(axes: Axes, course: Course) -> None:
    low, high = _range(course)
    for index, line in enumerate(course.lines):
        _line(axes, line, index, course.dated, (low, high))
    mark(axes, course.marks, across=True)
    axes.set_ylim(low, high)
    axes.set_title(course.title, loc="left")
    axes.set_ylabel(course.quantity)
    axes.set_xlabel(course.time)
    if course.percent:
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


def _range(course: Course) -> tuple[float, float]:
    """Limits of the vertical axis that show the later half of every line and all marks."""
    values = [item.value for item in course.marks]
    for line in course.lines:
        for point in line.points[len(line.points) // 2 :]:
            interval = point.estimate.interval
            values += [point.estimate.value or 0.0, interval.lower, interval.upper]
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = (high - low) * (_ROOM - 1) / 2 or abs(high) or 1.0
    return low - room, high + room
