"""A rollout's report by segment of its users: which of them the variant is better for, and for which worse. Pure.

Called by :mod:`abmesh.cli.analyze_live` on the report of :mod:`abmesh.analysis.live`. Envoy counts segments without
slices of users: slices times segments would be too many statistics. How much users differ is therefore taken from the
whole, whose slices are known, and lent to its segments:

shares      counts are divided by the whole's design effect
events      the whole's variance per request, times the segment's rate over the whole's
all others  the whole's variance per request, times the square of the segment's value over the whole's where that is
            larger; never less than the whole's
quantiles   counts of slower requests are divided by the whole's design effect at its own quantile

This holds only about: users of one segment may repeat more than those of another. Segments are looked at afterwards and
there are many of them, so that they are corrected for each other, and nothing here is ever a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from abmesh.analysis import anytime
from abmesh.analysis.directions import direction
from abmesh.analysis.layout import count
from abmesh.analysis.live import Rollout, Weighted, averaged, quantile_finding, shown_metric
from abmesh.analysis.records import Borrowed, Comparison, MetricReport, Report, Sums, Within
from abmesh.analysis.report import corrected, reversal
from abmesh.experiment import metrics, names
from abmesh.inference.cumulative import Cumulative
from abmesh.inference.edges import level_deflator
from abmesh.inference.histogram import Bins, quantile
from abmesh.inference.multiple import benjamini_hochberg
from abmesh.inference.numbers import Slices
from abmesh.inference.quantiles import Latencies
from abmesh.inference.variance import design_effect, request_variance
from controller.evidence.strata import Stratum, denominator, metric_slices, numerator
from controller.evidence.summary import SegmentEvidence, VariantEvidence

VALID = "at any look, roughly"

METHOD = (
    "segments, which have no groups of users: as for the whole, with its design effect, or its variance per request, "
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
"""Share of the requests without a segment from which on it is said."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """One segment in one stage, and the wholes that it is a part of; ``a`` is the control."""

    a: SegmentEvidence
    b: SegmentEvidence
    whole_a: VariantEvidence
    whole_b: VariantEvidence


def has_segments(measured: metrics.Metric) -> bool:
    """Whether all that a metric is made of is counted by segment."""
    amounts = [*(name for name, _ in measured.parts), *measured.per]
    return all(name in _COUNTED or name.startswith(metrics.of_event(metrics.EVENTS, "")) for name in amounts)


def with_segments(
    report: Report,
    strata: Sequence[Stratum],
    rollout: Rollout,
    measured: Sequence[metrics.Metric],
    segments: Sequence[str],
) -> Report:
    """A report, with every metric by segment that has a counterpart there, and what is to be said of them.

    Args:
        report: of the strata.
        strata: one a stage, the oldest first.
        rollout: what the report is of.
        measured: the report's metrics, in its order.
        segments: that are declared, as they are to be shown; ``other`` follows them.
    """
    shown = [*segments, names.OTHER_SEGMENT]
    found, reversals = [], []
    for part, metric in zip(report.metrics, measured, strict=True):
        if not has_segments(metric):
            found.append(part)
            continue
        cuts = {
            (segment, item.variant): _cuts(strata, rollout.control, item.variant, segment)
            for segment in shown
            for item in part.comparisons
        }
        found.append(_by_segment(part, metric, rollout, cuts))
        reversals += [_reversal(metric, rollout, item.variant, shown, cuts) for item in part.comparisons]
    warnings = [*report.warnings, *_left_out(strata, measured), *filter(None, reversals)]
    return replace(report, metrics=found, warnings=warnings)


_Cuts = dict[tuple[str, str], list[_Cut]]
"""By segment and variant, one a stage."""


def _cuts(strata: Sequence[Stratum], control: str, variant: str, segment: str) -> list[_Cut]:
    """A segment in the stages in which both variants had users of it."""
    found = []
    for stratum in strata:
        if min(stratum.weights.get(control, 0), stratum.weights.get(variant, 0)) <= 0:
            continue
        whole_a, whole_b = (stratum.variants.get(name, VariantEvidence()) for name in (control, variant))
        a, b = whole_a.segments.get(segment), whole_b.segments.get(segment)
        if a is not None and b is not None:
            found.append(_Cut(a, b, whole_a, whole_b))
    return found


def _by_segment(part: MetricReport, measured: metrics.Metric, rollout: Rollout, cuts: _Cuts) -> MetricReport:
    compare = _ratio if measured.quantile is None else _quantile
    compared = [compare(measured, rollout, segment, variant, found) for (segment, variant), found in cuts.items()]
    segments = corrected([item for item in compared if item is not None], benjamini_hochberg, rollout.alpha)
    remarks = []
    for item in part.comparisons:
        mine = [each for each in segments if each.variant == item.variant]
        remarks.append(direction(measured, part.metric, rollout.control, item, mine))
    return replace(part, segments=segments, remarks=[*filter(None, remarks)])


def _ratio(
    measured: metrics.Metric, rollout: Rollout, segment: str, variant: str, cuts: Sequence[_Cut]
) -> Comparison | None:
    arms = _arms(measured, cuts, rollout.slices)
    if not arms:
        return None
    # Tuned as the whole is: a segment's own size would be a choice made after looking.
    finding = anytime.compare(shown_metric(measured), arms, rollout.alpha, 2 * rollout.tuned_for)
    values = anytime.standardised(arms)
    within = Within(sum(a.n for a, _ in arms), values.a, sum(b.n for _, b in arms), values.b)
    return Comparison(variant, segment, (replace(finding, valid=VALID, method=METHOD),), within)


def _arms(measured: metrics.Metric, cuts: Sequence[_Cut], slices: int) -> list[tuple[Sums, Sums]]:
    arms = []
    for cut in cuts:
        n_a, n_b = denominator(cut.a, measured), denominator(cut.b, measured)
        if n_a <= 0 or n_b <= 0:
            continue
        y_a, y_b = numerator(cut.a, measured), numerator(cut.b, measured)
        lent = _lent(measured, cut, slices, n_a + n_b, y_a + y_b)
        arms.append((Sums(n_a, y_a, borrowed=lent), Sums(n_b, y_b, borrowed=lent)))
    return arms


def _lent(measured: metrics.Metric, cut: _Cut, slices: int, n: float, y: float) -> Borrowed:
    """What the whole lends to a segment with ``n`` requests of both variants and a sum of ``y``."""
    a, b = metric_slices(cut.whole_a, slices, measured), metric_slices(cut.whole_b, slices, measured)
    used = (a.n > 0) | (b.n > 0)
    a, b = Slices(a.n[used], a.y[used]), Slices(b.n[used], b.y[used])
    s2 = float(request_variance(a, b, share=measured.share))
    whole_n, whole_y = float(a.total_n + b.total_n), float(a.total_y + b.total_y)
    freedom = max(1.0, float(used.sum()) - 1)
    whole = whole_y / whole_n if whole_n else 0.0
    rate = y / n
    if measured.share:
        effect = float(design_effect(s2, whole))
        return Borrowed(effect * rate * (1 - rate), effect, freedom)
    if measured.unit == "share":
        # One event more than there were, so that a segment without any is not taken as certain to have none.
        factor = (y + 1) / n / whole if whole > 0 else 1.0
    else:
        # A score that may be negative has no scale of its own to go by.
        positive = whole > 0 and all(weight > 0 for _, weight in measured.parts)
        factor = max(1.0, (rate / whole) ** 2) if positive else 1.0
    return Borrowed(s2 * factor, 1.0, freedom)


def _quantile(
    measured: metrics.Metric, rollout: Rollout, segment: str, variant: str, cuts: Sequence[_Cut]
) -> Comparison | None:
    assert measured.quantile is not None
    parts: list[Latencies] = []
    weighted: list[Weighted] = []
    sizes = [0.0, 0.0]
    for cut in cuts:
        bins_a, bins_b = _bins(cut.a, measured), _bins(cut.b, measured)
        value_a, value_b = quantile(bins_a, measured.quantile), quantile(bins_b, measured.quantile)
        if value_a is None or value_b is None:
            continue
        n_a, n_b = float(sum(bins_a.values())), float(sum(bins_b.values()))
        sizes[0] += n_a
        sizes[1] += n_b
        weighted.append((n_a * n_b / (n_a + n_b), value_a, value_b))
        effect = _effect(measured, cut)
        parts.append(Latencies(_thinned(bins_a, effect), _thinned(bins_b, effect), anytime.floats([value_a])))
    if not parts:
        return None
    finding = replace(quantile_finding(parts, weighted, rollout.alpha, METHOD), valid=VALID)
    value_a, value_b = averaged(weighted)
    return Comparison(variant, segment, (finding,), Within(sizes[0], value_a, sizes[1], value_b))


def _bins(segment: SegmentEvidence, measured: metrics.Metric) -> Bins:
    return segment.ttft if measured.histogram == names.STAT_TTFT else segment.durations


def _thinned(bins: Bins, effect: float) -> Cumulative:
    """A segment's histogram as one group, with as many requests as say the same where users do not repeat."""
    whole = Cumulative.of([bins])
    return replace(whole, before=whole.before / effect)


