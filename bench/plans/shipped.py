"""Rollouts of the shipped document, against candidates that somebody will deploy one day. Deterministic for a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from abmesh.analysis.playable import playable
from abmesh.analysis.rollout_plan import Outlook, as_json
from abmesh.analysis.scenarios import Kind, Scenario
from abmesh.analysis.truth import Outage
from abmesh.cli.plays import Budget, Simulation, simulate
from bench.worlds.documents import shipped
from bench.worlds.worlds import USUAL

LONGEST: Final = timedelta(days=2)
_SETTLE: Final = timedelta(seconds=5)
_RARE, _FREQUENT = replace(USUAL, error_rate=0.005), replace(USUAL, error_rate=0.02)

CASES: Final = (
    Scenario("no difference, 0.5% errors", Kind.SAME, _RARE),
    Scenario("no difference, 1% errors", Kind.SAME, USUAL),
    Scenario("no difference, 2% errors", Kind.SAME, _FREQUENT),
    Scenario("errors doubled, 0.5% to 1%", Kind.WORSE, replace(_RARE, error_factor=2.0)),
    Scenario("errors doubled, 1% to 2%", Kind.WORSE, replace(USUAL, error_factor=2.0)),
    Scenario("errors doubled, 2% to 4%", Kind.WORSE, replace(_FREQUENT, error_factor=2.0)),
    Scenario("ten times the errors, 0.5% to 5%", Kind.WORSE, replace(_RARE, error_factor=10.0)),
    Scenario("every request fails", Kind.WORSE, replace(_RARE, candidate=Outage(1.0))),
    Scenario("p95 10% higher, 0.5% errors", Kind.WORSE, replace(_RARE, latency_factor=1.1)),
    Scenario("p95 30% higher, 0.5% errors", Kind.WORSE, replace(_RARE, latency_factor=1.3)),
    Scenario("p95 doubled, 0.5% errors", Kind.WORSE, replace(_RARE, latency_factor=2.0)),
)
"""All with the users of the worlds: 50,000 who return, 10 requests a second, a few of them sending most."""


def play_shipped(runs: int, seed: int, processes: int, within: timedelta) -> list[Outlook]:
    """Every case's rollouts, as many of each."""
    subject = playable(shipped(), USUAL).experiment
    budget = Budget(runs, within, processes)
    return simulate(Simulation(subject, LONGEST, _SETTLE, seed, budget), CASES)


def rollout() -> dict[str, Any]:
    """The plan that is rolled out, to tell a table of another document from one of this."""
    plan = shipped().rollout
    assert plan is not None
    return plan.model_dump(mode="json", exclude={"goal"}, exclude_defaults=True)


def rows(found: Sequence[Outlook]) -> list[dict[str, Any]]:
    """What is kept of them."""
    return [as_json(item) for item in found]
