"""Every choice of the analysis is said, and what alpha promises is said as it is."""

from __future__ import annotations

from typing import Any

import pytest

from abmesh.analysis.explanation import choices
from tests.controller.decision.support import rollout

LIMIT = {"metric": "error_rate", "max": "5%"}
ANY = {"metric": "latency_p95", "max_increase": "20%", "relative": True, "harm": "any"}
GOAL = {"metric": "latency_mean", "increase": False, "planned_requests": 5000}
EXPERIMENT: dict[str, Any] = {"mode": "experiment", "steps": [50]}


@pytest.mark.parametrize(
    ("guardrails", "changes", "says"),
    [
        ([LIMIT], {}, "alpha 0.05: a candidate that keeps its limits is rolled back with at most this probability"),
        ([LIMIT], {}, "split over 2 alarms, 0.025 each"),
        (
            [ANY],
            {"analysis": {"emergency_stop": "100%"}},
            "a candidate that is no worse than the control on latency_p95 is rolled back with at most",
        ),
        ([ANY], {"analysis": {"emergency_stop": "100%"}}, "split over 1 alarm, 0.05 each"),
        (
            [LIMIT, ANY],
            {},
            "a candidate that keeps its limits and is no worse than the control on latency_p95 is rolled back",
        ),
        (
            [LIMIT],
            {**EXPERIMENT, "goal": GOAL},
            "a candidate that keeps its limits and is not worse on the goal is rolled back with at most",
        ),
        ([LIMIT], {**EXPERIMENT, "goal": GOAL}, "split over 3 alarms, 0.0167 each"),
        (
            [],
            {"analysis": {"emergency_stop": "100%"}},
            "there is neither a guardrail nor an emergency stop",
        ),
        (
            [ANY],
            {},
            "latency_p95 max_increase 20% of the control, harm: any: a significant increase over the control that is",
        ),
        ([LIMIT, {**ANY, "dry_run": True}], {}, "split over 2 alarms, 0.025 each"),
        ([LIMIT], {"on_harm": "pause"}, "keeps its limits is rolled back or paused with at most this probability"),
        (
            [LIMIT, {**ANY, "dry_run": True}],
            {},
            "only watched, neither an alarm nor a reason to hold (dry_run): latency_p95",
        ),
        (
            [LIMIT, {**ANY, "on_harm": "pause"}],
            {},
            "harm pauses in place of rolling back (on_harm: pause): latency_p95",
        ),
        ([LIMIT], {}, "beyond a max, a min or the emergency stop holds the rollout"),
        ([LIMIT], {"on_broken_control": "advance"}, "the emergency stop is reported, and the rollout goes on"),
        (
            [LIMIT],
            {"goal": {"metric": "latency_mean"}, "secondary_goals": [{"metric": "error_rate"}]},
            "secondary goals error_rate: reported at 0.05 with Holm's correction for all 2 goals",
        ),
        ([LIMIT], {"analysis": {"emergency_stop": "30%"}}, "emergency stop at 30% errors"),
        ([LIMIT], {"analysis": {"emergency_stop": "100%"}}, "no emergency stop"),
        ([LIMIT], {"analysis": {"on_sample_ratio": "report"}}, "sample-ratio alarm at 0.01, which is only reported"),
        ([LIMIT], {"analysis": {"tuned_for": 777}}, "most powerful at 777 requests"),
        ([LIMIT], {**EXPERIMENT, "goal": GOAL}, "decided at any look, at most 5000 requests of the candidate"),
        ([LIMIT], {**EXPERIMENT, "goal": GOAL}, "won at 0.025, lost at 0.0167, each on its side"),
        ([LIMIT], {**EXPERIMENT, "goal": GOAL}, "a loser is rolled back, and is one of the alarms; no min_effect"),
        (
            [LIMIT],
            {**EXPERIMENT, "goal": {**GOAL, "design": "group_sequential", "looks": 4, "min_effect": "10ms"}},
            "decided at 4 planned looks (O'Brien-Fleming)",
        ),
        ([LIMIT], {**EXPERIMENT, "goal": {**GOAL, "min_effect": "10ms"}}, "min_effect 10ms, ruled out at 0.05"),
        (
            [LIMIT],
            {"goal": {"metric": "error_rate", "min_effect": "5%", "relative": True}, "analysis": {"alpha": "1%"}},
            "won at 0.005, lost at 0.005, each on its side; it is reported and decides nothing; min_effect 5% of the "
            "control, ruled out at 0.01",
        ),
        ([LIMIT], {}, "a stage lasts at least 1m and 100 requests of the candidate; after 1h it keeps holding"),
        (
            [LIMIT],
            {"on_timeout": "rollback"},
            "after 1h it is rolled back (on_timeout: rollback), which alpha does not",
        ),
        ([LIMIT], {"stage": {"min_duration": "1m"}}, "and may last forever (no max_duration)"),
    ],
)
def test_every_choice_is_said(guardrails: list[dict[str, Any]], changes: dict[str, Any], says: str) -> None:
    assert says in "\n".join(choices(rollout(*guardrails, **changes)))
