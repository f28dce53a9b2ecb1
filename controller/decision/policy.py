"""The rollout policy: what to do with a candidate, and why, in one sentence. Pure.

It knows stages, verdicts and missing data; it does not know how a verdict is reached, where data comes from, or how
weights are written. The order of the rules is the order of :func:`decide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.model import Experiment
from abmesh.experiment.quantities import format_duration
from abmesh.experiment.rollout import Rollout
from controller.decision.verdicts import BALANCED, Balance, GoalJudgement, GoalVerdict, Judgement, Verdict
from controller.decision.warmup import Stand, Warmth
from controller.evidence.coverage import Coverage
from controller.records import Cause, ExperimentState, Kind, Phase
from controller.wording.phrases import age_text, missing, percent, steps_text, weights_text


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision is made of, but for the time.

    Attributes:
        experiment: as the document has it now; it has a rollout.
        state: what is remembered; it has no pending intent.
        judgements: the brake's, if it acts, and one for each guardrail in force; empty before there is any evidence.
        requests: the candidate's answered requests in this stage's evidence.
        collecting: whether the settle time is over and this stage's evidence has begun.
        coverage: which Envoys answered.
        balance: whether requests are split as the weights say.
        goal: what the evidence says about it; None where there is none that is measured, or no evidence.
        warmth: whether the candidate is warm enough for its first users; None where it is not to be warmed.
        warnings: what to bear in mind with these judgements, in sentences.
    """

    experiment: Experiment
    state: ExperimentState
    judgements: Sequence[Judgement]
    requests: int
    collecting: bool
    coverage: Coverage
    balance: Balance = BALANCED
    goal: GoalJudgement | None = None
    warnings: Sequence[str] = ()
    warmth: Warmth | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        reason: one sentence that a person understands, with the numbers.
        target: the candidate's new weight in basis points; None leaves all weights as they are.
        phase: of the rollout from now on.
    """

    kind: Kind
    cause: Cause
    reason: str
    phase: Phase
    target: int | None = None


def decide(situation: Situation, now: datetime) -> Decision:
    """What to do with the candidate now.

    1. A rollout that a person has taken over, or that is finished, stays as it is.
    2. Weights that nobody of us wrote, or another plan, are a person's doing: hand over to them.
    3. Harm rolls back, at once, also while paused and while other Envoys are missing.
    4. Everything else needs all Envoys, time, requests and a split as the weights say, in this order, or holds; a
       candidate's first users need all Envoys and a warm candidate.
    5. A rollout then needs healthy guardrails; an experiment, a goal that is decided.
    6. A stage that holds for longer than its ``max_duration`` does what ``on_timeout`` says.
    """
    state = situation.state
    handed_over = _handed_over(situation)
    if handed_over is not None:
        return handed_over
    if state.phase.finished:
        return Decision(Kind.HOLD, Cause.FINISHED, _finished(state), state.phase)
    harm = _harm(situation)
    if harm is not None:
        return harm
    if state.phase is Phase.PAUSED:
        reason = f"paused at {percent(state.stage.weight)}; abmesh resume goes on"
        return Decision(Kind.HOLD, Cause.PAUSED, reason, state.phase)
    obstacle = _obstacle(situation, now)
    if obstacle is None and state.stage.weight > 0 and _rollout(situation).mode == "experiment":
        concluded = _conclude(situation)
        if concluded.kind is not Kind.HOLD:
            return concluded
        obstacle = concluded
    if obstacle is None:
        obstacle = _unhealthy(situation)
    if obstacle is None:
        return _forward(situation, now)
    return _timed_out(situation, now, obstacle) or obstacle


def guardrails_in_force(experiment: Experiment) -> tuple[Guardrail, ...]:
    """The guardrails that can be judged at the present weights.

    Where the control has no users, there is nothing to compare the candidate with at the same time, and values from
    another time would tell the time of day as well: only absolute limits stay in force.
    """
    rollout = experiment.rollout
    assert rollout is not None
    if experiment.control.weight > 0:
        return rollout.guardrails
    return tuple(guardrail for guardrail in rollout.guardrails if not guardrail.compares)


def next_step(steps: Sequence[int], weight: int) -> int | None:
    """The smallest step above a weight, in basis points; None at or above the last one."""
    return min((step for step in steps if step > weight), default=None)


def _rollout(situation: Situation) -> Rollout:
    assert situation.experiment.rollout is not None
    return situation.experiment.rollout


def _handed_over(situation: Situation) -> Decision | None:
    """The rules about what a person has done to the document."""
    experiment, state, rollout = situation.experiment, situation.state, _rollout(situation)
    if state.phase is Phase.MANUAL:
        reason = f"in a person's hands at {percent(state.stage.weight)}; abmesh resume goes on"
        if state.decision is not None:
            reason = f"in a person's hands: {state.decision.reason}"
        return Decision(Kind.HOLD, Cause.MANUAL, reason, Phase.MANUAL)
    if (rollout.candidate, experiment.control.name) != (state.candidate, state.control):
        reason = (
            f"the plan changed from {state.candidate} against {state.control} to {rollout.candidate} against "
            f"{experiment.control.name}; abmesh resume starts it"
        )
        return Decision(Kind.HOLD, Cause.PLAN_CHANGED, reason, Phase.MANUAL)
    if experiment.weights != state.weights:
        reason = (
            f"the weights are {weights_text(experiment.weights)}, but {weights_text(state.weights)} was written last: "
            f"a person edited them; abmesh resume goes on from there"
        )
        return Decision(Kind.HOLD, Cause.WEIGHTS_EDITED, reason, Phase.MANUAL)
    if rollout.steps != state.steps and state.phase is Phase.PROGRESSING:
        reason = (
            f"the steps changed from {steps_text(state.steps)} to {steps_text(rollout.steps)} during the rollout; "
            f"abmesh resume goes on with the new ones"
        )
        return Decision(Kind.HOLD, Cause.PLAN_CHANGED, reason, Phase.MANUAL)
    return None


def _finished(state: ExperimentState) -> str:
    if state.phase is Phase.CONCLUDED:
        return f"the experiment with {state.candidate} is concluded; abmesh promote or rollback acts on it"
    what = "promoted" if state.phase is Phase.PROMOTED else "rolled back"
    return f"{state.candidate} was {what}; abmesh resume starts it again"


def _harm(situation: Situation) -> Decision | None:
    state = situation.state
    harmful = [judgement for judgement in situation.judgements if judgement.verdict is Verdict.HARMFUL]
    if not harmful or state.stage.weight == 0:
        return None
    texts = "; ".join(judgement.text for judgement in harmful)
    reason = f"{state.candidate} at {percent(state.stage.weight)} does harm: {texts}; all its users go to the control"
    return Decision(Kind.ROLLBACK, Cause.HARMFUL, reason, Phase.ROLLED_BACK, target=0)


def _obstacle(situation: Situation, now: datetime) -> Decision | None:
    """The first thing that keeps the candidate where it is, as a hold; None if nothing does."""
    state, stage = situation.state, _rollout(situation).stage
    here = f"{state.candidate} at {percent(state.stage.weight)}"

    def hold(cause: Cause, why: str) -> Decision:
        return Decision(Kind.HOLD, cause, f"{here} {why}", state.phase)

    if not situation.coverage.complete:
        return hold(Cause.MISSING_DATA, f"holds for missing data: {missing(situation.coverage)}")
    if state.stage.weight == 0:
        warmth = situation.warmth
        if warmth is None or warmth.enough:
            return None
        return hold(Cause.WARMING if warmth.stand is Stand.GOING else Cause.WARMUP_FAILED, warmth.text)
    if not situation.collecting:
        return hold(Cause.SETTLING, "waits until every server and Envoy serves its weights")
    age = state.stage.age(now)
    if age < stage.min_duration:
        lasts = f"{age_text(age)} of at least {format_duration(stage.min_duration)}"
        return hold(Cause.MIN_DURATION, f"has lasted {lasts}, with {situation.requests} requests")
    if situation.requests < stage.min_requests:
        needed = f"{situation.requests} of at least {stage.min_requests} requests"
        return hold(Cause.MIN_REQUESTS, f"has had {needed} in {age_text(age)}")
    if situation.balance.alarm and _rollout(situation).analysis.on_sample_ratio == "hold":
        return hold(Cause.SAMPLE_RATIO, f"holds: {situation.balance.text}")
    return None


def _unhealthy(situation: Situation) -> Decision | None:
    """The guardrails that keep the candidate where it is, as a hold; None if all are healthy."""
    state = situation.state
    for verdict, cause in ((Verdict.ERROR, Cause.UNJUDGED), (Verdict.INCONCLUSIVE, Cause.INCONCLUSIVE)):
        texts = [judgement.text for judgement in situation.judgements if judgement.verdict is verdict]
        if texts:
            reason = f"{state.candidate} at {percent(state.stage.weight)} holds: " + "; ".join(texts)
            return Decision(Kind.HOLD, cause, reason, state.phase)
    return None


def _conclude(situation: Situation) -> Decision:
    """What an experiment's goal says. A winner keeps its weight: who ships it, and when, is for people to decide."""
    state, goal = situation.state, situation.goal
    here = f"{state.candidate} at {percent(state.stage.weight)}"
    if goal is None:
        return Decision(Kind.HOLD, Cause.GOAL_OPEN, f"{here} waits for evidence on its goal", state.phase)
    verdict = goal.verdict
    if verdict is GoalVerdict.LOSER:
        reason = f"the experiment is decided: {goal.text}; all its users go to {state.control}"
        return Decision(Kind.ROLLBACK, Cause.LOSER, reason, Phase.ROLLED_BACK, target=0)
    unhealthy = _unhealthy(situation)
    if verdict is GoalVerdict.WINNER and unhealthy is not None:
        if goal.fraction is None or goal.fraction < 1:
            return Decision(Kind.HOLD, unhealthy.cause, f"{goal.text}; but {unhealthy.reason}", state.phase)
        reason = f"the experiment ends undecided: {goal.text}; but {unhealthy.reason}"
        return Decision(Kind.COMPLETE, Cause.UNDECIDED, reason, Phase.CONCLUDED)
    ends = {
        GoalVerdict.WINNER: (Cause.WINNER, "the experiment is decided"),
        GoalVerdict.NO_DIFFERENCE: (Cause.NO_DIFFERENCE, "the experiment is decided"),
        GoalVerdict.INCONCLUSIVE: (Cause.UNDECIDED, "the experiment ends undecided"),
    }
    if verdict in ends:
        cause, what = ends[verdict]
        return Decision(Kind.COMPLETE, cause, f"{what}: {goal.text}", Phase.CONCLUDED)
    return Decision(Kind.HOLD, Cause.GOAL_OPEN, f"{here} goes on: {goal.text}", state.phase)


