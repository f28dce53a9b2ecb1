from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.limits import Guardrail
from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Warmup
from controller.decision.policy import Decision, Situation, apply_policy, next_step
from controller.decision.verdicts import (
    AS_PROMISED,
    GoalJudgement,
    GoalVerdict,
    Judgement,
    OnHarm,
    SampleRatio,
    SetAside,
    Verdict,
)
from controller.decision.warmup import Progress, WarmupResult, WarmupState
from controller.evidence.coverage import Coverage
from controller.records import Cause, DecisionRecord, ExperimentState, Kind, Phase, Stage
from controller.wording.reasons import reason
from tests.controller.decision.support import text
from tests.controller.support import START, experiment

ALL_ANSWERED = Coverage(2)
NONE_ANSWERED = Coverage(1, (("http://e", "no answer within 2 s"),))
SOME_ANSWERED = Coverage(2, (("http://e", "no connection: Connection refused"),))


LIMIT = Guardrail.model_validate({"metric": "error_rate", "max": "5%"})


def _judgement(verdict: Verdict) -> Judgement:
    return Judgement("error_rate", "max", verdict, 0.1, 0.05, None, 400, guardrail=LIMIT)


HEALTHY, HARMFUL = _judgement(Verdict.HEALTHY), _judgement(Verdict.HARMFUL)
INCONCLUSIVE = replace(_judgement(Verdict.INCONCLUSIVE), leads=Verdict.HARMFUL, needed=60)
ERROR = _judgement(Verdict.ERROR)
STOP = Judgement("error_rate", "brake", Verdict.HARMFUL, 0.5, 0.1, 0.0, 40)
UNEVEN = SampleRatio(True, 1e-5, 1.0, 12.0, True, {"model-b": 0.2}, {"model-b": 0.1})


def _warmup(state: WarmupState, **progress: Any) -> WarmupResult:
    warmup = Warmup.model_validate({"path": "/v1/chat/completions", "max_requests": 100})
    return WarmupResult(state, warmup, Progress(listeners=1, **progress))


EXPERIMENT = {
    "mode": "experiment",
    "steps": [50],
    "goal": {"metric": "latency_mean", "increase": False, "planned_requests": 1000},
}


def _goal(verdict: GoalVerdict, fraction: float = 0.5) -> GoalJudgement:
    return GoalJudgement("latency_mean", verdict, 90.0, 100.0, 500, fraction=fraction)


def _state(subject: Experiment, **changes: Any) -> ExperimentState:
    assert subject.rollout is not None
    weight = subject.weights["model-b"]
    fields: dict[str, Any] = {
        "phase": Phase.PROGRESSING,
        "candidate": "model-b",
        "control": "model-a",
        "steps": subject.rollout.steps,
        "weights": subject.weights,
        "stage": Stage(id="s", weight=weight, started_at=START),
        **changes,
    }
    return ExperimentState(**fields)


@dataclass(frozen=True)
class Decided:
    """A decision, and the sentence that is made of it."""

    decision: Decision
    reason: str

    @property
    def kind(self) -> Kind:
        return self.decision.kind

    @property
    def cause(self) -> Cause:
        return self.decision.cause

    @property
    def phase(self) -> Phase:
        return self.decision.phase

    @property
    def target(self) -> int | None:
        return self.decision.target


def _decide(
    subject: Experiment | None = None,
    *,
    age: float = 120,
    judgements: tuple[Judgement, ...] = (HEALTHY,),
    requests: int = 500,
    collecting: bool = True,
    coverage: Coverage = ALL_ANSWERED,
    sample_ratio: SampleRatio = AS_PROMISED,
    goal: GoalJudgement | None = None,
    warmup: WarmupResult | None = None,
    behind: str = "",
    **changes: Any,
) -> Decided:
    subject = subject or experiment()
    state = _state(subject, **changes)
    situation = Situation(subject, state, judgements, requests, collecting, coverage, sample_ratio, goal, warmup)
    situation = replace(situation, behind=behind)
    now = START + timedelta(seconds=age)
    decision = apply_policy(situation, now)
    return Decided(decision, reason(decision, situation, now))


