"""How sure a decision must be, and what decides an experiment: defaults, and what is refused."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from abmesh.experiment.model import Experiment
from tests.abmesh.experiment.test_model import BASE, ROLLOUT, refusal

SPLIT: dict[str, Any] = {
    "candidate": "b",
    "mode": "experiment",
    "steps": [50],
    "goal": {"metric": "latency_mean", "increase": False, "planned_requests": 1000},
}


def rollout_of(plan: dict[str, Any]) -> Any:
    return Experiment.model_validate({**copy.deepcopy(BASE), "rollout": plan}).rollout


def test_by_default_alpha_is_5_percent_shared_by_the_guardrails_and_the_emergency_stop() -> None:
    plan = rollout_of({**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "5%"}]})
    assert (plan.mode, plan.analysis.alpha, plan.analysis.emergency_stop, plan.alarms) == ("rollout", 0.05, 0.10, 2)
    assert (plan.analysis.sample_ratio_alpha, plan.analysis.on_sample_ratio) == (0.01, "hold")
    assert plan.guardrails[0].harm == "limit"


def test_without_an_emergency_stop_it_takes_no_part_of_alpha() -> None:
    plan = rollout_of(
        {**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "5%"}], "analysis": {"emergency_stop": "100%"}}
    )
    assert plan.alarms == 1


def test_the_goal_of_an_experiment_is_an_alarm_like_the_others() -> None:
    guardrails = [{"metric": "error_rate", "max": "5%"}, {"metric": "latency_p95", "max": "1s"}]
    for stop, alarms in (("10%", 4), ("100%", 3)):
        plan = rollout_of({**SPLIT, "guardrails": guardrails, "analysis": {"emergency_stop": stop}})
        assert (plan.alarms, plan.alpha_alarm, plan.alpha_worse) == (alarms, 0.05 / alarms, 0.05 / alarms)
        assert plan.alpha_better == 0.025
    alone = rollout_of({**SPLIT, "analysis": {"emergency_stop": "100%"}})
    assert (alone.alarms, alone.alpha_worse) == (1, 0.025)
    reported = rollout_of({**ROLLOUT, "guardrails": guardrails, "goal": {"metric": "latency_mean", "increase": False}})
    assert (reported.alarms, reported.alpha_worse) == (3, 0.025)


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("stop", ["10%", "100%"])
@pytest.mark.parametrize("base", [ROLLOUT, SPLIT])
def test_everything_that_can_roll_back_shares_alpha(count: int, stop: str, base: dict[str, Any]) -> None:
    guardrails = [{"metric": "latency_p95", "max": f"{limit}s"} for limit in range(1, count + 1)]
    plan = rollout_of({**base, "guardrails": guardrails, "analysis": {"emergency_stop": stop}})
    lost = plan.alpha_worse if plan.mode == "experiment" else 0
    assert (count + (stop == "10%")) * plan.alpha_alarm + lost <= 0.05 + 1e-12


def test_intervals_are_tuned_for_the_stages_requests_by_default() -> None:
    assert rollout_of({**ROLLOUT, "stage": {"min_requests": 700}}).tuned_for == 700
    assert rollout_of({**ROLLOUT, "stage": {"min_requests": 0}}).tuned_for == 100
    assert rollout_of({**ROLLOUT, "analysis": {"tuned_for": 5}}).tuned_for == 5


def test_an_experiment_has_one_split_and_a_goal_that_decides() -> None:
    plan = rollout_of({**SPLIT, "goal": {**SPLIT["goal"], "design": "group_sequential", "min_effect": "20ms"}})
    assert (plan.goal.looks, plan.goal.min_effect) == (5, timedelta(milliseconds=20))


def _guarded(**guardrail: Any) -> dict[str, Any]:
    return {**ROLLOUT, "guardrails": [{"metric": "error_rate", **guardrail}]}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (_guarded(max="0%"), "rollout.guardrails.0.max: no number of requests can prove that a limit of 0 is kept"),
        (
            _guarded(max_increase=0),
            "rollout.guardrails.0.max_increase: no number of requests can prove that a limit of 0",
        ),
        (
            _guarded(max="5%", harm="any"),
            "rollout.guardrails.0.harm: any change can count as harm only with max_increase or max_decrease",
        ),
        (
            _guarded(max="5%", negligible="1%"),
            "rollout.guardrails.0.negligible: a negligible value needs a relative max_increase of a share",
        ),
        (
            _guarded(max_increase="50%", relative=True, negligible="0%"),
            "rollout.guardrails.0.negligible: every value, or none, is negligible",
        ),
        (_guarded(max="5%", harm="some"), "rollout.guardrails.0.harm: Input should be 'limit' or 'any'"),
        ({**ROLLOUT, "analysis": {"alpha": 0}}, "rollout.analysis.alpha: not a possible error probability"),
        ({**ROLLOUT, "analysis": {"alpha": "60%"}}, "rollout.analysis.alpha: not a possible error probability"),
        ({**ROLLOUT, "analysis": {"alpha": "often"}}, "rollout.analysis.alpha: not a share"),
        (
            {**ROLLOUT, "analysis": {"emergency_stop": "0.1%"}},
            "rollout.analysis.emergency_stop: too low for an emergency stop; use a guardrail",
        ),
        ({**ROLLOUT, "analysis": {"tuned_for": 0}}, "rollout.analysis.tuned_for: Input should be greater than"),
        (
            {**ROLLOUT, "goal": {"metric": "error_rate", "design": "group_sequential"}},
            "rollout.goal.design: only mode: experiment has planned looks",
        ),
        (
            {**ROLLOUT, "goal": {"metric": "error_rate", "relative": True}},
            "rollout.goal.relative: only min_effect can be relative",
        ),
        (
            {**ROLLOUT, "goal": {"metric": "latency_mean", "min_effect": "5%"}},
            "rollout.goal.min_effect: not a possible effect for latency_mean",
        ),
        ({**SPLIT, "steps": [5, 50]}, "rollout.steps: an experiment keeps one split"),
        ({**SPLIT, "steps": [100]}, "rollout.steps: an experiment keeps one split"),
        ({**SPLIT, "goal": None}, "rollout: an experiment needs a goal to decide on"),
        (
            {**SPLIT, "goal": {"metric": "latency_mean"}},
            "rollout.goal: an experiment needs the number of requests at which it ends",
        ),
        (
            {**SPLIT, "goal": {"metric": "latency_p95", "planned_requests": 1000}},
            "rollout.goal.metric: a quantile cannot decide an experiment",
        ),
    ],
)
def test_a_plan_that_could_not_be_decided_is_refused(plan: dict[str, Any], message: str) -> None:
    assert refusal(rollout=plan).startswith(message)


def test_a_guardrail_that_only_watches_takes_no_part_of_alpha() -> None:
    watching = {"metric": "latency_p95", "max": "1s", "dry_run": True}
    plan = rollout_of({**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "5%"}, watching]})
    assert plan.alarms == 2
    assert not plan.guardrails[0].dry_run
    off = rollout_of({**ROLLOUT, "guardrails": [watching], "analysis": {"emergency_stop": "100%"}})
    assert (off.alarms, off.alpha_alarm) == (0, 0.05)


def test_harm_rolls_back_and_a_broken_control_holds_unless_the_document_says_otherwise() -> None:
    plan = rollout_of({**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "5%"}]})
    assert (plan.on_harm, plan.on_broken_control, plan.guardrails[0].on_harm) == ("rollback", "hold", None)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("on_harm", "stop", "'rollback' or 'pause'"),
        ("on_broken_control", "rollback", "'hold' or 'advance'"),
    ],
)
def test_other_answers_to_harm_and_to_a_broken_control_are_refused(field: str, value: str, allowed: str) -> None:
    with pytest.raises(ValidationError, match=allowed):
        rollout_of({**ROLLOUT, field: value})


@pytest.mark.parametrize("fields", [{"on_harm": "hold"}, {"dry_run": "yes"}, {"dry_run": 1}])
def test_other_answers_of_a_guardrail_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rollout_of({**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "5%", **fields}]})


SECONDARY = {**ROLLOUT, "goal": {"metric": "latency_mean"}}


def test_secondary_goals_stand_beside_the_primary_one() -> None:
    plan = rollout_of({**SECONDARY, "secondary_goals": [{"metric": "error_rate"}, {"metric": "latency_p95"}]})
    assert [goal.metric for goal in plan.goals] == ["latency_mean", "error_rate", "latency_p95"]
    assert rollout_of(ROLLOUT).goals == ()


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({**ROLLOUT, "secondary_goals": [{"metric": "error_rate"}]}, "beside a primary one"),
        ({**SECONDARY, "secondary_goals": [{"metric": "latency_mean"}]}, "a goal already"),
        ({**SECONDARY, "secondary_goals": [{"metric": "error_rate"}] * 2}, "a goal already"),
        (
            {**SECONDARY, "secondary_goals": [{"metric": "error_rate", "design": "group_sequential"}]},
            "only the primary goal has planned looks",
        ),
        ({**SECONDARY, "secondary_goals": [{"metric": "click_rate"}]}, "does not measure it"),
        ({**SECONDARY, "secondary_goals": [{"metric": "refusal_rate"}]}, "depends on you"),
    ],
)
def test_secondary_goals_that_make_no_sense_are_refused(plan: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        rollout_of(plan)
