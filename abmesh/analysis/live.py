"""The report of a rollout: what the guardrails see, for every variant and metric, stage by stage. Pure.

Called by :mod:`abmesh.cli.analyze`, which reads what the controller keeps. It only reports; verdicts are the
guardrails'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from abmesh.analysis import anytime
from abmesh.analysis.records import (
    Comparison,
    Estimate,
    Finding,
    Kind,
    Metric,
    MetricReport,
    Report,
    SplitCheck,
    Sums,
    VariantRow,
)
from abmesh.analysis.report import alarms, corrected, reversal
from abmesh.experiment import metrics
from abmesh.experiment.names import BUCKETS
from abmesh.inference.cumulative import Cumulative
from abmesh.inference.histogram import merge, quantile
from abmesh.inference.mixture import crossing
from abmesh.inference.multiple import holm
from abmesh.inference.numbers import Interval, Side
from abmesh.inference.quantiles import (
    Latencies,
    log_e_quantile,
    quantile_band,
    quantile_ratio_interval,
)
from abmesh.inference.sample_ratio import sample_ratio
from controller.evidence.strata import Stratum, metric_slices, request_counts
from controller.evidence.summary import VariantEvidence

ALL = metrics.MEASURED
"""What every rollout measures."""

_UNITS = {"share": "share", "duration": "ms", "number": "", "dollars": "$"}


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a report of a rollout needs to know beside its evidence.

    Attributes:
        name: the experiment's.
        control: its control.
        slices: how many groups of users each variant is cut into.
        alpha: 0..1, of each metric's comparisons.
        split_alpha: 0..1, of the sample-ratio check.
        tuned_for: the candidate's requests at which intervals are narrowest.
    """

    name: str
    control: str
    slices: int
    alpha: float
    split_alpha: float
    tuned_for: float


Pair = tuple[VariantEvidence, VariantEvidence]
"""Evidence of the control and of a variant in one stage."""


def report_of_strata(
    strata: Sequence[Stratum], rollout: Rollout, measured: Sequence[metrics.Metric] = tuple(ALL.values())
) -> Report:
    """Compare every variant that had users with the control.

    Args:
        strata: one a stage, the oldest first.
        rollout: what it is.
        measured: the metrics to report.
    """
    others = _others(strata, rollout.control)
    found = [_metric(metric, strata, rollout, others) for metric in measured]
    splits = _splits(strata, rollout)
    return Report(
        source=rollout.name,
        control=rollout.control,
        alpha=rollout.alpha,
        stages=len(strata),
        metrics=found,
        splits=splits,
        warnings=[*alarms(splits), *_reversals(strata, rollout, others, measured)],
    )


def counted(strata: Sequence[Stratum], measured: metrics.Metric) -> bool:
    """Whether anything was counted that a metric is made of, beyond the requests that it is of."""
    arms = [evidence for stratum in strata for evidence in stratum.variants.values()]
    if measured.quantile is not None:
        return any(arm.histograms(measured.histogram) for arm in arms)
    return any(arm.amount(name) for arm in arms for name, _ in measured.parts)


def difference_at(strata: Sequence[Stratum], rollout: Rollout, measured: metrics.Metric) -> list[tuple[str, Estimate]]:
    """Each variant's difference from the control in one metric, for a picture of how it developed.

    Args:
        strata: as they were at a moment.
        rollout: what it is.
        measured: the metric.
    """
    report = report_of_strata(strata, rollout, (measured,))
    return [(item.variant, item.findings[0].difference) for item in report.metrics[0].comparisons]


def shown_metric(measured: metrics.Metric) -> Metric:
    """A measured metric, as reports and pictures show it."""
    kind: Kind = "ratio" if measured.quantile is None else "quantile"
    return Metric(measured.name, kind, _UNITS[measured.unit], once=measured.share)


def _others(strata: Sequence[Stratum], control: str) -> list[str]:
    names = dict.fromkeys(name for stratum in strata for name, points in stratum.weights.items() if points > 0)
    return [name for name in names if name != control]


def _pairs(strata: Sequence[Stratum], control: str, variant: str) -> list[Pair]:
    """Evidence of the stages in which both had users."""
    nothing = VariantEvidence()
    return [
        (stratum.variants.get(control, nothing), stratum.variants.get(variant, nothing))
        for stratum in strata
        if stratum.weights.get(control, 0) > 0 and stratum.weights.get(variant, 0) > 0
    ]


