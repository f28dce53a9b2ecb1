"""A rollout's report by segment of its users: for which of them a variant is better, and for which worse. Pure.

Called by :mod:`abmesh.cli.analyze_live` on the report of :mod:`abmesh.analysis.rollout_report`. Envoy counts segments
without slices of users: slices times segments would be too many statistics. So how much users differ is measured on the
whole, whose slices are known, and lent to its segments, which are then compared as the whole is:

shares      counts are divided by the whole's design effect
events      the whole's variance per request, times the segment's rate over the whole's
all others  the whole's variance per request, times the square of the segment's value over the whole's where that is
            larger; never less than the whole's
quantiles   counts of slower requests are divided by the whole's design effect at its own quantile

This is only roughly valid: users of one segment may send more requests than those of another. Segments are looked at
afterwards and there are many of them, so they are corrected for each other, and nothing here is ever a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from abmesh.analysis.always_valid import VALID as AT_ANY_LOOK
from abmesh.analysis.always_valid import corrected, finding_of, reversal
from abmesh.analysis.layout import count
from abmesh.analysis.records import AnalysisReport, ComparedVariant, MetricReport, SegmentValues
from abmesh.analysis.rollout_evidence import ReportedEvidence, RolloutQuestion, with_own_edges
from abmesh.analysis.segment_directions import direction
from abmesh.experiment import metrics, names
from abmesh.inference.multiple import benjamini_hochberg
from abmesh.inference.numbers import Floats
from abmesh.inference.segments import Part
from controller.decision.comparison import Comparison, StratifiedSums
from controller.decision.means import MeanComparison
from controller.decision.quantiles import QuantileComparison
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.shares import ShareComparison
from controller.decision.variances import Variances
from controller.evidence.strata import Stratum
from controller.evidence.summary import SegmentEvidence, VariantEvidence

VALID = f"{AT_ANY_LOOK}, roughly"

METHOD = (
    "segments have no slices of users: compared as the whole is, with its design effect, or its variance per request, "
    "lent to each of its segments"
)

_COUNTED = frozenset(
    {
        metrics.ANSWERED,
        metrics.ENDED,
        metrics.ERRORS,
        metrics.SUCCEEDED,
        metrics.INPUT_TOKENS,
        metrics.OUTPUT_TOKENS,
        metrics.USAGE,
        metrics.COST,
    }
)
"""Amounts that are counted by segment, beside events."""

_MISSING = 0.01
"""Share of the requests without a segment from which on the report warns."""


def has_segments(measured: metrics.Metric) -> bool:
    """Whether all that a metric is made of is counted by segment."""
    amounts = [*(name for name, _ in measured.parts), *measured.per]
    return all(name in _COUNTED or name.startswith(metrics.of_event(metrics.EVENTS, "")) for name in amounts)


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
    quantiles = [metric for metric in measured if metric.quantile is not None and has_segments(metric)]
    parts = {
        (segment, name): question.rollout_evidence(
            [_segment(each, segment, quantiles, question.control) for each in part.strata], name
        )
        for segment in (*segments, names.OTHER_SEGMENT)
        for name, part in wholes.items()
        if part is not None
    }
    found, reversals = [], []
    for part, metric in zip(report.metrics, measured, strict=True):
        if not has_segments(metric):
            found.append(part)
            continue
        lenders = {name: question.compare(metric, part) for name, part in wholes.items() if part is not None}
        compared = [
            _compared(metric, question, segment, name, _lent(metric, lenders[name], part))
            for (segment, name), part in parts.items()
        ]
        found.append(_by_segment(part, metric, question, [row for row in compared if row is not None]))
        if metric.quantile is None:
            reversals += [
                reversal(part.metric, question.control, name, "segments", _totals(metric, parts, name))
                for name in others
            ]
    warnings = [*report.warnings, *_left_out(strata, measured), *filter(None, reversals)]
    return replace(report, metrics=found, warnings=warnings)


def _by_segment(
    part: MetricReport, measured: metrics.Metric, question: RolloutQuestion, compared: Sequence[ComparedVariant]
) -> MetricReport:
    segments = corrected(compared, benjamini_hochberg, question.alpha)
    remarks = []
    for item in part.comparisons:
        mine = [each for each in segments if each.variant == item.variant]
        remarks.append(direction(measured, part.metric, question.control, item, mine))
    return replace(part, segments=segments, remarks=[*filter(None, remarks)])


def _compared(
    measured: metrics.Metric, question: RolloutQuestion, segment: str, variant: str, found: Comparison
) -> ComparedVariant | None:
    """A variant and the control on one segment; None where no stage has requests of both."""
    standard = found.standardised
    if standard is None:
        return None
    if isinstance(found, QuantileComparison):
        n_a, n_b = found.a.sizes()[0], found.b.sizes()[0]
    else:
        assert isinstance(found, ShareComparison | MeanComparison)
        n_a, n_b = found.sums.n_a[0], found.sums.n_b[0]
    shared = (n_a > 0) & (n_b > 0)
    within = SegmentValues(float(n_a[shared].sum()), standard[0], float(n_b[shared].sum()), standard[1])
    finding = finding_of(found, question.alpha, METHOD, share=measured.share)
    return ComparedVariant(variant, segment, (replace(finding, valid=VALID),), within)


def _segment(stratum: Stratum, segment: str, quantiles: Sequence[metrics.Metric], control: str) -> Stratum:
    """A stage whose variants have one segment's evidence, without slices and with one group of users."""
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
    return with_own_edges(Stratum(stratum.weights, found), quantiles, control)


