"""A rollout's evidence as a judge sees it: by stage, and since each moment at which harm may have begun. Pure.

Evidence of a whole rollout tells best whether a candidate may go on, but dilutes harm that begins late: after an hour
of good answers, a candidate that fails altogether would look harmless for minutes. So harm is looked for since many
moments at once. With weights that sum to at most 1, fixed before any of the evidence after the moment,

    E = 1/2 E_0 + 1/2 sum_k w_k E_k,        w_k = 1 / (2.11 (k + 1) ln(k + 1)^2),  k = 1, 2, ...

is an e-process where ``E_0`` is one on all the evidence and each ``E_k`` is one that starts at 1 in the k-th marked
moment, since a mixture of e-processes is one (Ramdas et al., Game-theoretic statistics and safe anytime-valid
inference, Statistical Science 38, 2023, section 3). Leaving a moment out, because it was thinned out or is not marked
yet, only makes ``E`` smaller. So one error probability covers all moments and all looks together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeVar

import numpy as np

from abmesh.experiment.metrics import Histogram
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import merge
from abmesh.inference.mixture import log_sum_exp
from abmesh.inference.numbers import Floats
from controller.decision.history import Evidence, Mark, Memory, pack, unpack_at
from controller.decision.latencies import Durations
from controller.evidence.strata import Stratum
from controller.evidence.summary import FIRST_ERROR, VariantEvidence

_Key = TypeVar("_Key")

_NORMALISER = 2.11
"""At least the sum of 1 / (m ln(m)^2) over m = 2, 3, ..., which is 2.10974."""

_FINE = 200
"""A moment is marked when the stage is older by this part of its age than at the last one."""

_KEPT = 16
"""Most moments that are kept."""


@dataclass(frozen=True, slots=True)
class Since:
    """What the present stage has counted since a marked moment.

    Attributes:
        log_weight: natural logarithm of the moment's weight.
        age: how long ago it was.
        candidate: its codes and amounts since then, without slices and histograms.
        control: the control's.
        mark: packed, what the stage had counted by then; its histograms are subtracted only where they are wanted.
    """

    log_weight: float
    age: timedelta
    candidate: VariantEvidence
    control: VariantEvidence
    mark: str


@dataclass(frozen=True)
class Course:
    """Everything that a rollout is judged on.

    Attributes:
        candidate: its name.
        control: its name.
        slices: of the experiment.
        strata: one a stage, the present one last; at least one.
        since: the present stage's evidence since the marked moments.
        elapsed: for how long the present stage's evidence has been collected.
    """

    candidate: str
    control: str
    slices: int
    strata: Sequence[Stratum]
    since: Sequence[Since] = ()
    elapsed: timedelta = timedelta()

    @property
    def present(self) -> Stratum:
        """The present stage."""
        return self.strata[-1]

    def arms(self) -> list[tuple[VariantEvidence, VariantEvidence]]:
        """Control's and candidate's evidence in each stratum."""
        nothing = VariantEvidence()
        return [
            (stratum.variants.get(self.control, nothing), stratum.variants.get(self.candidate, nothing))
            for stratum in self.strata
        ]

    def mixed(self, log_e: Floats) -> tuple[float, int]:
        """One e-value from that on all evidence and those since each moment.

        Args:
            log_e: logarithms, shape (1 + moments,); the first is on all evidence.

        Returns:
            Its logarithm, and the row that contributes most: 0 for all evidence.
        """
        weights = np.array([0.0, *(item.log_weight for item in self.since)]) - math.log(2)
        parts = log_e + weights
        return float(log_sum_exp(parts)), int(np.argmax(parts))

    def latencies(self, histogram: Histogram) -> tuple[Durations, Durations]:
        """One of the histograms of the control and of the candidate, laid out once for all its quantiles."""
        if histogram not in self._laid_out:
            marks = tuple(item.mark for item in self.since)
            arms = self.arms()
            self._laid_out[histogram] = (
                Durations.of([a for a, _ in arms], marks, self.control, histogram),
                Durations.of([b for _, b in arms], marks, self.candidate, histogram),
            )
        return self._laid_out[histogram]

    @cached_property
    def _laid_out(self) -> dict[Histogram, tuple[Durations, Durations]]:
        return {}

    def without_busiest(self) -> Course:
        """Requests and errors of everybody but the slice of each variant that sent most, in each stage; no moments.

        Which slice that is depends on requests alone, so that it says nothing of errors.
        """
        strata = [
            replace(stratum, variants={name: _without_busiest(item) for name, item in stratum.variants.items()})
            for stratum in self.strata
        ]
        return replace(self, strata=strata, since=())

    def seconds_since(self, row: int) -> float | None:
        """How long ago a row's moment was; None for all evidence."""
        return self.since[row - 1].age.total_seconds() if row else None


