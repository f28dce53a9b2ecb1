"""Warnings of Simpson's paradox over a rollout's stages. Pure."""

from __future__ import annotations

from controller.evidence.summary import VariantEvidence
from controller.inference.segments import Part, simpson
from controller.judging.course import Course


def reversals(course: Course) -> tuple[str, ...]:
    """A sentence for each metric that compares one way stage by stage and the other way pooled."""
    found = []
    for name, part in (("error_rate", _errors), ("latency_mean", _durations)):
        parts = [part(control, candidate) for control, candidate in course.arms()]
        if simpson(parts) is not None:
            found.append(
                f"{name}: pooled over its stages {course.candidate} compares with {course.control} the other way than "
                f"stage by stage, because the rate drifted while the weights changed; the verdicts compare by stage"
            )
    return tuple(found)


def _errors(control: VariantEvidence, candidate: VariantEvidence) -> Part:
    return control.requests, control.errors, candidate.requests, candidate.errors


def _durations(control: VariantEvidence, candidate: VariantEvidence) -> Part:
    n_a, n_b = sum(control.codes.values()), sum(candidate.codes.values())
    return n_a, control.duration_ms, n_b, candidate.duration_ms
