"""The rollout policy: what to do with a candidate, and the cause. Pure.

It knows stages, verdicts and missing data; it does not know how a verdict is reached, where data comes from, how
weights are written, or how a decision is put into words (:mod:`controller.wording` does that). The order of the rules
is the order of :func:`apply_policy`. Called by :mod:`controller.decision.decide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Rollout
from controller.decision.after_promotion import watched
from controller.decision.checks import CheckJudgement, CheckVerdict
from controller.decision.control import FIT, ControlHealth
from controller.decision.probes import Probe
from controller.decision.verdicts import (
    AS_PROMISED,
    GoalJudgement,
    GoalVerdict,
    Judgement,
    OnHarm,
    Paradox,
    SampleRatio,
    Verdict,
)
from controller.decision.warmup import WarmupResult, WarmupState
from controller.evidence.coverage import Coverage
from controller.records import Cause, ExperimentState, Kind, Phase


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision is made of, except the time.

    Attributes:
        experiment: as the document has it now; it has a rollout.
        state: what is remembered; it has no pending intent.
        judgements: the emergency stop's, if it acts, and one for each guardrail in force; empty without evidence.
        requests: the candidate's answered requests in this stage's evidence.
        collecting: whether the settle time is over and this stage's evidence has begun.
        coverage: which Envoys answered.
        sample_ratio: whether requests are split as the weights promise.
        goal: what the evidence says about it; None where there is none that is measured, or no evidence.
        checks: what they say; they stand outside of the error probability.
        secondary_goals: what it says about the others, which decide nothing.
        warmup: whether the candidate is warm enough for its first users; None where it needs no warm-up.
        paradoxes: what to bear in mind with these judgements.
        probe: the last one of the control; None where none was needed.
        control: whether it is fit to be compared with, and to get users back.
        behind: who should serve these weights by now and does not, in words; empty if nobody is known.
    """

    experiment: Experiment
    state: ExperimentState
    judgements: Sequence[Judgement]
    requests: int
    collecting: bool
    coverage: Coverage
    sample_ratio: SampleRatio = AS_PROMISED
    goal: GoalJudgement | None = None
    warmup: WarmupResult | None = None
    paradoxes: Sequence[Paradox] = ()
    probe: Probe | None = None
    control: ControlHealth = FIT
    checks: Sequence[CheckJudgement] = ()
    secondary_goals: Sequence[GoalJudgement] = ()
    behind: str = ""

    @property
    def rollout(self) -> Rollout:
        """The experiment's plan."""
        assert self.experiment.rollout is not None
        return self.experiment.rollout


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do.

    Attributes:
        kind: advance, hold, roll back or complete.
        cause: why.
        phase: of the rollout from now on.
        target: the candidate's new weight in basis points; None leaves all weights as they are.
        obstacle: what keeps the candidate at its weight, where the cause is that it took too long; or the guardrails
            that keep a winner from being one.
    """

    kind: Kind
    cause: Cause
    phase: Phase
    target: int | None = None
    obstacle: Decision | None = None


def apply_policy(situation: Situation, now: datetime) -> Decision:
    """What to do with the candidate now.

    1. A rollout that an operator has taken over, or that is finished, stays as it is; but a candidate that fails soon
       after its promotion goes back to a control that answers.
    2. Weights that the controller did not write, or another plan, are an operator's edit: hand the rollout over.
    3. Harm rolls back or pauses at once, also while paused and while other Envoys are missing; unless it does not
       count, or users would go to a broken control.
       A check that fails and is to roll back does so, unless the control is broken. Of a pause and a rollback, the
       rollback is done.
    4. Everything else needs all Envoys, a control that is not broken, time, requests, a split as promised and checks
       that pass, in this order, or holds; a candidate's first users need all Envoys and a warm candidate.
    5. A rollout then needs healthy guardrails; an experiment, a goal that is decided.
    6. A stage that holds for longer than its ``max_duration`` does what ``on_timeout`` says, but gives no users to a
       control that fails.
    """
    state = situation.state
    handed_over = _handed_over(situation)
    if handed_over is not None:
        return Decision(Kind.HOLD, handed_over, Phase.MANUAL)
    harmful = {item.on_harm for item in situation.judgements if item.acts}
    if state.phase.finished:
        falls = bool(harmful) and watched(situation.rollout, state, now)
        return _back(situation, now) if falls else Decision(Kind.HOLD, Cause.FINISHED, state.phase)
    if state.stage.weight > 0 and OnHarm.ROLLBACK in harmful:
        return Decision(Kind.ROLLBACK, Cause.HARMFUL, Phase.ROLLED_BACK, target=0)
    if any(item.rolls_back for item in situation.checks) and not situation.control.broken:
        return Decision(Kind.ROLLBACK, Cause.CHECK_FAILED, Phase.ROLLED_BACK, target=0)
    if state.stage.weight > 0 and harmful:
        return Decision(Kind.HOLD, Cause.PAUSED_FOR_HARM, Phase.PAUSED)
    if state.phase is Phase.PAUSED:
        return Decision(Kind.HOLD, Cause.PAUSED, state.phase)
    cause = _obstacle(situation, now)
    obstacle = None if cause is None else Decision(Kind.HOLD, cause, state.phase)
    if obstacle is None and state.stage.weight > 0 and situation.rollout.mode == "experiment":
        obstacle = _conclude(situation)
        if obstacle.kind is not Kind.HOLD:
            return obstacle
    if obstacle is None:
        cause = _unhealthy(situation)
        obstacle = None if cause is None else Decision(Kind.HOLD, cause, state.phase)
    if obstacle is None:
        return _forward(situation)
    return _timed_out(situation, now, obstacle) or obstacle


def guardrails_in_force(experiment: Experiment) -> tuple[Guardrail, ...]:
    """The guardrails that can be judged at the current weights.

    Where the control has no users, there is nothing to compare the candidate with at the same time, and values from
    another time would show the time of day as well: only absolute limits stay in force.
    """
    rollout = experiment.rollout
    assert rollout is not None
    if experiment.control.weight > 0:
        return rollout.guardrails
    return tuple(guardrail for guardrail in rollout.guardrails if not guardrail.compares)


def next_step(steps: Sequence[int], weight: int) -> int | None:
    """The smallest step above a weight, in basis points; None at or above the last one."""
    return min((step for step in steps if step > weight), default=None)


def _back(situation: Situation, now: datetime) -> Decision:
    """What to do with a promoted candidate that fails: a control without users has to show that it answers."""
    state, probe = situation.state, situation.probe
    if situation.experiment.control.weight == 0:
        if probe is None or not probe.says_of(state.control, now):
            return Decision(Kind.HOLD, Cause.PROBING, state.phase)
        if not probe.answered:
            return Decision(Kind.HOLD, Cause.NO_WAY_BACK, state.phase)
    return Decision(Kind.ROLLBACK, Cause.HARMFUL, Phase.ROLLED_BACK, target=0)


def _handed_over(situation: Situation) -> Cause | None:
    """Why the rollout is an operator's now, by what they did to the document; None if it is not."""
    experiment, state, rollout = situation.experiment, situation.state, situation.rollout
    if state.phase is Phase.MANUAL:
        return Cause.MANUAL
    if (rollout.candidate, experiment.control.name) != (state.candidate, state.control):
        return Cause.PLAN_CHANGED
    if experiment.weights != state.weights:
        return Cause.WEIGHTS_EDITED
    if rollout.steps != state.steps and state.phase is Phase.PROGRESSING:
        return Cause.PLAN_CHANGED
    return None


