"""A rollout's report by segment of its users: for which of them a variant is better, and for which worse. Pure.

Called by :mod:`abmesh.cli.analyze_live` on the report of :mod:`abmesh.analysis.rollout_report`. Envoy counts each
segment in ten groups of slices, so a segment is compared as the whole is, with its groups as its slices: how much its
users differ is measured on its own users. Where too few groups have requests, or where an Envoy that was rendered
before counted the segment without groups, the report shows values and no p.

Segments are looked at afterwards and there are many of them, so they are corrected for each other, and nothing here is
ever a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from abmesh.analysis.always_valid import UNKNOWN, corrected, finding_of, reversal
from abmesh.analysis.always_valid import VALID as AT_ANY_LOOK
from abmesh.analysis.layout import count
from abmesh.analysis.records import AnalysisReport, ComparedVariant, Estimate, Finding, MetricReport, SegmentValues
from abmesh.analysis.rollout_evidence import ReportedEvidence, RolloutQuestion, with_own_edges
from abmesh.analysis.segment_directions import direction
from abmesh.experiment import metrics, names
from abmesh.inference.multiple import benjamini_hochberg
from abmesh.inference.segments import Part
from controller.decision.comparison import Comparison, StratifiedSums
from controller.decision.means import MeanComparison
from controller.decision.quantiles import QuantileComparison
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.segments import too_thin
from controller.decision.shares import ShareComparison
from controller.evidence.strata import Stratum
from controller.evidence.summary import SegmentEvidence, VariantEvidence

VALID = AT_ANY_LOOK
ROUGHLY = f"{AT_ANY_LOOK}, roughly"

METHOD = "segments are compared as the whole is, with ten groups of their users as slices"
METHOD_OF_QUANTILES = f"{METHOD}, at the control's own quantile of the same stage"

TOO_FEW = "too few users"
NO_GROUPS = "no groups"

_WHY_NOT = {
    TOO_FEW: "fewer than 5 of its 10 groups of users sent most of its requests, so how much they differ is not known",
    NO_GROUPS: "Envoy was rendered before it counted segments by groups of users, so how much they differ is not known",
}

_MISSING = 0.01
"""Share of the requests without a segment from which on the report warns."""


def with_segments(
    report: AnalysisReport,
    strata: Sequence[Stratum],
    question: RolloutQuestion,
    measured: Sequence[metrics.Metric],
    segments: Sequence[str],
) -> AnalysisReport:
    """A report, with every metric by segment that is counted so, and warnings about what segments lack.

    Args:
        report: of the strata.
        strata: one for each stage, the oldest first.
        question: that the report answers.
        measured: the report's metrics, in its order.
        segments: that are declared, in the order to show them; ``other`` follows them.
    """
    others = [item.variant for item in report.metrics[0].comparisons] if report.metrics else []
    wholes = {name: ReportedEvidence.of(strata, question, name, measured).both for name in others}
    quantiles = [metric for metric in measured if metric.quantile is not None and metrics.in_segments(metric)]
    parts = {
        (segment, name): _Part(segment, name, whole, quantiles)
        for segment in (*segments, names.OTHER_SEGMENT)
        for name, whole in wholes.items()
        if whole is not None
    }
    found, reversals = [], []
    for part, metric in zip(report.metrics, measured, strict=True):
        if not metrics.in_segments(metric):
            found.append(part)
            continue
        compared = [_compared(metric, question, each) for each in parts.values()]
        found.append(_by_segment(part, metric, question, [row for row in compared if row is not None]))
        if metric.quantile is None:
            reversals += [
                reversal(part.metric, question.control, name, "segments", _totals(metric, parts, name))
                for name in others
            ]
    warnings = [*report.warnings, *_left_out(strata, measured), *filter(None, reversals)]
    return replace(report, metrics=found, warnings=warnings)


class _Part:
    """One segment of a variant's and the control's users.

    Attributes:
        segment: its name.
        variant: the variant's name.
        grouped: what was counted by group, with the groups as slices.
        total: all that was counted, whose users nobody can tell apart.
    """

    def __init__(self, segment: str, variant: str, whole: RolloutEvidence, quantiles: Sequence[metrics.Metric]) -> None:
        self.segment = segment
        self.variant = variant
        self.grouped = _with_edges(whole.in_segment(segment), quantiles)
        self.total = _with_edges(
            replace(whole, slices=1, strata=[_lumped(stratum, segment) for stratum in whole.strata]), quantiles
        )


def _with_edges(evidence: RolloutEvidence, quantiles: Sequence[metrics.Metric]) -> RolloutEvidence:
    strata = [with_own_edges(each, quantiles, evidence.control) for each in evidence.strata]
    return replace(evidence, strata=strata)


def _lumped(stratum: Stratum, segment: str) -> Stratum:
    """A stage whose variants have one segment's evidence in one group of users."""
    found = {}
    for name, evidence in stratum.variants.items():
        part = evidence.segments.get(segment, SegmentEvidence())
        found[name] = VariantEvidence(
            codes=part.codes,
            groups={0: part.durations},
            amounts=part.amounts,
            ttft={0: part.ttft},
            failed={0: part.failed},
        )
    return Stratum(stratum.weights, found)