def _is(decided: Decided, kind: Kind, cause: Cause, phase: Phase, target: int | None = None) -> None:
    assert (decided.kind, decided.cause, decided.phase, decided.target) == (kind, cause, phase, target)
    assert decided.reason
    assert not decided.reason.endswith(".")


def test_a_rollout_at_weight_nought_starts_at_the_first_step_at_once() -> None:
    decision = _decide(experiment(weight=0), age=0, judgements=(), requests=0, collecting=False)
    _is(decision, Kind.ADVANCE, Cause.STARTING, Phase.PROGRESSING, 1000)
    assert "starts at 10%" in decision.reason


def test_it_does_not_start_blind() -> None:
    decision = _decide(experiment(weight=0), age=0, judgements=(), collecting=False, coverage=NONE_ANSWERED)
    _is(decision, Kind.HOLD, Cause.MISSING_DATA, Phase.PROGRESSING)


@pytest.mark.parametrize(
    ("found", "cause"), [(WarmupState.GOING, Cause.WARMING), (WarmupState.FAILED, Cause.WARMUP_FAILED)]
)
@pytest.mark.parametrize("rollout", [{}, EXPERIMENT])
def test_it_does_not_start_cold(found: WarmupState, cause: Cause, rollout: dict[str, Any]) -> None:
    subject = experiment(weight=0, rollout=rollout)
    warmup = _warmup(found, began=START, requests=12, failing=12, last_ms=180.0)
    decision = _decide(subject, judgements=(), collecting=False, warmup=warmup)
    _is(decision, Kind.HOLD, cause, Phase.PROGRESSING)
    assert decision.reason.startswith("model-b at 0% ")
    assert "12" in decision.reason
    missing = _decide(subject, judgements=(), collecting=False, warmup=warmup, coverage=NONE_ANSWERED)
    assert missing.cause is Cause.MISSING_DATA


@pytest.mark.parametrize("found", [WarmupState.WARM, WarmupState.UNSETTLED])
def test_the_first_step_names_the_warm_ups_result(found: WarmupState) -> None:
    warmup = _warmup(found, began=START, requests=24, first_ms=900.0, after_ms=180.0)
    decision = _decide(experiment(weight=0), judgements=(), collecting=False, warmup=warmup)
    _is(decision, Kind.ADVANCE, Cause.STARTING, Phase.PROGRESSING, 1000)
    assert "starts at 10%; it " in decision.reason
    assert decision.reason.endswith(": 900 ms -> 180 ms")


def test_a_paused_rollout_is_paused_however_cold_it_is() -> None:
    subject, warmup = experiment(weight=0), _warmup(WarmupState.GOING)
    decision = _decide(subject, judgements=(), collecting=False, warmup=warmup, phase=Phase.PAUSED)
    _is(decision, Kind.HOLD, Cause.PAUSED, Phase.PAUSED)


def test_a_stage_that_has_passed_everything_advances_to_the_next_step() -> None:
    decision = _decide()
    _is(decision, Kind.ADVANCE, Cause.PASSED, Phase.PROGRESSING, 5000)
    assert "10%" in decision.reason
    assert "500 requests" in decision.reason
    assert "2m" in decision.reason
    assert "50%" in decision.reason


def test_a_weight_between_two_steps_goes_to_the_next_one_above() -> None:
    assert _decide(experiment(weight=30)).target == 5000


def test_the_last_step_completes() -> None:
    decision = _decide(experiment(weight=100))
    _is(decision, Kind.COMPLETE, Cause.LAST_STEP_PASSED, Phase.PROMOTED)


def test_steps_need_not_end_at_everybody() -> None:
    subject = experiment(weight=50, rollout={"steps": [10, 50]})
    _is(_decide(subject), Kind.COMPLETE, Cause.LAST_STEP_PASSED, Phase.PROMOTED)