def _effect(measured: metrics.Metric, cut: _Cut) -> float:
    """How much the users of the whole repeat, at its quantile."""
    assert measured.quantile is not None
    groups = [list(arm.histograms(measured.histogram).values()) for arm in (cut.whole_a, cut.whole_b)]
    if not all(groups):
        return 1.0
    a, b = Cumulative.of(groups[0]), Cumulative.of(groups[1])
    value_a, value_b = a.quantile(measured.quantile), b.quantile(measured.quantile)
    if value_a is None or value_b is None:
        return 1.0
    above_a, above_b = a.exceeding(np.asarray(value_a)), b.exceeding(np.asarray(value_b))
    return float(level_deflator(above_a, a.sizes, above_b, b.sizes))


def _reversal(measured: metrics.Metric, rollout: Rollout, variant: str, segments: Sequence[str], cuts: _Cuts) -> str:
    """Simpson's paradox between a metric's whole and its segments, each over all stages."""
    if measured.quantile is not None:
        return ""
    parts = []
    for segment in segments:
        arms = _arms(measured, cuts[segment, variant], rollout.slices)
        if arms:
            first, *rest = arms
            parts.append((sum((a for a, _ in rest), first[0]), sum((b for _, b in rest), first[1])))
    return reversal(shown_metric(measured), rollout.control, variant, "segments", parts)


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
