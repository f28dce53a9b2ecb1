"""A table's report: every variant against the control, segments, the split, and warnings. Pure.

Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

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
from abmesh.analysis.table_comparisons import SHARE_METHODS, Arms, compared
from abmesh.analysis.table_question import CORRECTIONS, TableQuestion, control_of, tuned_for, tuning_warning
from abmesh.analysis.table_warnings import of_missing_values, of_the_file
from abmesh.experiment.errors import UnknownName
from abmesh.inference.multiple import benjamini_hochberg
from abmesh.inference.sample_ratio import chi_square_p, sample_ratio
from abmesh.inference.segments import Part
from controller.decision.means import MeanComparison
from controller.decision.shares import ShareComparison

SPLIT_ALPHA = 0.01
"""Probability of a false alarm about the split."""

_UNITS = 1_000.0
"""Concentration of the prior for a split of single units: it weighs as much as this many of them."""


def report_of(tables: Sequence[Table], question: TableQuestion) -> AnalysisReport:
    """Analyse the metrics of a file.

    Args:
        tables: one for each metric, of the same variants and stages; at least one.
        question: what to report.

    Raises:
        UnknownName: the control, or a variant with a weight, is not in the file.
        DataError: the control is not known.
    """
    first = tables[0]
    control = control_of(first.variants, question.control, first.source)
    weights = _weights(first, question.weights)
    names = [control, *(name for name in first.variants if name != control)]
    metrics = [_metric(table, question, names) for table in tables]
    adjust = question.adjust or "holm"
    correct = CORRECTIONS[adjust]
    compared = _together([part.comparisons for part in metrics], correct, question.alpha)
    segments = _together([part.segments for part in metrics], benjamini_hochberg, question.alpha)
    splits = _splits(first, weights)
    warnings = [*alarms(splits), *of_the_file(first), *of_missing_values(tables, control)]
    warnings += [tuning_warning(table, question.tuned_for, question.alpha) for table in tables]
    for table, part in zip(tables, metrics, strict=True):
        warnings += _reversals(table, part.metric, control, names[1:])
    return AnalysisReport(
        source=first.source,
        control=control,
        alpha=question.alpha,
        stages=len(first.stages),
        metrics=[
            replace(part, comparisons=mine, segments=within)
            for part, mine, within in zip(metrics, compared, segments, strict=True)
        ],
        splits=splits,
        warnings=[warning for warning in dict.fromkeys(warnings) if warning],
        notes=[*dict.fromkeys(note for table in tables for note in table.notes), *_tuning(tables, question)],
        adjust=adjust,
    )


def _metric(table: Table, question: TableQuestion, names: Sequence[str]) -> MetricReport:
    """Everything about one metric, with p-values that are not corrected yet; the control is the first name."""
    control, *others = names
    unit = "share" if table.share or table.adjusted_share else question.unit
    metric = ReportedMetric(table.metric or question.metric, table.kind, unit, table.per, table.counted)
    return MetricReport(
        metric,
        [_row(table, question, name, None if name == control else control) for name in names],
        [_comparison(table, question, control, name) for name in others],
        [
            _comparison(table, question, control, name, segment)
            for segment in table.segments
            if segment
            for name in others
            if table.arms(control, name, segment)
        ],
    )


def _together(
    parts: Sequence[Sequence[ComparedVariant]], correct: Callable[[Sequence[float]], Sequence[float]], alpha: float
) -> list[Sequence[ComparedVariant]]:
    """The comparisons of several metrics, corrected for all of them."""
    left = corrected([item for part in parts for item in part], correct, alpha)
    found: list[Sequence[ComparedVariant]] = []
    for part in parts:
        found.append(left[: len(part)])
        left = left[len(part) :]
    return found


def _weights(table: Table, wanted: Mapping[str, int] | Literal["even"] | None) -> Mapping[str, int] | None:
    """The expected split of the variants of a file."""
    if wanted == "even":
        return dict.fromkeys(table.variants, 1)
    for name in wanted or ():
        if name not in table.variants:
            raise UnknownName("variant", name, table.variants)
    return wanted


def _comparison(
    table: Table, question: TableQuestion, control: str, variant: str, segment: str | None = None
) -> ComparedVariant:
    arms = table.arms(control, variant, segment)
    if not arms:
        return ComparedVariant(variant, segment or "", (NOTHING,))
    found = compared(table, arms, question.alpha, tuned_for(table, question.tuned_for))
    findings = [finding_of(found, question.alpha, *_method(table, found), share=table.share)]
    if question.planned is not None and segment is None:
        findings.append(textbook.at_planned_looks(found, question.alpha, *question.planned))
    findings.append(textbook.compare(arms, question.alpha))
    return ComparedVariant(variant, segment or "", tuple(findings))


def _method(table: Table, found: ShareComparison | MeanComparison) -> tuple[str, str]:
    """How a comparison is made, and a remark."""
    if not isinstance(found, ShareComparison):
        between = "groups of users" if table.kind == "ratio" else table.per
        return f"confidence sequence of the mean, with the variance between {between}", ""
    method = SHARE_METHODS[found.method]
    if table.kind == "rate":
        return method, ""
    method += ", divided by their design effect, since users repeat"
    return method, f"design effect {found.values.design_effect:.3g}"


def _row(table: Table, question: TableQuestion, name: str, control: str | None) -> VariantRow:
    """A variant's own value; the control's users help to tell how much users differ."""
    stages = [table.part(stage) for stage in table.stages]
    arms = [(part.get(control or "", Totals(0, 0)), part[name]) for part in stages if name in part]
    found = compared(table, arms, question.alpha, tuned_for(table, question.tuned_for))
    value = value_of(found, question.alpha, share=table.share, lowest=0.0 if table.share else -math.inf)
    # A user of several stages would count in each, so their number is known only where there is one stage.
    known = table.kind == "ratio" and len(table.stages) == 1
    users = table.users.get((table.stages[0], name), 0) if known else None
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
        unit = table.counted if table.users else "n"
        checks.append(SplitCheck(stage, counts, expected, found.p, found.alarm, unit, plain_p))
    return checks


def _tuning(tables: Sequence[Table], question: TableQuestion) -> list[str]:
    """What the intervals are tuned for, where nobody said it."""
    if question.tuned_for is not None:
        return []
    sizes = dict.fromkeys(f"{count(tuned_for(table, None))} {table.per}" for table in tables)
    return [
        f"intervals at any look are narrowest at {', '.join(sizes)}, a power of ten near the file's size; if the file "
        f"grows, give --tuned-for the size that you plan"
    ]


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