@pytest.mark.parametrize(
    ("changes", "cause", "says"),
    [
        ({"collecting": False, "judgements": ()}, Cause.SETTLING, "every server and Envoy"),
        (
            {"collecting": False, "judgements": (), "behind": "server pod a does not answer: refused"},
            Cause.NOT_SERVED,
            "not everybody serves its weights: server pod a does not answer: refused",
        ),
        ({"age": 59}, Cause.MIN_DURATION, "59s of at least 1m"),
        ({"requests": 99}, Cause.MIN_REQUESTS, "99 of at least 100 requests"),
        (
            {"judgements": (HEALTHY, INCONCLUSIVE)},
            Cause.INCONCLUSIVE,
            "is above its limit of 5%, but not significantly so far",
        ),
        ({"judgements": (HEALTHY, INCONCLUSIVE, ERROR)}, Cause.UNJUDGED, "error_rate"),
        ({"coverage": NONE_ANSWERED}, Cause.MISSING_DATA, "0 of 1 Envoys answered; no answer from http://e (no answer"),
        ({"coverage": SOME_ANSWERED}, Cause.MISSING_DATA, "1 of 2 Envoys answered"),
        ({"coverage": Coverage(0)}, Cause.MISSING_DATA, "no Envoy to ask"),
    ],
)
def test_it_holds_until_everything_is_there_and_says_what_is_not(
    changes: dict[str, Any], cause: Cause, says: str
) -> None:
    decision = _decide(**changes)
    _is(decision, Kind.HOLD, cause, Phase.PROGRESSING)
    assert says in decision.reason


@pytest.mark.parametrize("coverage", [ALL_ANSWERED, SOME_ANSWERED, NONE_ANSWERED])
@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED])
@pytest.mark.parametrize("age", [0, 120, 7200])
def test_harm_rolls_back_at_once_whatever_else_is_missing(coverage: Coverage, phase: Phase, age: float) -> None:
    decision = _decide(age=age, judgements=(HEALTHY, HARMFUL, ERROR), requests=3, coverage=coverage, phase=phase)
    _is(decision, Kind.ROLLBACK, Cause.HARMFUL, Phase.ROLLED_BACK, 0)
    assert "error_rate 10% over 400 requests is significantly above" in decision.reason
    assert "10%" in decision.reason


@pytest.mark.parametrize("phase", [Phase.MANUAL, Phase.PROMOTED, Phase.ROLLED_BACK, Phase.CONCLUDED])
def test_what_a_person_took_over_or_what_is_finished_stays_as_it_is_even_in_harm(phase: Phase) -> None:
    decision = _decide(judgements=(HARMFUL,), phase=phase)
    assert (decision.kind, decision.phase, decision.target) == (Kind.HOLD, phase, None)
    assert ("abmesh promote or rollback" if phase is Phase.CONCLUDED else "abmesh resume") in decision.reason


def test_paused_holds() -> None:
    _is(_decide(phase=Phase.PAUSED), Kind.HOLD, Cause.PAUSED, Phase.PAUSED)
    _is(_decide(phase=Phase.PAUSED, age=10_000), Kind.HOLD, Cause.PAUSED, Phase.PAUSED)


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTED, Phase.ROLLED_BACK])
def test_edited_weights_hand_over_to_the_person_who_edited_them_even_in_harm(phase: Phase) -> None:
    decision = _decide(
        experiment(weight=35), judgements=(HARMFUL,), phase=phase, weights={"model-a": 9000, "model-b": 1000}
    )
    _is(decision, Kind.HOLD, Cause.WEIGHTS_EDITED, Phase.MANUAL)
    assert "model-b 35%" in decision.reason
    assert "model-b 10%" in decision.reason


