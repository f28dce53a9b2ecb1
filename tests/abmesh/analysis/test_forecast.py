from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.analysis.forecast import breaks, forecast
from abmesh.analysis.simulation import Ending, Played
from abmesh.analysis.truth import Truth
from controller.records import Cause
from tests.controller.decision.support import rollout

TRUTH = Truth(error_rate=0.02, latency_ms=100, latency_spread=0.5)
"""Mean 113 ms, p95 228 ms."""


@pytest.mark.parametrize(
    ("guardrail", "changes", "broken"),
    [
        ({"metric": "error_rate", "max": "5%"}, {"error_factor": 2.4}, False),
        ({"metric": "error_rate", "max": "5%"}, {"error_factor": 2.6}, True),
        ({"metric": "error_rate", "max_increase": "1%"}, {"error_factor": 1.4}, False),
        ({"metric": "error_rate", "max_increase": "1%"}, {"error_factor": 1.6}, True),
        ({"metric": "error_rate", "max_increase": "50%", "relative": True}, {"error_factor": 1.5}, False),
        ({"metric": "error_rate", "max_increase": "50%", "relative": True}, {"error_factor": 1.51}, True),
        ({"metric": "latency_mean", "max": "115ms"}, {}, False),
        ({"metric": "latency_mean", "max": "112ms"}, {}, True),
        ({"metric": "latency_mean", "max_increase": "20ms"}, {"latency_factor": 1.2}, True),
        ({"metric": "latency_p95", "max": "230ms"}, {}, False),
        ({"metric": "latency_p95", "max": "225ms"}, {}, True),
        ({"metric": "latency_p95", "max_increase": "20%", "relative": True}, {"latency_factor": 1.2}, False),
        ({"metric": "latency_p95", "max_increase": "20%", "relative": True}, {"latency_factor": 1.21}, True),
        ({"metric": "latency_p50", "max": "100ms"}, {}, False),
    ],
)
def test_a_limit_is_broken_where_the_true_value_is_beyond_it(
    guardrail: dict[str, Any], changes: dict[str, Any], broken: bool
) -> None:
    assert breaks(rollout(guardrail).guardrails[0], replace(TRUTH, **changes)) is broken


@given(st.floats(1, 10), st.floats(1, 10))
def test_what_is_worse_breaks_whatever_something_better_breaks(one: float, other: float) -> None:
    guardrail = rollout({"metric": "latency_p95", "max": "600ms"}).guardrails[0]
    better, worse = sorted((one, other))
    if breaks(guardrail, replace(TRUTH, latency_factor=better)):
        assert breaks(guardrail, replace(TRUTH, latency_factor=worse))


def _played(ending: Ending, cause: Cause, minutes: float = 10, weight: int = 1000, requests: int = 100) -> Played:
    return Played(ending, cause, weight, timedelta(minutes=minutes), requests, "a reason")


PLAYS = [
    _played(Ending.PROMOTED, Cause.LAST_STEP_PASSED, 10, 10_000, 100),
    _played(Ending.PROMOTED, Cause.LAST_STEP_PASSED, 30, 10_000, 300),
    _played(Ending.ROLLED_BACK, Cause.HARMFUL, 5, 1000, 50),
    _played(Ending.ROLLED_BACK, Cause.TIMEOUT, 7, 5000, 80),
]
GUARDRAIL = {"metric": "error_rate", "max": "5%"}


def test_plays_are_summed_up() -> None:
    found = forecast(PLAYS, rollout(GUARDRAIL), TRUTH)
    assert found.endings == {Ending.PROMOTED: 2, Ending.ROLLED_BACK: 2}
    assert found.causes == {Cause.LAST_STEP_PASSED: 2, Cause.HARMFUL: 1, Cause.TIMEOUT: 1}
    assert found.weights == {1000: 1, 5000: 1}
    assert found.after[Ending.PROMOTED] == (timedelta(minutes=30), timedelta(minutes=30))
    assert found.requests == 100
    assert found.share(Ending.PROMOTED) == (0.5, 0.25)
    assert found.share(Ending.CONCLUDED) == (0.0, 0.0)


