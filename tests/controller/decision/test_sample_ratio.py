from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.decision.sample_ratio import judge_sample_ratio
from controller.decision.verdicts import AS_PROMISED
from controller.evidence.strata import Stratum
from controller.wording.verdicts import sample_ratio_text
from tests.controller.decision.support import NOTHING, arm, evidence_of, rollout, stage

PLAN = rollout()


def test_a_split_as_the_weights_say_is_no_alarm() -> None:
    found = judge_sample_ratio(PLAN, evidence_of(arm(9000), arm(1000), weight=1000))
    assert (found.alarm, found.seen) == (False, {})
    assert found.p > 0.01


@pytest.mark.parametrize("candidate", [400, 2500])
def test_too_many_or_too_few_requests_are_one_and_the_text_says_which(candidate: int) -> None:
    found = judge_sample_ratio(PLAN, evidence_of(arm(9000), arm(candidate), weight=1000))
    assert found.alarm
    assert found.p <= 0.01
    share = {400: "model-b 4.26% instead of 10%", 2500: "model-b 21.7% instead of 10%"}[candidate]
    assert share in sample_ratio_text(found, PLAN)
    assert "alarms at 0.01" in sample_ratio_text(found, PLAN)


def test_a_few_requests_alarm_nobody() -> None:
    assert not judge_sample_ratio(PLAN, evidence_of(arm(5), arm(0))).alarm
    assert judge_sample_ratio(PLAN, evidence_of(NOTHING, NOTHING)).p == 1.0


def test_a_few_users_who_send_very_much_make_the_counts_uneven_and_are_no_alarm() -> None:
    heavy = {slice_: 2000 if slice_ == 11 else 20 for slice_ in range(50)}
    parts = [arm(count, slices=[slice_]) for slice_, count in heavy.items()]
    lumpy = type(parts[0])(
        codes={200: sum(heavy.values())},
        slices={number: item for part in parts for number, item in part.slices.items()},
    )
    found = judge_sample_ratio(PLAN, evidence_of(arm(1000), lumpy))
    assert not found.alarm
    assert found.dispersion > 10


def test_stages_with_other_weights_are_each_compared_with_their_own() -> None:
    early = stage(arm(9000), arm(1000), weight=1000)
    assert not judge_sample_ratio(PLAN, evidence_of(arm(2000), arm(2000), past=[early])).alarm
    off = stage(arm(9000), arm(2500), weight=1000)
    assert judge_sample_ratio(PLAN, evidence_of(arm(2000), arm(2000), past=[off])).alarm


def test_where_one_variant_has_all_users_there_is_no_split() -> None:
    assert judge_sample_ratio(PLAN, evidence_of(NOTHING, arm(5000), weight=10_000)) == AS_PROMISED


def test_a_variant_without_weight_is_left_out() -> None:
    three = Stratum(
        {"model-a": 5000, "model-b": 5000, "model-c": 0},
        {"model-a": arm(1000), "model-b": arm(1000), "model-c": arm(700)},
    )
    subject = evidence_of(arm(1), arm(1))
    found = judge_sample_ratio(PLAN, type(subject)("model-b", "model-a", 50, [three]))
    assert not found.alarm


def test_its_alpha_is_its_own() -> None:
    subject = evidence_of(arm(1000), arm(1150))
    p = judge_sample_ratio(PLAN, subject).p
    assert 0.011 < p < 0.5
    assert judge_sample_ratio(rollout(analysis={"sample_ratio_alpha": f"{p * 101:.3f}%"}), subject).alarm


@given(st.integers(1, 20_000), st.integers(1, 20_000))
@settings(max_examples=50, deadline=None)
def test_it_does_not_matter_which_variant_is_which(one: int, other: int) -> None:
    assert judge_sample_ratio(PLAN, evidence_of(arm(one), arm(other))).p == pytest.approx(
        judge_sample_ratio(PLAN, evidence_of(arm(other), arm(one))).p, rel=1e-6
    )