def test_manual_keeps_the_reason_that_made_it_so() -> None:
    record = DecisionRecord(id="d", kind=Kind.HOLD, cause=Cause.WEIGHTS_EDITED, reason="somebody did it", at=START)
    decision = _decide(phase=Phase.MANUAL, decision=record)
    _is(decision, Kind.HOLD, Cause.MANUAL, Phase.MANUAL)
    assert "somebody did it" in decision.reason


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED, Phase.PROMOTED, Phase.ROLLED_BACK])
def test_another_candidate_hands_over(phase: Phase) -> None:
    decision = _decide(phase=phase, candidate="model-x", judgements=(HARMFUL,))
    _is(decision, Kind.HOLD, Cause.PLAN_CHANGED, Phase.MANUAL)
    assert "model-x" in decision.reason
    assert "model-b" in decision.reason


def test_other_steps_hand_over_a_rollout_under_way_and_no_other() -> None:
    decision = _decide(steps=(1000, 2000))
    _is(decision, Kind.HOLD, Cause.PLAN_CHANGED, Phase.MANUAL)
    assert "[10, 20]" in decision.reason
    assert _decide(steps=(1000, 2000), phase=Phase.PAUSED).phase is Phase.PAUSED
    assert _decide(steps=(1000, 2000), phase=Phase.PROMOTED).phase is Phase.PROMOTED


def test_a_stage_that_takes_too_long_holds_on_and_says_so() -> None:
    decision = _decide(age=3601, requests=3)
    _is(decision, Kind.HOLD, Cause.TIMEOUT, Phase.PROGRESSING)
    assert "max_duration of 1h" in decision.reason
    assert "3 of at least 100 requests" in decision.reason


def test_a_stage_that_takes_too_long_rolls_back_if_the_plan_says_so() -> None:
    subject = experiment(rollout={"on_timeout": "rollback"})
    _is(_decide(subject, age=3601, requests=3), Kind.ROLLBACK, Cause.TIMEOUT, Phase.ROLLED_BACK, 0)
    assert _decide(subject, age=3600, requests=3).kind is Kind.HOLD


def test_a_stage_that_passes_late_advances_all_the_same() -> None:
    assert _decide(experiment(rollout={"on_timeout": "rollback"}), age=10_000).kind is Kind.ADVANCE


def test_without_guardrails_time_and_requests_decide() -> None:
    assert _decide(experiment(rollout={"guardrails": []}), judgements=()).kind is Kind.ADVANCE


def test_a_clock_that_was_set_back_makes_no_stage_older() -> None:
    assert _decide(age=-5000).cause is Cause.MIN_DURATION


def test_the_emergency_stop_rolls_back_whatever_the_guardrails_say_and_with_none_at_all() -> None:
    decision = _decide(judgements=(STOP, HEALTHY), requests=40, age=3)
    _is(decision, Kind.ROLLBACK, Cause.HARMFUL, Phase.ROLLED_BACK, 0)
    assert "emergency stop" in decision.reason
    assert _decide(experiment(rollout={"guardrails": []}), judgements=(STOP,)).kind is Kind.ROLLBACK
    assert _decide(experiment(weight=0), judgements=(STOP,), age=0).kind is Kind.ADVANCE


def test_a_split_that_is_off_holds_a_healthy_stage_and_says_so() -> None:
    decision = _decide(sample_ratio=UNEVEN)
    _is(decision, Kind.HOLD, Cause.SAMPLE_RATIO, Phase.PROGRESSING)
    assert "not split as the weights promise" in decision.reason


def test_a_split_that_is_off_holds_an_experiment_that_would_be_decided() -> None:
    subject = experiment(weight=50, rollout=EXPERIMENT)
    decision = _decide(subject, sample_ratio=UNEVEN, goal=_goal(GoalVerdict.WINNER))
    _is(decision, Kind.HOLD, Cause.SAMPLE_RATIO, Phase.PROGRESSING)


def test_a_split_that_is_off_lets_the_rollout_go_on_where_it_is_only_reported() -> None:
    subject = experiment(rollout={"analysis": {"on_sample_ratio": "report"}})
    _is(_decide(subject, sample_ratio=UNEVEN), Kind.ADVANCE, Cause.PASSED, Phase.PROGRESSING, 5000)