def _by_segment(
    part: MetricReport, measured: metrics.Metric, question: RolloutQuestion, compared: Sequence[ComparedVariant]
) -> MetricReport:
    segments = corrected(compared, benjamini_hochberg, question.alpha)
    remarks = []
    for item in part.comparisons:
        mine = [each for each in segments if each.variant == item.variant]
        remarks.append(direction(measured, part.metric, question.control, item, mine))
    for why, text in _WHY_NOT.items():
        without = dict.fromkeys(item.segment for item in segments if item.findings[0].note == why)
        remarks += [f"{part.metric.name} of {', '.join(without)}: {text}"] if without else []
    return replace(part, segments=segments, remarks=[*filter(None, remarks)])


def _compared(measured: metrics.Metric, question: RolloutQuestion, part: _Part) -> ComparedVariant | None:
    """A variant and the control on one segment; None where no stage has requests of both."""
    found = question.compare(measured, part.grouped)
    known = found.standardised is not None and not too_thin(part.grouped, measured)
    if not known:
        found = question.compare(measured, part.total)
    standard = found.standardised
    if standard is None:
        return None
    within = SegmentValues(*_shown(found, standard))
    method = METHOD if measured.quantile is None else METHOD_OF_QUANTILES
    if known:
        finding = finding_of(found, question.alpha, method, share=measured.share)
        valid = VALID if measured.quantile is None else ROUGHLY
        return ComparedVariant(part.variant, part.segment, (replace(finding, valid=valid),), within)
    grouped = any(arm.slices for arms in part.grouped.arms() for arm in arms)
    finding = Finding(
        valid=VALID,
        difference=Estimate(standard[1] - standard[0], UNKNOWN),
        lift=None,
        p=math.nan,
        adjusted=math.nan,
        significant=False,
        method=method,
        note=TOO_FEW if grouped else NO_GROUPS,
    )
    return ComparedVariant(part.variant, part.segment, (finding,), within)


def _shown(found: Comparison, standard: tuple[float, float]) -> tuple[float, float, float, float]:
    """The control's and the variant's requests in the stages that have both, each before its value."""
    if isinstance(found, QuantileComparison):
        n_a, n_b = found.a.sizes()[0].sum(axis=-1), found.b.sizes()[0].sum(axis=-1)
    else:
        assert isinstance(found, ShareComparison | MeanComparison)
        n_a, n_b = found.sums.n_a[0], found.sums.n_b[0]
    shared = (n_a > 0) & (n_b > 0)
    return float(n_a[shared].sum()), standard[0], float(n_b[shared].sum()), standard[1]


def _totals(measured: metrics.Metric, parts: Mapping[tuple[str, str], _Part], variant: str) -> list[Part]:
    """Each segment's requests and sums over all stages, for Simpson's paradox between the whole and its segments."""
    found = []
    for (_, name), part in parts.items():
        if name == variant:
            sums = StratifiedSums.of(part.total, measured)
            shared = (sums.n_a[0] > 0) & (sums.n_b[0] > 0)
            n_a, y_a, n_b, y_b = (float(each[0][shared].sum()) for each in (sums.n_a, sums.y_a, sums.n_b, sums.y_b))
            found.append((n_a, y_a, n_b, y_b))
    return found


def _left_out(strata: Sequence[Stratum], measured: Sequence[metrics.Metric]) -> list[str]:
    """What the segments together do not hold of the whole."""
    arms = [arm for stratum in strata for arm in stratum.variants.values()]
    total = sum(arm.amount(metrics.ENDED) for arm in arms)
    parted = sum(part.amount(metrics.ENDED) for arm in arms for part in arm.segments.values())
    found = []
    if parted < total * (1 - _MISSING):
        found.append(
            f"of {count(total)} requests {count(parted)} were counted by segment; the others came while none were "
            f"declared, and are in no segment's numbers"
        )
    parts = [part for arm in arms for part in arm.segments.values()]
    grouped = sum(group.amount(metrics.ENDED) for part in parts for group in part.groups.values())
    if 0 < grouped < parted * (1 - _MISSING):
        found.append(
            f"of {count(parted)} requests that were counted by segment {count(grouped)} were counted by groups of "
            f"users as well; only these are compared"
        )
    broken = _missing(arms, metrics.BROKEN)
    if broken:
        found.append(
            f"{count(broken)} answers that the upstream broke off are errors of the whole and of no segment: Envoy did "
            f"not count them by segment"
        )
    left = _missing(arms, metrics.LEFT)
    if left and any(metrics.SUCCEEDED in metric.per for metric in measured):
        found.append(
            f"{count(left)} answers that the client left are successes of segments and not of the whole: Envoy did not "
            f"count them by segment"
        )
    return found


def _missing(arms: Sequence[VariantEvidence], amount: str) -> int:
    """How many of an amount were counted while segments were declared, and in none of them."""
    return sum(
        max(0, arm.amount(amount) - sum(part.amount(amount) for part in arm.segments.values()))
        for arm in arms
        if arm.segments
    )
