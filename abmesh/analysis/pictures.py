"""Pictures as plain records. Pure.

Made by :mod:`abmesh.analysis.series` and ``abmesh simulate``, drawn by :mod:`abmesh.cli.plots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from abmesh.analysis.records import Estimate


@dataclass(frozen=True, slots=True)
class Point:
    """An estimate at a moment: a number, or seconds since 1970."""

    at: float
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Line:
    """An estimate over time; its points rise in time."""

    label: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class ReferenceLine:
    """A line at a value to compare with: no difference, or a limit."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """Confidence sequences over time, in one panel.

    Attributes:
        title: what is shown.
        quantity: the vertical axis, with its unit.
        time: the horizontal axis, with its unit.
        dated: whether moments are seconds since 1970, to be shown as dates.
        lines: one for each variant.
        references: values to draw a line at.
        percent: whether values are shares, to be shown in percent.
    """

    title: str
    quantity: str
    time: str
    dated: bool
    lines: Sequence[Line]
    references: Sequence[ReferenceLine] = (ReferenceLine(0.0, "no difference"),)
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a picture of intervals: an interval by each analysis, all of the same difference."""

    label: str
    estimates: Sequence[tuple[str, Estimate]]


@dataclass(frozen=True, slots=True)
class Bars:
    """Intervals side by side, in one panel, on one scale.

    Attributes:
        title: what is shown.
        quantity: the horizontal axis, with its unit.
        bars: rows, the first on top.
        references: values to draw a line at.
        percent: whether values are shares, to be shown in percent.
    """

    title: str
    quantity: str
    bars: Sequence[Bar]
    references: Sequence[ReferenceLine] = (ReferenceLine(0.0, "no difference"),)
    percent: bool = False


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """How often something happens in simulations, over the size of the true effect.

    Attributes:
        label: what happens: ``rolled back``.
        effects: true effects, rising, in the axis' unit.
        happened: in how many of the runs at each effect.
        runs: how many there were at each.
    """

    label: str
    effects: Sequence[float]
    happened: Sequence[int]
    runs: Sequence[int]


@dataclass(frozen=True, slots=True)
class PowerPicture:
    """Power curves, in one panel.

    Attributes:
        title: what was simulated.
        effect: the horizontal axis, with its unit.
        curves: one for each outcome.
        effects: values on the horizontal axis to mark, such as the limit of a guardrail.
        rates: probabilities to mark, such as alpha.
        percent: whether effects are shares, to be shown in percent.
    """

    title: str
    effect: str
    curves: Sequence[PowerCurve]
    effects: Sequence[ReferenceLine] = ()
    rates: Sequence[ReferenceLine] = ()
    percent: bool = False
