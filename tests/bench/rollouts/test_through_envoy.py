"""Whole rollouts through a real Envoy, judged by the running controller every second: a few of ``make rollouts``.

All run at once, beside each other, with users who send 1 to 50 requests each. Chance is left its part: of three equal
pairs one may be rolled back, where all of them have 5% at most, and of two candidates with doubled errors one may be
found too late. What must never happen may not happen once.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import psutil
import pytest

from bench.rollouts.batch import Batch, Rollout, run
from bench.rollouts.plans import AS_FAST, DOUBLED, FEW, OPEN, SAME, SLOWER, Plan
from bench.rollouts.table import held, promoted, rolled_back, rolled_back_at_first_step, went_on
from bench.rollouts.upstream import Model

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(600)]

_PRONE: Final = Model(error_rate=0.2, latency_ms=30)
_OFTEN: Final = replace(DOUBLED, control=_PRONE, candidate=replace(_PRONE, error_factor=2.0), most=16_000)
"""Twice the errors of the table's, which tell sooner."""

_EASY: Final = replace(AS_FAST, guardrails=("{metric: latency_p95, max_increase: 25%, relative: true}",))
"""With a margin that a busy machine's own delays leave room in."""

PLANS: Final[tuple[Plan, ...]] = (
    *[replace(SAME, most=5_000)] * 2,
    *[_OFTEN] * 2,
    replace(SLOWER, most=3_000),
    _EASY,
    FEW,
    OPEN,
)
_AT_LEAST: Final = 25.0
"""Seconds, in which ten requests a minute are four."""


def _processes() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    before = _processes()
    yield asyncio.run(run(PLANS, tmp_path_factory.mktemp("rollouts"), 7, at_least=_AT_LEAST))
    assert _processes() <= before, "a process of the rollouts is still there"


def _of(batch: Batch, *plans: Plan) -> list[Rollout]:
    names = {plan.name for plan in plans}
    return [rollout for rollout in batch.rollouts if rollout.plan in names]


def _told(rollouts: list[Rollout]) -> str:
    return "\n".join(f"{item.name} {item.phase} after {item.requests} requests: {item.reason}" for item in rollouts)


def test_equal_versions_are_not_rolled_back_more_often_than_alpha_allows(batch: Batch) -> None:
    equal = _of(batch, SAME, AS_FAST)
    assert len(equal) == 3
    assert sum(map(rolled_back, equal)) <= 1, _told(equal)
    assert all(rollout.requests > 500 for rollout in equal), _told(equal)


def test_an_equal_version_is_promoted_where_its_guardrail_is_easy_to_keep(batch: Batch) -> None:
    assert all(map(promoted, _of(batch, AS_FAST))), _told(_of(batch, AS_FAST))


def test_doubled_errors_are_rolled_back_at_5_percent_before_anybody_else_gets_them(batch: Batch) -> None:
    doubled = _of(batch, DOUBLED)
    assert all(rollout.highest == 5 for rollout in doubled), _told(doubled)
    assert any(map(rolled_back_at_first_step, doubled)), _told(doubled)


def test_a_candidate_that_is_10_percent_slower_at_p95_is_not_promoted_with_a_margin_of_5(batch: Batch) -> None:
    (slower,) = _of(batch, SLOWER)
    assert not went_on(slower), _told([slower])
    assert slower.requests > 500, _told([slower])


@pytest.mark.parametrize("plan", [FEW, OPEN], ids=lambda plan: plan.name)
def test_with_ten_requests_a_minute_it_holds_and_says_how_many_are_missing(batch: Batch, plan: Plan) -> None:
    (rollout,) = _of(batch, plan)
    assert held(rollout), _told([rollout])
    assert rollout.requests >= 3


def test_every_rollout_was_looked_at_every_second_or_so_and_every_request_counted(batch: Batch) -> None:
    assert batch.ticks > batch.seconds / 3
    assert batch.unassigned == 0


def test_every_decision_comes_out_the_same_from_what_was_recorded(batch: Batch) -> None:
    command = [sys.executable, "-m", "cli", "replay", str(batch.state / "journal.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 differently" in done.stdout
