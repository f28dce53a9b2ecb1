"""What the current stage has counted since each checkpoint, and how evidence since then is weighed. Pure.

A whole rollout's evidence tells best whether a candidate may go on, but it dilutes harm that begins late: after an hour
of good answers, a candidate that fails altogether would look harmless for minutes. So harm is also looked for since
many checkpoints. With weights that sum to at most 1, fixed before any evidence after the checkpoint,

    E = 1/2 E_0 + 1/2 sum_k w_k E_k,        w_k = 1 / (2.11 (k + 1) ln(k + 1)^2),  k = 1, 2, ...

is an e-process where ``E_0`` is one on all the evidence and each ``E_k`` is one that starts at 1 at the k-th
checkpoint, since a mixture of e-processes is one (Ramdas et al., Game-theoretic statistics and safe anytime-valid
inference, Statistical Science 38, 2023, section 3). Leaving a checkpoint out only makes ``E`` smaller. So one error
probability covers all checkpoints and all looks together.

Called by :mod:`controller.decision.decide`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from abmesh.experiment.metrics import ERROR_RATE, Histogram, Metric
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import Bins, CompactBins, merge
from abmesh.inference.mixture import log_sum_exp
from abmesh.inference.numbers import Floats
from controller.decision.history import Checkpoint, Evidence, History
from controller.decision.prices import at_prices
from controller.evidence.summary import SegmentEvidence, SliceEvidence, VariantEvidence, whole_segment

_Key = TypeVar("_Key")

_NORMALISER = 2.11
"""At least the sum of 1 / (m ln(m)^2) over m = 2, 3, ..., which is 2.10974."""

_FINE = 200
"""A checkpoint is taken when the stage has aged by more than this fraction of its age since the last one."""

_KEPT = 16
"""Most checkpoints that are kept."""


_NOTHING = -1e300
"""The logarithm of an e-value that says nothing at all."""


@dataclass(frozen=True, slots=True)
class Increment:
    """What the current stage has counted since a checkpoint.

    Attributes:
        log_weight: natural logarithm of the checkpoint's weight.
        age: how long ago the checkpoint was taken.
        candidate: its codes and amounts since then, without slices and histograms.
        control: the control's.
        before: what the stage had counted by then, by slice and group.
        effects: of :class:`~controller.decision.history.Checkpoint`.
    """

    log_weight: float
    age: timedelta
    candidate: VariantEvidence
    control: VariantEvidence
    before: Evidence
    effects: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LookBack:
    """The current stage's evidence since each checkpoint.

    Arrays that go with it have shape (1 + checkpoints,): the first row is all evidence, each other one an increment.

    Attributes:
        increments: since each checkpoint, the oldest first.
        skipped: rows that no e-value is taken from.
    """

    increments: tuple[Increment, ...] = ()
    skipped: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.increments)

    @property
    def log_weights(self) -> Floats:
        """Logarithms of the rows' weights, which sum to at most 1."""
        return np.array([0.0, *(item.log_weight for item in self.increments)]) - math.log(2)

    def mixed(self, log_e: Floats) -> tuple[float, int]:
        """One e-value from that on all evidence and those on each increment.

        Args:
            log_e: logarithms, shape (1 + checkpoints,).

        Returns:
            Its logarithm, and the row that contributes most: 0 for all evidence.
        """
        parts = log_e + self.log_weights
        if self.skipped:
            parts = np.array(parts)
            parts[sorted(self.skipped)] = _NOTHING
        return float(log_sum_exp(parts)), int(np.argmax(parts))

    def effects(self, hypothesis: str) -> list[float | None]:
        """A guardrail's design effect at each checkpoint; None where it was not kept."""
        return [item.effects.get(hypothesis) for item in self.increments]

    def seconds_since(self, row: int) -> float | None:
        """How long ago a row's checkpoint was; None for all evidence."""
        return self.increments[row - 1].age.total_seconds() if row else None


NO_LOOK_BACK = LookBack()


def look_back(
    checkpoints: Sequence[Checkpoint],
    at: datetime,
    present: Evidence,
    candidate: str,
    control: str,
    prices: Mapping[str, Price],
) -> LookBack:
    """What was counted since each checkpoint, at these prices; one of this very moment is left out."""
    found = []
    for checkpoint in checkpoints:
        if checkpoint.at >= at:
            continue
        then = at_prices(checkpoint.evidence, prices)
        if any(item.requests and not item.slices for item in then.values()):
            continue  # An older version kept no slices. Leaving a checkpoint out only makes E smaller.
        weight = -math.log(_NORMALISER * (checkpoint.number + 1) * math.log(checkpoint.number + 1) ** 2)
        b, a = (difference(present.get(name), then.get(name)) for name in (candidate, control))
        found.append(Increment(weight, at - checkpoint.at, b, a, then, checkpoint.effects))
    return LookBack(tuple(found))


