"""What a typical user meets: judged by ``per: user``, shown beside what all requests meet, and where the two differ."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from abmesh.experiment.metrics import ERROR_RATE, LATENCY_MEAN, MEASURED, Metric
from abmesh.inference.numbers import Side
from controller.codec.outlines import outline
from controller.decision.forecast import SOONER
from controller.decision.guardrails import hypothesis, judge
from controller.decision.look_back import Increment, LookBack
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.typical_user import beside
from controller.decision.users import UserComparison
from controller.decision.verdicts import Judgement, Verdict
from controller.evidence.summary import SliceEvidence, VariantEvidence
from tests.controller.decision.support import arm, evidence_of, rollout, stage, text

MAX = {"metric": "error_rate", "max": "4%"}
MAX_PER_USER = {**MAX, "per": "user"}
WORSE_PER_USER = {"metric": "error_rate", "max_increase": "50%", "relative": True, "per": "user"}


def joined(evidence: VariantEvidence, requests: int, errors: int = 0, ms: int = 100) -> VariantEvidence:
    """The evidence, with one more user who sends this in the seventh slice."""
    old = evidence.slices[7]
    new = SliceEvidence(old.requests + requests, old.errors + errors, old.aborted, old.duration_ms + requests * ms)
    codes = dict(evidence.codes)
    codes[200] += requests - errors
    codes[500] = codes.get(500, 0) + errors
    return replace(
        evidence,
        codes=codes,
        slices={**evidence.slices, 7: new},
        duration_ms=evidence.duration_ms + requests * ms,
    )


def judged(guardrail: dict[str, Any], evidence: RolloutEvidence) -> Judgement:
    """As decisions judge it."""
    plan = rollout(guardrail)
    (rail,) = plan.guardrails
    return replace(judge(rail, plan, evidence), typical=beside(rail, plan, evidence))


def compared(evidence: RolloutEvidence, metric: Metric = ERROR_RATE) -> UserComparison:
    return UserComparison.of(evidence, metric, 1000, 0.05)


def test_a_user_who_hides_what_all_others_meet_hides_nothing_per_user() -> None:
    control, candidate = arm(5000, 25), joined(arm(5000, 400), 10_000)
    subject = evidence_of(control, candidate)
    for guardrail in (MAX_PER_USER, WORSE_PER_USER):
        found = judged(guardrail, subject)
        assert found.verdict is Verdict.HARMFUL, text(found)
        assert found.value == pytest.approx(0.08, abs=0.001)
        assert found.n == 4900
        assert text(found).startswith("error_rate per user 8")
        assert "; but all requests together have 2.67%, significantly less than a typical user's 8%" in text(found)
        assert text(found).endswith("; one slice of users has 67% of the requests")


def test_a_probe_that_fails_wherever_it_is_harms_nobody_else() -> None:
    subject = evidence_of(arm(5000, 25), joined(arm(5000, 25), 1000, 1000))
    found = judged(MAX_PER_USER, subject)
    assert found.verdict is Verdict.HEALTHY, text(found)
    assert found.value == pytest.approx(0.005, abs=0.0002)
    assert "all requests together have 17.1%, significantly more than a typical user's 0.49%, which is within the" in (
        text(found)
    )


def test_per_request_the_reason_says_how_far_all_requests_are_from_a_typical_user() -> None:
    subject = evidence_of(arm(5000, 25), joined(arm(5000, 400), 10_000))
    found = judged(MAX, subject)
    assert found.typical is not None
    assert found.typical.value == pytest.approx(0.08, abs=0.001)
    assert found.typical.requests == pytest.approx(400 / 15_000)
    assert (found.typical.slices, found.typical.left_out) == (49, 1)
    assert found.typical.left_share == pytest.approx(10_100 / 15_000)
    assert (found.typical.within, found.typical.requests_within, found.typical.apart) == (False, True, True)
    assert text(found).endswith(
        "; but all requests together have 2.67%, significantly less than a typical user's 8%, which is beyond the "
        "limit; one slice of users has 67% of the requests"
    )


def test_users_who_are_alike_agree_and_nothing_is_said() -> None:
    for guardrail in (MAX, MAX_PER_USER, WORSE_PER_USER):
        found = judged(guardrail, evidence_of(arm(5000, 50), arm(5000, 50)))
        assert found.typical is not None
        assert found.typical.value == pytest.approx(found.typical.requests)
        assert not found.typical.disagree
        assert "typical user" not in text(found)


@pytest.mark.parametrize("requests", [5700, 300, 917])
def test_rounding_is_no_disagreement_where_all_requests_are_alike(requests: int) -> None:
    subject = evidence_of(arm(5000), arm(requests))
    found = judged({"metric": "latency_mean", "max": "500ms"}, subject)
    assert found.typical is not None
    assert not found.typical.apart


def test_values_on_different_sides_of_a_limit_disagree_even_if_they_are_close() -> None:
    busy = joined(arm(2000, 78), 200, 14)
    found = judged(MAX, evidence_of(arm(2000, 20), busy))
    assert found.typical is not None
    assert not found.typical.apart
    assert (found.typical.within, found.typical.requests_within) == (True, False)
    assert "have 4.18%, more than a typical user's 3.88%, which is within the limit; one slice of users has 11%" in (
        text(found)
    )


def test_a_limit_relative_to_the_control_is_taken_from_the_same_kind_of_value() -> None:
    """The control's busy user never fails: per request the candidate is far worse, per user it is the same."""
    found = judged(
        {"metric": "error_rate", "max_increase": "50%", "relative": True},
        evidence_of(joined(arm(5000, 250), 10_000), arm(5000, 250)),
    )
    assert found.typical is not None
    assert (found.typical.within, found.typical.requests_within) == (True, False)
    assert found.typical.control == pytest.approx(0.05, abs=0.001)
    assert found.typical.requests_control == pytest.approx(250 / 15_000)


