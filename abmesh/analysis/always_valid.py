"""What a comparison says at any look: values, difference, lift, p. Pure.

The comparisons are those that decisions are made with (:mod:`controller.decision`): the same e-values, so a report
cannot contradict a verdict. A verdict asks on one side; a report asks on both, each at half of alpha, so its p-value is
``min(1, 2 / E)`` with the larger e-value of the two sides. Called by :mod:`abmesh.analysis.rollout_report`,
:mod:`abmesh.analysis.rollout_segments` and :mod:`abmesh.analysis.table_report`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from abmesh.analysis.layout import number
from abmesh.analysis.records import ComparedVariant, Estimate, Finding, ReportedMetric, SplitCheck
from abmesh.inference.numbers import Interval, Side, always_valid_p
from abmesh.inference.segments import Part, simpson
from controller.decision.comparison import Comparison
from controller.decision.intervals import increase_interval, level_interval

VALID = "at any look"

UNKNOWN = Interval(-math.inf, math.inf)

NOTHING = Finding(
    VALID, Estimate(None, UNKNOWN), Estimate(None, UNKNOWN), 1.0, 1.0, significant=False, method="nothing to compare"
)
"""The finding where no stage has requests of both."""


def value_of(found: Comparison, alpha: float, *, share: bool, lowest: float = 0.0) -> Estimate:
    """The candidate's value over all its requests.

    Args:
        found: the comparison.
        alpha: 0..1, of both limits together.
        share: whether no value exceeds 1.
        lowest: the smallest possible value; may be infinite.
    """
    return Estimate(found.values.candidate, level_interval(found, alpha / 2, share=share, lowest=lowest))


def difference_of(found: Comparison, alpha: float, *, share: bool) -> Estimate:
    """The candidate's value minus the control's, compared stratum by stratum; arguments as for :func:`value_of`."""
    standard = found.standardised
    estimate = None if standard is None else standard[1] - standard[0]
    return Estimate(estimate, increase_interval(found, alpha / 2, relative=False, share=share))


def finding_of(found: Comparison, alpha: float, method: str, note: str = "", *, share: bool) -> Finding:
    """The candidate against the control.

    Args:
        found: the comparison.
        alpha: 0..1, two-sided.
        method: how it was made.
        note: a remark, such as the design effect.
        share: whether values lie in 0..1.
    """
    standard = found.standardised
    if standard is None:
        return NOTHING
    greater, less = (float(found.increase(side, 0.0, relative=False)[0]) for side in (Side.GREATER, Side.LESS))
    p = always_valid_p(max(greater, less) - math.log(2))
    a, b = standard
    lift = None
    if a > 0:  # As a share of a negative value, a difference would change its sign.
        lift = Estimate(b / a - 1, increase_interval(found, alpha / 2, relative=True, share=share))
    return Finding(
        VALID,
        difference_of(found, alpha, share=share),
        lift,
        p,
        p,
        p <= alpha,
        method,
        note,
        Side.GREATER if greater > less else Side.LESS,
    )


def corrected(
    comparisons: Sequence[ComparedVariant], correct: Callable[[Sequence[float]], Sequence[float]], alpha: float
) -> list[ComparedVariant]:
    """Comparisons whose p-values are adjusted for each other, separately for each analysis.

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


def alarms(splits: Sequence[SplitCheck]) -> list[str]:
    """A warning for each check that alarms."""
    return [
        f"sample-ratio mismatch{f' in stage {split.stage}' if split.stage else ''}: the {split.unit} are not split as "
        f"the weights say; trust no comparison until you have found the cause"
        for split in splits
        if split.alarm
    ]


def reversal(metric: ReportedMetric, control: str, name: str, what: str, parts: Sequence[Part]) -> str:
    """A sentence if the parts, one by one, say the opposite of their sum (Simpson's paradox); otherwise nothing.

    Args:
        metric: to compare.
        control: its name.
        name: of the variant.
        what: the parts are: ``stages`` or ``segments``.
        parts: requests and sums of control and variant in each.
    """
    turned = simpson(parts)
    if turned is None:
        return ""
    pooled, within = (number(value, metric.difference_unit, sign=True) for value in (turned.pooled, turned.stratified))
    advice = "the comparison below is by stage" if what == "stages" else "trust the segments below, not the total"
    return (
        f"Simpson's paradox: {metric.name} of {name} differs from {control} by {pooled} over all {what} together, but "
        f"by {within} within them, because each variant has a different mix of {what}; {advice}"
    )
