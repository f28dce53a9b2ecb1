"""Rollouts through a real Envoy, looked at every second: the verdicts of the running controller are right.

One stack serves all of them at once, each with users of its own who send 1 to 50 requests. Counts end a rollout, never
seconds. Chance is left its part: what alpha allows may happen once, what must never happen may not. ``make test`` runs
the few that take seconds, ``make soak`` all of them, and ``make rollouts`` does the same with 40 equal versions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from bench.rollouts.batch import Batch, Rollout, run
from bench.rollouts.plans import AS_FAST, DOUBLED, FEW, OPEN, SAME, SLOWER, Plan
from bench.rollouts.table import gave_back, held, outcomes, promoted, rolled_back, rolled_back_at_first_step, went_on
from bench.rollouts.upstream import Model
from bench.rollouts.worlds import CONTROL_FAILS_FAST, HIDDEN_ON_CANDIDATE
from tests.e2e.support import abmesh

pytestmark = pytest.mark.envoy

SEED = 15
"""Of the users, whose requests fail or not whatever the machine does; one of those that decide with few requests."""

_PRONE = Model(error_rate=0.2, latency_ms=30)
OFTEN = replace(DOUBLED, control=_PRONE, candidate=replace(_PRONE, error_factor=2.0), most=16_000)
"""Twice the errors of the table's, which tell sooner."""

EASY = replace(
    AS_FAST, name="easy", guardrails=("{metric: latency_p95, max_increase: 25%, relative: true}",), most=10_000
)
"""With a margin that a busy machine's own delays leave room in."""


@dataclass(frozen=True)
class Choice:
    plans: tuple[Plan, ...]
    at_least: float
    """Seconds, for those with few requests a minute."""


SHORT = Choice((OFTEN, OFTEN, replace(FEW, per_minute=60), replace(OPEN, per_minute=60)), 10)
MISLEADING = Choice((HIDDEN_ON_CANDIDATE, CONTROL_FAILS_FAST), 0)
LONG = Choice((SAME, SAME, SAME, OFTEN, OFTEN, SLOWER, AS_FAST, EASY, FEW, OPEN), 45)


@pytest.fixture(scope="module")
def batch_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Choice], Batch]:
    """Runs each choice once for all tests."""

    @cache
    def of(choice: Choice) -> Batch:
        return asyncio.run(run(choice.plans, tmp_path_factory.mktemp("rollouts"), SEED, at_least=choice.at_least))

    return of


@pytest.fixture(params=[SHORT, pytest.param(LONG, marks=pytest.mark.soak)], ids=["short", "long"])
def batch(request: pytest.FixtureRequest, batch_of: Callable[[Choice], Batch]) -> Batch:
    return batch_of(request.param)


@pytest.fixture
def long_batch(batch_of: Callable[[Choice], Batch]) -> Batch:
    return batch_of(LONG)


@pytest.mark.soak
def test_a_healthy_heavy_user_hides_nobody_elses_errors_and_a_failing_control_gets_no_users_back(
    batch_of: Callable[[Choice], Batch],
) -> None:
    batch = batch_of(MISLEADING)
    assert batch.unassigned == 0
    assert [rolled_back(rollout) for rollout in _of(batch, HIDDEN_ON_CANDIDATE.name)] == [True]
    assert [gave_back(rollout) for rollout in _of(batch, CONTROL_FAILS_FAST.name)] == [False]


def _of(batch: Batch, name: str) -> list[Rollout]:
    found = [rollout for rollout in batch.rollouts if rollout.plan == name]
    assert found
    return found


def test_every_request_reached_a_variant_and_every_rollout_was_looked_at(batch: Batch) -> None:
    assert batch.unassigned == 0
    assert batch.requests >= sum(rollout.requests for rollout in batch.rollouts) > 3_000
    assert batch.ticks >= 8


@pytest.mark.soak
def test_equal_versions_are_not_rolled_back_more_often_than_alpha_allows(long_batch: Batch) -> None:
    same = _of(long_batch, SAME.name)
    found = next(item for item, _ in outcomes(same) if item.allowed is not None)
    assert (found.runs, found.allowed) == (3, 0.05)
    assert found.kept, [rollout.reason for rollout in same if rolled_back(rollout)]
    assert all(rollout.requests > 500 for rollout in same)


@pytest.mark.soak
def test_an_equal_version_is_promoted_where_its_guardrail_is_easy_to_keep(long_batch: Batch) -> None:
    """Equal versions are not kept from harm by never deciding anything."""
    for rollout in _of(long_batch, EASY.name):
        assert promoted(rollout), rollout


def test_doubled_errors_are_rolled_back_at_5_percent(batch: Batch) -> None:
    doubled = _of(batch, OFTEN.name)
    assert all(rollout.highest == 5 for rollout in doubled), "nobody beyond the first 5% may get them"
    found = [rollout for rollout in doubled if rolled_back_at_first_step(rollout)]
    assert found, doubled
    assert all("error_rate" in rollout.reason for rollout in found)


@pytest.mark.soak
def test_a_p95_that_is_10_percent_slower_does_not_pass_a_margin_of_5_percent(long_batch: Batch) -> None:
    for rollout in _of(long_batch, SLOWER.name):
        assert not went_on(rollout), rollout
        assert "latency_p95" in rollout.reason


@pytest.mark.soak
def test_an_equal_p95_is_not_rolled_back_for_the_same_margin(long_batch: Batch) -> None:
    for rollout in _of(long_batch, AS_FAST.name):
        assert not rolled_back(rollout), rollout


async def test_ten_requests_a_minute_hold_and_the_reason_says_how_many_are_missing(batch: Batch) -> None:
    code, table, errors = await abmesh("status", "--state", str(batch.state), config=batch.config)
    assert code == 0, errors
    shown = " ".join(table.split())
    for plan, wanted in ((FEW, "of at least 100 requests"), (OPEN, "more requests (")):
        for rollout in _of(batch, plan.name):
            assert held(rollout), rollout
            assert rollout.requests <= 60
            assert wanted in rollout.reason
            assert f"{rollout.name}: hold" in shown
            assert wanted in shown


async def test_explain_says_how_many_requests_an_open_guardrail_needs(batch: Batch) -> None:
    [rollout] = _of(batch, OPEN.name)
    arguments = ("explain", rollout.name, "--json", "--state", str(batch.state))
    code, output, errors = await abmesh(*arguments, config=batch.config)
    assert code == 0, errors
    explained = json.loads(output)
    assert (explained["decision"], explained["cause"]) == ("hold", "inconclusive")
    assert explained["guardrails"][0]["needed"] > 10
    assert "more requests (" in explained["reason"]


async def test_every_decision_of_the_run_recomputes_from_the_journal(batch: Batch) -> None:
    journal: Path = batch.state / "journal.jsonl"
    code, output, errors = await abmesh("replay", str(journal))
    assert code == 0, errors
    assert ", 0 differ" in output
