"""Warnings of Simpson's paradox over a rollout's stages and its users' segments. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from abmesh.experiment.metrics import ERROR_RATE, LATENCY_MEAN, Metric
from abmesh.inference.segments import Part, simpson
from controller.decision.course import Course
from controller.evidence.strata import denominator, numerator
from controller.evidence.summary import SegmentEvidence, VariantEvidence


def reversals(course: Course, watched: Iterable[Metric] = ()) -> tuple[str, ...]:
    """A sentence for each metric that compares one way part by part and the other way pooled.

    Stages are looked at, and segments of the users where they are declared.

    Args:
        course: the evidence.
        watched: metrics of the rollout's own beside error rate and mean latency; quantiles are passed over.
    """
    found = []
    for metric in dict.fromkeys((ERROR_RATE, LATENCY_MEAN, *watched)):
        if metric.quantile is not None:
            continue
        parts = [_part(control, candidate, metric) for control, candidate in course.arms()]
        if simpson(parts) is not None:
            found.append(
                f"{metric.name}: pooled over its stages {course.candidate} compares with {course.control} the other "
                f"way than stage by stage, because the rate drifted while the weights changed; the verdicts compare by "
                f"stage"
            )
        by_segment = _segments(course, metric)
        if len(by_segment) > 1 and simpson(by_segment) is not None:
            found.append(
                f"{metric.name}: over all users {course.candidate} compares with {course.control} the other way than "
                f"in every segment, because the variants' users are another mix of segments; believe the segments"
            )
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


def _segments(course: Course, metric: Metric) -> list[Part]:
    """The present stage's segments."""
    control, candidate = course.arms()[-1]
    nothing = SegmentEvidence()
    return [
        _part(control.segments.get(name, nothing), candidate.segments.get(name, nothing), metric)
        for name in sorted({*control.segments, *candidate.segments})
    ]