def test_of_a_harmless_candidate_rollbacks_are_false_and_of_a_harmful_one_promotions_are_missed() -> None:
    harmless = forecast(PLAYS, rollout(GUARDRAIL), TRUTH)
    assert (harmless.broken, harmless.false_rollbacks, harmless.missed_harm) == ((), 0.5, None)
    harmful = forecast(PLAYS, rollout(GUARDRAIL), replace(TRUTH, error_factor=3))
    assert (harmful.broken, harmful.false_rollbacks, harmful.missed_harm) == (("error_rate",), None, 0.5)


def test_a_pause_without_harm_is_as_false_as_a_rollback() -> None:
    plays = [*PLAYS, _played(Ending.PAUSED, Cause.PAUSED_FOR_HARM)]
    assert forecast(plays, rollout(GUARDRAIL), TRUTH).false_rollbacks == pytest.approx(3 / 5)


ANY = {"metric": "error_rate", "max_increase": "100%", "relative": True, "harm": "any"}


@pytest.mark.parametrize(("guardrail", "factor"), [(GUARDRAIL, 3), (ANY, 1.5)])
def test_what_a_guardrail_that_only_watches_finds_is_no_harm_that_was_missed(
    guardrail: dict[str, Any], factor: float
) -> None:
    truth = replace(TRUTH, error_factor=factor)
    acts = forecast(PLAYS, rollout(guardrail), truth)
    assert acts.broken or acts.worse
    found = forecast(PLAYS, rollout({**guardrail, "dry_run": True}), truth)
    assert (found.broken, found.worse, found.missed_harm) == ((), (), None)


def test_a_candidate_that_is_worse_on_an_experiments_goal_does_harm_and_its_win_is_missed_harm() -> None:
    goal = {"metric": "latency_mean", "increase": False, "planned_requests": 1000}
    plan = rollout(mode="experiment", steps=[50], goal=goal)
    plays = [_played(Ending.CONCLUDED, Cause.WINNER), _played(Ending.ROLLED_BACK, Cause.LOSER)]
    found = forecast(plays, plan, replace(TRUTH, latency_factor=1.1))
    assert (found.broken, found.missed_harm) == (("latency_mean",), 0.5)
    assert forecast(plays, plan, replace(TRUTH, latency_factor=0.9)).broken == ()


def test_what_is_not_simulated_has_no_true_value() -> None:
    with pytest.raises(ValueError, match="refusal_rate has no true value"):
        breaks(rollout({"metric": "refusal_rate", "max": "5%"}).guardrails[0], TRUTH)


ANY = {"metric": "error_rate", "max_increase": "50%", "relative": True, "harm": "any"}


def test_a_rollback_by_any_harm_is_not_false_where_the_candidate_is_worse_within_its_limit() -> None:
    found = forecast(PLAYS, rollout(ANY), replace(TRUTH, error_factor=1.2))
    assert (found.broken, found.worse) == ((), ("error_rate",))
    assert (found.false_rollbacks, found.missed_harm) == (None, None)
    equal, limited = forecast(PLAYS, rollout(ANY), TRUTH), {**ANY, "harm": "limit"}
    assert (equal.worse, equal.false_rollbacks) == ((), 0.5)
    assert forecast(PLAYS, rollout(limited), replace(TRUTH, error_factor=1.2)).false_rollbacks == 0.5
    beyond = forecast(PLAYS, rollout(ANY), replace(TRUTH, error_factor=2))
    assert (beyond.broken, beyond.worse, beyond.missed_harm) == (("error_rate",), (), 0.5)


@pytest.mark.parametrize(
    ("error_rate", "factor", "brake", "broken"),
    [
        (0.05, 3, "10%", ("error_rate",)),
        (0.05, 3, "20%", ()),
        (0.05, 3, "100%", ()),
        (0.15, 1, "10%", ()),
        (0.15, 1.1, "10%", ("error_rate",)),
    ],
)
def test_a_rollback_by_the_brake_is_not_false_where_errors_are_above_it_and_the_controls(
    error_rate: float, factor: float, brake: str, broken: tuple[str, ...]
) -> None:
    plan = rollout({"metric": "error_rate", "max": "90%"}, analysis={"emergency_stop": brake})
    found = forecast(PLAYS, plan, replace(TRUTH, error_rate=error_rate, error_factor=factor))
    assert found.broken == broken
    assert (found.false_rollbacks, found.missed_harm) == ((None, 0.5) if broken else (0.5, None))