def _obstacle(situation: Situation, now: datetime) -> Cause | None:
    """The first thing, verdicts aside, that keeps the candidate where it is."""
    state, stage = situation.state, situation.rollout.stage
    if not situation.coverage.complete:
        return Cause.MISSING_DATA
    if state.stage.weight == 0:
        warmup = situation.warmup
        if warmup is None or warmup.enough:
            return None
        return Cause.WARMING if warmup.state is WarmupState.GOING else Cause.WARMUP_FAILED
    if not situation.collecting:
        return Cause.NOT_SERVED if situation.behind else Cause.SETTLING
    if situation.control.broken and (situation.rollout.on_broken_control == "hold" or both_broken(situation)):
        return Cause.CONTROL_BROKEN
    if state.stage.age(now) < stage.min_duration:
        return Cause.MIN_DURATION
    if situation.requests < stage.min_requests:
        return Cause.MIN_REQUESTS
    if situation.sample_ratio.alarm and situation.rollout.analysis.on_sample_ratio == "hold":
        return Cause.SAMPLE_RATIO
    checks = {item.verdict for item in situation.checks}
    if CheckVerdict.FAILED in checks:
        return Cause.CHECK_FAILED
    return Cause.CHECK_UNANSWERED if CheckVerdict.UNANSWERED in checks else None