def _timed_out(situation: Situation, now: datetime, obstacle: Decision) -> Decision | None:
    rollout, state = _rollout(situation), situation.state
    longest = rollout.stage.max_duration
    if longest is None or state.stage.weight == 0 or state.stage.age(now) <= longest:
        return None
    reason = (
        f"{state.candidate} at {percent(state.stage.weight)} exceeded its max_duration of {format_duration(longest)}"
    )
    if rollout.on_timeout == "rollback":
        reason = f"{reason}; it is rolled back, as on_timeout says. What kept it: {obstacle.reason}"
        return Decision(Kind.ROLLBACK, Cause.TIMEOUT, reason, Phase.ROLLED_BACK, target=0)
    reason = f"{reason}; it holds on, as on_timeout says. What keeps it: {obstacle.reason}"
    return Decision(Kind.HOLD, Cause.TIMEOUT, reason, state.phase)


def _forward(situation: Situation, now: datetime) -> Decision:
    state = situation.state
    target = next_step(_rollout(situation).steps, state.stage.weight)
    if state.stage.weight == 0 and target is not None:
        warmed = "" if situation.warmth is None else f", {situation.warmth.text}"
        reason = f"the rollout of {state.candidate} starts at {percent(target)}{warmed}"
        return Decision(Kind.ADVANCE, Cause.STARTING, reason, Phase.PROGRESSING, target)
    passed = (
        f"{state.candidate} passed {percent(state.stage.weight)} with {situation.requests} requests in "
        f"{age_text(state.stage.age(now))}{_kept(situation)}"
    )
    if target is None:
        goal = f"; goal: {situation.goal.text}" if situation.goal is not None else ""
        reason = f"{passed}; that was the last step, so it is promoted{goal}"
        return Decision(Kind.COMPLETE, Cause.LAST_STEP_PASSED, reason, Phase.PROMOTED)
    return Decision(Kind.ADVANCE, Cause.PASSED, f"{passed}; on to {percent(target)}", Phase.PROGRESSING, target)


def _kept(situation: Situation) -> str:
    texts = [judgement.text for judgement in situation.judgements]
    in_force = guardrails_in_force(situation.experiment)
    without = [rail.metric for rail in _rollout(situation).guardrails if rail not in in_force]
    if without:
        texts.append(f"{', '.join(without)} cannot be compared: {situation.state.control} has no users any more")
    return f" ({'; '.join(texts)})" if texts else ""