def test_harm_rolls_back_although_the_split_is_off_and_a_long_alarm_times_out() -> None:
    _is(_decide(sample_ratio=UNEVEN, judgements=(HARMFUL,)), Kind.ROLLBACK, Cause.HARMFUL, Phase.ROLLED_BACK, 0)
    late = _decide(sample_ratio=UNEVEN, age=3601)
    _is(late, Kind.HOLD, Cause.TIMEOUT, Phase.PROGRESSING)
    assert "not split as the weights promise" in late.reason


def test_time_and_requests_are_said_to_be_missing_before_the_split_is() -> None:
    assert _decide(sample_ratio=UNEVEN, age=59).cause is Cause.MIN_DURATION
    assert _decide(sample_ratio=UNEVEN, requests=99).cause is Cause.MIN_REQUESTS


def test_an_experiment_takes_its_split_at_once() -> None:
    decision = _decide(experiment(weight=0, rollout=EXPERIMENT), age=0, judgements=(), requests=0, collecting=False)
    _is(decision, Kind.ADVANCE, Cause.STARTING, Phase.PROGRESSING, 5000)


@pytest.mark.parametrize(
    ("verdict", "kind", "cause", "phase", "target"),
    [
        (GoalVerdict.WINNER, Kind.COMPLETE, Cause.WINNER, Phase.CONCLUDED, None),
        (GoalVerdict.LOSER, Kind.ROLLBACK, Cause.LOSER, Phase.ROLLED_BACK, 0),
        (GoalVerdict.NO_DIFFERENCE, Kind.COMPLETE, Cause.NO_DIFFERENCE, Phase.CONCLUDED, None),
        (GoalVerdict.INCONCLUSIVE, Kind.COMPLETE, Cause.UNDECIDED, Phase.CONCLUDED, None),
        (GoalVerdict.OPEN, Kind.HOLD, Cause.GOAL_OPEN, Phase.PROGRESSING, None),
    ],
)
def test_an_experiment_does_what_its_goal_says(
    verdict: GoalVerdict, kind: Kind, cause: Cause, phase: Phase, target: int | None
) -> None:
    decision = _decide(experiment(weight=50, rollout=EXPERIMENT), goal=_goal(verdict))
    _is(decision, kind, cause, phase, target)
    assert "latency_mean 90 ms on model-b" in decision.reason


def test_an_experiment_without_evidence_on_its_goal_goes_on() -> None:
    decision = _decide(experiment(weight=50, rollout=EXPERIMENT), goal=None)
    _is(decision, Kind.HOLD, Cause.GOAL_OPEN, Phase.PROGRESSING)


@pytest.mark.parametrize(
    ("judgement", "cause"), [(INCONCLUSIVE, Cause.INCONCLUSIVE), (ERROR, Cause.UNJUDGED)], ids=["inconclusive", "error"]
)
def test_a_winner_whose_guardrails_are_not_healthy_waits_and_at_its_planned_size_is_undecided(
    judgement: Judgement, cause: Cause
) -> None:
    subject = experiment(weight=50, rollout=EXPERIMENT)
    early = _decide(subject, judgements=(HEALTHY, judgement), goal=_goal(GoalVerdict.WINNER, 0.99))
    _is(early, Kind.HOLD, cause, Phase.PROGRESSING)
    assert "is significantly better" in early.reason
    over = _decide(subject, judgements=(HEALTHY, judgement), goal=_goal(GoalVerdict.WINNER, 1.0))
    _is(over, Kind.COMPLETE, Cause.UNDECIDED, Phase.CONCLUDED)
    assert text(judgement) in over.reason


def test_a_loser_needs_no_healthy_guardrail() -> None:
    subject = experiment(weight=50, rollout=EXPERIMENT)
    assert _decide(subject, judgements=(INCONCLUSIVE,), goal=_goal(GoalVerdict.LOSER)).cause is Cause.LOSER


