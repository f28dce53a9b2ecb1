"""A decision's reason: one sentence with the numbers, without a full stop. Pure.

Called where a decision leaves the process: for the journal, logs and status. Decisions carry a cause and numbers;
nothing depends on how they are worded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from abmesh.experiment.quantities import format_duration, format_percent
from controller.decision.after_promotion import watch_ends
from controller.decision.checks import CheckVerdict
from controller.decision.policy import Decision, Situation, both_broken, guardrails_in_force
from controller.decision.verdicts import Judgement, OnHarm, Verdict
from controller.records import Cause, ExperimentState, Kind, Phase
from controller.wording.checks import checks_text
from controller.wording.control import broken_text
from controller.wording.probes import probe_text
from controller.wording.values import show_age, show_coarse, show_coverage, show_steps, show_weights
from controller.wording.verdicts import goal_text, heaviest_text, judgement_text, sample_ratio_text, warmup_text
from controller.wording.what_next import threatening, what_next


@dataclass(frozen=True, slots=True)
class _Case:
    decision: Decision
    situation: Situation
    now: datetime
    inner: bool = False
    """Whether it is part of another sentence, which says what is done and what comes next."""

    @property
    def state(self) -> ExperimentState:
        return self.situation.state


def reason(decision: Decision, situation: Situation, now: datetime) -> str:
    """Why a decision was made; a broken control is said first, whatever the decision.

    Args:
        decision: what was decided.
        situation: on what.
        now: when.
    """
    text = _REASONS[decision.cause](_Case(decision, situation, now))
    heavy = heaviest_text(situation.judgements)
    text = f"{text}; {heavy}" if heavy else text
    broken = broken_text(situation.control, situation.state)
    return f"{broken}; {text}" if broken else text


def _inner(case: _Case, obstacle: Decision) -> str:
    """What kept a candidate, as a part of another sentence."""
    return _REASONS[obstacle.cause](_Case(obstacle, case.situation, case.now, inner=True))


def _here(state: ExperimentState) -> str:
    return f"{state.candidate} at {format_percent(state.stage.weight)}"


def _manual(case: _Case) -> str:
    state = case.state
    if state.decision is not None:
        return f"manual: {state.decision.reason}"
    return f"manual at {format_percent(state.stage.weight)}; abmesh resume continues"


def _plan_changed(case: _Case) -> str:
    experiment, state, rollout = case.situation.experiment, case.state, case.situation.rollout
    if (rollout.candidate, experiment.control.name) != (state.candidate, state.control):
        return (
            f"the plan changed from {state.candidate} against {state.control} to {rollout.candidate} against "
            f"{experiment.control.name}; abmesh resume starts it"
        )
    return (
        f"the steps changed from {show_steps(state.steps)} to {show_steps(rollout.steps)} during the rollout; abmesh "
        f"resume continues with the new ones"
    )


def _weights_edited(case: _Case) -> str:
    found, written = show_weights(case.situation.experiment.weights), show_weights(case.state.weights)
    return (
        f"someone edited the weights: they are now {found}, but the controller last wrote {written}; abmesh resume "
        f"continues from there"
    )


def _finished(case: _Case) -> str:
    state = case.state
    if state.phase is Phase.CONCLUDED:
        return f"the experiment with {state.candidate} has concluded; abmesh promote or rollback acts on it"
    ends = watch_ends(case.situation.rollout, state)
    if ends is not None and case.now < ends:
        return (
            f"{state.candidate} was promoted; the emergency stop stays in force until {ends:%H:%M:%S} UTC; abmesh "
            f"resume starts it again"
        )
    done = "promoted" if state.phase is Phase.PROMOTED else "rolled back"
    return f"{state.candidate} was {done}; abmesh resume starts it again"


def _paused(case: _Case) -> str:
    return f"paused at {format_percent(case.state.stage.weight)}; abmesh resume continues"


def _harmful(case: _Case) -> str:
    probe = case.situation.probe
    answers = "" if probe is None or not probe.answered else f", which {probe_text(probe)}"
    verdict = _acting(case.situation)
    return f"{_here(case.state)} is harmful: {verdict}; all users go to the control{answers}"


def _paused_for_harm(case: _Case) -> str:
    return (
        f"{_here(case.state)} is harmful: {_acting(case.situation)}; weights stay (on_harm: pause) until abmesh resume"
    )


def _control_broken(case: _Case) -> str:
    state = case.state
    harm = _without_effect(case.situation)
    found = f"; {harm}" if harm else ""
    advance = "" if both_broken(case.situation) else "; on_broken_control: advance would go on"
    return f"{_here(state)} holds, and no users go back to {state.control}{found}{advance}"


def _set_aside(case: _Case) -> str:
    return f"{_here(case.state)} holds: {_without_effect(case.situation) or _goal(case.situation)}"


def _probing(case: _Case) -> str:
    verdict = _acting(case.situation)
    return f"{_here(case.state)} fails after its promotion: {verdict}; asking {case.state.control} whether it answers"


def _no_way_back(case: _Case) -> str:
    assert case.situation.probe is not None
    verdict, control = _acting(case.situation), case.state.control
    return (
        f"{_here(case.state)} fails after its promotion: {verdict}; but {control} {probe_text(case.situation.probe)}, "
        f"so users stay; abmesh rollback moves them all the same"
    )


def _missing_data(case: _Case) -> str:
    return f"{_here(case.state)} holds for missing data: {show_coverage(case.situation.coverage)}"


def _warmup(case: _Case) -> str:
    assert case.situation.warmup is not None
    return f"{_here(case.state)} {warmup_text(case.situation.warmup)}"


def _settling(case: _Case) -> str:
    return f"{_here(case.state)} waits until every server and Envoy serves its weights"


def _not_served(case: _Case) -> str:
    return f"{_here(case.state)} holds, because not everybody serves its weights: {case.situation.behind}"


def _min_duration(case: _Case) -> str:
    state = case.state
    least = format_duration(case.situation.rollout.stage.min_duration)
    age = show_age(state.stage.age(case.now))
    text = f"{_here(state)} has run {age} of at least {least}, with {case.situation.requests} requests"
    return f"{text}{threatening(case.situation)}"


def _min_requests(case: _Case) -> str:
    state, least = case.state, case.situation.rollout.stage.min_requests
    requests, age = case.situation.requests, state.stage.age(case.now)
    text = f"{_here(state)} has {requests} of at least {least} requests after {show_age(age)}"
    if requests and age:
        text = f"{text}; at this rate it has them in {show_coarse(age / requests * (least - requests))}"
    return f"{text}{threatening(case.situation)}"


def _sample_ratio(case: _Case) -> str:
    return f"{_here(case.state)} holds: {sample_ratio_text(case.situation.sample_ratio, case.situation.rollout)}"


def _checks(case: _Case) -> str:
    verdict = CheckVerdict.FAILED if case.decision.cause is Cause.CHECK_FAILED else CheckVerdict.UNANSWERED
    texts = checks_text(case.situation.checks, verdict)
    if case.decision.kind is Kind.ROLLBACK:
        return f"{_here(case.state)} is rolled back by a check: {texts}; all users go to the control"
    return f"{_here(case.state)} holds: {texts}"


def _unhealthy(case: _Case) -> str:
    verdict = Verdict.ERROR if case.decision.cause is Cause.UNJUDGED else Verdict.INCONCLUSIVE
    found = _with_verdict(case.situation, verdict)
    if case.inner:
        return found
    text = f"{_here(case.state)} holds: {found}{what_next(case.situation, case.now)}"
    if case.decision.obstacle is None:
        return text
    return f"{_goal(case.situation)}, but {text}"


def _goal_open(case: _Case) -> str:
    if case.situation.goal is None:
        return f"{_here(case.state)} waits for evidence on its goal"
    return f"{_here(case.state)} continues: {_goal(case.situation)}"


def _loser(case: _Case) -> str:
    return f"the experiment is decided: {_goal(case.situation)}; all users go to {case.state.control}"


def _decided(case: _Case) -> str:
    return f"the experiment is decided: {_goal(case.situation)}"


def _undecided(case: _Case) -> str:
    text = f"the experiment ends undecided: {_goal(case.situation)}"
    obstacle = case.decision.obstacle
    return text if obstacle is None else f"{text}, but {_inner(case, obstacle)}"


def _timeout(case: _Case) -> str:
    assert case.decision.obstacle is not None
    longest = case.situation.rollout.stage.max_duration
    assert longest is not None
    text = f"{_here(case.state)} exceeded its max_duration of {format_duration(longest)}"
    obstacle = _inner(case, case.decision.obstacle)
    if case.decision.kind is Kind.ROLLBACK:
        return f"{text} and is rolled back (on_timeout: rollback); it was held because {obstacle}"
    return f"{text} and keeps holding (on_timeout: hold), because {obstacle}"


def _starting(case: _Case) -> str:
    assert case.decision.target is not None
    state = case.state
    warmed = "" if case.situation.warmup is None else f"; it {warmup_text(case.situation.warmup)}"
    return f"the rollout of {state.candidate} starts at {format_percent(case.decision.target)}{warmed}"


def _passed(case: _Case) -> str:
    state = case.state
    text = (
        f"{state.candidate} passed {format_percent(state.stage.weight)} with {case.situation.requests} requests in "
        f"{show_age(state.stage.age(case.now))}{_verdicts(case.situation)}"
    )
    if case.decision.target is not None:
        return f"{text}; advancing to {format_percent(case.decision.target)}"
    goal = "" if case.situation.goal is None else f"; goal: {_goal(case.situation)}"
    return f"{text}; that was the last step, so it is promoted{goal}"


def _verdicts(situation: Situation) -> str:
    """All verdicts, and the guardrails that have none because the control has no users."""
    texts = [judgement_text(item, situation.state) for item in situation.judgements]
    in_force = guardrails_in_force(situation.experiment)
    without = [guardrail.subject for guardrail in situation.rollout.guardrails if guardrail not in in_force]
    if without:
        control = situation.state.control
        texts.append(f"{', '.join(without)} cannot be compared: {control} no longer has users")
    return f" ({'; '.join(texts)})" if texts else ""


def _with_verdict(situation: Situation, verdict: Verdict) -> str:
    """The verdicts of guardrails that do more than watch."""
    found = (item for item in situation.judgements if item.verdict is verdict and item.on_harm is not OnHarm.REPORT)
    return _texts(found, situation.state)


def _without_effect(situation: Situation) -> str:
    """The verdicts that would roll back, pause or hold, and do not count because of the control."""
    found = (item for item in situation.judgements if item.set_aside is not None and item.on_harm is not OnHarm.REPORT)
    return _texts(found, situation.state)


def _acting(situation: Situation) -> str:
    """The verdicts that roll back or pause."""
    return _texts((item for item in situation.judgements if item.acts), situation.state)


def _texts(judgements: Iterable[Judgement], state: ExperimentState) -> str:
    return "; ".join(dict.fromkeys(judgement_text(item, state) for item in judgements))


def _goal(situation: Situation) -> str:
    assert situation.goal is not None
    return goal_text(situation.goal, situation.rollout, situation.state)


_REASONS: dict[Cause, Callable[[_Case], str]] = {
    Cause.STARTING: _starting,
    Cause.WARMING: _warmup,
    Cause.WARMUP_FAILED: _warmup,
    Cause.PASSED: _passed,
    Cause.LAST_STEP_PASSED: _passed,
    Cause.HARMFUL: _harmful,
    Cause.PAUSED_FOR_HARM: _paused_for_harm,
    Cause.CHECK_FAILED: _checks,
    Cause.CHECK_UNANSWERED: _checks,
    Cause.CONTROL_BROKEN: _control_broken,
    Cause.HARM_SET_ASIDE: _set_aside,
    Cause.TIMEOUT: _timeout,
    Cause.SETTLING: _settling,
    Cause.NOT_SERVED: _not_served,
    Cause.MISSING_DATA: _missing_data,
    Cause.MIN_DURATION: _min_duration,
    Cause.MIN_REQUESTS: _min_requests,
    Cause.INCONCLUSIVE: _unhealthy,
    Cause.UNJUDGED: _unhealthy,
    Cause.SAMPLE_RATIO: _sample_ratio,
    Cause.GOAL_OPEN: _goal_open,
    Cause.WINNER: _decided,
    Cause.LOSER: _loser,
    Cause.NO_DIFFERENCE: _decided,
    Cause.UNDECIDED: _undecided,
    Cause.WEIGHTS_EDITED: _weights_edited,
    Cause.PLAN_CHANGED: _plan_changed,
    Cause.PAUSED: _paused,
    Cause.MANUAL: _manual,
    Cause.FINISHED: _finished,
    Cause.PROBING: _probing,
    Cause.NO_WAY_BACK: _no_way_back,
}
