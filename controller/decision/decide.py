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

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.metrics import Metric
from abmesh.experiment.model import Experiment
from abmesh.experiment.parts import Price
from abmesh.experiment.rollout import Rollout
from abmesh.inference.histogram import merge, quantile, size
from controller.decision import emergency_stop, goals, guardrails, sample_ratio, typical_user
from controller.decision.after_promotion import watched
from controller.decision.checks import CheckJudgement, CheckResult, check_target, judge_checks
from controller.decision.control import ControlHealth, judge_control, weighed
from controller.decision.history import Evidence, History, edge_name
from controller.decision.look_back import look_back, with_checkpoint
from controller.decision.policy import Decision, Situation, apply_policy, guardrails_in_force
from controller.decision.prices import at_prices
from controller.decision.probes import Probe
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.simpson import paradoxes
from controller.decision.verdicts import GoalJudgement, Judgement, OnHarm
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
        checks: the last result of each that was asked.
        behind: who should serve the stage's weights by now and does not, in words; empty if nobody is known.
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
    checks: tuple[CheckResult, ...] = ()
    behind: str = ""


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
        checks=_checks(inputs),
        behind=inputs.behind,
    )
    if inputs.began is None or not _comparable(inputs):
        return situation, history
    if state.phase.finished:
        stopped, history = _stop(situation.rollout, evidence_of(inputs, history), history)
        history = with_checkpoint(history, inputs.began, inputs.at, present, (state.candidate, state.control))
        return replace(situation, judgements=stopped), history
    history = _with_edges(experiment, history, present, state.control)
    evidence = evidence_of(inputs, history)
    control = judge_control(experiment, evidence)
    judgements, history = _judgements(experiment, evidence, history, control)
    split = sample_ratio.judge_sample_ratio(situation.rollout, evidence, _peak(history, sample_ratio.HYPOTHESIS))
    history = history.raised({sample_ratio.HYPOTHESIS: split.log_e})
    judged_goals, history = _goals(situation.rollout, evidence, history, control)
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
        control=control,
        sample_ratio=split,
        goal=judged_goals[0] if judged_goals else None,
        secondary_goals=judged_goals[1:],
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


def _checks(inputs: Inputs) -> tuple[CheckJudgement, ...]:
    target = check_target(inputs.experiment, inputs.state)
    return () if target is None else judge_checks(target.checks, inputs.checks, inputs.now)


def _comparable(inputs: Inputs) -> bool:
    """Whether there is anything to judge: a candidate with users, in a rollout under way or shortly after it."""
    state, present, rollout = inputs.state, inputs.evidence, inputs.experiment.rollout
    assert rollout is not None
    over = state.phase.finished and not watched(rollout, state, inputs.now)
    idle = state.phase is Phase.MANUAL or over or state.stage.weight == 0
    return not idle and state.candidate in present and state.control in present


def _watched(rollout: Rollout) -> list[Metric]:
    """The metrics of the rollout's guardrails and goals."""
    return [*(guardrail.measured for guardrail in rollout.guardrails), *(goal.measured for goal in rollout.goals)]


def _judgements(
    experiment: Experiment, evidence: RolloutEvidence, history: History, control: ControlHealth
) -> tuple[tuple[Judgement, ...], History]:
    rollout = experiment.rollout
    assert rollout is not None
    stopped, history = _stop(rollout, evidence, history)
    found, peaks = [weighed(item, item, control, frozenset()) for item in stopped], {}
    for guardrail in guardrails_in_force(experiment):
        name = guardrails.hypothesis(guardrail)
        peak, left_out = _peak(history, name), control.left_out(guardrail)
        on_all = judged = guardrails.judge(guardrail, rollout, evidence, peak)
        if left_out:
            judged = guardrails.judge(guardrail, rollout, evidence.without_rows(left_out), peak)
        typical = typical_user.beside(guardrail, rollout, evidence)
        # Only what counts is remembered: harm against a control that failed is none once it has recovered.
        peaks[name] = judged.log_e_harm
        judged = weighed(judged, on_all, control, left_out)
        found.append(replace(judged, on_harm=_on_harm(guardrail, rollout), typical=typical))
    return tuple(found), history.raised(peaks)


def _on_harm(guardrail: Guardrail, rollout: Rollout) -> OnHarm:
    return OnHarm.REPORT if guardrail.dry_run else OnHarm(guardrail.on_harm or rollout.on_harm)


def _stop(rollout: Rollout, evidence: RolloutEvidence, history: History) -> tuple[tuple[Judgement, ...], History]:
    """The emergency stop's judgement, if it acts."""
    name = emergency_stop.hypothesis(rollout)
    stopped = emergency_stop.judge_emergency_stop(rollout, evidence, _peak(history, name))
    return ((), history) if stopped is None else ((stopped,), history.raised({name: stopped.log_e_harm}))


def _goals(
    rollout: Rollout, evidence: RolloutEvidence, history: History, control: ControlHealth
) -> tuple[tuple[GoalJudgement, ...], History]:
    """The verdict on every goal, the primary one first; what is set aside is not remembered."""
    if rollout.goal is None:
        return (), history
    primary, looks = goals.judge_goal(rollout, evidence, history.looks, history.peaks)
    found: tuple[GoalJudgement, ...] = (primary,)
    if rollout.secondary_goals:
        found = goals.judge_secondary(rollout, evidence, primary, history.peaks)
    judged, peaks = [], dict[str, float]()
    for goal, item in zip(rollout.goals, found, strict=True):
        set_aside = control.goal_set_aside(goal.measured)
        judged.append(replace(item, set_aside=set_aside))
        if set_aside is None:
            peaks |= goals.peaks_of(goal, item)
    if judged[0].set_aside is None:
        history = replace(history, looks=looks)
    return tuple(judged), history.raised(peaks)


def _peak(history: History, hypothesis: str) -> float:
    return history.peaks.get(hypothesis, -math.inf)


def _with_edges(experiment: Experiment, history: History, present: Evidence, control: str) -> History:
    """The history with what this stage compares at, as soon as the control shows it; it stays for the stage.

    That is the control's quantile for a latency, and for a share the control's rate, which decides how shares are
    compared: in the stage before, or else in the current one.
    """
    rollout = experiment.rollout
    assert rollout is not None
    # A limit alone needs one as well: to tell whether a candidate is worse than a control that breaks it, too.
    wanted = [
        (rail.measured, rail.segment or "")
        for rail in rollout.guardrails
        if rail.compares or (rail.measured.quantile is not None and rail.segment is None)
    ]
    wanted += [(goal.measured, "") for goal in rollout.goals]
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