def test_quantiles_are_not_measured_per_user() -> None:
    plan = rollout({"metric": "latency_p95", "max": "500ms"})
    assert beside(plan.guardrails[0], plan, evidence_of(arm(5000), arm(5000))) is None


@pytest.mark.parametrize("slices", [1, 9])
def test_too_few_slices_prove_nothing_and_show_no_typical_user(slices: int) -> None:
    few = arm(5000, 2500, slices=range(slices))
    found = judged(MAX_PER_USER, evidence_of(arm(5000, 25), few))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (found.p_harm, found.p_healthy) == (1, 1)
    assert found.typical is None
    enough = arm(5000, 2500, slices=range(12))
    assert judged(MAX_PER_USER, evidence_of(arm(5000, 25), enough)).verdict is Verdict.HARMFUL


def test_ten_slices_of_the_control_are_needed_to_compare_with() -> None:
    few = arm(5000, 25, slices=range(9))
    assert judged(WORSE_PER_USER, evidence_of(few, arm(5000, 400))).verdict is Verdict.INCONCLUSIVE
    assert judged(MAX_PER_USER, evidence_of(few, arm(5000, 400))).verdict is Verdict.HARMFUL


def test_without_an_error_a_limit_is_kept_and_no_rate_is_taken_as_certain() -> None:
    found = compared(evidence_of(arm(1000), arm(1000)))
    assert found.level(Side.LESS, 0.04)[0] > math.log(20)
    assert found.level(Side.LESS, 0.0005)[0] < math.log(20)
    assert compared(evidence_of(arm(100), arm(100))).level(Side.LESS, 0.04)[0] < math.log(20)


def test_a_mean_is_taken_per_user_as_well() -> None:
    subject = evidence_of(arm(5000, ms={90: 50, 110: 50}), joined(arm(5000, ms={190: 50, 210: 50}), 10_000, ms=20))
    found = judged({"metric": "latency_mean", "max": "150ms", "per": "user"}, subject)
    assert found.verdict is Verdict.HARMFUL, text(found)
    assert found.value == pytest.approx(200, rel=0.01)
    assert "latency_mean per user 200 ms" in text(found)


