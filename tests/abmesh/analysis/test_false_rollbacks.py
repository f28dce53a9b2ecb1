"""Two versions that are equal are not rolled back, however often somebody looks.

Each case is twelve simulated stages of twenty minutes with seeds that are fixed, looked at every minute by the
function that decides in production. A whole rollout's error probability is 5%; at 5% each, four or more of twelve would
be rolled back in one of 400 tries.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from abmesh.analysis.simulation import Ending, play
from abmesh.analysis.truth import Truth
from tests.controller.support import experiment

pytestmark = pytest.mark.simulation

STAGES = 12
MOST = 3
TRUTH = Truth(users=3000, requests_per_second=10, error_rate=0.01, latency_ms=100, latency_spread=0.5)


def _rolled_back(guardrail: dict[str, Any], truth: Truth) -> int:
    plan = {
        "steps": [50],
        "stage": {"min_duration": "9h", "max_duration": "10h", "min_requests": 100},
        "guardrails": [guardrail],
    }
    subject = experiment(weight=0, rollout=plan)
    twenty_minutes, tick = timedelta(minutes=20), timedelta(minutes=1)
    played = [play(subject, truth, tick=tick, longest=twenty_minutes, seed=[11, run]) for run in range(STAGES)]
    assert {item.ending for item in played} <= {Ending.UNDECIDED, Ending.ROLLED_BACK}
    return sum(item.ending is Ending.ROLLED_BACK for item in played)


GUARDRAILS = [
    {"metric": "latency_p95", "max_increase": "20%", "relative": True},
    {"metric": "latency_mean", "max_increase": "20%", "relative": True},
    {"metric": "error_rate", "max_increase": "1%"},
    {"metric": "error_rate", "max": "2%"},
    {"metric": "latency_p95", "max": "300ms"},
]


def _name(guardrail: dict[str, Any]) -> str:
    return f"{guardrail['metric']} {'max' if 'max' in guardrail else 'max_increase'}"


@pytest.mark.parametrize("guardrail", GUARDRAILS, ids=_name)
def test_equal_versions_stay(guardrail: dict[str, Any]) -> None:
    assert _rolled_back(guardrail, TRUTH) <= MOST


@pytest.mark.parametrize("guardrail", GUARDRAILS, ids=_name)
def test_versions_that_are_much_worse_do_not(guardrail: dict[str, Any]) -> None:
    """Or else nothing would be tested above."""
    assert _rolled_back(guardrail, replace(TRUTH, error_factor=8.0, latency_factor=2.0)) == STAGES
