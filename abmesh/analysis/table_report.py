"""A table's report: every variant against the control, segments, the split, and warnings. Pure.

Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from abmesh.analysis import textbook
from abmesh.analysis.always_valid import NOTHING, alarms, corrected, finding_of, reversal, value_of
from abmesh.analysis.layout import count
from abmesh.analysis.records import (
    AnalysisReport,
    ComparedVariant,
    MetricReport,
    ReportedMetric,
    SplitCheck,
    VariantRow,
)
from abmesh.analysis.table import Table, Totals
from abmesh.analysis.table_comparisons import Arms, compared
from abmesh.experiment.errors import UnknownName
from abmesh.inference.multiple import benjamini_hochberg, holm
from abmesh.inference.sample_ratio import chi_square_p, sample_ratio
from abmesh.inference.segments import Part
from controller.decision.comparison import Comparison

SPLIT_ALPHA = 0.01
"""Probability of a false alarm about the split."""

_UNITS = 1_000.0
"""Concentration of the prior for a split of single units: it weighs as much as this many of them."""

TUNED_FOR = 10_000
"""Default of the requests at which intervals of means are narrowest. Not taken from the data: that would be a choice
made after looking."""


@dataclass(frozen=True, slots=True)
class TableQuestion:
    """What to report of a table.

    Attributes:
        metric: its name in the report.
        unit: of a mean: ``ms``; empty if it has none. Shares are in percent.
        control: a variant; the table's first one if None.
        alpha: 0..1.
        tuned_for: requests of both variants at which a mean's interval is narrowest.
        weights: the expected split, in basis points by variant; None to check nothing.
        planned: each candidate's requests at the last planned look, and the number of looks; None without.
    """

    metric: str
    unit: str = ""
    control: str | None = None
    alpha: float = 0.05
    tuned_for: float = TUNED_FOR
    weights: Mapping[str, int] | None = None
    planned: tuple[int, int] | None = None


def report_of(table: Table, question: TableQuestion) -> AnalysisReport:
    """Analyse a table.

    Raises:
        UnknownName: the control, or a variant with a weight, is not in the table.
    """
    control = question.control or table.variants[0]
    for name in (control, *(question.weights or ())):
        if name not in table.variants:
            raise UnknownName("variant", name, table.variants)
    metric = ReportedMetric(question.metric, table.kind, "share" if table.share else question.unit)
    names = [control, *(name for name in table.variants if name != control)]
    comparisons = [_comparison(table, question, control, name) for name in names[1:]]
    segments = [
        _comparison(table, question, control, name, segment)
        for segment in table.segments
        if segment
        for name in names[1:]
        if table.arms(control, name, segment)
    ]
    found = MetricReport(
        metric,
        [_row(table, question, name, None if name == control else control) for name in names],
        corrected(comparisons, holm, question.alpha),
        corrected(segments, benjamini_hochberg, question.alpha),
    )
    splits = _splits(table, question.weights)
    return AnalysisReport(
        source=table.source,
        control=control,
        alpha=question.alpha,
        stages=len(table.stages),
        metrics=[found],
        splits=splits,
        warnings=[*alarms(splits), *_data_warnings(table), *_reversals(table, metric, control, names[1:])],
    )


def _comparison(
    table: Table, question: TableQuestion, control: str, variant: str, segment: str | None = None
) -> ComparedVariant:
    arms = table.arms(control, variant, segment)
    if not arms:
        return ComparedVariant(variant, segment or "", (NOTHING,))
    found = compared(table, arms, question.alpha, question.tuned_for)
    findings = [finding_of(found, question.alpha, *_method(table, found), share=table.share)]
    if question.planned is not None and segment is None:
        findings.append(textbook.at_planned_looks(found, question.alpha, *question.planned))
    findings.append(textbook.compare(arms, question.alpha))
    return ComparedVariant(variant, segment or "", tuple(findings))


def _method(table: Table, found: Comparison) -> tuple[str, str]:
    """How a comparison is made, and a remark."""
    if not table.share:
        between = "groups of users" if table.kind == "ratio" else "requests"
        return f"confidence sequence of the mean, with the variance between {between}", ""
    if table.kind == "rate":
        return "exact test of event counts", ""
    method = "exact test of event counts, divided by their design effect, since users repeat"
    return method, f"design effect {found.values.design_effect:.3g}"


def _row(table: Table, question: TableQuestion, name: str, control: str | None) -> VariantRow:
    """A variant's own value; the control's users help to tell how much users differ."""
    stages = [table.part(stage) for stage in table.stages]
    arms = [(part.get(control or "", Totals(0, 0)), part[name]) for part in stages if name in part]
    found = compared(table, arms, question.alpha, question.tuned_for)
    value = value_of(found, question.alpha, share=table.share, lowest=0.0 if table.share else -math.inf)
    # A user of several stages would count in each, so their number is known only where there is one stage.
    users = table.users.get((table.stages[0], name), 0) if table.users and len(table.stages) == 1 else None
    return VariantRow(name, sum(totals.n for _, totals in arms), sum(totals.y for _, totals in arms), users, value)


def _splits(table: Table, weights: Mapping[str, int] | None) -> list[SplitCheck]:
    """The sample-ratio check, on users where they are known, otherwise on requests."""
    if weights is None:
        return []
    total = sum(weights.values())
    shares = {name: points / total for name, points in weights.items() if points > 0}
    checks = []
    for stage in table.stages:
        part = table.part(stage)
        if table.users:
            counts = {name: float(table.users.get((stage, name), 0)) for name in shares}
        else:
            counts = {name: part[name].n if name in part else 0.0 for name in shares}
        parts = [np.array([each]) for each in counts.values()]
        found = sample_ratio([(parts, list(shares.values()))], SPLIT_ALPHA, k=_UNITS)
        plain_p = chi_square_p(list(counts.values()), list(shares.values()))
        whole = sum(counts.values())
        expected = {name: share * whole for name, share in shares.items()}
        unit = "users" if table.users else "n"
        checks.append(SplitCheck(stage, counts, expected, found.p, found.alarm, unit, plain_p))
    return checks


def _data_warnings(table: Table) -> list[str]:
    found = []
    if table.shared_users:
        found.append(
            f"{count(table.shared_users)} users are in more than one variant; each counts in all of them, so "
            f"differences between the variants look smaller than they are"
        )
    late = [name for name, end in table.ends.items() if end < max(table.ends.values())]
    if late:
        found.append(f"the rows of {', '.join(late)} end earlier than the others'")
    return found


def _reversals(table: Table, metric: ReportedMetric, control: str, names: Sequence[str]) -> list[str]:
    """Simpson's paradox: all parts say one thing, their sum another."""
    found = []
    for name in names:
        by_segment = [_totals(table.arms(control, name, each)) for each in table.segments]
        by_stage = [_totals([pair]) for pair in table.arms(control, name)]
        for what, parts in (("segments", by_segment), ("stages", by_stage)):
            sentence = reversal(metric, control, name, what, parts)
            if sentence:
                found.append(sentence)
    return found


def _totals(arms: Arms) -> Part:
    """Requests and sums of control and variant over some stages."""
    return (
        sum(a.n for a, _ in arms), sum(a.y for a, _ in arms), sum(b.n for _, b in arms), sum(b.y for _, b in arms)
    )  # fmt: skip
