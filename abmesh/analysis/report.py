"""A table's whole report: every variant against the control, segments, the split, and what to beware of. Pure.

Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from abmesh.analysis import anytime, plain
from abmesh.analysis.layout import count, number
from abmesh.analysis.records import (
    Comparison,
    Finding,
    Metric,
    MetricReport,
    Report,
    SplitCheck,
    Sums,
    VariantRow,
)
from abmesh.analysis.table import Table
from abmesh.experiment.errors import UnknownName
from abmesh.inference.multiple import benjamini_hochberg, holm
from abmesh.inference.sample_ratio import chi_square_p, sample_ratio
from abmesh.inference.segments import simpson

SPLIT_ALPHA = 0.01
"""How probable a false alarm about the split may be."""

_UNITS = 1_000.0
"""How closely a split of single units is looked at: the prior counts as much as so many of them."""

TUNED_FOR = 10_000
"""Requests at which intervals of means are narrowest, unless somebody says. Not taken from the data: that would be a
choice made after looking."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a table.

    Attributes:
        metric: its name in the report.
        unit: of a mean: ``ms``; empty if it has none. Shares have theirs already.
        control: a variant; the table's first one if None.
        alpha: 0..1.
        tuned_for: requests of both variants at which a mean's interval is narrowest.
        weights: what the split should be, in basis points by variant; None if nobody says.
        planned: size at which planned looks end, in requests of each candidate, and how many looks there are; None
            without.
    """

    metric: str
    unit: str = ""
    control: str | None = None
    alpha: float = 0.05
    tuned_for: float = TUNED_FOR
    weights: Mapping[str, int] | None = None
    planned: tuple[int, int] | None = None


def report_of(table: Table, question: Question) -> Report:
    """Analyse a table.

    Raises:
        UnknownName: the control, or a variant with a weight, is not in the table.
    """
    control = question.control or table.variants[0]
    for name in (control, *(question.weights or ())):
        if name not in table.variants:
            raise UnknownName("variant", name, table.variants)
    metric = Metric(question.metric, table.kind, "share" if table.share else question.unit)
    names = [control, *(name for name in table.variants if name != control)]
    comparisons = [_comparison(table, metric, question, control, name) for name in names[1:]]
    segments = [
        _comparison(table, metric, question, control, name, segment)
        for segment in table.segments
        if segment
        for name in names[1:]
        if table.arms(control, name, segment)
    ]
    found = MetricReport(
        metric,
        [_row(table, metric, question, name, None if name == control else control) for name in names],
        corrected(comparisons, holm, question.alpha),
        corrected(segments, benjamini_hochberg, question.alpha),
    )
    splits = _splits(table, question.weights)
    return Report(
        source=table.source,
        control=control,
        alpha=question.alpha,
        stages=len(table.stages),
        metrics=[found],
        splits=splits,
        warnings=[*alarms(splits), *_data_warnings(table), *_reversals(table, metric, control, names[1:])],
    )


def corrected(
    comparisons: Sequence[Comparison], correct: Callable[[Sequence[float]], Sequence[float]], alpha: float
) -> list[Comparison]:
    """Comparisons whose p-values are adjusted for each other, each analysis by itself.

    A finding at planned looks keeps its boundary, which has no p-value to adjust.

    Args:
        comparisons: made beside each other.
        correct: adjusted p-values from p-values, in their order.
        alpha: 0..1, for all of them together.
    """
    findings = [list(item.findings) for item in comparisons]
    for valid in dict.fromkeys(finding.valid for found in findings for finding in found):
        places = [
            (row, index)
            for row, found in enumerate(findings)
            for index, finding in enumerate(found)
            if finding.valid == valid and not math.isnan(finding.p)
        ]
        adjusted = correct([findings[row][index].p for row, index in places]) if places else []
        for (row, index), p in zip(places, adjusted, strict=True):
            findings[row][index] = replace(findings[row][index], adjusted=float(p), significant=bool(p <= alpha))
    return [replace(item, findings=tuple(found)) for item, found in zip(comparisons, findings, strict=True)]


def _comparison(
    table: Table, metric: Metric, question: Question, control: str, variant: str, segment: str | None = None
) -> Comparison:
    arms = table.arms(control, variant, segment)
    findings: list[Finding] = [anytime.compare(metric, arms, question.alpha, question.tuned_for)]
    if arms:
        if question.planned is not None and segment is None:
            findings.append(plain.at_planned_looks(metric, arms, question.alpha, *question.planned))
        findings.append(plain.compare(metric, arms, question.alpha))
    return Comparison(variant, segment or "", tuple(findings))


def _row(table: Table, metric: Metric, question: Question, name: str, control: str | None) -> VariantRow:
    stages = [table.part(stage) for stage in table.stages]
    parts = [(part[name], part.get(control or "")) for part in stages if name in part]
    value = anytime.value_of(metric, parts, question.alpha, question.tuned_for)
    # A user of several stages would count in each, so that their number is only known where there is one.
    users = table.users.get((table.stages[0], name), 0) if table.users and len(table.stages) == 1 else None
    return VariantRow(name, sum(sums.n for sums, _ in parts), sum(sums.y for sums, _ in parts), users, value)


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


def alarms(splits: Sequence[SplitCheck]) -> list[str]:
    """A warning for each check that alarms."""
    return [
        f"sample-ratio mismatch{f' in stage {split.stage}' if split.stage else ''}: the {split.unit} are not split as "
        f"the weights say; believe no comparison before the cause is found"
        for split in splits
        if split.alarm
    ]


def _data_warnings(table: Table) -> list[str]:
    found = []
    if table.shared_users:
        found.append(
            f"{count(table.shared_users)} users are in more than one variant; each counts in all of theirs, and a "
            f"difference between the variants looks smaller than it is"
        )
    late = [name for name, end in table.ends.items() if end < max(table.ends.values())]
    if late:
        found.append(f"the rows of {', '.join(late)} end before the others'")
    return found


def _reversals(table: Table, metric: Metric, control: str, names: Sequence[str]) -> list[str]:
    """Simpson's paradox: all parts say one thing, their sum another."""
    found = []
    for name in names:
        by_segment = [arms for arms in (_pooled(table.arms(control, name, each)) for each in table.segments) if arms]
        by_stage = table.arms(control, name)
        for what, parts in (("segments", by_segment), ("stages", by_stage)):
            sentence = reversal(metric, control, name, what, parts)
            if sentence:
                found.append(sentence)
    return found


def reversal(metric: Metric, control: str, name: str, what: str, parts: anytime.Arms) -> str:
    """A sentence if parts, one by one, say the opposite of their sum; otherwise nothing.

    Args:
        metric: what is compared.
        control: its name.
        name: of the variant.
        what: the parts are: ``stages`` or ``segments``.
        parts: sums of control and variant in each.
    """
    turned = simpson([(a.n, a.y, b.n, b.y) for a, b in parts])
    if turned is None:
        return ""
    unit = "points" if metric.unit == "share" else metric.unit
    pooled, within = number(turned.pooled, unit, sign=True), number(turned.stratified, unit, sign=True)
    believe = "the comparison below is by stage" if what == "stages" else "the segments below say more than the whole"
    return (
        f"Simpson's paradox: {metric.name} of {name} differs from {control} by {pooled} over all {what} together, but "
        f"by {within} within them, because they are mixed differently; {believe}"
    )


def _pooled(arms: anytime.Arms) -> tuple[Sums, Sums] | None:
    """One segment over all stages."""
    if not arms:
        return None
    a, b = arms[0]
    for more_a, more_b in arms[1:]:
        a, b = a + more_a, b + more_b
    return a, b
