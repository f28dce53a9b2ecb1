"""What happened lately: evidence of the last minute and the last ten minutes of a stage. Pure.

A stage's whole evidence tells best whether a candidate may go on, but dilutes harm that begins late: after an hour of
good answers, a candidate that fails altogether would stay within 5% for minutes. So harm, and only harm, is looked for
in the last spans as well. Called by :mod:`controller.steering`, which keeps the marks in memory: a
controller that restarts has none, and looks at the whole stage until they have grown again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.evidence.histogram import Bins
from controller.evidence.summary import VariantEvidence

SPANS = (timedelta(minutes=1), timedelta(minutes=10))
"""How far back is looked, rising: the first for busy experiments, the last for quiet ones."""

_MARKS_PER_SPAN = 10

Evidence = Mapping[str, VariantEvidence]


@dataclass(frozen=True, slots=True)
class Mark:
    """A stage's whole evidence, without slices and groups, as it was at a moment."""

    at: datetime
    evidence: Evidence


def mark(marks: Sequence[Mark], at: datetime, evidence: Evidence) -> tuple[Mark, ...]:
    """Marks with one more, if the last is old enough; old ones are thinned out, and those of no more use dropped.

    Args:
        marks: rising in time.
        at: now; a clock that was set back starts the marks anew.
        evidence: of the whole stage.
    """
    fine, coarse = SPANS[0] / _MARKS_PER_SPAN, SPANS[-1] / _MARKS_PER_SPAN
    if marks and at < marks[-1].at:
        marks = ()
    if marks and at - marks[-1].at < fine:
        return tuple(marks)
    added = Mark(at, {name: _condensed(found) for name, found in evidence.items()})
    present = (*marks, added)
    kept: list[Mark] = []
    for item, following in zip(present, (*present[1:], None), strict=True):
        # Before the last minute, one mark of many is enough; but the newest that is a minute old is always needed.
        replaced = following is not None and at - following.at >= SPANS[0]
        crowded = bool(kept) and item.at - kept[-1].at < coarse
        outlived = following is not None and at - following.at >= SPANS[-1]
        if not outlived and not (replaced and crowded):
            kept.append(item)
    return tuple(kept)


def lately(marks: Sequence[Mark], at: datetime, evidence: Evidence) -> list[tuple[timedelta, Evidence]]:
    """The evidence of each span that the stage is older than.

    Returns:
        For each, how long it really is, and what was counted in it; the shortest first.
    """
    found: list[tuple[timedelta, Evidence]] = []
    for span in SPANS:
        before = [item for item in marks if item.at <= at - span]
        if before:
            since = before[-1]
            counted = {name: _difference(now, since.evidence.get(name)) for name, now in evidence.items()}
            found.append((at - since.at, counted))
    return found


def _condensed(evidence: VariantEvidence) -> VariantEvidence:
    return VariantEvidence(codes=evidence.codes, duration_ms=evidence.duration_ms, groups={0: evidence.bins})


def _difference(now: VariantEvidence, then: VariantEvidence | None) -> VariantEvidence:
    """What was counted in between; a stage's evidence only grows, so nothing is negative."""
    if then is None:
        return _condensed(now)
    earlier = then.bins
    bins: Bins = {key: count - earlier.get(key, 0) for key, count in now.bins.items() if count > earlier.get(key, 0)}
    return VariantEvidence(
        codes={code: count - then.codes.get(code, 0) for code, count in now.codes.items()},
        duration_ms=now.duration_ms - then.duration_ms,
        groups={0: bins},
    )
