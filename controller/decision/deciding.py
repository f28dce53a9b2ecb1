"""From everything that is known of a rollout to a decision, in one pure function.

:func:`deliberate` is what :mod:`controller.rollout.reconcile` decides with, what :mod:`abmesh.analysis.replay`
recomputes decisions with, and what :mod:`abmesh.analysis.simulation` plays whole rollouts with: what is simulated and
replayed is what runs. Its inputs are a record that the journal keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import AwareDatetime, ConfigDict

from abmesh.experiment.metrics import Metric
from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Rollout
from abmesh.inference.histogram import merge, quantile, size
from controller.decision import emergency_stop, goals, guardrails, sample_ratio
from controller.decision.course import Course, marked, past_strata, since_marks
from controller.decision.history import Evidence, Memory, PastStage, pack, unpack
from controller.decision.policy import Decision, Situation, decide, guardrails_in_force
from controller.decision.simpson import reversals
from controller.decision.verdicts import BALANCED, GoalJudgement, Judgement
from controller.decision.warmup import Progress, Warmth, judge_warmth
from controller.evidence.coverage import Coverage
from controller.evidence.strata import Stratum
from controller.evidence.summary import VariantEvidence
from controller.records import ExperimentState, Phase, Record

EDGE_SAMPLE = 200
"""Fewest requests of the control that its quantiles are taken from as limits for the candidate."""


class Inputs(Record):
    """Everything that a decision is made of.

    Attributes:
        experiment: as the document has it; it has a rollout.
        state: what is remembered; it has no pending intent.
        memory: of earlier stages, moments and looks.
        began: when the present stage's evidence began; None before that.
        evidence: packed, of the present stage; empty before that.
        envoys: how many Envoys there are.
        absent: address and reason of each that did not answer.
        warmup: how far the candidate's warm-up is; None where there is nothing to be warmed.
        at: when the Envoys were asked.
        now: when they had answered.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    experiment: Experiment
    state: ExperimentState
    memory: Memory
    began: AwareDatetime | None = None
    evidence: str = ""
    envoys: int = 0
    absent: tuple[tuple[str, str], ...] = ()
    warmup: Progress | None = None
    at: AwareDatetime
    now: AwareDatetime


@dataclass(frozen=True, slots=True)
class Deliberation:
    """What was found and decided.

    Attributes:
        situation: what the policy saw.
        decision: what it says.
        memory: with this moment marked, what every e-value has been at most, and the look at the goal if one was due.
    """

    situation: Situation
    decision: Decision
    memory: Memory


def deliberate(inputs: Inputs, present: Evidence | None = None) -> Deliberation:
    """Judge the evidence and decide.

    Args:
        inputs: everything that is known.
        present: the present stage's evidence, if it is at hand unpacked; otherwise that of the inputs is unpacked.

    Raises:
        StateError: the evidence is damaged.
    """
    experiment, state, memory = inputs.experiment, inputs.state, inputs.memory
    coverage = Coverage(inputs.envoys, inputs.absent)
    if present is None:
        present = unpack(inputs.evidence) if inputs.evidence else {}
    requests = present.get(state.candidate, VariantEvidence()).requests
    judgements: tuple[Judgement, ...] = ()
    goal: GoalJudgement | None = None
    split = BALANCED
    warnings: tuple[str, ...] = ()
    if inputs.began is not None and _judged(state, present):
        memory = _with_edges(experiment, memory, present, state.control)
        course = course_of(inputs, memory, present)
        judgements, memory = _judgements(experiment, course, memory)
        split = sample_ratio.judge_balance(_rollout(experiment), course, _peak(memory, sample_ratio.QUESTION))
        memory = memory.risen({sample_ratio.QUESTION: split.log_e})
        warnings = reversals(course, _watched(experiment))
        goal, memory = _goal(experiment, course, memory)
        memory = marked(memory, inputs.began, inputs.at, present, (state.candidate, state.control))
    situation = Situation(
        experiment=experiment,
        state=state,
        judgements=judgements,
        requests=requests,
        collecting=inputs.began is not None,
        coverage=coverage,
        balance=split,
        goal=goal,
        warnings=warnings,
        warmth=_warmth(inputs),
    )
    return Deliberation(situation, decide(situation, inputs.now), memory)


def course_of(inputs: Inputs, memory: Memory, present: Evidence) -> Course:
    """The evidence as judges see it."""
    state, prices = inputs.state, inputs.experiment.prices
    strata = [*past_strata(memory, prices), Stratum(state.weights, present, memory.edges)]
    since = since_marks(memory.marks, inputs.at, present, state.candidate, state.control, prices)
    elapsed = timedelta() if inputs.began is None else max(inputs.at - inputs.began, timedelta())
    return Course(state.candidate, state.control, inputs.experiment.slices, strata, since, elapsed)


