"""What a simulation has no data for is left out and named, or the simulation refused."""

from __future__ import annotations

from typing import Any

import pytest

from abmesh.analysis.playable import playable
from abmesh.analysis.truth import Truth, measurable
from abmesh.experiment import metrics
from abmesh.experiment.errors import RefusedError
from tests.controller.support import experiment

ERRORS = {"metric": "error_rate", "max": "5%"}
TTFT = {"metric": "ttft_p95", "max_increase": "20%", "relative": True}
TRUTH = Truth()
COST = {"metric": "cost_per_success", "max": 0.01}


def test_errors_and_durations_are_what_a_simulation_makes() -> None:
    every = metrics.available(["click", "thumbs_up", "thumbs_down"], ["click"], priced=True, sessions=True)
    latencies = {"latency_mean", "latency_p50", "latency_p90", "latency_p95", "latency_p99"}
    assert {name for name, metric in every.items() if measurable(metric, TRUTH)} == {"error_rate", *latencies}


def test_other_guardrails_and_goals_are_left_out_by_name() -> None:
    found = experiment(rollout={"guardrails": [ERRORS, TTFT, COST], "goal": {"metric": "click_rate"}})
    plan = playable(found, TRUTH)
    assert plan.left_out == ("ttft_p95 max_increase 20% of the control", "cost_per_success max 0.01", "goal click_rate")
    assert plan.experiment.rollout is not None
    assert [rail.metric for rail in plan.experiment.rollout.guardrails] == ["error_rate"]
    assert plan.experiment.rollout.goal is None
    assert plan.experiment.cells == found.cells


def test_a_rollout_on_errors_and_durations_is_played_as_it_is() -> None:
    found = experiment(rollout={"goal": {"metric": "latency_mean", "increase": False}})
    plan = playable(found, TRUTH)
    assert plan.experiment is found
    assert plan.left_out == ()


@pytest.mark.parametrize(
    ("rollout", "says"),
    [
        (
            {"guardrails": [TTFT, COST]},
            "all that decides is on other metrics: ttft_p95 max_increase 20% of the control, ",
        ),
        (
            {
                "guardrails": [ERRORS],
                "mode": "experiment",
                "steps": [50],
                "goal": {"metric": "click_rate", "planned_requests": 1000},
            },
            "what decides the experiment is on other metrics: goal click_rate",
        ),
    ],
)
def test_where_nothing_is_left_that_decides_it_is_refused(rollout: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError, match="chat cannot be simulated") as refused:
        playable(experiment(rollout=rollout), TRUTH)
    assert says in str(refused.value)


def test_a_goal_or_the_brake_may_be_all_that_is_left() -> None:
    goal = {"metric": "error_rate", "increase": False}
    assert playable(experiment(rollout={"guardrails": [TTFT], "goal": goal}), TRUTH).left_out
    assert playable(experiment(rollout={"guardrails": [], "goal": {"metric": "click_rate"}}), TRUTH).left_out


def test_checks_and_secondary_goals_on_other_metrics_are_left_out() -> None:
    plan = {
        "goal": {"metric": "latency_mean", "increase": False},
        "secondary_goals": [{"metric": "error_rate"}, {"metric": "click_rate"}],
        "checks": [{"name": "memory", "prometheus": "up", "max": 1}],
    }
    found = playable(experiment(rollout=plan), TRUTH)
    assert found.left_out == ("secondary goal click_rate", "check memory")
    assert found.experiment.rollout is not None
    assert [goal.metric for goal in found.experiment.rollout.goals] == ["latency_mean", "error_rate"]
    assert found.experiment.rollout.checks == ()
