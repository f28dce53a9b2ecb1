"""A sentence where a variant is better for some segments and worse for others. Pure.

Called by :mod:`abmesh.analysis.rollout_segments`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from abmesh.analysis.layout import number, probability
from abmesh.analysis.records import ComparedVariant, ReportedMetric
from abmesh.experiment.metrics import Metric
from abmesh.inference.segments import MATERIAL, MIN_PART


def direction(
    measured: Metric,
    shown: ReportedMetric,
    control: str,
    whole: ComparedVariant,
    segments: Sequence[ComparedVariant],
) -> str:
    """How segments differ in direction, with their numbers; nothing where they do not.

    Segments with few requests are left out, as are differences of less than a twentieth of the control's value. What
    may be chance is called so and not left out: a reader who sees only the significant half of it is misled.

    Args:
        measured: the metric.
        shown: the same as reports show it.
        control: its name.
        whole: a variant's comparison over all users.
        segments: the same by segment.
    """
    up: list[ComparedVariant] = []
    down: list[ComparedVariant] = []
    for item in segments:
        within = item.within
        if within is None or min(within.control_n, within.variant_n) < MIN_PART:
            continue
        difference = within.variant - within.control
        if abs(difference) < MATERIAL * abs(within.control) or not difference:
            continue
        (up if difference > 0 else down).append(item)
    if not up or not down:
        return ""
    first, second = ("higher", up), ("lower", down)
    if measured.more_is_better or measured.unit != "number":  # More tokens may be good or bad.
        first, second = ("better", up), ("worse", down)
        if not measured.more_is_better:
            first, second = ("better", down), ("worse", up)
    parts = [f"{word} for {', '.join(_described(shown, item) for item in items)}" for word, items in (first, second)]
    over_all = number(whole.findings[0].difference.value, shown.difference_unit, sign=True)
    return (
        f"{measured.name} of {whole.variant} against {control} is {parts[0]} and {parts[1]}; over all users together "
        f"it differs by {over_all}, {_certainty(whole)}"
    )


def _described(shown: ReportedMetric, item: ComparedVariant) -> str:
    within = item.within
    assert within is not None
    values = [number(value, shown.unit) for value in (within.variant, within.control)]
    difference = number(within.variant - within.control, shown.difference_unit, sign=True)
    return f"{item.segment} ({values[0]} against {values[1]}, {difference}, {_certainty(item)})"


def _certainty(item: ComparedVariant) -> str:
    finding = item.findings[0]
    if math.isnan(finding.p):
        return f"which may be chance: {finding.note}"
    p = f"p {probability(finding.adjusted)}"
    return p if finding.significant else f"which may be chance, {p}"