def test_a_winner_that_does_harm_is_rolled_back() -> None:
    subject = experiment(weight=50, rollout=EXPERIMENT)
    decision = _decide(subject, judgements=(HARMFUL,), goal=_goal(GoalVerdict.WINNER))
    _is(decision, Kind.ROLLBACK, Cause.HARMFUL, Phase.ROLLED_BACK, 0)


def test_an_experiment_that_takes_too_long_does_what_the_plan_says() -> None:
    subject = experiment(weight=50, rollout={**EXPERIMENT, "on_timeout": "rollback"})
    decision = _decide(subject, age=3601, goal=_goal(GoalVerdict.OPEN))
    _is(decision, Kind.ROLLBACK, Cause.TIMEOUT, Phase.ROLLED_BACK, 0)
    assert _decide(subject, age=3601, goal=_goal(GoalVerdict.WINNER)).cause is Cause.WINNER


def test_a_goal_decides_nothing_in_a_rollout() -> None:
    subject = experiment(rollout={"goal": {"metric": "latency_mean", "increase": False}})
    for verdict in GoalVerdict:
        assert _decide(subject, goal=_goal(verdict)).kind is Kind.ADVANCE


@given(st.lists(st.integers(1, 10_000), unique=True, min_size=1).map(sorted), st.integers(0, 10_000))
def test_the_next_step_is_the_smallest_above(steps: list[int], weight: int) -> None:
    step = next_step(steps, weight)
    above = [item for item in steps if item > weight]
    assert step == (above[0] if above else None)


VERDICTS = st.lists(st.sampled_from([HEALTHY, HARMFUL, INCONCLUSIVE, ERROR]), max_size=3).map(tuple)
COVERAGES = st.sampled_from([ALL_ANSWERED, SOME_ANSWERED, NONE_ANSWERED, Coverage(0)])


@given(
    st.sampled_from(Phase),
    st.sampled_from([0, 10, 33, 50, 100]),
    VERDICTS,
    st.floats(-100, 10_000),
    st.integers(0, 1000),
    st.booleans(),
    COVERAGES,
    st.sampled_from(["hold", "rollback"]),
    st.sampled_from([AS_PROMISED, UNEVEN]),
)
def test_the_rules_hold_in_every_situation(
    phase: Phase,
    weight: int,
    judgements: tuple[Judgement, ...],
    age: float,
    requests: int,
    collecting: bool,
    coverage: Coverage,
    on_timeout: str,
    sample_ratio: SampleRatio,
) -> None:
    """Up only on complete, healthy evidence; down only for harm or a timeout; never while manual."""
    subject = experiment(weight=weight, rollout={"on_timeout": on_timeout})
    decision = _decide(
        subject,
        age=age,
        judgements=judgements,
        requests=requests,
        collecting=collecting,
        coverage=coverage,
        sample_ratio=sample_ratio,
        phase=phase,
    )
    harmful = HARMFUL in judgements
    if phase is Phase.MANUAL or phase.finished:
        assert decision.target is None
    if decision.kind in (Kind.ADVANCE, Kind.COMPLETE):
        assert coverage.complete
        assert phase is Phase.PROGRESSING
        if weight:
            assert not harmful
            assert set(judgements) <= {HEALTHY}
            assert age >= 60
            assert requests >= 100
            assert collecting
            assert not sample_ratio.alarm
    if decision.kind is Kind.ADVANCE:
        assert decision.target is not None
        assert decision.target > weight * 100
    if decision.kind is Kind.ROLLBACK:
        assert decision.target == 0
        assert weight > 0
        assert harmful or (on_timeout == "rollback" and age > 3600)
    if harmful and weight and phase in (Phase.PROGRESSING, Phase.PAUSED):
        assert decision.kind is Kind.ROLLBACK


