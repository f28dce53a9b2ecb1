from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment.rollout import Rollout
from controller.decision.goals import judge_goal
from controller.decision.history import Look
from controller.decision.verdicts import GoalJudgement, GoalVerdict
from controller.evidence.summary import VariantEvidence
from controller.wording.verdicts import goal_text
from tests.controller.decision.support import NOTHING, STATE, arm, evidence_of, rollout


def _plan(**goal: Any) -> Rollout:
    fields = {"metric": "error_rate", "increase": False, "planned_requests": 20_000, **goal}
    return rollout(mode="experiment", steps=[50], goal=fields)


def _judge(a: VariantEvidence, b: VariantEvidence, **goal: Any) -> GoalJudgement:
    return judge_goal(_plan(**goal), evidence_of(a, b), ())[0]


@pytest.mark.parametrize(
    ("a", "b", "goal", "verdict", "says"),
    [
        (arm(5000, 250), arm(5000, 120), {}, GoalVerdict.WINNER, "model-b is significantly better"),
        (arm(5000, 120), arm(5000, 250), {}, GoalVerdict.LOSER, "model-b is significantly worse"),
        (arm(5000, 250), arm(5000, 245), {}, GoalVerdict.OPEN, "is neither significantly better nor worse yet"),
        (arm(20_000, 900), arm(20_000, 890), {}, GoalVerdict.INCONCLUSIVE, "after the planned 20000 requests"),
        (
            arm(15_000, 750),
            arm(15_000, 750),
            {"min_effect": "2%"},
            GoalVerdict.NO_DIFFERENCE,
            "is significantly short of min_effect",
        ),
        (
            arm(15_000, 750),
            arm(15_000, 750),
            {"min_effect": "30%", "relative": True},
            GoalVerdict.NO_DIFFERENCE,
            "is significantly short of min_effect",
        ),
        (
            arm(5010, ms={90: 50, 110: 50}),
            arm(5010, ms={80: 50, 90: 50}),
            {"metric": "latency_mean"},
            GoalVerdict.WINNER,
            "latency_mean 85 ms on model-b, 100 ms on model-a, less is better",
        ),
        (
            arm(5010, ms={90: 50, 110: 50}),
            arm(5010, ms={80: 50, 90: 50}),
            {"metric": "latency_mean", "increase": True},
            GoalVerdict.LOSER,
            "more is better",
        ),
    ],
)
def test_at_any_look(
    a: VariantEvidence, b: VariantEvidence, goal: dict[str, Any], verdict: GoalVerdict, says: str
) -> None:
    found = _judge(a, b, **goal)
    text = goal_text(found, _plan(**goal), STATE)
    assert found.verdict is verdict, text
    assert says in text
    assert "at any look, decides at 0.025" in text
    assert found.boundary is None
    assert found.z is not None
    if verdict is GoalVerdict.WINNER:
        assert found.z > 2
    if verdict is GoalVerdict.LOSER:
        assert found.z < -2


def test_without_data_on_both_sides_it_is_open() -> None:
    for a, b in ((NOTHING, arm(10)), (arm(10), NOTHING), (NOTHING, NOTHING)):
        found = _judge(a, b)
        assert (found.verdict, found.value) == (GoalVerdict.OPEN, None)
        assert "no data on error_rate of both variants yet" in goal_text(found, _plan(), STATE)


SEQUENTIAL = {"design": "group_sequential", "looks": 4}


def _look(n: int, errors_a: int, errors_b: int, looks: tuple[Look, ...]) -> tuple[GoalJudgement, tuple[Look, ...]]:
    return judge_goal(_plan(**SEQUENTIAL), evidence_of(arm(n, errors_a), arm(n, errors_b)), looks)


def test_a_planned_look_is_taken_once_when_it_is_due_and_not_before() -> None:
    found, looks = _look(4999, 500, 100, ())
    assert (found.verdict, found.boundary, looks) == (GoalVerdict.OPEN, None, ())
    assert "look 1 of 4 has not come yet" in goal_text(found, _plan(**SEQUENTIAL), STATE)
    found, looks = _look(5000, 250, 249, ())
    assert (found.verdict, len(looks), looks[0].fraction) == (GoalVerdict.OPEN, 1, 0.25)
    assert found.boundary == pytest.approx(4.33, abs=0.05)  # O'Brien-Fleming's first of four at 5%, two-sided
    found, again = _look(9000, 450, 250, looks)
    assert (found.verdict, again) == (GoalVerdict.OPEN, looks)
    found, looks = _look(10_000, 500, 300, looks)
    assert (found.verdict, len(looks)) == (GoalVerdict.WINNER, 2)
    assert "at look 2 of 4" in goal_text(found, _plan(**SEQUENTIAL), STATE)


