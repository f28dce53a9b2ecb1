"""What a rollout remembers beyond its current stage's counts: earlier stages, checkpoints, looks and peaks. Pure.

:mod:`controller.decision.decide` extends it at every tick; :mod:`controller.codec` turns it into what is kept on disk
and in the journal, so that every decision can be recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from controller.evidence.summary import VariantEvidence

Evidence = Mapping[str, VariantEvidence]
"""Evidence of each variant, by name."""

Edges = Mapping[str, tuple[float, ...]]
"""Latencies in milliseconds at which two variants are compared, by :func:`edge_name`."""

_LARGEST = 1e300
"""Kept instead of a logarithm that is not finite, which JSON cannot hold."""


def edge_name(metric: str, segment: str = "") -> str:
    """What an edge is kept under: the metric that it was chosen for, and the segment, if it is one's own."""
    return f"{metric} of segment {segment}" if segment else metric


def edges_of(edges: Mapping[str, Sequence[float]], segment: str) -> dict[str, Sequence[float]]:
    """A segment's own edges, by metric."""
    ending = edge_name("", segment)
    return {name.removesuffix(ending): values for name, values in edges.items() if name.endswith(ending)}


@dataclass(frozen=True, slots=True)
class PastStage:
    """A stage that is over.

    Attributes:
        id: of the decision that ended it, whose journal entry holds this evidence as well.
        weights: in basis points, while it lasted.
        evidence: everything that was counted in it.
        edges: that it was judged at.
    """

    id: str
    weights: Mapping[str, int]
    evidence: Evidence
    edges: Edges = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment of the current stage; harm is also looked for in what was counted after it.

    Attributes:
        number: how many checkpoints the rollout has taken, this one included; its weight depends on it.
        at: when it was taken.
        evidence: everything that the stage had counted by then, without slices.
        effects: the design effect that each guardrail's counts had then, by the name of its hypothesis, or the variance
            per request of a mean; forecasts extrapolate it. Empty in what older versions kept.
    """

    number: int
    at: datetime
    evidence: Evidence
    effects: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """A planned look at the goal that has been taken.

    Attributes:
        fraction: of the planned information, 0..1.
        z: the goal's standardised difference, positive where the candidate is better.
        ruled_out: whether it ruled out a difference worth having.
    """

    fraction: float
    z: float
    ruled_out: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered of a rollout since it was started or resumed.

    Attributes:
        past: stages that are over, the oldest first.
        checkpoints: of the current stage, the oldest first.
        taken: how many checkpoints were ever taken.
        edges: that the current stage is judged at.
        looks: at the goal.
        peaks: the largest logarithm that each e-value has had in any stage, by its hypothesis; only those above 0. What
            was proven at one look stays proven at the next.
    """

    past: tuple[PastStage, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    taken: int = 0
    edges: Edges = field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    peaks: Mapping[str, float] = field(default_factory=dict)

    def raised(self, log_e: Mapping[str, float]) -> History:
        """The history with these logarithms of e-values, where they exceed what was reached before."""
        new = {name: min(value, _LARGEST) for name, value in log_e.items() if value > self.peaks.get(name, 0.0)}
        return replace(self, peaks={**self.peaks, **new}) if new else self

    def after_stage(self, stage: PastStage) -> History:
        """What the next stage of the same rollout remembers; a stage without evidence leaves none."""
        past = (*self.past, stage) if stage.evidence else self.past
        return History(past=past, taken=self.taken, peaks=self.peaks)
