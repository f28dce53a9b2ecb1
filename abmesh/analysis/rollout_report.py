"""The report of a rollout: every variant against the control on every metric, stage by stage. Pure.

Called by :mod:`abmesh.cli.analyze_live`, which reads what the controller keeps. Every comparison is the one that
guardrails and goals are judged by, tuned alike, over the same stages; see :mod:`abmesh.analysis.always_valid`. A report
decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from abmesh.analysis.always_valid import (
    NOTHING,
    UNKNOWN,
    alarms,
    corrected,
    difference_of,
    finding_of,
    reversal,
    value_of,
)
from abmesh.analysis.records import (
    AnalysisReport,
    ComparedVariant,
    Estimate,
    Finding,
    Kind,
    MetricReport,
    ReportedMetric,
    SplitCheck,
    VariantRow,
)
from abmesh.analysis.rollout_evidence import ReportedEvidence, RolloutQuestion
from abmesh.analysis.typical_users import disagreements, typical_value, user_findings
from abmesh.experiment.metrics import MEASURED, Metric
from abmesh.experiment.names import BUCKETS
from abmesh.inference.multiple import holm
from abmesh.inference.sample_ratio import sample_ratio
from controller.decision.comparison import Comparison
from controller.decision.rollout_evidence import RolloutEvidence
from controller.evidence.strata import Stratum, denominator, numerator, request_counts
from controller.evidence.summary import VariantEvidence
from controller.wording.verdicts import HEAVY, heavy_text

_UNITS = {"share": "share", "duration": "ms", "number": "", "dollars": "$"}


def report_of_strata(
    strata: Sequence[Stratum], question: RolloutQuestion, measured: Sequence[Metric] = tuple(MEASURED.values())
) -> AnalysisReport:
    """Compare every variant that had users with the control.

    Args:
        strata: one for each stage, the oldest first.
        question: what to report.
        measured: the metrics to report.
    """
    names = [question.control, *_others(strata, question.control)]
    evidence = {name: ReportedEvidence.of(strata, question, name, measured) for name in names}
    splits = _splits(strata, question)
    metrics = _corrected([_metric_report(metric, question, evidence) for metric in measured], question)
    return AnalysisReport(
        source=question.name,
        control=question.control,
        alpha=question.alpha,
        stages=len(strata),
        metrics=metrics,
        splits=splits,
        warnings=[
            *alarms(splits),
            *_reversals(question, evidence, measured),
            *disagreements(metrics),
            *_dominated(strata, question),
        ],
    )


def counted(strata: Sequence[Stratum], measured: Metric) -> bool:
    """Whether anything was counted that a metric is made of, beyond the requests that it is of."""
    arms = [evidence for stratum in strata for evidence in stratum.variants.values()]
    if measured.quantile is not None:
        return any(arm.histograms(measured.histogram) for arm in arms)
    return any(arm.amount(name) for arm in arms for name, _ in measured.parts)


def difference_at(strata: Sequence[Stratum], question: RolloutQuestion, measured: Metric) -> list[tuple[str, Estimate]]:
    """Each variant's difference from the control in one metric, for a picture of how it developed.

    Args:
        strata: as they were at a moment.
        question: what the report is about.
        measured: the metric.
    """
    found = []
    for name in _others(strata, question.control):
        seen = ReportedEvidence.of(strata, question, name, (measured,)).both
        estimate = Estimate(None, UNKNOWN)
        if seen is not None:
            estimate = difference_of(question.compare(measured, seen), question.alpha, share=measured.share)
        found.append((name, estimate))
    return found


def reported(measured: Metric) -> ReportedMetric:
    """A measured metric, as reports and pictures show it."""
    kind: Kind = "ratio" if measured.quantile is None else "quantile"
    return ReportedMetric(measured.name, kind, _UNITS[measured.unit])


def _others(strata: Sequence[Stratum], control: str) -> list[str]:
    names = dict.fromkeys(name for stratum in strata for name, points in stratum.weights.items() if points > 0)
    return [name for name in names if name != control]


def _corrected(reports: Sequence[MetricReport], question: RolloutQuestion) -> list[MetricReport]:
    """Each metric's comparisons, adjusted for the number of variants; those of several goals for that of goals too."""
    goals = [report for report in reports if report.metric.name in question.goals]
    family = [replace(item, findings=_noted(item.findings, len(goals))) for it in goals for item in it.comparisons]
    together = iter(corrected(family, holm, question.alpha)) if len(goals) > 1 else None
    found = []
    for report in reports:
        if together is not None and report.metric.name in question.goals:
            adjusted = [next(together) for _ in report.comparisons]
        else:
            adjusted = corrected(report.comparisons, holm, question.alpha)
        found.append(replace(report, comparisons=adjusted))
    return found


