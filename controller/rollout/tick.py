"""What one tick works on and what it did: plain records, and a decision's inputs made of them. Pure.

Made by :mod:`controller.rollout.reconcile`, shown by :mod:`controller.metrics.telemetry` and :mod:`controller.http`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import Cluster
from controller.decision.checks import CheckJudgement, CheckTarget, Results, check_target
from controller.decision.decide import Inputs
from controller.decision.policy import Decision, Situation
from controller.decision.probes import Probe, ProbeTarget, probe_target
from controller.decision.verdicts import Judgement, SampleRatio
from controller.decision.warmup import Target, Warmups, target_of
from controller.evidence.coverage import Coverage
from controller.records import Cause, DecisionRecord, ExperimentState
from controller.rollout.collect import evidence_of
from controller.sources.base import Observation
from controller.state.evidence import StageEvidence


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tick did about one experiment.

    Attributes:
        sample_ratio: whether requests are split as the weights promise; None if nothing was judged.
        warms: what still needs warming up, if anything.
        probes: whom to probe, if anybody.
        checks: what to ask, if anything.
        check_judgements: what came of it.
        control_broken: whether the control itself is significantly beyond a limit.
    """

    experiment: str
    state: ExperimentState
    weights: Mapping[str, int]
    decision: DecisionRecord
    judgements: Sequence[Judgement] = ()
    sample_ratio: SampleRatio | None = None
    warms: Target | None = None
    probes: ProbeTarget | None = None
    control_broken: bool = False
    checks: CheckTarget | None = None
    check_judgements: Sequence[CheckJudgement] = ()


def outcome_of(
    situation: Situation,
    decision: Decision,
    state: ExperimentState,
    made: DecisionRecord,
    clusters: Mapping[str, Cluster] | None,
) -> Outcome:
    """What a tick did about an experiment, and what it wants to know before the next one.

    Args:
        situation: that was decided on.
        decision: what was decided.
        state: after that.
        made: the decision as it is remembered.
        clusters: the document's.
    """
    experiment = situation.experiment
    asks = decision.cause in (Cause.PROBING, Cause.NO_WAY_BACK)
    return Outcome(
        experiment=experiment.name,
        state=state,
        weights=state.weights,
        decision=made,
        judgements=situation.judgements,
        sample_ratio=situation.sample_ratio,
        warms=target_of(experiment, state),
        probes=probe_target(experiment, state.control, clusters) if asks else None,
        control_broken=situation.control.broken,
        checks=check_target(experiment, state),
        check_judgements=situation.checks,
    )


@dataclass(frozen=True, slots=True)
class TickReport:
    """What a tick did.

    Attributes:
        generation: of the document, or None if it is refused or unreadable.
        document_error: why it is refused; empty if it is not.
        outcomes: one for each experiment with a rollout that was reconciled.
        failures: why others were not, by name.
        superseded: those that someone else changed meanwhile; the next tick decides again.
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
        probes: the last probe of each experiment's control, where one was needed.
        checks: the last result of each check, by experiment.
    """

    observations: Sequence[Observation]
    at: datetime
    now: datetime
    warmups: Warmups = field(default_factory=Warmups)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    checks: Results = field(default_factory=dict)

    @property
    def coverage(self) -> Coverage:
        """Which Envoys answered."""
        absent = tuple((item.name or item.envoy, item.error) for item in self.observations if item.absent)
        return Coverage(sum(item.counts for item in self.observations), absent)


def inputs_of(
    experiment: Experiment, state: ExperimentState, kept: StageEvidence, tick: Tick, behind: str = ""
) -> Inputs:
    """What a decision on an experiment is made of.

    Args:
        experiment: as the document has it.
        state: what is remembered.
        kept: the stage's evidence.
        tick: what all experiments share.
        behind: who should serve the stage by now, and does not.
    """
    return Inputs(
        experiment=experiment,
        state=state,
        history=kept.history,
        coverage=tick.coverage,
        at=tick.at,
        now=tick.now,
        began=None if kept.window is None else kept.window.since,
        evidence=evidence_of(experiment, kept),
        warmup=tick.warmups.of(target_of(experiment, state)),
        probe=tick.probes.get(experiment.name),
        checks=tuple(tick.checks.get(experiment.name, {}).values()),
        behind=behind,
    )
