"""A rollout's evidence as strata, one for each stage, and the ratios in them. Pure.

Rates drift over time while the weights change. Pooled over stages, a candidate that got most of its requests in the
evening would be compared with a control that got most of its own in the morning. So stages are never added up; each
statistical method combines the strata itself. Used by :mod:`controller.decision` and :mod:`abmesh.analysis`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from abmesh.experiment.metrics import Metric
from abmesh.inference.numbers import Floats, Slices
from controller.evidence.summary import SegmentEvidence, SliceEvidence, VariantEvidence


@dataclass(frozen=True, slots=True)
class Stratum:
    """What was counted while the weights stayed the same.

    Attributes:
        weights: basis points by variant.
        variants: evidence by variant.
        edges: for each latency metric, the latencies in milliseconds at which its distributions are compared.
    """

    weights: Mapping[str, int]
    variants: Mapping[str, VariantEvidence]
    edges: Mapping[str, Sequence[float]] = field(default_factory=dict)


def metric_slices(evidence: VariantEvidence, slices: int, metric: Metric) -> Slices:
    """A ratio metric's denominator and numerator in each slice, shape (slices,), in the metric's unit."""
    return _slices(
        evidence,
        slices,
        lambda item: (
            sum(item.amount(name) for name in metric.per),
            sum(weight * item.amount(name) for name, weight in metric.parts),
        ),
    )


def numerator(evidence: VariantEvidence | SegmentEvidence, metric: Metric) -> float:
    """A ratio metric's numerator over all slices."""
    return sum(weight * evidence.amount(name) for name, weight in metric.parts)


def denominator(evidence: VariantEvidence | SegmentEvidence, metric: Metric) -> float:
    """A ratio metric's denominator over all slices."""
    return sum(evidence.amount(name) for name in metric.per)


def request_counts(evidence: VariantEvidence, slices: int) -> Floats:
    """Requests in each slice, aborted ones included, shape (slices,)."""
    return _slices(evidence, slices, lambda item: (item.requests + item.aborted, 0)).n


def spread(arm: Slices) -> int:
    """How many slices have requests; there are at least as many users."""
    return int(np.count_nonzero(arm.n))


def _slices(evidence: VariantEvidence, slices: int, of: Callable[[SliceEvidence], tuple[float, float]]) -> Slices:
    n, y = np.zeros(slices), np.zeros(slices)
    for number, item in evidence.slices.items():
        if number < slices:
            n[number], y[number] = of(item)
    return Slices(n, y)