def _noted(findings: Sequence[Finding], goals: int) -> tuple[Finding, ...]:
    remark = f"p adjusted for {goals} goals (Holm)"
    return tuple(replace(item, note=f"{item.note}; {remark}" if item.note else remark) for item in findings)


def _metric_report(
    measured: Metric, question: RolloutQuestion, evidence: Mapping[str, ReportedEvidence]
) -> MetricReport:
    rows, comparisons = [], []
    for name, seen in evidence.items():
        both = None if seen.both is None else question.compare(measured, seen.both)
        own = both
        if seen.own is not seen.both:
            own = None if seen.own is None else question.compare(measured, seen.own)
        rows.append(_row(measured, question, name, seen.own, own))
        if name != question.control:
            findings = (_finding(measured, question, seen.method(measured), both),)
            comparisons.append(ComparedVariant(name, "", findings + user_findings(measured, question, seen.both)))
    return MetricReport(reported(measured), rows, comparisons)


def _finding(measured: Metric, question: RolloutQuestion, method: str, both: Comparison | None) -> Finding:
    if both is None:
        return NOTHING
    counts = measured.share or measured.quantile is not None
    note = f"design effect {both.values.design_effect:.3g}" if counts else ""
    return finding_of(both, question.alpha, method, note, share=measured.share)


def _row(
    measured: Metric, question: RolloutQuestion, name: str, seen: RolloutEvidence | None, own: Comparison | None
) -> VariantRow:
    """A variant's own value; the control's users help to tell how much users differ."""
    if seen is None or own is None:
        return VariantRow(name, 0, 0, None, Estimate(None, UNKNOWN))
    total = sum(numerator(evidence, measured) for _, evidence in seen.arms())
    lowest = -1.0 if measured.signed else 0.0
    value = value_of(own, question.alpha, share=measured.share, lowest=lowest)
    return VariantRow(name, own.values.n, total, None, value, typical_value(measured, question, seen))


def _splits(strata: Sequence[Stratum], question: RolloutQuestion) -> list[SplitCheck]:
    """One check for each stage; an alarm of one stage stays, whatever the next ones look like."""
    checks = []
    for position, stratum in enumerate(strata, start=1):
        total = sum(stratum.weights.values()) or BUCKETS
        shares = {name: points / total for name, points in stratum.weights.items() if points > 0}
        if len(shares) < 2:
            continue
        parts = {
            name: request_counts(stratum.variants.get(name, VariantEvidence()), question.slices) for name in shares
        }
        found = sample_ratio([(list(parts.values()), list(shares.values()))], question.split_alpha)
        counts = {name: float(part.sum()) for name, part in parts.items()}
        expected = {name: share * sum(counts.values()) for name, share in shares.items()}
        stage = str(position) if len(strata) > 1 else ""
        checks.append(SplitCheck(stage, counts, expected, found.p, found.alarm, "requests"))
    return checks


def _dominated(strata: Sequence[Stratum], question: RolloutQuestion) -> list[str]:
    """The variants of the last stage of whose requests one slice of users has many."""
    found = []
    for name, points in (strata[-1].weights if strata else {}).items():
        n = request_counts(strata[-1].variants.get(name, VariantEvidence()), question.slices)
        share = float(n.max() / n.sum()) if n.any() else 0.0
        if points > 0 and share >= HEAVY:
            found.append(f"{heavy_text(share, name)} in the last stage, so a few users may speak for all")
    return found


def _reversals(
    question: RolloutQuestion, evidence: Mapping[str, ReportedEvidence], measured: Sequence[Metric]
) -> list[str]:
    found = []
    for metric in measured:
        if metric.quantile is not None:
            continue
        for name, seen in evidence.items():
            arms = [] if seen.both is None else seen.both.arms()
            parts = [
                (denominator(a, metric), numerator(a, metric), denominator(b, metric), numerator(b, metric))
                for a, b in arms
            ]
            found.append(reversal(reported(metric), question.control, name, "stages", parts))
    return [sentence for sentence in found if sentence]
