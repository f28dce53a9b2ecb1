from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.decision.emergency_stop import judge_emergency_stop
from controller.decision.look_back import Increment, LookBack
from controller.decision.verdicts import Judgement, Verdict
from controller.evidence.summary import SliceEvidence
from tests.controller.decision.support import NOTHING, arm, evidence_of, rollout, stage, text

LOOSE = {"metric": "error_rate", "max": "90%"}
PLAN = rollout(LOOSE)


def _stops(n: int, errors: int, control_errors: int = 0, control: int = 400) -> Judgement | None:
    return judge_emergency_stop(PLAN, evidence_of(arm(control, control_errors), arm(n, errors)))


def test_twenty_errors_in_forty_requests_stop_it_with_the_numbers() -> None:
    found = _stops(40, 20)
    assert found is not None
    assert (found.kind, found.verdict, found.value, found.limit, found.n) == ("brake", Verdict.HARMFUL, 0.5, 0.1, 40)
    assert text(found).startswith(
        "emergency stop: error_rate 50% over 40 requests is significantly above 10% and above model-a"
    )
    assert found.p_harm <= found.alpha_harm == PLAN.analysis.alpha / 2


def test_it_says_nothing_where_the_candidate_does_well_or_too_little_is_known() -> None:
    assert _stops(40, 0) is None
    assert _stops(3, 3) is None
    assert _stops(10_000, 1000) is None
    assert judge_emergency_stop(PLAN, evidence_of(arm(100), NOTHING)) is None


def test_an_outage_behind_both_is_not_the_candidates() -> None:
    assert _stops(40, 20, control_errors=200) is None
    assert _stops(4000, 2000, control_errors=2000, control=4000) is None


def test_a_candidate_that_is_worse_in_an_outage_is_still_stopped() -> None:
    assert _stops(400, 380, control_errors=80) is not None


def test_without_requests_of_the_control_the_limit_alone_decides() -> None:
    found = judge_emergency_stop(PLAN, evidence_of(NOTHING, arm(100, 50)))
    assert found is not None
    assert "model-a" not in text(found)


def test_at_100_percent_there_is_none() -> None:
    off = rollout(LOOSE, analysis={"emergency_stop": "100%"})
    assert judge_emergency_stop(off, evidence_of(arm(1000), arm(1000, 1000))) is None


def test_one_user_whose_every_request_fails_does_not_stop_it() -> None:
    assert judge_emergency_stop(PLAN, evidence_of(arm(1000), arm(1000, 1000, slices=[3]))) is None
    assert judge_emergency_stop(PLAN, evidence_of(arm(1000), arm(1000, 1000))) is not None


def test_a_candidate_that_breaks_down_after_a_long_good_time_is_stopped_by_its_last_seconds() -> None:
    before = {"model-a": arm(90_000), "model-b": arm(90_000)}
    subject = evidence_of(arm(90_100), arm(90_100, 80))
    assert judge_emergency_stop(PLAN, subject) is None
    since = Increment(math.log(0.02), timedelta(seconds=7), arm(100, 80), arm(100), before)
    found = judge_emergency_stop(PLAN, replace(subject, look_back=LookBack((since,))))
    assert found is not None
    assert (found.value, found.n, found.since) == (0.8, 100, 7.0)
    assert "in the last 7 s" in text(found)


def test_good_stages_do_not_hide_one_that_fails() -> None:
    early = stage(arm(900), arm(100), weight=1000)
    assert judge_emergency_stop(PLAN, evidence_of(arm(500), arm(500, 400), past=[early])) is not None


@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 2000))
@settings(max_examples=100, deadline=None)
def test_it_stops_only_what_is_above_its_limit_and_worse_than_the_control(
    n: int, errors: int, control_errors: int, control: int
) -> None:
    failed, control_failed = min(errors, n), min(control_errors, control)
    found = _stops(n, failed, control_failed, control)
    if found is not None:
        assert failed / n > 0.10
        assert failed / n > control_failed / control


def test_one_user_who_asks_for_what_does_not_fail_hides_nothing() -> None:
    """A probe sends more than all others together; half of everybody else's requests fail."""
    users, probe = arm(1000, 500), arm(4000, slices=[7])
    mixed = replace(
        users,
        codes={200: 4500, 500: 500},
        slices={**users.slices, 7: SliceEvidence(4020, users.slices[7].errors, 0, probe.duration_ms)},
    )
    found = judge_emergency_stop(rollout(), evidence_of(arm(1000), mixed))
    assert found is not None
    assert "without the busiest users" in text(found)
    assert found.value == pytest.approx(0.5, abs=0.01)
    assert judge_emergency_stop(rollout(), evidence_of(arm(1000), arm(5000, 50))) is None