def past_strata(memory: Memory, prices: Mapping[str, Price]) -> list[Stratum]:
    """The stages that are over, at these prices."""
    return [Stratum(stage.weights, unpack_at(stage.evidence, prices), stage.edges) for stage in memory.past]


def since_marks(
    marks: Sequence[Mark], at: datetime, present: Evidence, candidate: str, control: str, prices: Mapping[str, Price]
) -> list[Since]:
    """What was counted since each mark, at these prices; a mark of this very moment tells nothing and is left out."""
    found = []
    for mark in marks:
        if mark.at >= at:
            continue
        then = unpack_at(mark.evidence, prices)
        weight = -math.log(_NORMALISER * (mark.number + 1) * math.log(mark.number + 1) ** 2)
        b, a = (_difference(present.get(name), then.get(name)) for name in (candidate, control))
        found.append(Since(weight, at - mark.at, b, a, mark.evidence))
    return found


def marked(memory: Memory, began: datetime, at: datetime, present: Evidence, names: Sequence[str]) -> Memory:
    """The memory with this moment marked, if the last mark is old enough; those in between are thinned out.

    The first mark of a stage is its beginning, with nothing counted.
    """
    marks = memory.marks
    if marks and at < marks[-1].at:
        marks = ()  # The clock was set back.
    number = memory.marked
    if not marks:
        number += 1
        marks = (Mark(number=number, at=began, evidence=pack({})),)
    if at - marks[-1].at > (at - began) / _FINE and at > marks[-1].at:
        number += 1
        evidence = pack({name: _condensed(present[name]) for name in names if name in present})
        marks = _thinned((*marks, Mark(number=number, at=at, evidence=evidence)), at)
    return memory.model_copy(update={"marks": marks, "marked": number})


def _thinned(marks: tuple[Mark, ...], at: datetime) -> tuple[Mark, ...]:
    """At most so many marks: without the one whose neighbours are closest together for their age."""
    while len(marks) > _KEPT:
        # Neither the stage's beginning nor the newest two go, so the ages below are above nothing.
        closeness = [
            (marks[index + 1].at - marks[index - 1].at) / (at - marks[index - 1].at)
            for index in range(1, len(marks) - 2)
        ]
        drop = closeness.index(min(closeness)) + 1
        marks = marks[:drop] + marks[drop + 1 :]
    return marks


def _without_busiest(evidence: VariantEvidence) -> VariantEvidence:
    if not evidence.slices:
        return evidence
    busiest = max(evidence.slices, key=lambda number: (evidence.slices[number].requests, number))
    slices = {number: item for number, item in evidence.slices.items() if number != busiest}
    requests, errors = (sum(getattr(item, what) for item in slices.values()) for what in ("requests", "errors"))
    return VariantEvidence(codes={200: requests - errors, FIRST_ERROR: errors}, slices=slices)


def _condensed(evidence: VariantEvidence) -> VariantEvidence:
    return VariantEvidence(
        codes=evidence.codes,
        duration_ms=evidence.duration_ms,
        groups={0: evidence.bins},
        amounts=evidence.amounts,
        ttft={0: merge(evidence.ttft.values())},
    )


def _difference(now: VariantEvidence | None, then: VariantEvidence | None) -> VariantEvidence:
    """Codes and amounts in between; a stage's evidence only grows, so nothing is negative."""
    now, then = now or VariantEvidence(), then or VariantEvidence()
    return VariantEvidence(
        codes=_grown(now.codes, then.codes),
        duration_ms=max(now.duration_ms - then.duration_ms, 0),
        amounts=_grown(now.amounts, then.amounts),
    )


def _grown(now: Mapping[_Key, int], then: Mapping[_Key, int]) -> dict[_Key, int]:
    grown = {key: count - then.get(key, 0) for key, count in now.items()}
    return {key: count for key, count in grown.items() if count > 0}
