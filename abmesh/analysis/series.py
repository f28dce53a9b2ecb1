"""Pictures of a report: how differences developed over time, and intervals side by side. Pure.

The records are those of :mod:`abmesh.analysis.pictures`. Called by :mod:`abmesh.cli.analyze` and
:mod:`abmesh.cli.analyze_live`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from abmesh.analysis.always_valid import difference_of
from abmesh.analysis.layout import percent
from abmesh.analysis.pictures import Bar, Bars, Line, Point, TimeSeries
from abmesh.analysis.records import AnalysisReport, ComparedVariant, Estimate, MetricReport, ReportedMetric
from abmesh.analysis.table import Table
from abmesh.analysis.table_comparisons import compared

MOST_POINTS = 200
"""Most moments that are drawn; of more, evenly spread ones."""

Moments = Sequence[tuple[float, Sequence[tuple[str, Estimate]]]]
"""At each moment, rising, the difference of each variant from the control."""

_Item = TypeVar("_Item")


def series_of(title: str, metric: ReportedMetric, moments: Moments, *, dated: bool, control: str) -> TimeSeries:
    """Confidence sequences of the differences from the control.

    Args:
        title: what is shown.
        metric: what was measured.
        moments: seconds since 1970 where dated.
        dated: whether moments are dates.
        control: its name.
    """
    points: dict[str, list[Point]] = {}
    for at, differences in moments:
        for variant, estimate in differences:
            points.setdefault(variant, []).append(Point(at, estimate))
    return TimeSeries(
        title=title,
        quantity=_difference(metric, control),
        time="time (UTC)" if dated else "time",
        dated=dated,
        lines=tuple(Line(variant, tuple(found)) for variant, found in points.items()),
        percent=metric.unit == "share",
    )


def history_of(table: Table, report: AnalysisReport, tuned_for: float) -> TimeSeries:
    """How the differences in a table with a column ``time`` developed.

    Each moment's interval is made of what was known then; together they are one confidence sequence for each variant,
    which holds at all moments at once.

    Args:
        table: with a history.
        report: that was made of it.
        tuned_for: that it was made with.
    """
    metric, control = report.metrics[0].metric, report.control
    others = [name for name in table.variants if name != control]
    moments = []
    for at, cells in thinned(table.history):
        arms = {name: table.arms(control, name, cells=cells) for name in others}
        found = {name: compared(table, pairs, report.alpha, tuned_for) for name, pairs in arms.items() if pairs}
        differences = [(name, difference_of(each, report.alpha, share=table.share)) for name, each in found.items()]
        moments.append((at, differences))
    title = f"{report.source}: {percent(1 - report.alpha)} confidence sequences, valid at any look"
    return series_of(title, metric, moments, dated=table.dated, control=control)


def bars_of(report: AnalysisReport) -> list[Bars]:
    """A report's lifts, where every metric has one; otherwise a panel of differences for each metric."""
    title = f"{report.source}: {percent(1 - report.alpha)} intervals against {report.control}"
    comparisons = [item for part in report.metrics for item in _all(part)]
    if all(finding.lift is not None for item in comparisons for finding in item.findings):
        bars = [bar for part in report.metrics for bar in _bars(part, lifts=True, named=len(report.metrics) > 1)]
        return [Bars(title, f"lift, as a share of {report.control}'s value", bars, percent=True)]
    panels = []
    for part in report.metrics:
        bars = _bars(part, lifts=False, named=False)
        quantity = _difference(part.metric, report.control)
        panels.append(Bars(title, quantity, bars, percent=part.metric.unit == "share"))
    return panels


def _difference(metric: ReportedMetric, control: str) -> str:
    """The name of an axis of differences, with its unit."""
    unit = "pp" if metric.unit == "share" else metric.unit
    return f"{metric.name}, difference from {control}" + (f" ({unit})" if unit else "")


def _all(part: MetricReport) -> list[ComparedVariant]:
    return [*part.comparisons, *part.segments]


def _bars(part: MetricReport, *, lifts: bool, named: bool) -> list[Bar]:
    bars = []
    for item in _all(part):
        label = f"{item.variant}, {item.segment}" if item.segment else item.variant
        estimates = [
            (f"valid {finding.valid}", finding.lift if lifts and finding.lift else finding.difference)
            for finding in item.findings
        ]
        bars.append(Bar(f"{part.metric.name}: {label}" if named else label, estimates))
    return bars


def thinned(moments: Sequence[_Item]) -> Sequence[_Item]:
    """At most :data:`MOST_POINTS` of many moments, evenly spread, the last one among them."""
    if len(moments) <= MOST_POINTS:
        return moments
    step = (len(moments) - 1) / (MOST_POINTS - 1)
    return [moments[round(index * step)] for index in range(MOST_POINTS)]