def with_checkpoint(
    history: History,
    began: datetime,
    at: datetime,
    present: Evidence,
    names: Sequence[str],
    measured: Sequence[Metric] = (),
    *,
    segments: Collection[str] = (),
    effects: Mapping[str, float] = MappingProxyType({}),
) -> History:
    """The history with a checkpoint of this moment, if the last one is old enough; some in between are dropped.

    The first checkpoint of a stage is its beginning, with nothing counted.

    Args:
        history: so far.
        began: when the stage's evidence began.
        at: now.
        present: the stage's evidence.
        names: the variants to keep evidence of.
        measured: the metrics that need more of it than the requests and errors in every slice.
        segments: that are judged on their own.
        effects: each guardrail's design effect now.
    """
    checkpoints, taken = history.checkpoints, history.taken
    if checkpoints and at < checkpoints[-1].at:
        checkpoints = ()  # The clock was set back.
    if not checkpoints:
        taken += 1
        checkpoints = (Checkpoint(taken, began, {}),)
    if at - checkpoints[-1].at > (at - began) / _FINE and at > checkpoints[-1].at:
        taken += 1
        evidence = {name: _condensed(present[name], measured, segments) for name in names if name in present}
        checkpoints = _thinned((*checkpoints, Checkpoint(taken, at, evidence, effects)), at)
    return replace(history, checkpoints=checkpoints, taken=taken)


def _thinned(checkpoints: tuple[Checkpoint, ...], at: datetime) -> tuple[Checkpoint, ...]:
    """At most so many: the one whose neighbours are closest together for their age goes first."""
    while len(checkpoints) > _KEPT:
        # Neither the stage's beginning nor the newest two go, so no age below is 0.
        closeness = [
            (checkpoints[index + 1].at - checkpoints[index - 1].at) / (at - checkpoints[index - 1].at)
            for index in range(1, len(checkpoints) - 2)
        ]
        drop = closeness.index(min(closeness)) + 1
        checkpoints = checkpoints[:drop] + checkpoints[drop + 1 :]
    return checkpoints


def difference(now: VariantEvidence | None, then: VariantEvidence | None) -> VariantEvidence:
    """Codes and amounts in between; a stage's evidence only grows, so nothing is negative."""
    now, then = now or VariantEvidence(), then or VariantEvidence()
    return VariantEvidence(
        codes=_growth(now.codes, then.codes),
        duration_ms=max(now.duration_ms - then.duration_ms, 0),
        amounts=_growth(now.amounts, then.amounts),
    )


def _condensed(evidence: VariantEvidence, measured: Sequence[Metric], segments: Collection[str]) -> VariantEvidence:
    """What is compared with later: what the metrics need of every slice, and of every group of slices."""
    amounts = any(metric.quantile is None and metric != ERROR_RATE for metric in measured)
    histograms = {metric.histogram for metric in measured if metric.quantile is not None}

    def groups(histogram: Histogram, found: Mapping[int, Bins]) -> dict[int, Bins]:
        if histogram in histograms:
            return {group: CompactBins.of(bins) for group, bins in found.items()}
        return {0: CompactBins.of(merge(found.values()))}

    return VariantEvidence(
        codes=evidence.codes,
        duration_ms=evidence.duration_ms,
        slices=evidence.slices if amounts else {number: _requests(item) for number, item in evidence.slices.items()},
        groups=groups("duration", evidence.groups),
        amounts=evidence.amounts,
        ttft=groups("ttft", evidence.ttft),
        segments={name: _part(item, histograms) for name, item in evidence.segments.items() if name in segments},
        failed=groups("duration", evidence.failed) if evidence.failed else {},
    )


def _part(evidence: SegmentEvidence, histograms: Collection[Histogram]) -> SegmentEvidence:
    """A segment's groups, with the histograms that are compared."""

    def kept(histogram: Histogram, bins: Bins) -> Bins:
        return CompactBins.of(bins) if histogram in histograms else {}

    groups = {
        group: SegmentEvidence(
            codes=item.codes,
            amounts=item.amounts,
            durations=kept("duration", item.durations),
            ttft=kept("ttft", item.ttft),
            failed=kept("duration", item.failed),
        )
        for group, item in evidence.groups.items()
    }
    return whole_segment(groups)


def _requests(evidence: SliceEvidence) -> SliceEvidence:
    return SliceEvidence(evidence.requests, evidence.errors, evidence.aborted)


def _growth(now: Mapping[_Key, int], then: Mapping[_Key, int]) -> dict[_Key, int]:
    growth = {key: count - then.get(key, 0) for key, count in now.items()}
    return {key: count for key, count in growth.items() if count > 0}