def _unhealthy(situation: Situation) -> Cause | None:
    """How the guardrails keep the candidate where it is; None if all are healthy, or only watch."""
    passed_over = situation.control.broken and situation.rollout.on_broken_control == "advance"
    verdicts = {
        item.verdict
        for item in situation.judgements
        if item.on_harm is not OnHarm.REPORT and not (passed_over and item.set_aside)
    }
    if Verdict.HARMFUL in verdicts and not any(item.acts for item in situation.judgements):
        return Cause.HARM_SET_ASIDE
    if Verdict.ERROR in verdicts:
        return Cause.UNJUDGED
    return Cause.INCONCLUSIVE if Verdict.INCONCLUSIVE in verdicts else None


def both_broken(situation: Situation) -> bool:
    """Whether the candidate is beyond a limit of its own, which does not count because of the control.

    Then not even ``on_broken_control: advance`` goes on.
    """
    return any(
        item.verdict is Verdict.HARMFUL
        and item.set_aside is not None
        and item.on_harm is not OnHarm.REPORT
        and not (item.guardrail is not None and item.guardrail.compares)
        for item in situation.judgements
    )


def _conclude(situation: Situation) -> Decision:
    """What an experiment's goal says. A winner keeps its weight: operators decide whether and when to ship it."""
    state, goal = situation.state, situation.goal
    if goal is None or goal.verdict is GoalVerdict.OPEN:
        return Decision(Kind.HOLD, Cause.GOAL_OPEN, state.phase)
    if goal.verdict is GoalVerdict.LOSER and goal.set_aside is not None:
        return Decision(Kind.HOLD, Cause.HARM_SET_ASIDE, state.phase)
    if goal.verdict is GoalVerdict.LOSER:
        return Decision(Kind.ROLLBACK, Cause.LOSER, Phase.ROLLED_BACK, target=0)
    unhealthy = _unhealthy(situation)
    if goal.verdict is GoalVerdict.WINNER and unhealthy is not None:
        obstacle = Decision(Kind.HOLD, unhealthy, state.phase)
        if goal.fraction is None or goal.fraction < 1:
            return Decision(Kind.HOLD, unhealthy, state.phase, obstacle=obstacle)
        return Decision(Kind.COMPLETE, Cause.UNDECIDED, Phase.CONCLUDED, obstacle=obstacle)
    cause = {
        GoalVerdict.WINNER: Cause.WINNER,
        GoalVerdict.NO_DIFFERENCE: Cause.NO_DIFFERENCE,
        GoalVerdict.INCONCLUSIVE: Cause.UNDECIDED,
    }[goal.verdict]
    return Decision(Kind.COMPLETE, cause, Phase.CONCLUDED)


def _timed_out(situation: Situation, now: datetime, obstacle: Decision) -> Decision | None:
    rollout, state = situation.rollout, situation.state
    longest = rollout.stage.max_duration
    if longest is None or state.stage.weight == 0 or state.stage.age(now) <= longest:
        return None
    if situation.control.broken or obstacle.cause is Cause.HARM_SET_ASIDE:
        return None
    if rollout.on_timeout == "rollback":
        return Decision(Kind.ROLLBACK, Cause.TIMEOUT, Phase.ROLLED_BACK, target=0, obstacle=obstacle)
    return Decision(Kind.HOLD, Cause.TIMEOUT, state.phase, obstacle=obstacle)


def _forward(situation: Situation) -> Decision:
    state = situation.state
    target = next_step(situation.rollout.steps, state.stage.weight)
    if target is None:
        return Decision(Kind.COMPLETE, Cause.LAST_STEP_PASSED, Phase.PROMOTED)
    cause = Cause.PASSED if state.stage.weight else Cause.STARTING
    return Decision(Kind.ADVANCE, cause, Phase.PROGRESSING, target)
