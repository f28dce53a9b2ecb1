"""Played rollouts, few and short; how often they err is for the simulations."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from abmesh.analysis.simulation import Ending, Played, play
from abmesh.analysis.truth import Truth
from controller.records import Cause
from tests.controller.support import experiment

PLAN: dict[str, Any] = {
    "steps": [10, 50, 100],
    "stage": {"min_duration": "1m", "min_requests": 100},
    "guardrails": [{"metric": "error_rate", "max": "5%"}, {"metric": "latency_p95", "max": "900ms"}],
}
TRUTH = Truth(users=2000, requests_per_second=20, error_rate=0.005)
TICK, LONGEST = timedelta(seconds=20), timedelta(hours=1)


def _play(truth: Truth = TRUTH, seed: int = 1, weight: int = 0, **rollout: Any) -> Played:
    return play(experiment(weight=weight, rollout={**PLAN, **rollout}), truth, tick=TICK, longest=LONGEST, seed=seed)


def test_the_same_seed_plays_the_same_rollout_and_another_another() -> None:
    assert _play(seed=5) == _play(seed=5)
    assert _play(seed=5).requests != _play(seed=6).requests


def test_a_good_candidate_is_promoted_through_every_step() -> None:
    found = _play()
    assert (found.ending, found.cause, found.weight) == (Ending.PROMOTED, Cause.LAST_STEP_PASSED, 10_000)
    assert timedelta(minutes=3) <= found.after < LONGEST
    assert "that was the last step" in found.reason


@pytest.mark.parametrize(
    ("truth", "metric"),
    [(replace(TRUTH, error_factor=40), "error_rate"), (replace(TRUTH, latency_factor=4), "latency_p95")],
)
def test_harm_is_found_at_the_first_step(truth: Truth, metric: str) -> None:
    found = _play(truth)
    assert (found.ending, found.cause, found.weight) == (Ending.ROLLED_BACK, Cause.HARMFUL, 1000)
    assert metric in found.reason
    assert found.after < timedelta(minutes=15)


def test_harm_that_pauses_ends_it_at_the_first_step() -> None:
    """Only a person goes on from there."""
    found = _play(replace(TRUTH, error_factor=40), on_harm="pause", analysis={"emergency_stop": "100%"})
    assert (found.ending, found.cause, found.weight) == (Ending.PAUSED, Cause.PAUSED_FOR_HARM, 1000)
    assert found.after < timedelta(minutes=30)


def test_what_takes_too_long_is_undecided() -> None:
    found = play(experiment(weight=0, rollout=PLAN), TRUTH, tick=TICK, longest=timedelta(minutes=1), seed=1)
    assert (found.ending, found.after) == (Ending.UNDECIDED, timedelta(minutes=1))


@pytest.mark.parametrize(
    ("factor", "ending", "cause"),
    [(0.6, Ending.CONCLUDED, Cause.WINNER), (1.7, Ending.ROLLED_BACK, Cause.LOSER)],
)
def test_an_experiment_is_played_too(factor: float, ending: Ending, cause: Cause) -> None:
    goal = {"metric": "latency_mean", "increase": False, "planned_requests": 30_000}
    found = _play(replace(TRUTH, latency_factor=factor), mode="experiment", steps=[50], goal=goal, guardrails=[])
    assert (found.ending, found.cause) == (ending, cause)


def test_it_begins_at_the_documents_weights() -> None:
    found = _play(replace(TRUTH, error_factor=40), weight=50)
    assert (found.ending, found.weight) == (Ending.ROLLED_BACK, 5000)


def test_as_many_requests_are_played_as_users_send() -> None:
    found = play(experiment(weight=50, rollout=PLAN), TRUTH, tick=TICK, longest=timedelta(seconds=40), seed=3)
    assert found.requests == pytest.approx(0.5 * 20 * 40, rel=0.35)
