from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.histogram import merge
from controller.decision.comparisons import compare
from controller.decision.forecast import (
    LONGEST,
    SOONER,
    evidence_needed,
    forecast,
    requests_for,
    returning_part,
    trend_of,
)
from controller.decision.guardrails import effects, hypothesis, judge
from controller.decision.look_back import Increment, LookBack
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import Judgement, Trend, Verdict
from controller.evidence.summary import SliceEvidence, VariantEvidence
from tests.controller.decision.support import arm, evidence_of, rollout

ERRORS = {"metric": "error_rate", "max": "5%"}
MEAN = {"metric": "latency_mean", "max": "460ms"}
P95 = {"metric": "latency_p95", "max": "500ms"}


def _growth(c: float, n: float) -> float:
    """The design effect of a fixed number of users after so many requests."""
    return 1 + c * n


@pytest.mark.parametrize("c", [1e-4, 1e-3, 1e-2])
def test_of_a_fixed_number_of_users_all_that_can_grow_does(c: float) -> None:
    n = 10_000
    moments = [(x * n, _growth(c, x * n)) for x in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)]
    found = returning_part(moments, n, _growth(c, n), known=True)
    assert found == pytest.approx(1 - 1 / _growth(c, n), rel=0.12)


def test_of_users_who_never_return_nearly_nothing_grows() -> None:
    moments = [(x * 10_000, 8.0) for x in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)]
    assert returning_part(moments, 10_000, 8.0, known=True) < 0.08


def test_of_a_mixture_as_much_grows_as_returns() -> None:
    n = 10_000
    moments = [(x * n, 4 + 4 * x) for x in (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)]
    assert returning_part(moments, n, 8.0, known=True) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("moments", [[], [(50.0, 1.0)], [(20_000.0, 3.0)]], ids=["none", "tiny", "of another stage"])
def test_without_a_checkpoint_to_compare_with_nothing_is_said_to_grow(moments: list[tuple[float, float]]) -> None:
    assert returning_part(moments, 10_000, 8.0, known=True) == 0


@given(
    st.lists(st.tuples(st.floats(0, 2e4), st.floats(0, 1e4)), max_size=16),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.booleans(),
)
def test_whatever_was_measured_the_growing_part_is_a_share(
    moments: list[tuple[float, float]], n: float, effect: float, known: bool
) -> None:
    found = returning_part(moments, n, effect, known=known)
    assert 0 <= found <= 1
    if known and effect >= 1:
        assert found <= 1 - 1 / effect + 1e-12


@given(st.floats(1, 100), st.floats(0, 1))
def test_so_many_requests_have_so_much_evidence(evidence: float, returning: float) -> None:
    requests = requests_for(evidence, returning)
    if requests is None:
        most = LONGEST / (1 - returning + returning * LONGEST)
        assert evidence > min(most, 1 / max(returning, 1e-9)) - 1e-9
    else:
        assert requests / (1 - returning + returning * requests) == pytest.approx(evidence)
        assert requests >= evidence - 1e-9


def test_new_users_give_evidence_for_every_request_and_returning_ones_only_so_much() -> None:
    assert requests_for(3.0, 0.0) == 3.0
    assert requests_for(500.0, 0.0) == 500.0
    assert requests_for(1.5, 0.5) == pytest.approx(3.0)
    assert requests_for(2.0, 0.5) is None


def test_no_number_is_needed_where_none_would_do() -> None:
    subject = compare(rollout(ERRORS).guardrails[0].measured, evidence_of(arm(10), arm(10)), 100, 0.05)
    assert evidence_needed(subject, lambda _: False) is None
    assert evidence_needed(subject, lambda grown: grown.values.n >= 25) == pytest.approx(2.5, abs=0.1)


def _forecast(returning: float = 0.0, *, health: float, harm: float) -> Any:
    """Of 1,000 requests, where so many times as many decide."""
    found = compare(rollout(ERRORS).guardrails[0].measured, evidence_of(arm(1000, 50), arm(1000, 50)), 100, 0.05)
    return forecast(
        found,
        returning,
        healthy=lambda grown: grown.values.n >= 1000 * health,
        harmful=lambda grown: grown.values.n >= 1000 * harm,
    )


def test_it_says_which_verdict_comes_first_and_after_how_many_requests() -> None:
    well, ill = _forecast(health=3, harm=8), _forecast(health=8, harm=3)
    assert (well.leads, ill.leads) == (Verdict.HEALTHY, Verdict.HARMFUL)
    assert well.needed == ill.needed == pytest.approx(SOONER * 2000, rel=0.02)
    assert _forecast(health=1e9, harm=1e9).leads is None


