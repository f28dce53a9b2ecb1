"""Which candidates a rollout is planned for, what is said of many plays, and what a goal needs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from abmesh.analysis.goal_plan import plan_goal, variation
from abmesh.analysis.rollout_plan import Quantile, Share, as_lines, looks_of, outlook, shown
from abmesh.analysis.scenarios import Effect, Kind, Scenario, goal_effect, scaled, scenarios_of, value_of
from abmesh.analysis.simulation import Ending, Played
from abmesh.analysis.truth import Quantity, Truth
from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Stage
from controller.records import Cause
from tests.controller.support import experiment

TRUTH = Truth(
    error_rate=0.01,
    quantities=(
        Quantity("click_rate", 0.2),
        Quantity("cache_rate", 0.4),
        Quantity("input_tokens_mean", 100),
        Quantity("output_tokens_mean", 50),
        Quantity("ttft_mean", 80),
    ),
)


def planned(*guardrails: dict[str, Any], **plan: Any) -> Experiment:
    return experiment(weight=0, rollout={"steps": [10, 100], "guardrails": list(guardrails), **plan})


@pytest.mark.parametrize(
    ("guardrail", "control", "wanted"),
    [
        ({"metric": "error_rate", "max": "5%"}, 0.01, 0.1),
        ({"metric": "error_rate", "max": "60%"}, 0.01, 0.8),  # half of the way to 100%
        ({"metric": "error_rate", "max_increase": "1%"}, 0.01, 0.03),
        ({"metric": "error_rate", "max_increase": "50%", "relative": True}, 0.01, 0.02),
        ({"metric": "cache_rate", "min": "10%"}, 0.4, 0.05),
        ({"metric": "cache_rate", "max_decrease": "10%"}, 0.4, 0.2),
        ({"metric": "cache_rate", "max_decrease": "30%"}, 0.4, 0.02),  # there is not twice as much to lose
        ({"metric": "output_tokens_mean", "max_increase": "20%", "relative": True}, 50, 70),
        ({"metric": "latency_p50", "max_increase": "20ms"}, 200, 240),
        ({"metric": "latency_p95", "max": "1s"}, 455.2, 2000),
    ],
)
def test_a_guardrail_is_broken_twice_over(guardrail: dict[str, Any], control: float, wanted: float) -> None:
    subject = planned(guardrail)
    same, worse = scenarios_of(subject, TRUTH, {}).scenarios
    metric = subject.metrics[worse.metric]
    assert (same.kind, worse.kind) == (Kind.SAME, Kind.WORSE)
    assert value_of(subject, metric, same.truth, candidate=True) == pytest.approx(control, rel=1e-3)
    assert value_of(subject, metric, worse.truth, candidate=False) == pytest.approx(control, rel=1e-3)
    assert value_of(subject, metric, worse.truth, candidate=True) == pytest.approx(wanted, rel=1e-3)


def test_the_candidates_other_values_stay_and_equal_candidates_are_planned_once() -> None:
    rails = [{"metric": "error_rate", "max": "1.5%"}, {"metric": "error_rate", "max_increase": "1%"}]
    assert [item.truth.error_factor for item in scenarios_of(planned(*rails), TRUTH, {}).scenarios] == [1.0, 3.0]
    slower = scaled(TRUTH, planned().metrics["latency_p95"], 1.5)
    assert slower == replace(TRUTH, latency_factor=1.5)


def test_what_cannot_be_made_worse_is_said() -> None:
    nothing = replace(TRUTH, error_rate=0.0)
    found = scenarios_of(planned({"metric": "error_rate", "max_increase": "1%"}), nothing, {})
    assert len(found.scenarios) == 1
    assert found.left_out == ["error_rate: no candidate can be made worse by that"]
    first = scenarios_of(planned({"metric": "ttft_p95", "max": "1s"}), TRUTH, {})
    assert "ttft_p95 max 1s: the control's value is not known" in first.left_out


GOAL = {"metric": "click_rate", "min_effect": "10%", "relative": True, "planned_requests": 10_000}


def test_an_experiments_goal_is_planned_both_ways() -> None:
    subject = planned(mode="experiment", steps=[50], goal=GOAL)
    _, better, worse = scenarios_of(subject, TRUTH, {}).scenarios
    assert (better.name, worse.name) == ("click_rate 20% to 22%", "click_rate 20% to 18%")
    assert (better.kind, worse.kind, better.why) == (Kind.BETTER, Kind.WORSE, "min_effect")
    lower = planned(mode="experiment", steps=[50], goal={**GOAL, "metric": "latency_mean", "min_effect": "10%"})
    assert goal_effect(lower, {}) == Effect(factor=0.9)
    bare = planned(mode="experiment", steps=[50], goal={"metric": "click_rate", "planned_requests": 1000})
    assert "it has no min_effect; pass --effect click_rate=" in scenarios_of(bare, TRUTH, {}).left_out[0]


def test_the_goal_of_a_rollout_decides_nothing_and_is_no_candidate() -> None:
    subject = planned({"metric": "error_rate", "max": "5%"}, goal=GOAL)
    names = [item.metric for item in scenarios_of(subject, TRUTH, {"click_rate": Effect(factor=1.1)}).scenarios]
    assert names == ["", "error_rate"]


def _played(minutes: float, ending: Ending, cause: Cause = Cause.HARMFUL) -> Played:
    return Played(ending, cause, 500, timedelta(minutes=minutes), round(minutes), "")


def test_plays_are_summed_up_by_how_they_ended() -> None:
    plays = [_played(minute, Ending.ROLLED_BACK) for minute in range(1, 101)]
    plays += [_played(600, Ending.UNDECIDED) for _ in range(100)]
    found = outlook(Scenario("worse", Kind.WORSE, TRUTH, "error_rate"), plays)
    assert {name: share.happened for name, share in found.outcomes.items()} == {"rolled back": 100, "stuck": 100}
    assert found.power == Share(100, 200)
    middle = found.times["rolled back"][1]
    assert abs(middle.after - timedelta(minutes=50)) <= timedelta(minutes=1)
    assert abs(middle.high - middle.low - timedelta(minutes=10)) <= timedelta(minutes=1)  # 2 sqrt(100 / 4) ranks
    assert found.within("rolled back", timedelta(minutes=25)) == Share(25, 200)
    lines = as_lines([found])
    assert "50% +- 4%" in lines[1]
    assert "stuck" in lines[2]
    assert lines[2].rstrip().endswith("-")


def test_a_pause_for_harm_is_harm_that_was_found() -> None:
    plays = [_played(5, Ending.PAUSED, Cause.PAUSED_FOR_HARM), _played(7, Ending.ROLLED_BACK)]
    found = outlook(Scenario("worse", Kind.WORSE, TRUTH, "error_rate"), plays)
    assert list(found.outcomes) == ["rolled back", "paused"]
    assert found.power == Share(2, 2)
    assert found.times["paused"][1].after == timedelta(minutes=5)


def test_an_experiments_conclusions_are_told_apart() -> None:
    plays = [_played(5, Ending.CONCLUDED, cause) for cause in (Cause.WINNER, Cause.NO_DIFFERENCE, Cause.UNDECIDED)]
    found = outlook(Scenario("better", Kind.BETTER, TRUTH, "click_rate"), plays)
    assert list(found.outcomes) == ["winner", "no difference", "undecided"]
    assert found.power == Share(1, 3)
    assert outlook(replace(found.scenario, kind=Kind.SAME), plays).power == Share(2, 3)


@pytest.mark.parametrize("happened", [0, 3, 50, 100])
def test_no_share_is_known_for_certain(happened: int) -> None:
    share = Share(happened, 100)
    assert 0 < share.error < 0.06
    # Two errors cover what a binomial distribution allows.
    for p in (share.rate - 2 * share.error, share.rate + 2 * share.error):
        if 0 < p < 1:
            assert min(binom.cdf(happened, 100, p), binom.sf(happened - 1, 100, p)) < 0.08


def test_a_quantile_of_one_value_is_that_value() -> None:
    hour = timedelta(hours=1)
    assert Quantile.of([hour], 0.9) == Quantile(0.9, hour, hour, hour)


def test_looks_are_frequent_at_first_and_never_pass_the_end_of_the_shortest_stage() -> None:
    step, age, ages = looks_of(Stage(min_duration=timedelta(hours=1))), timedelta(), []
    while age < timedelta(hours=5):
        age += step(age)
        ages.append(age)
    assert ages[0] == timedelta(seconds=10)
    assert timedelta(hours=1) in ages
    assert max(b - a for a, b in itertools.pairwise(ages)) == timedelta(minutes=10)
    assert len(ages) < 100


@pytest.mark.parametrize(("seconds", "words"), [(12.4, "12s"), (1085, "18m5s"), (22_340, "6h12m"), (200_000, "2d8h")])
def test_times_are_shown_as_exactly_as_they_are_known(seconds: float, words: str) -> None:
    assert shown(timedelta(seconds=seconds)) == words


def test_how_a_metric_varies_is_what_the_simulated_users_do() -> None:
    subject = planned()
    _, icc = variation(subject.metrics["click_rate"], TRUTH) or (None, -1.0)
    assert icc == pytest.approx(0.2 * 0.5**2 / 0.8)
    sd, between = variation(subject.metrics["latency_mean"], TRUTH) or (0.0, 0.0)
    random = np.random.default_rng(1)
    users = random.normal(0, math.sqrt(0.25 * 0.25), (40_000, 1))
    drawn = 200 * np.exp(users + random.normal(0, math.sqrt(0.75 * 0.25), (40_000, 10)))
    assert sd == pytest.approx(drawn.std(), rel=0.03)
    assert between == pytest.approx(1 - drawn.var(axis=1, ddof=1).mean() / drawn.var(), rel=0.05)
    assert variation(subject.metrics["latency_p95"], TRUTH) is None


def test_few_users_who_return_may_never_be_enough_for_a_goal() -> None:
    subject = planned(mode="experiment", steps=[50], goal={**GOAL, "planned_requests": 20_000})
    many, few = (
        plan_goal(subject, replace(TRUTH, users=users), Effect(amount=0.02), runs=100) for users in (1_000_000, 50)
    )
    assert many is not None
    assert many.size is not None
    assert many.seconds == pytest.approx(many.size / 10)
    assert 1 <= many.design_effect < 1.1
    assert few is not None
    assert few.size is None
    assert few.at_planned is not None
    assert many.at_planned is not None
    assert few.at_planned.power < many.at_planned.power
