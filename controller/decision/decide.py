"""From everything that is known of a rollout to a decision, in one pure function.

:func:`decide` is what :mod:`controller.rollout.reconcile` acts on, what :mod:`abmesh.analysis.replay` recomputes
decisions with, and what :mod:`abmesh.analysis.simulation` plays whole rollouts with: what is simulated and replayed is
what runs. It judges (emergency stop, guardrails, sample ratio, goal), then applies :mod:`controller.decision.policy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from abmesh.experiment.metrics import Metric
from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import Price
from abmesh.experiment.rollout import Rollout
from abmesh.inference.histogram import merge, quantile, size
from controller.decision import emergency_stop, goals, guardrails, sample_ratio, typical_user
from controller.decision.after_promotion import watched
from controller.decision.history import Evidence, History, edge_name
from controller.decision.look_back import look_back, with_checkpoint
from controller.decision.policy import Decision, Situation, apply_policy, guardrails_in_force
from controller.decision.prices import at_prices
from controller.decision.probes import Probe
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.simpson import paradoxes
from controller.decision.verdicts import GoalJudgement, Judgement
from controller.decision.warmup import Progress, WarmupResult, judge_warmup
from controller.evidence.coverage import Coverage
from controller.evidence.strata import Stratum, denominator, numerator
from controller.evidence.summary import VariantEvidence
from controller.records import ExperimentState, Phase

RULES: Final = 2
"""Version of the rules that turn evidence into decisions. The journal keeps it, so that a replay can tell a decision
that other rules made from one that comes out differently."""

EDGE_SAMPLE = 200
"""Fewest requests of the control whose quantiles serve as limits for the candidate, and whose rates tell what is
frequent."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a decision is made of; :mod:`controller.codec` keeps it in the journal.

    Attributes:
        experiment: as the document has it; it has a rollout.
        state: what is remembered; it has no pending intent.
        history: of earlier stages, checkpoints and looks.
        coverage: which Envoys answered.
        at: when the Envoys were asked.
        now: when they had answered.
        began: when the current stage's evidence began; None before that.
        evidence: of the current stage; empty before that.
        warmup: how far the candidate's warm-up is; None where it needs none.
        probe: the last one of the control; None where none was needed.
    """

    experiment: Experiment
    state: ExperimentState
    history: History
    coverage: Coverage
    at: datetime
    now: datetime
    began: datetime | None = None
    evidence: Evidence = field(default_factory=dict)
    warmup: Progress | None = None
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """What was found and decided.

    Attributes:
        situation: what the policy saw.
        decision: what it says.
        history: with a checkpoint of this moment, the highest e-values so far, and the look at the goal if one was due.
    """

    situation: Situation
    decision: Decision
    history: History


def decide(inputs: Inputs) -> Decided:
    """Judge the evidence and decide."""
    situation, history = judge(inputs)
    return Decided(situation, apply_policy(situation, inputs.now), history)


def judge(inputs: Inputs) -> tuple[Situation, History]:
    """What the evidence says, and the history after this look at it."""
    experiment, state, history, present = inputs.experiment, inputs.state, inputs.history, inputs.evidence
    situation = Situation(
        experiment=experiment,
        state=state,
        judgements=(),
        requests=present.get(state.candidate, VariantEvidence()).requests,
        collecting=inputs.began is not None,
        coverage=inputs.coverage,
        warmup=_warmup(inputs),
        probe=inputs.probe,
    )
    if inputs.began is None or not _comparable(inputs):
        return situation, history
    if state.phase.finished:
        stopped, history = _stop(situation.rollout, evidence_of(inputs, history), history)
        history = with_checkpoint(history, inputs.began, inputs.at, present, (state.candidate, state.control))
        return replace(situation, judgements=stopped), history
    history = _with_edges(experiment, history, present, state.control)
    evidence = evidence_of(inputs, history)
    judgements, history = _judgements(experiment, evidence, history)
    split = sample_ratio.judge_sample_ratio(situation.rollout, evidence, _peak(history, sample_ratio.HYPOTHESIS))
    history = history.raised({sample_ratio.HYPOTHESIS: split.log_e})
    goal, history = _goal(situation.rollout, evidence, history)
    names, kept = (state.candidate, state.control), guardrails.effects(judgements)
    segments = {rail.segment for rail in situation.rollout.guardrails if rail.segment is not None}
    history = with_checkpoint(
        history,
        inputs.began,
        inputs.at,
        present,
        names,
        _watched(situation.rollout),
        segments=segments,
        effects=kept,
    )
    found = replace(
        situation,
        judgements=judgements,
        sample_ratio=split,
        goal=goal,
        paradoxes=paradoxes(evidence, _watched(situation.rollout)),
    )
    return found, history


def evidence_of(inputs: Inputs, history: History) -> RolloutEvidence:
    """The evidence as the judges see it, with the edges of this history."""
    state, prices = inputs.state, inputs.experiment.prices
    return RolloutEvidence(
        candidate=state.candidate,
        control=state.control,
        slices=inputs.experiment.slices,
        strata=[*past_strata(history, prices), Stratum(state.weights, inputs.evidence, history.edges)],
        look_back=look_back(history.checkpoints, inputs.at, inputs.evidence, state.candidate, state.control, prices),
        elapsed=timedelta() if inputs.began is None else max(inputs.at - inputs.began, timedelta()),
    )


def past_strata(history: History, prices: Mapping[str, Price]) -> list[Stratum]:
    """The stages that are over, at these prices."""
    return [Stratum(stage.weights, at_prices(stage.evidence, prices), stage.edges) for stage in history.past]


def _warmup(inputs: Inputs) -> WarmupResult | None:
    rollout = inputs.experiment.rollout
    assert rollout is not None
    if rollout.warmup is None or inputs.warmup is None:
        return None
    return judge_warmup(rollout.warmup, inputs.warmup, inputs.now)


def _comparable(inputs: Inputs) -> bool:
    """Whether there is anything to judge: a candidate with users, in a rollout under way or shortly after it."""
    state, present, rollout = inputs.state, inputs.evidence, inputs.experiment.rollout
    assert rollout is not None
    over = state.phase.finished and not watched(rollout, state, inputs.now)
    idle = state.phase is Phase.MANUAL or over or state.stage.weight == 0
    return not idle and state.candidate in present and state.control in present


def _watched(rollout: Rollout) -> list[Metric]:
    """The metrics of the rollout's guardrails and goal."""
    goal = [] if rollout.goal is None else [rollout.goal.measured]
    return [*(guardrail.measured for guardrail in rollout.guardrails), *goal]