@given(
    st.sampled_from(list(GoalVerdict)),
    VERDICTS,
    st.floats(-100, 3600),
    st.integers(0, 1000),
    COVERAGES,
    st.sampled_from([AS_PROMISED, UNEVEN]),
)
def test_an_experiment_ends_only_on_complete_evidence_and_wins_only_in_health(
    verdict: GoalVerdict,
    judgements: tuple[Judgement, ...],
    age: float,
    requests: int,
    coverage: Coverage,
    sample_ratio: SampleRatio,
) -> None:
    decision = _decide(
        experiment(weight=50, rollout=EXPERIMENT),
        age=age,
        judgements=judgements,
        requests=requests,
        coverage=coverage,
        sample_ratio=sample_ratio,
        goal=_goal(verdict),
    )
    assert decision.kind is not Kind.ADVANCE
    if decision.kind is Kind.HOLD or decision.cause is Cause.HARMFUL:
        return
    assert coverage.complete
    assert age >= 60
    assert requests >= 100
    assert not sample_ratio.alarm
    assert HARMFUL not in judgements
    if decision.cause is Cause.WINNER:
        assert set(judgements) <= {HEALTHY}


def _does(on_harm: OnHarm, verdict: Verdict = Verdict.HARMFUL) -> Judgement:
    return replace(_judgement(verdict), on_harm=on_harm)


def test_a_guardrail_that_only_watches_neither_rolls_back_nor_holds() -> None:
    for verdict in Verdict:
        decision = _decide(judgements=(_does(OnHarm.REPORT, verdict), HEALTHY))
        _is(decision, Kind.ADVANCE, Cause.PASSED, Phase.PROGRESSING, 5000)
        assert "it only watches (dry_run)" in decision.reason
        held = _decide(judgements=(_does(OnHarm.REPORT, verdict), INCONCLUSIVE))
        _is(held, Kind.HOLD, Cause.INCONCLUSIVE, Phase.PROGRESSING)
        assert "dry_run" not in held.reason


def test_harm_that_pauses_keeps_the_weights_until_somebody_resumes() -> None:
    decision = _decide(judgements=(_does(OnHarm.PAUSE), HEALTHY), age=3)
    _is(decision, Kind.HOLD, Cause.PAUSED_FOR_HARM, Phase.PAUSED)
    assert "pauses at" in decision.reason
    assert decision.reason.endswith("weights stay (on_harm: pause) until abmesh resume")
    again = _decide(judgements=(_does(OnHarm.PAUSE), HEALTHY), phase=Phase.PAUSED)
    _is(again, Kind.HOLD, Cause.PAUSED_FOR_HARM, Phase.PAUSED)
    _is(_decide(judgements=(HEALTHY,), phase=Phase.PAUSED), Kind.HOLD, Cause.PAUSED, Phase.PAUSED)


@pytest.mark.parametrize("other", [HARMFUL, STOP])
def test_of_a_pause_and_a_rollback_the_rollback_is_done(other: Judgement) -> None:
    for phase in (Phase.PROGRESSING, Phase.PAUSED):
        decision = _decide(judgements=(_does(OnHarm.PAUSE), other), phase=phase)
        _is(decision, Kind.ROLLBACK, Cause.HARMFUL, Phase.ROLLED_BACK, 0)


def test_a_candidate_without_users_is_not_paused() -> None:
    assert _decide(experiment(weight=0), judgements=(_does(OnHarm.PAUSE),), age=0).kind is Kind.ADVANCE


def test_harm_that_does_not_count_holds_and_outlasts_no_time_limit() -> None:
    judged = replace(HARMFUL, set_aside=SetAside.CONTROL_FAILS)
    subject = experiment(rollout={"on_timeout": "rollback"})
    for age in (120, 10_000):
        decision = _decide(subject, judgements=(judged, HEALTHY), age=age)
        _is(decision, Kind.HOLD, Cause.HARM_SET_ASIDE, Phase.PROGRESSING)
        assert "it does not count, because model-a fails significantly more often than model-b" in decision.reason
