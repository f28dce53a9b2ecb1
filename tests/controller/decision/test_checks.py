"""Checks hold or roll back by their threshold; without an answer the rollout holds."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from abmesh.analysis.replay import replay
from abmesh.experiment.checks import Check
from abmesh.experiment.model import Experiment
from controller.codec.entries import decision_entry
from controller.codec.inputs import load_inputs
from controller.decision.checks import (
    CheckResult,
    CheckVerdict,
    after_answer,
    check_target,
    judge_checks,
    passes,
    without_answer,
)
from controller.decision.decide import Decided, Inputs, decide
from controller.decision.history import History
from controller.evidence.coverage import Coverage
from controller.evidence.summary import VariantEvidence
from controller.records import Cause, Kind, Phase, Stage, adopt
from controller.wording.reasons import reason
from controller.wording.remarks import remarks_of
from tests.controller.decision.support import arm
from tests.controller.support import START, experiment

NOW = START + timedelta(minutes=10)
LATER = NOW + timedelta(seconds=1)
QUERY: dict[str, Any] = {"name": "p99", "prometheus": "latency", "max": 5}
HOOK: dict[str, Any] = {"name": "gate", "webhook": "https://gate.example/ask?token=s3cret"}


def _check(**changes: Any) -> Check:
    return Check.model_validate({**QUERY, **changes})


def _answers(check: Check, *values: float | str | int) -> CheckResult:
    """The result after these answers: numbers, statuses of a webhook, or why there was none."""
    found: CheckResult | None = None
    for value in values:
        if isinstance(value, str):
            found = without_answer(check, found, NOW, value)
        elif check.webhook is not None:
            found = after_answer(check, found, NOW, None, int(value))
        else:
            found = after_answer(check, found, NOW, float(value), 0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("limits", "value", "passed"),
    [
        ({"max": 5}, 5.0, True),
        ({"max": 5}, 5.0001, False),
        ({"max": None, "min": 5}, 4.9, False),
        ({"max": None, "min": 5}, 5.0, True),
        ({"max": 5, "min": -1}, -2.0, False),
        ({"max": 5, "min": -1}, 0.0, True),
    ],
)
def test_a_number_passes_within_its_limits(limits: dict[str, Any], value: float, passed: bool) -> None:
    assert passes(_check(**limits), value, 0) is passed


def test_a_webhook_passes_with_a_2xx_status_alone() -> None:
    check = Check.model_validate(HOOK)
    assert [status for status in (200, 204, 299) if passes(check, None, status)] == [200, 204, 299]
    assert not any(passes(check, None, status) for status in (100, 199, 300, 301, 302, 400, 404, 500, 503))


def test_it_acts_after_so_many_failing_answers_in_a_row() -> None:
    check = _check()
    found = [judge_checks([check], [_answers(check, *[7] * count)], LATER)[0].verdict for count in (1, 2, 3, 4)]
    assert found == [CheckVerdict.FAILING, CheckVerdict.FAILING, CheckVerdict.FAILED, CheckVerdict.FAILED]
    assert judge_checks([check], [_answers(check, 7, 7, 3)], LATER)[0].verdict is CheckVerdict.PASSED
    assert judge_checks([check], [_answers(check, 7, 7, 3, 7)], LATER)[0].verdict is CheckVerdict.FAILING
    hook = Check.model_validate({**HOOK, "failures": 1})
    assert judge_checks([hook], [_answers(hook, 503)], LATER)[0].verdict is CheckVerdict.FAILED


def test_a_request_without_an_answer_neither_fails_nor_forgives() -> None:
    check = _check()
    (silent,) = judge_checks([check], [_answers(check, 7, 7, "no answer within 10 s")], LATER)
    assert (silent.verdict, silent.problem) == (CheckVerdict.UNANSWERED, "no answer within 10 s")
    assert judge_checks([check], [_answers(check, 7, 7, "gone", 7)], LATER)[0].verdict is CheckVerdict.FAILED


def test_what_was_never_asked_or_long_ago_is_no_answer() -> None:
    check = _check(interval="30s", timeout="10s")
    assert judge_checks([check], [], LATER)[0].problem == "it has not been asked yet"
    result = _answers(check, 3)
    assert judge_checks([check], [result], NOW + timedelta(seconds=99))[0].verdict is CheckVerdict.PASSED
    (ahead,) = judge_checks([check], [result], NOW - timedelta(hours=1))
    assert (ahead.verdict, ahead.age) == (CheckVerdict.PASSED, 0.0), "the clock was set back"
    (old,) = judge_checks([check], [result], NOW + timedelta(seconds=101))
    assert (old.verdict, old.problem) == (CheckVerdict.UNANSWERED, "its last answer is 101 s old")


def _decided(
    *results: CheckResult,
    checks: tuple[dict[str, Any], ...] = (QUERY,),
    control: VariantEvidence | None = None,
    phase: Phase = Phase.PROGRESSING,
    **plan: Any,
) -> tuple[Decided, Inputs]:
    subject = experiment(weight=50, rollout={"steps": [50, 100], "checks": list(checks), **plan})
    inputs = Inputs(
        experiment=subject,
        state=adopt(subject, phase, "s", START),
        history=History(),
        coverage=Coverage(1),
        at=LATER,
        now=LATER,
        began=START,
        evidence={"model-a": control or arm(4000, 20), "model-b": arm(4000, 20)},
        checks=results,
    )
    return decide(inputs), inputs


def _is(found: tuple[Decided, Inputs], kind: Kind, cause: Cause) -> str:
    decided, inputs = found
    assert (decided.decision.kind, decided.decision.cause) == (kind, cause)
    return reason(decided.decision, decided.situation, inputs.now)


CHECK = _check()


def test_a_check_that_passes_lets_the_rollout_go_on() -> None:
    _is(_decided(_answers(CHECK, 3)), Kind.ADVANCE, Cause.PASSED)
    _is(_decided(_answers(CHECK, 7, 7)), Kind.ADVANCE, Cause.PASSED)


def test_one_that_fails_holds_and_says_that_it_is_outside_of_alpha() -> None:
    text = _is(_decided(_answers(CHECK, 7, 7.25, 7.25)), Kind.HOLD, Cause.CHECK_FAILED)
    assert text.endswith("holds: check p99 (outside of alpha) fails: 7.25 is above its max of 5, 3 answers in a row")


def test_one_without_an_answer_holds_and_says_why() -> None:
    for results, why in (
        ((), "it has not been asked yet"),
        ((_answers(CHECK, 3, "no connection: refused"),), "refused"),
    ):
        text = _is(_decided(*results), Kind.HOLD, Cause.CHECK_UNANSWERED)
        assert why in text
        assert "outside of alpha" in text
    both = ({**QUERY, "on_failure": "rollback", "failures": 1},)
    _is(_decided(checks=both), Kind.HOLD, Cause.CHECK_UNANSWERED)


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED])
def test_one_that_is_to_roll_back_does(phase: Phase) -> None:
    fields = {**QUERY, "on_failure": "rollback", "failures": 2}
    check = Check.model_validate(fields)
    decided = _decided(_answers(check, 7, 7), checks=(fields,), phase=phase)
    text = _is(decided, Kind.ROLLBACK, Cause.CHECK_FAILED)
    assert "is rolled back by a check: check p99 (outside of alpha) fails" in text
    assert decided[0].decision.phase is Phase.ROLLED_BACK
    held = Kind.ADVANCE if phase is Phase.PROGRESSING else Kind.HOLD
    assert _decided(_answers(check, 7), checks=(fields,), phase=phase)[0].decision.kind is held


@pytest.mark.parametrize("phase", [Phase.PROGRESSING, Phase.PAUSED])
def test_it_rolls_back_although_a_guardrail_that_finds_harm_only_pauses(phase: Phase) -> None:
    fields = {**QUERY, "on_failure": "rollback", "failures": 1}
    pauses = {"on_harm": "pause", "guardrails": [{"metric": "error_rate", "max": "0.1%"}]}
    check = Check.model_validate(fields)
    for value, kind, cause in ((3, Kind.HOLD, Cause.PAUSED_FOR_HARM), (7, Kind.ROLLBACK, Cause.CHECK_FAILED)):
        _is(_decided(_answers(check, value), checks=(fields,), control=arm(4000), phase=phase, **pauses), kind, cause)


def test_none_gives_users_to_a_broken_control() -> None:
    fields = {**QUERY, "on_failure": "rollback", "failures": 1}
    result = _answers(Check.model_validate(fields), 7)
    _is(_decided(result, checks=(fields,), control=arm(4000, 1600)), Kind.HOLD, Cause.CONTROL_BROKEN)


def test_the_last_of_several_that_passes_does_not_outweigh_one_that_fails() -> None:
    gate = Check.model_validate(HOOK)
    results = _answers(CHECK, 3), _answers(gate, 500, 500, 500)
    text = _is(_decided(*results, checks=(QUERY, HOOK)), Kind.HOLD, Cause.CHECK_FAILED)
    assert "check gate (outside of alpha) fails: its webhook answered with status 500" in text
    assert "p99" not in text


def _subject() -> Experiment:
    return experiment(weight=50, rollout={"steps": [50, 100], "checks": [QUERY]})


def test_it_is_asked_while_the_candidate_has_users_in_a_rollout_under_way() -> None:
    subject = _subject()
    state = adopt(subject, Phase.PROGRESSING, "stage-7", START)
    target = check_target(subject, state)
    assert target is not None
    assert (target.experiment, target.candidate, target.control) == ("chat", "model-b", "model-a")
    assert (target.weight, target.phase, target.decision) == (5000, "progressing", "stage-7")
    assert check_target(subject, state.model_copy(update={"phase": Phase.PAUSED})) is not None
    for phase in (Phase.MANUAL, Phase.PROMOTED, Phase.ROLLED_BACK, Phase.CONCLUDED):
        assert check_target(subject, state.model_copy(update={"phase": phase})) is None
    idle = state.model_copy(update={"stage": Stage(id="s", weight=0, started_at=START)})
    assert check_target(subject, idle) is None
    assert check_target(experiment(weight=50), state) is None


def test_it_is_recorded_without_its_keys_replayed_and_shown() -> None:
    hook = {**HOOK, "headers": {"authorization": "Bearer s3cret"}}
    query = {**QUERY, "address": "http://prometheus/s3cret", "headers": {"x-key": "s3cret"}}
    results = _answers(CHECK, 7), _answers(Check.model_validate(HOOK), 204)
    decided, inputs = _decided(*results, checks=(query, hook))
    entry = decision_entry("d", "g", inputs, decided)
    assert [(item["name"], item["verdict"], item["failing"]) for item in entry.checks] == [
        ("p99", "failing", 1),
        ("gate", "passed", 0),
    ]
    assert "s3cret" not in entry.model_dump_json()
    assert load_inputs(entry, {}).checks == results
    assert [item.differences for item in replay([entry])] == [()]
    changed = json.loads(entry.model_dump_json())
    changed["inputs"]["checks"][0]["failing"] = 3
    (again,) = replay([type(entry).model_validate(changed)])
    assert any(text.startswith("cause: ") for text in again.differences)
    remarks = remarks_of(decided.situation, inputs.now)
    assert [(item.about, item.name, item.verdict, item.value, item.at) for item in remarks] == [
        ("check", "p99", "failing", 7.0, NOW),
        ("check", "gate", "passed", None, NOW),
    ]
    assert all("outside of alpha" in item.text for item in remarks)