def _judgements(
    experiment: Experiment, evidence: RolloutEvidence, history: History
) -> tuple[tuple[Judgement, ...], History]:
    rollout = experiment.rollout
    assert rollout is not None
    stopped, history = _stop(rollout, evidence, history)
    found, peaks = list(stopped), {}
    for guardrail in guardrails_in_force(experiment):
        name = guardrails.hypothesis(guardrail)
        judged = guardrails.judge(guardrail, rollout, evidence, _peak(history, name))
        found.append(replace(judged, typical=typical_user.beside(guardrail, rollout, evidence)))
        peaks[name] = found[-1].log_e_harm
    return tuple(found), history.raised(peaks)


def _stop(rollout: Rollout, evidence: RolloutEvidence, history: History) -> tuple[tuple[Judgement, ...], History]:
    """The emergency stop's judgement, if it acts."""
    name = emergency_stop.hypothesis(rollout)
    stopped = emergency_stop.judge_emergency_stop(rollout, evidence, _peak(history, name))
    return ((), history) if stopped is None else ((stopped,), history.raised({name: stopped.log_e_harm}))


def _goal(rollout: Rollout, evidence: RolloutEvidence, history: History) -> tuple[GoalJudgement | None, History]:
    if rollout.goal is None:
        return None, history
    found, looks = goals.judge_goal(rollout, evidence, history.looks, history.peaks)
    e_values = found.log_e_better, found.log_e_worse, found.log_e_small
    peaks = dict(zip(goals.hypotheses(rollout.goal), e_values, strict=True))
    return found, replace(history.raised(peaks), looks=looks)


def _peak(history: History, hypothesis: str) -> float:
    return history.peaks.get(hypothesis, -math.inf)


def _with_edges(experiment: Experiment, history: History, present: Evidence, control: str) -> History:
    """The history with what this stage compares at, as soon as the control shows it; it stays for the stage.

    That is the control's quantile for a latency, and for a share the control's rate, which decides how shares are
    compared: in the stage before, or else in the current one.
    """
    rollout = experiment.rollout
    assert rollout is not None
    wanted = [(rail.measured, rail.segment or "") for rail in rollout.guardrails if rail.compares]
    wanted += [] if rollout.goal is None else [(rollout.goal.measured, "")]
    missing = [
        (metric, segment)
        for metric, segment in wanted
        if (metric.quantile is not None or metric.share) and edge_name(metric.name, segment) not in history.edges
    ]
    if not missing:
        return history
    sources = [*(stage.evidence for stage in history.past[-1:]), present]
    edges = dict(history.edges)
    for metric, segment in missing:
        known = (_edge(source[control], metric, segment) for source in sources if control in source)
        edge = next((edge for edge in known if edge is not None), None)
        if edge is not None:
            edges[edge_name(metric.name, segment)] = (edge,)
    return replace(history, edges=edges)


def _edge(control: VariantEvidence, metric: Metric, segment: str) -> float | None:
    """The control's quantile, or its rate, on all users or on one segment of them; None of too few requests."""
    control = control.in_segment(segment) if segment else control
    if metric.quantile is None:
        n = denominator(control, metric)
        return min(max(numerator(control, metric) / n, 0.0), 1.0) if n >= EDGE_SAMPLE else None
    bins = merge(control.histograms(metric.histogram).values())
    return quantile(bins, metric.quantile) if size(bins) >= EDGE_SAMPLE else None