def _metric(
    measured: metrics.Metric, strata: Sequence[Stratum], rollout: Rollout, others: Sequence[str]
) -> MetricReport:
    metric = shown_metric(measured)
    if measured.quantile is not None:
        names = (rollout.control, *others)
        rows = [_quantile_row(name, strata, measured, rollout.alpha) for name in names]
        comparisons = [_quantiles(name, strata, measured, rollout) for name in others]
        return MetricReport(metric, rows, corrected(comparisons, holm, rollout.alpha))
    # Tuning counts requests of both; twice the candidate's are as many as there are when weights are equal.
    tuned_for = 2 * rollout.tuned_for
    sums = _sums(measured, rollout.slices)
    rows = []
    for name in (rollout.control, *others):
        present = [stratum.variants for stratum in strata if stratum.weights.get(name, 0) > 0]
        nothing = VariantEvidence()
        parts = [
            (
                sums(variants.get(name, nothing)),
                None if name == rollout.control else sums(variants.get(rollout.control, nothing)),
            )
            for variants in present
        ]
        value = anytime.value_of(metric, parts, rollout.alpha, tuned_for)
        rows.append(VariantRow(name, sum(a.measured for a, _ in parts), sum(a.y for a, _ in parts), None, value))
    comparisons = []
    for name in others:
        arms = [(sums(a), sums(b)) for a, b in _pairs(strata, rollout.control, name)]
        arms = [(a, b) for a, b in arms if a.n > 0 and b.n > 0]
        comparisons.append(Comparison(name, "", (anytime.compare(metric, arms, rollout.alpha, tuned_for),)))
    return MetricReport(metric, rows, corrected(comparisons, holm, rollout.alpha))


def _sums(measured: metrics.Metric, slices: int) -> Callable[[VariantEvidence], Sums]:
    def sums(evidence: VariantEvidence) -> Sums:
        found = metric_slices(evidence, slices, measured)
        answers = float(evidence.amount(measured.counted)) if measured.counted else None
        return Sums(float(found.total_n), float(found.total_y), None, found, answers=answers)

    return sums


def _quantile_row(name: str, strata: Sequence[Stratum], measured: metrics.Metric, alpha: float) -> VariantRow:
    share = measured.quantile
    assert share is not None
    groups = [
        bins
        for stratum in strata
        if stratum.weights.get(name, 0) > 0 and name in stratum.variants
        for bins in stratum.variants[name].histograms(measured.histogram).values()
    ]
    if not groups:
        return VariantRow(name, 0, 0, None, Estimate(None, Interval(0.0, math.inf)))
    whole = Cumulative.of(groups)
    estimate = Estimate(whole.quantile(share), quantile_band(whole, share, alpha))
    return VariantRow(name, float(whole.sizes.sum()), 0, None, estimate)


def _quantiles(name: str, strata: Sequence[Stratum], measured: metrics.Metric, rollout: Rollout) -> Comparison:
    """A quantile of durations, at edges that were chosen before each stage, or in it where none were."""
    assert measured.quantile is not None
    parts: list[Latencies] = []
    weighted: list[Weighted] = []
    late = 0
    for stratum in strata:
        for control, variant in _pairs([stratum], rollout.control, name):
            bins_a, bins_b = (merge(arm.histograms(measured.histogram).values()) for arm in (control, variant))
            value_a, value_b = quantile(bins_a, measured.quantile), quantile(bins_b, measured.quantile)
            if value_a is None or value_b is None:
                continue
            edges = stratum.edges.get(measured.name) or ()
            late += not edges
            # One edge each, since the edges of stages are combined by their order and may differ in number. A bound of
            # a bin would be up to 5% away from the control's quantile, and other requests would be compared.
            edge = edges[0] if edges else value_a
            arms = _cumulative(control, measured), _cumulative(variant, measured)
            latencies = Latencies(*arms, anytime.floats([edge]))
            n_a, n_b = float(latencies.a.sizes.sum()), float(latencies.b.sizes.sum())
            weighted.append((n_a * n_b / (n_a + n_b), value_a, value_b))
            parts.append(latencies)
    if not parts:
        return Comparison(name, "", (anytime.compare(shown_metric(measured), [], rollout.alpha, 1),))
    method = "count of slower requests, divided by their design effect, at the control's quantile"
    if late:
        method += f"; in {late} of {len(strata)} stages taken from the stage itself, so that it holds only about"
    return Comparison(name, "", (quantile_finding(parts, weighted, rollout.alpha, method),))