def test_strata_are_compared_one_by_one() -> None:
    """Both rates rise tenfold while the candidate's weight does: pooled it would look far worse."""
    first = stage(arm(9000, 45), arm(1000, 5), weight=1000)
    subject = evidence_of(arm(1000, 50), arm(9000, 450), weight=9000, past=(first,))
    found = compared(subject)
    assert found.values.candidate is not None
    assert found.values.control is not None
    assert found.values.candidate > 3 * found.values.control
    a, b = found.standardised or (0.0, 1.0)
    assert a == pytest.approx(b)
    assert found.increase(Side.GREATER, 0.0, relative=True)[0] < 0


def test_a_stage_that_has_just_begun_hides_nothing_of_the_one_before() -> None:
    first = stage(arm(5000, 25), joined(arm(5000, 400), 10_000))
    found = judged(MAX, evidence_of(VariantEvidence(), VariantEvidence(), weight=9000, past=(first,)))
    assert found.typical is not None
    assert (found.typical.slices, found.typical.left_out) == (49, 1)
    assert found.typical.apart


def test_harm_that_began_later_is_seen_in_the_slices_since_then() -> None:
    whole = arm(50_000, 500), arm(50_000, 800)
    before = {"model-a": arm(49_000, 490), "model-b": arm(49_000, 490)}
    recent = Increment(-2.0, timedelta(seconds=30), arm(1000, 310), arm(1000, 10), before)
    found = compared(replace(evidence_of(*whole), look_back=LookBack((recent,))))
    log_e = found.level(Side.GREATER, 0.04)
    assert log_e.shape == (2,)
    assert log_e[0] < 0 < math.log(1000) < log_e[1]
    value, n = found.moment(1)
    assert value == pytest.approx(0.31)
    assert n == 1000


def test_as_many_more_requests_as_it_says_decide() -> None:
    limit = {"metric": "error_rate", "max": "1%", "per": "user"}
    few = arm(1000, 6)
    found = judged(limit, evidence_of(few, few))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.needed is not None
    times = 1 + found.needed / SOONER / 1000  # It says when half have decided; these are as they are on average.
    for factor, verdict in ((times * 0.8, Verdict.INCONCLUSIVE), (times * 1.2, Verdict.HEALTHY)):
        more = arm(round(1000 * factor), round(6 * factor))
        assert judged(limit, evidence_of(more, more)).verdict is verdict


def test_tokens_per_second_weigh_streams_by_their_time_and_count_streams() -> None:
    slices = {
        number: SliceEvidence(20, 0, 0, 0, {"streamed_tokens": 2000, "generation_ms": 10_000, "streams": 20})
        for number in range(50)
    }
    amounts = {"streamed_tokens": 100_000, "generation_ms": 500_000, "streams": 1000}
    evidence = VariantEvidence({200: 1000}, 0, slices, {}, amounts)
    found = compared(evidence_of(evidence, evidence), MEASURED["tokens_per_second"])
    assert found.values.candidate == pytest.approx(200)
    assert found.values.n == 1000


def test_per_user_and_per_request_are_different_hypotheses() -> None:
    plans = [rollout(MAX), rollout(MAX_PER_USER), rollout(WORSE_PER_USER)]
    names = [hypothesis(plan.guardrails[0]) for plan in plans]
    assert names == [
        "error_rate max 0.04",
        "error_rate per user max 0.04",
        "error_rate per user max_increase 0.5 of the control, harm limit",
    ]


def test_the_journal_has_both_values() -> None:
    found = outline(judged(MAX, evidence_of(arm(5000, 25), joined(arm(5000, 400), 10_000))))
    assert found["typical"]["left_out"] == 1
    assert found["typical"]["requests"] == 0.0266667
    assert found["typical"]["apart"] is True
    assert outline(judged(MAX, evidence_of(arm(20), arm(20, slices=range(5)))))["typical"] is None


def test_the_latency_mean_of_one_user_of_a_third_leaves_others_their_own() -> None:
    subject = evidence_of(arm(5000), joined(arm(5000), 2500, ms=1000))
    assert compared(subject, LATENCY_MEAN).values.candidate == pytest.approx(100)