def _lent(measured: metrics.Metric, whole: Comparison, segment: RolloutEvidence) -> Comparison:
    """A segment's comparison, with the design effect or the variances of the whole, and tuned as the whole is."""
    if isinstance(whole, QuantileComparison):
        return replace(QuantileComparison.of(segment, measured), lent=whole.design_effects())
    sums = StratifiedSums.of(segment, measured)
    if isinstance(whole, ShareComparison):
        return replace(whole, sums=sums)
    assert isinstance(whole, MeanComparison)
    lent = _LentVariances(whole.variances, _factors(measured, whole.sums, sums))
    return replace(whole, sums=sums, counts=sums, variances=lent)


@dataclass(frozen=True, slots=True)
class _LentVariances:
    """The whole's :class:`~controller.decision.variances.Variances`, times a factor in each stratum."""

    whole: Variances
    factor: Floats

    def compared(self, scale: float, offset: float) -> Floats:
        return np.asarray(self.whole.compared(scale, offset) * self.factor)

    def candidate(self) -> Floats:
        return np.asarray(self.whole.candidate() * self.factor)


def _factors(measured: metrics.Metric, whole: StratifiedSums, segment: StratifiedSums) -> Floats:
    """How much larger a segment's variance per request is taken to be than the whole's, shape (strata,)."""
    n, y = segment.n_a[0] + segment.n_b[0], segment.y_a[0] + segment.y_b[0]
    whole_n, whole_y = whole.n_a[0] + whole.n_b[0], whole.y_a[0] + whole.y_b[0]
    known = (n > 0) & (whole_y > 0)
    value = whole_y / np.maximum(whole_n, 1)
    if measured.unit == "share":
        # One event is added, or a segment without any would seem certain never to have one.
        factor = (y + 1) / np.where(known, n * value, 1.0)
    else:
        # A score that may be negative has no scale of its own to go by.
        known &= all(weight > 0 for _, weight in measured.parts)
        factor = np.maximum(1.0, (y / np.where(known, n * value, 1.0)) ** 2)
    return np.asarray(np.where(known, factor, 1.0))


def _totals(measured: metrics.Metric, parts: Mapping[tuple[str, str], RolloutEvidence], variant: str) -> list[Part]:
    """Each segment's requests and sums over all stages, for Simpson's paradox between the whole and its segments."""
    found = []
    for (_, name), part in parts.items():
        if name == variant:
            sums = StratifiedSums.of(part, measured)
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
    broken = sum(arm.amount(metrics.BROKEN) for arm in arms)
    if broken:
        found.append(
            f"{count(broken)} answers that the upstream broke off are errors of the whole and of no segment: Envoy "
            f"does not count them by segment"
        )
    left = sum(arm.amount(metrics.LEFT) for arm in arms)
    if left and any(metrics.SUCCEEDED in metric.per for metric in measured):
        found.append(
            f"{count(left)} answers that the client left are successes of segments and not of the whole: Envoy does "
            f"not count them by segment"
        )
    return found