def test_what_a_planned_look_has_decided_stays_decided() -> None:
    _, looks = _look(5000, 400, 100, ())
    found, after = _look(6000, 400, 400, looks)
    assert (found.verdict, after) == (GoalVerdict.WINNER, looks)
    _, looks = _look(5000, 100, 400, ())
    assert _look(6000, 400, 100, looks)[0].verdict is GoalVerdict.LOSER


def test_a_look_that_was_missed_is_not_made_up_for() -> None:
    found, looks = _look(16_000, 800, 798, ())
    assert [look.fraction for look in looks] == [0.8]
    assert found.verdict is GoalVerdict.OPEN
    found, looks = _look(20_500, 1000, 999, looks)
    assert [look.fraction for look in looks] == [0.8, 1.0]
    assert found.verdict is GoalVerdict.INCONCLUSIVE
    assert _look(30_000, 3000, 300, looks)[1] == looks


def test_planned_looks_rule_a_difference_out() -> None:
    plan = _plan(**SEQUENTIAL, min_effect="2%")
    found, _ = judge_goal(plan, evidence_of(arm(15_000, 750), arm(15_000, 750)), ())
    assert found.verdict is GoalVerdict.NO_DIFFERENCE


@given(
    st.sampled_from([200, 2000, 19_000, 30_000]),
    st.integers(0, 200),
    st.integers(0, 200),
    st.booleans(),
    st.sampled_from(["anytime", "group_sequential"]),
)
@settings(max_examples=80, deadline=None)
def test_changing_the_variants_names_turns_a_winner_into_a_loser(
    n: int, rate_a: int, rate_b: int, increase: bool, design: str
) -> None:
    a, b = arm(n, n * rate_a // 1000), arm(n, n * rate_b // 1000)
    one, other = _judge(a, b, increase=increase, design=design), _judge(b, a, increase=increase, design=design)
    opposite = {GoalVerdict.WINNER: GoalVerdict.LOSER, GoalVerdict.LOSER: GoalVerdict.WINNER}
    assert other.verdict is opposite.get(one.verdict, one.verdict)
    upside_down = _judge(a, b, increase=not increase, design=design)
    assert upside_down.verdict is opposite.get(one.verdict, one.verdict)
    assert one.log_e_better == pytest.approx(other.log_e_worse, rel=1e-6, abs=1e-6)


GUARDRAILS = [{"metric": "latency_p95", "max": limit} for limit in ("1s", "2s", "3s")]


def test_a_loser_is_rolled_back_so_it_is_one_of_the_alarms_that_share_alpha() -> None:
    """With three guardrails, the emergency stop and the goal, each has 1%; a winner still has its side of 5%."""
    fields = {"metric": "error_rate", "increase": False, "planned_requests": 20_000}
    guarded = rollout(*GUARDRAILS, mode="experiment", steps=[50], goal=fields)
    a, b = arm(5000, 250), arm(5000, 327)
    assert _judge(a, b).verdict is GoalVerdict.LOSER
    found, _ = judge_goal(guarded, evidence_of(a, b), ())
    assert found.verdict is GoalVerdict.OPEN
    assert 0.01 < math.exp(-found.log_e_worse) < 0.025
    assert "at any look, decides at 0.01" in goal_text(found, guarded, STATE)
    assert judge_goal(guarded, evidence_of(a, arm(5000, 400)), ())[0].verdict is GoalVerdict.LOSER
    assert judge_goal(guarded, evidence_of(b, a), ())[0].verdict is GoalVerdict.WINNER


def test_so_is_one_at_planned_looks() -> None:
    fields = {"metric": "error_rate", "increase": False, "planned_requests": 20_000, **SEQUENTIAL}
    guarded = rollout(*GUARDRAILS, mode="experiment", steps=[50], goal=fields)
    a, b = arm(20_000, 1000), arm(20_000, 1097)
    assert _judge(a, b, **SEQUENTIAL).verdict is GoalVerdict.LOSER
    found, looks = judge_goal(guarded, evidence_of(a, b), ())
    assert (found.verdict, len(looks)) == (GoalVerdict.INCONCLUSIVE, 1)
    assert found.boundary == pytest.approx(2.326, abs=0.01)  # one-sided 1%
    winner, _ = judge_goal(guarded, evidence_of(b, a), ())
    assert winner.verdict is GoalVerdict.WINNER
    assert winner.boundary == pytest.approx(1.96, abs=0.01)
