"""What one tick works on and what it did: plain records, and a decision's inputs made of them. Pure.

Made by :mod:`controller.rollout.reconcile`, shown by :mod:`controller.metrics.telemetry` and :mod:`controller.http`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from abmesh.experiment.model import Experiment
from controller.decision.decide import Inputs
from controller.decision.probes import Probe, ProbeTarget
from controller.decision.verdicts import Judgement, SampleRatio
from controller.decision.warmup import Target, Warmups, target_of
from controller.evidence.coverage import Coverage
from controller.records import DecisionRecord, ExperimentState
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
    """

    experiment: str
    state: ExperimentState
    weights: Mapping[str, int]
    decision: DecisionRecord
    judgements: Sequence[Judgement] = ()
    sample_ratio: SampleRatio | None = None
    warms: Target | None = None
    probes: ProbeTarget | None = None


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
    """

    observations: Sequence[Observation]
    at: datetime
    now: datetime
    warmups: Warmups = field(default_factory=Warmups)
    probes: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def coverage(self) -> Coverage:
        """Which Envoys answered."""
        absent = tuple((item.envoy, item.error) for item in self.observations if item.sample is None)
        return Coverage(len(self.observations), absent)


def inputs_of(experiment: Experiment, state: ExperimentState, kept: StageEvidence, tick: Tick) -> Inputs:
    """What a decision on an experiment is made of."""
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
    )
