"""What one tick is made of and what it did: plain records, and the journal's entries from them. Pure.

Made by :mod:`controller.rollout.reconcile`, shown by :mod:`controller.metrics.telemetry` and :mod:`controller.http`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from abmesh.experiment.model import Experiment
from abmesh.experiment.weights import move_candidate
from controller.decision.policy import Decision, Situation
from controller.decision.verdicts import Balance, Judgement
from controller.decision.warmup import Target, Warmups
from controller.evidence.coverage import Coverage
from controller.evidence.summary import VariantEvidence
from controller.records import Cause, DecisionRecord, ExperimentState, JournalEntry, Kind
from controller.sources.base import Observation


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tick did about one experiment.

    Attributes:
        balance: whether requests are split as the weights say; None if nothing was judged.
        warms: what is still to be warmed, if anything.
    """

    experiment: str
    state: ExperimentState
    weights: Mapping[str, int]
    decision: DecisionRecord
    judgements: Sequence[Judgement] = ()
    balance: Balance | None = None
    warms: Target | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a tick did.

    Attributes:
        generation: of the document, or None if it is refused or unreadable.
        document_error: why it is, or empty.
        outcomes: one for each experiment with a rollout that could be dealt with.
        failures: why others could not, by name.
        superseded: those that somebody else changed meanwhile, which are to be decided on again.
        experiments: all of the document, with a rollout or without; None if it is refused.
    """

    generation: int | None
    document_error: str = ""
    outcomes: tuple[Outcome, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    superseded: tuple[str, ...] = ()
    experiments: tuple[Experiment, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """What all experiments share in one tick.

    Attributes:
        observations: one of each Envoy.
        at: when they were asked.
        now: when they had answered.
        warmups: how far warm-ups are.
    """

    observations: Sequence[Observation]
    at: datetime
    now: datetime
    warmups: Warmups = field(default_factory=Warmups)

    @property
    def coverage(self) -> Coverage:
        """Which Envoys answered."""
        absent = tuple((item.envoy, item.error) for item in self.observations if item.sample is None)
        return Coverage(len(self.observations), absent)


def decision_entry(
    entry_id: str,
    generation: str,
    situation: Situation,
    decision: Decision,
    evidence: Mapping[str, VariantEvidence],
    now: datetime,
) -> JournalEntry:
    """The journal's entry of a decision, with its numbers."""
    experiment, state = situation.experiment, situation.state
    weights = experiment.weights
    after = weights
    if decision.target is not None:
        after = move_candidate(weights, state.control, state.candidate, decision.target)
    return JournalEntry(
        id=entry_id,
        at=now,
        experiment=experiment.name,
        actor="controller",
        kind=decision.kind,
        cause=decision.cause,
        reason=decision.reason,
        phase_before=state.phase,
        phase=decision.phase,
        weights_before=weights,
        weights_after=after,
        stage=state.stage,
        generation=generation,
        evidence={name: item.outline() for name, item in evidence.items()},
        judgements=[judgement.outline() for judgement in situation.judgements],
        goal=None if situation.goal is None else situation.goal.outline(),
        balance=situation.balance.outline(),
        warnings=tuple(situation.warnings),
        sources=_sources(situation.coverage),
    )


def refused_entry(entry_id: str, name: str, state: ExperimentState, error: str, tick: Tick) -> JournalEntry:
    """The journal's entry of a hold for a document that is refused."""
    return JournalEntry(
        id=entry_id,
        at=tick.now,
        experiment=name,
        actor="controller",
        kind=Kind.HOLD,
        cause=Cause.DOCUMENT_REFUSED,
        reason=f"holds, because the document is refused: {error}",
        phase_before=state.phase,
        phase=state.phase,
        weights_before=state.weights,
        weights_after=state.weights,
        stage=state.stage,
        generation="",
        sources=_sources(tick.coverage),
    )


def _sources(coverage: Coverage) -> dict[str, object]:
    return {"total": coverage.total, "answered": coverage.answered, "absent": dict(coverage.absent)}