Weighted = tuple[float, float, float]
"""A stage's weight, and its quantile of the control and of the variant."""


def averaged(weighted: Sequence[Weighted]) -> tuple[float, float]:
    """The control's and the variant's quantile over all stages."""
    total = sum(weight for weight, _, _ in weighted)
    return (
        sum(weight * value for weight, value, _ in weighted) / total,
        sum(weight * value for weight, _, value in weighted) / total,
    )


def quantile_finding(parts: Sequence[Latencies], weighted: Sequence[Weighted], alpha: float, method: str) -> Finding:
    """The difference of a quantile from its counts of slower requests.

    Args:
        parts: one a stage; at least one.
        weighted: the quantiles, one a stage.
        alpha: 0..1, two-sided.
        method: how the parts were made.
    """
    mean_a, mean_b = averaged(weighted)
    ratio = quantile_ratio_interval(parts, alpha)
    log_e = max(log_e_quantile(parts, side=side) for side in (Side.GREATER, Side.LESS))
    p = min(1.0, 2 * math.exp(-log_e))
    return Finding(
        anytime.VALID,
        Estimate(mean_b - mean_a, _shift_interval(parts, mean_b - mean_a, alpha)),
        Estimate(mean_b / mean_a - 1 if mean_a else None, Interval(ratio.lower - 1, ratio.upper - 1)),
        p,
        p,
        p <= alpha,
        method,
    )


def _shift_interval(parts: Sequence[Latencies], estimate: float, alpha: float) -> Interval:
    """Milliseconds between the quantiles that are not rejected, each limit at half of alpha."""
    farthest = max(float(side.lower[-1] + side.width[-1]) for part in parts for side in (part.a, part.b))
    step = max(farthest / 1e3, 0.1)

    def limit(side: Side, end: float) -> float | None:
        def log_e(offset: float) -> float:
            return log_e_quantile(parts, side=side, offset=offset)

        if log_e(estimate) >= -math.log(alpha / 2):
            return estimate
        return crossing(log_e, estimate, step, end, alpha / 2)

    lower, upper = limit(Side.GREATER, -farthest), limit(Side.LESS, farthest)
    return Interval(-math.inf if lower is None else lower, math.inf if upper is None else upper)


def _cumulative(evidence: VariantEvidence, measured: metrics.Metric) -> Cumulative:
    return Cumulative.of(list(evidence.histograms(measured.histogram).values()))


def _splits(strata: Sequence[Stratum], rollout: Rollout) -> list[SplitCheck]:
    """One check for each stage, and the first that alarms stays an alarm whatever comes after it."""
    checks = []
    for number, stratum in enumerate(strata, start=1):
        total = sum(stratum.weights.values()) or BUCKETS
        shares = {name: points / total for name, points in stratum.weights.items() if points > 0}
        if len(shares) < 2:
            continue
        parts = {name: request_counts(stratum.variants.get(name, VariantEvidence()), rollout.slices) for name in shares}
        found = sample_ratio([(list(parts.values()), list(shares.values()))], rollout.split_alpha)
        counts = {name: float(part.sum()) for name, part in parts.items()}
        expected = {name: share * sum(counts.values()) for name, share in shares.items()}
        stage = str(number) if len(strata) > 1 else ""
        checks.append(SplitCheck(stage, counts, expected, found.p, found.alarm, "requests"))
    return checks


def _reversals(
    strata: Sequence[Stratum], rollout: Rollout, others: Sequence[str], measured: Sequence[metrics.Metric]
) -> list[str]:
    found = []
    for each in measured:
        if each.quantile is not None:
            continue
        sums = _sums(each, rollout.slices)
        for other in others:
            parts = [(sums(a), sums(b)) for a, b in _pairs(strata, rollout.control, other)]
            found.append(reversal(shown_metric(each), rollout.control, other, "stages", parts))
    return [sentence for sentence in found if sentence]
