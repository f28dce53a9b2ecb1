"""Simpson's paradox between a metric's total and its stages or segments. Pure.

Called by :mod:`controller.decision.decide`. A finding warns the reader and decides nothing: verdicts compare by stage.
"""

from __future__ import annotations

from collections.abc import Iterable

from abmesh.experiment.metrics import ERROR_RATE, LATENCY_MEAN, Metric
from abmesh.inference.segments import Part, simpson
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import Paradox
from controller.evidence.strata import denominator, numerator
from controller.evidence.summary import SegmentEvidence, VariantEvidence


def paradoxes(evidence: RolloutEvidence, watched: Iterable[Metric] = ()) -> tuple[Paradox, ...]:
    """Each metric that compares one way in every part and the other way over all of them.

    Parts are the stages, and the users' segments where they are declared.

    Args:
        evidence: what was counted.
        watched: metrics of the rollout's own beside error rate and mean latency; quantiles are passed over.
    """
    found = []
    for metric in dict.fromkeys((ERROR_RATE, LATENCY_MEAN, *watched)):
        if metric.quantile is not None:
            continue
        if simpson([_part(control, candidate, metric) for control, candidate in evidence.arms()]) is not None:
            found.append(Paradox(metric.name, "stages"))
        by_segment = _segments(evidence, metric)
        if len(by_segment) > 1 and simpson(by_segment) is not None:
            found.append(Paradox(metric.name, "segments"))
    return tuple(found)


def _part(
    control: VariantEvidence | SegmentEvidence, candidate: VariantEvidence | SegmentEvidence, metric: Metric
) -> Part:
    return (
        denominator(control, metric),
        numerator(control, metric),
        denominator(candidate, metric),
        numerator(candidate, metric),
    )


def _segments(evidence: RolloutEvidence, metric: Metric) -> list[Part]:
    """The current stage's segments."""
    control, candidate = evidence.arms()[-1]
    nothing = SegmentEvidence()
    return [
        _part(control.segments.get(name, nothing), candidate.segments.get(name, nothing), metric)
        for name in sorted({*control.segments, *candidate.segments})
    ]