def test_it_takes_more_requests_the_more_users_return_until_no_number_will_do() -> None:
    needed = [_forecast(part, health=3, harm=8).needed for part in (0.0, 0.1, 0.2, 0.3)]
    assert needed == sorted(needed)
    assert needed[-1] > 2 * needed[0]
    never = _forecast(0.5, health=3, harm=8)
    assert (never.needed, never.leads) == (None, Verdict.HEALTHY)


@pytest.mark.parametrize("guardrail", [ERRORS, MEAN, P95])
def test_a_judgement_names_the_same_users_once_the_checkpoints_show_that_they_return(guardrail: dict[str, Any]) -> None:
    """Slices that differ, and the same difference after twice the requests."""
    plan = rollout(guardrail)
    rail = plan.guardrails[0]
    now, then = _unequal(4000), _unequal(2000)
    before = {"model-a": then, "model-b": then}
    early = judge(rail, plan, evidence_of(then, then))
    kept = effects([early])
    assert kept.keys() == {hypothesis(rail)}

    def judged(known: dict[str, float]) -> Judgement:
        since = Increment(math.log(0.05), timedelta(seconds=30), then, then, before, known)
        return judge(rail, plan, evidence_of(now, now, since=[since]))

    without, with_effects = judged({}), judged(kept)
    assert (without.returning, with_effects.verdict) == (0, Verdict.INCONCLUSIVE)
    assert with_effects.returning > 0.6
    assert without.leads is with_effects.leads
    assert with_effects.needed is None or without.needed is None or with_effects.needed > without.needed


def _unequal(requests: int, slower: int = 0) -> VariantEvidence:
    """One variant, each of whose slices has a rate of its own, and each of whose groups has durations of its own."""
    each = requests // 50
    found = [
        arm(each, round(each * 0.04 * (1 + (-1) ** slice_)), ms=400 + slower + 12 * (slice_ // 5), slices=[slice_])
        for slice_ in range(50)
    ]
    return VariantEvidence(
        codes={code: sum(item.codes[code] for item in found) for code in (200, 500)},
        duration_ms=sum(item.duration_ms for item in found),
        slices={number: item for part in found for number, item in part.slices.items()},
        groups={group: merge([part.groups[group] for part in found if group in part.groups]) for group in range(10)},
    )


def _moved(before: VariantEvidence, since: VariantEvidence, whole: VariantEvidence, metric: str) -> Trend:
    plan = rollout({"metric": metric, "max": "5%" if metric == "error_rate" else "500ms"})
    item = Increment(0.0, timedelta(seconds=30), since, since, {"model-a": before, "model-b": before})
    subject: RolloutEvidence = evidence_of(whole, whole)
    subject = replace(subject, look_back=LookBack((item,)))
    return judge(plan.guardrails[0], plan, subject).trend


def test_a_value_rises_or_falls_where_its_newer_half_differs_by_more_than_noise() -> None:
    assert _moved(arm(5000, 50), arm(5000, 200), arm(10_000, 250), "error_rate") is Trend.RISING
    assert _moved(arm(5000, 200), arm(5000, 50), arm(10_000, 250), "error_rate") is Trend.FALLING
    assert _moved(arm(5000, 50), arm(5000, 55), arm(10_000, 105), "error_rate") is Trend.STEADY


def test_what_noise_could_hide_is_neither_rising_nor_steady() -> None:
    assert _moved(arm(100, 3), arm(100, 5), arm(200, 8), "error_rate") is Trend.UNKNOWN
    assert _moved(arm(40, 1), arm(40, 1), arm(80, 2), "error_rate") is Trend.UNKNOWN


def test_durations_have_a_direction_as_well() -> None:
    before, since = _unequal(5000), _unequal(5000, slower=200)
    whole = VariantEvidence(
        codes=_unequal(10_000).codes,
        duration_ms=before.duration_ms + since.duration_ms,
        slices={
            number: SliceEvidence(200, 0, 0, item.duration_ms + since.slices[number].duration_ms)
            for number, item in before.slices.items()
        },
        groups={group: merge([bins, since.groups[group]]) for group, bins in before.groups.items()},
    )
    for metric in ("latency_mean", "latency_p95"):
        assert _moved(before, since, whole, metric) is Trend.RISING


def test_a_direction_takes_a_checkpoint_near_the_middle() -> None:
    metric = rollout(ERRORS).guardrails[0].measured
    whole = arm(10_000, 250)
    for n in (1000, 9000):
        item = Increment(0.0, timedelta(seconds=30), arm(n, n // 5), arm(n), {})
        subject = evidence_of(whole, whole, since=[item])
        assert trend_of(compare(metric, subject, 100, 0.05), subject.look_back, 0.05, 0.0) is Trend.UNKNOWN
