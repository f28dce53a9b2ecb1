"""Guardrails and goals on tokens, costs, clicks and first tokens, where more may be better as well as worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abmesh.experiment.metrics import find
from controller.decision.goals import judge_goal
from controller.decision.guardrails import judge
from controller.decision.policy import guardrails_in_force
from controller.decision.simpson import paradoxes
from controller.decision.verdicts import GoalVerdict, Judgement, Paradox, Verdict
from controller.evidence.summary import SegmentEvidence, SliceEvidence, VariantEvidence
from tests.controller.decision.support import SLICES, arm, evidence_of, rollout, stage, text
from tests.controller.support import experiment

N = 20_000


def counted(seed: int, per_request: Mapping[str, float]) -> VariantEvidence:
    """Requests whose amounts are Poisson in every slice, with so many per request."""
    random = np.random.default_rng(seed)
    bare = arm(N)
    slices, totals = {}, dict.fromkeys(per_request, 0)
    for number, item in bare.slices.items():
        amounts = {name: int(random.poisson(each * item.requests)) for name, each in per_request.items()}
        slices[number] = SliceEvidence(item.requests, 0, 0, item.duration_ms, amounts)
        for name, count in amounts.items():
            totals[name] += count
    return replace(bare, slices=slices, amounts=totals)


def _judge(guardrail: Mapping[str, Any], control: VariantEvidence, candidate: VariantEvidence) -> Judgement:
    plan = rollout(guardrail)
    return judge(plan.guardrails[0], plan, evidence_of(control, candidate))


CLICKS = {"metric": "click_rate", "max_decrease": "10%", "relative": True}
FEWEST_CLICKS = {"metric": "click_rate", "min": "4%"}
TOKENS = {"metric": "output_tokens_mean", "max_increase": 10}
COST = {"metric": "cost_per_success", "max": 0.002}
REFUSALS = {"metric": "refusal_rate", "max_increase": "1%"}


@pytest.mark.parametrize(
    ("guardrail", "control", "good", "bad"),
    [
        (CLICKS, {"events:click": 0.05}, {"events:click": 0.06}, {"events:click": 0.03}),
        (FEWEST_CLICKS, {"events:click": 0.05}, {"events:click": 0.05}, {"events:click": 0.03}),
        (
            TOKENS,
            {"usage": 1.0, "output_tokens": 100.0},
            {"usage": 1.0, "output_tokens": 101.0},
            {"usage": 1.0, "output_tokens": 130.0},
        ),
        (
            COST,
            {"succeeded": 1.0, "cost": 1e6},
            {"succeeded": 1.0, "cost": 1e6},
            {"succeeded": 0.9, "cost": 3e6},
        ),
        (REFUSALS, {"refusals": 0.01}, {"refusals": 0.01}, {"refusals": 0.05}),
    ],
    ids=["decrease", "min", "number", "dollars", "share"],
)
def test_harm_and_health_lie_where_the_limit_says(
    guardrail: Mapping[str, Any], control: dict[str, float], good: dict[str, float], bad: dict[str, float]
) -> None:
    healthy = _judge(guardrail, counted(1, control), counted(2, good))
    assert healthy.verdict is Verdict.HEALTHY, text(healthy)
    harmful = _judge(guardrail, counted(1, control), counted(2, bad))
    assert harmful.verdict is Verdict.HARMFUL, text(harmful)
    beyond = "above" if any(key.startswith("max") and key != "max_decrease" for key in guardrail) else "below"
    assert f"is significantly {beyond} its limit" in text(harmful)
    assert harmful.kind in guardrail


def test_limits_are_written_in_the_metrics_unit() -> None:
    found = [
        _judge(COST, counted(1, {"succeeded": 1.0, "cost": 1e6}), counted(2, {"succeeded": 0.9, "cost": 3e6})),
        _judge(CLICKS, counted(1, {"events:click": 0.05}), counted(2, {"events:click": 0.03})),
        _judge(
            TOKENS,
            counted(1, {"usage": 1.0, "output_tokens": 100.0}),
            counted(2, {"usage": 1.0, "output_tokens": 130.0}),
        ),
    ]
    texts = [text(judgement) for judgement in found]
    assert "$0.003" in texts[0]
    assert "its limit of $0.002" in texts[0]
    assert "model-a's 5" in texts[1]
    assert "times 0.9" in texts[1]
    assert "plus 10)" in texts[2]


@given(st.integers(0, 50), st.floats(0.02, 0.2), st.floats(0.5, 2.0), st.sampled_from(["0.1%", "1%", "5%"]))
@settings(max_examples=40, deadline=None)
def test_a_decrease_of_one_is_an_increase_of_the_other(seed: int, rate: float, factor: float, margin: str) -> None:
    """Harm of fewer clicks on B is what harm of more clicks on A would be, seen from the other side.

    Not to the last digit: the variance is that under the null hypothesis, for which the control is moved by the margin.
    """
    few, many = counted(seed, {"events:click": rate}), counted(seed + 100, {"events:click": rate * factor})
    down = _judge({"metric": "click_rate", "max_decrease": margin}, many, few)
    up = _judge({"metric": "thumbs_down_rate", "max_increase": margin}, _as_thumbs(few), _as_thumbs(many))
    assert {down.verdict, up.verdict} != {Verdict.HEALTHY, Verdict.HARMFUL}


def _as_thumbs(evidence: VariantEvidence) -> VariantEvidence:
    def renamed(amounts: Mapping[str, int]) -> dict[str, int]:
        return {"events:thumbs_down": sum(amounts.values())}

    slices = {number: replace(item, amounts=renamed(item.amounts)) for number, item in evidence.slices.items()}
    return replace(evidence, slices=slices, amounts=renamed(evidence.amounts))


def test_what_was_not_counted_is_no_verdict() -> None:
    found = _judge({"metric": "ttft_p95", "max": "500ms"}, arm(1000), arm(1000))
    assert found.verdict is Verdict.ERROR
    assert "no data on" in text(found)


@pytest.mark.parametrize("per", ["request", "user"])
def test_events_that_never_happened_prove_nothing(per: str) -> None:
    """Perhaps nobody sends them. They are as alike as can be, which is no proof that the difference is small."""
    for limit in ({"max_decrease": "1%"}, {"max_decrease": "10%", "relative": True}):
        found = _judge({"metric": "click_rate", "per": per, **limit}, arm(N), arm(N))
        assert (found.verdict, found.log_e_healthy) == (Verdict.INCONCLUSIVE, 0.0)
        assert text(found).endswith("cannot be compared with model-a's while both are 0")
    goal = {"metric": "click_rate", "increase": True, "min_effect": "1%", "planned_requests": 10 * N}
    judged, _ = judge_goal(rollout(mode="experiment", steps=[50], goal=goal), evidence_of(arm(N), arm(N)), ())
    assert judged.verdict is GoalVerdict.OPEN


@pytest.mark.parametrize("per", ["request", "user"])
def test_a_stage_without_events_counts_as_unknown_as_one_with_them(per: str) -> None:
    rail = {"metric": "click_rate", "max_decrease": "1%", "per": per}
    plan = rollout(rail)
    (rare_a, rare_b), silent = (counted(seed, {"events:click": 0.02}) for seed in (1, 2)), arm(N)
    alone = judge(plan.guardrails[0], plan, evidence_of(rare_a, rare_b))
    mixed = judge(plan.guardrails[0], plan, evidence_of(rare_a, rare_b, past=[stage(silent, silent)]))
    twice = judge(plan.guardrails[0], plan, evidence_of(rare_a, rare_b, past=[stage(rare_a, rare_b)]))
    assert alone.verdict is mixed.verdict is Verdict.HEALTHY
    assert alone.log_e_healthy < mixed.log_e_healthy < 1.05 * twice.log_e_healthy


def test_time_to_the_first_token_is_a_latency_of_its_own() -> None:
    slow = replace(arm(2000, ms=5000), ttft=arm(2000, ms={100: 95, 900: 5}).groups)
    assert _judge({"metric": "ttft_p90", "max": "500ms"}, slow, slow).verdict is Verdict.HEALTHY
    late = replace(arm(2000, ms=5000), ttft=arm(2000, ms={100: 50, 900: 50}).groups)
    assert _judge({"metric": "ttft_p90", "max": "500ms"}, slow, late).verdict is Verdict.HARMFUL


@pytest.mark.parametrize(("rate", "verdict"), [(0.07, GoalVerdict.WINNER), (0.03, GoalVerdict.LOSER)])
def test_a_goal_may_be_clicks(rate: float, verdict: GoalVerdict) -> None:
    plan = rollout(
        mode="experiment", steps=[50], goal={"metric": "click_rate", "increase": True, "planned_requests": N}
    )
    found, _ = judge_goal(plan, evidence_of(counted(1, {"events:click": 0.05}), counted(2, {"events:click": rate})), ())
    assert found.verdict is verdict


def test_with_nobody_on_the_control_only_limits_by_themselves_stay_in_force() -> None:
    changed = experiment(
        rollout={"guardrails": [CLICKS, FEWEST_CLICKS, COST]},
        weight=100,
    )
    assert [rail.kind for rail in guardrails_in_force(changed)] == ["min", "max"]


def _segmented(power: tuple[int, int], casual: tuple[int, int]) -> VariantEvidence:
    """Requests and clicks of two segments."""
    segments = {
        name: SegmentEvidence({200: requests}, {"events:click": clicks})
        for name, (requests, clicks) in (("power", power), ("casual", casual))
    }
    whole = arm(power[0] + casual[0])
    return replace(whole, amounts={"events:click": power[1] + casual[1]}, segments=segments)


def test_a_whole_that_says_the_opposite_of_its_segments_is_pointed_out() -> None:
    """B is better with both kinds of users, but has more of those who click less."""
    clicks = find("click_rate")
    assert clicks is not None
    control = _segmented(power=(9000, 900), casual=(1000, 10))
    candidate = _segmented(power=(1000, 120), casual=(9000, 120))
    (found,) = paradoxes(evidence_of(control, candidate), [clicks])
    assert found == Paradox("click_rate", "segments")
    same = _segmented(power=(5000, 500), casual=(5000, 50))
    assert paradoxes(evidence_of(same, same), [clicks]) == ()


def test_slices_are_those_of_the_experiment() -> None:
    assert len(counted(1, {"usage": 1.0}).slices) == SLICES


@given(st.integers(0, 20), st.sampled_from([10, 100, 1000]))
@settings(max_examples=20, deadline=None)
def test_the_unit_of_a_denominator_that_is_no_number_of_answers_changes_nothing(seed: int, unit: int) -> None:
    """Speed is judged on answers: milliseconds of generation are no observations, whatever they are counted in."""
    slow = {"streams": 1.0, "streamed_tokens": 100.0, "generation_ms": 2000.0}
    fast = {**slow, "streamed_tokens": 110.0}
    control, candidate = counted(seed, fast), counted(seed + 1, slow)
    found = _judge({"metric": "tokens_per_second", "min": 20}, control, candidate)
    scaled = _judge({"metric": "tokens_per_second", "min": 20 / unit}, _slower(control, unit), _slower(candidate, unit))
    assert found.n == scaled.n
    assert found.n == pytest.approx(candidate.amounts["streams"])
    assert scaled.log_e_harm == pytest.approx(found.log_e_harm, rel=1e-6, abs=1e-6)
    assert scaled.log_e_healthy == pytest.approx(found.log_e_healthy, rel=1e-6, abs=1e-6)
    assert f"over {found.n} answers" in text(found)


SPEED = {"metric": "tokens_per_second", "max_decrease": 10}
STREAM = {"streams": 1.0, "streamed_tokens": 100.0, "generation_ms": 2000.0}


def test_speed_is_judged_on_the_candidates_own_streams_however_slow_they_are_and_whatever_else_it_answers() -> None:
    """Not on answers of JSON, nor on the control's streams, nor on milliseconds of which a slow arm has more."""
    control = counted(1, {**STREAM, "usage": 2.0})
    slow = counted(2, {**STREAM, "streams": 0.5, "usage": 2.0, "generation_ms": 4000.0})
    found = _judge(SPEED, control, slow)
    assert (found.n, found.verdict) == (slow.amounts["streams"], Verdict.HARMFUL)


@pytest.mark.parametrize("streams", [10, 49])
def test_a_few_streams_among_many_answers_are_too_few_to_judge(streams: int) -> None:
    control = counted(1, STREAM)
    few = counted(2, {"usage": 1.0})
    each = {"streams": 1, "streamed_tokens": 100, "generation_ms": 10**6}
    slices = {
        number: replace(item, amounts={**item.amounts, **each}) if number < streams else item
        for number, item in few.slices.items()
    }
    amounts = {**few.amounts, **{name: count * streams for name, count in each.items()}}
    found = _judge(SPEED, control, replace(few, slices=slices, amounts=amounts))
    assert (found.n, found.verdict) == (streams, Verdict.INCONCLUSIVE)
    assert max(found.log_e_harm, found.log_e_healthy) <= 0


def _slower(evidence: VariantEvidence, factor: int) -> VariantEvidence:
    def scaled(amounts: Mapping[str, int]) -> dict[str, int]:
        return {name: count * (factor if name == "generation_ms" else 1) for name, count in amounts.items()}

    slices = {number: replace(item, amounts=scaled(item.amounts)) for number, item in evidence.slices.items()}
    return replace(evidence, slices=slices, amounts=scaled(evidence.amounts))