def recorded(inputs: Inputs, present: Evidence) -> dict[str, Any]:
    """The inputs as the journal keeps them: evidence of earlier stages stands in the entries that ended them."""
    past = tuple(stage.model_copy(update={"evidence": ""}) for stage in inputs.memory.past)
    memory = inputs.memory.model_copy(update={"past": past})
    evidence = pack(present) if present else ""
    # An absent salt is kept as the one in force: a document cannot say that it has none.
    salted = {"salt": inputs.experiment.hash_salt, "rollout": _without_secrets(_rollout(inputs.experiment))}
    experiment = inputs.experiment.model_copy(update=salted)
    kept = inputs.model_copy(update={"experiment": experiment, "memory": memory, "evidence": evidence})
    return kept.model_dump(mode="json", exclude_none=True)


def after_stage(memory: Memory, stage: ExperimentState, ended_by: str, present: Evidence) -> Memory:
    """What the next stage of the same rollout remembers.

    Args:
        memory: after the deliberation that ended the stage.
        stage: the state before it.
        ended_by: id of the decision.
        present: the stage's evidence.
    """
    past = memory.past
    if present:
        over = PastStage(id=ended_by, weights=stage.weights, evidence=pack(present), edges=memory.edges)
        past = (*past, over)
    return Memory(past=past, marked=memory.marked, peaks=memory.peaks)


def _rollout(experiment: Experiment) -> Rollout:
    assert experiment.rollout is not None
    return experiment.rollout


def _warmth(inputs: Inputs) -> Warmth | None:
    warmup = _rollout(inputs.experiment).warmup
    if warmup is None or inputs.warmup is None:
        return None
    return judge_warmth(warmup, inputs.warmup, inputs.now)


def _without_secrets(rollout: Rollout) -> Rollout:
    """The plan without what warm-up requests carry, such as a key: no decision depends on it."""
    if rollout.warmup is None:
        return rollout
    return rollout.model_copy(update={"warmup": rollout.warmup.model_copy(update={"body": "", "headers": {}})})


def _judged(state: ExperimentState, present: Evidence) -> bool:
    """Whether there is anything to judge: a candidate with users, in a rollout that is under way."""
    idle = state.phase is Phase.MANUAL or state.phase.finished or state.stage.weight == 0
    return not idle and state.candidate in present and state.control in present


def _watched(experiment: Experiment) -> list[Metric]:
    """The metrics of the rollout's guardrails and goal."""
    rollout = _rollout(experiment)
    goal = [] if rollout.goal is None else [rollout.goal.measured]
    return [*(guardrail.measured for guardrail in rollout.guardrails), *goal]


def _judgements(experiment: Experiment, course: Course, memory: Memory) -> tuple[tuple[Judgement, ...], Memory]:
    rollout = _rollout(experiment)
    found, peaks = [], {}
    question = emergency_stop.question(rollout)
    braked = emergency_stop.judge_brake(rollout, course, _peak(memory, question))
    if braked is not None:
        found.append(braked)
        peaks[question] = braked.log_e_harm
    for guardrail in guardrails_in_force(experiment):
        question = guardrails.question(guardrail)
        found.append(guardrails.judge(guardrail, rollout, course, _peak(memory, question)))
        peaks[question] = found[-1].log_e_harm
    return tuple(found), memory.risen(peaks)


def _peak(memory: Memory, question: str) -> float:
    return memory.peaks.get(question, -math.inf)


def _goal(experiment: Experiment, course: Course, memory: Memory) -> tuple[GoalJudgement | None, Memory]:
    rollout = _rollout(experiment)
    if rollout.goal is None:
        return None, memory
    found, looks = goals.judge_goal(rollout, course, memory.looks, memory.peaks)
    peaks = zip(goals.questions(rollout.goal), (found.log_e_better, found.log_e_worse, found.log_e_small), strict=True)
    return found, memory.risen(dict(peaks)).model_copy(update={"looks": looks})


def _with_edges(experiment: Experiment, memory: Memory, present: Evidence, control: str) -> Memory:
    """The memory with the latencies that this stage compares at, as soon as the control tells them.

    They are the control's quantiles in the stage before, or else in the present one, and stay for the stage.
    """
    wanted = [
        guardrail.measured
        for guardrail in _rollout(experiment).guardrails
        if guardrail.compares and guardrail.measured.quantile is not None
    ]
    goal = _rollout(experiment).goal
    if goal is not None and goal.measured.quantile is not None:
        wanted.append(goal.measured)
    missing = [metric for metric in wanted if metric.name not in memory.edges]
    if not missing:
        return memory
    sources = [unpack(stage.evidence) for stage in memory.past[-1:]] + [present]
    edges = dict(memory.edges)
    for metric in missing:
        assert metric.quantile is not None
        for source in sources:
            bins = merge(source[control].histograms(metric.histogram).values()) if control in source else {}
            if size(bins) >= EDGE_SAMPLE:
                value = quantile(bins, metric.quantile)
                assert value is not None
                edges[metric.name] = (value,)
                break
    return memory.model_copy(update={"edges": edges})
