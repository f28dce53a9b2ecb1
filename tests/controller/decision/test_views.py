"""One heavy user among many: neither hidden behind him nor rolled back for him."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from abmesh.experiment.metrics import ERROR_RATE, MEASURED
from controller.decision.comparisons import compare
from controller.decision.guardrails import judge
from controller.decision.history import History
from controller.decision.look_back import look_back, with_checkpoint
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import Judgement, Verdict
from controller.decision.views import Views
from controller.evidence.summary import SliceEvidence, VariantEvidence
from tests.controller.decision.support import NOTHING, arm, evidence_of, rollout
from tests.controller.support import START

MAX: dict[str, Any] = {"metric": "error_rate", "max": "5%"}
RELATIVE: dict[str, Any] = {"metric": "error_rate", "max_increase": "50%", "relative": True}
NAMES = ("model-b", "model-a")


def _judge(guardrail: dict[str, Any], subject: RolloutEvidence) -> Judgement:
    plan = rollout(guardrail)
    return judge(plan.guardrails[0], plan, subject)


def heavy(evidence: VariantEvidence, requests: int, errors: int, *, slice_: int = 17, ms: int = 100) -> VariantEvidence:
    """The evidence with one more user, who is in one slice."""
    mine = evidence.slices.get(slice_, SliceEvidence())
    grown = SliceEvidence(mine.requests + requests, mine.errors + errors, 0, mine.duration_ms + requests * ms)
    group = slice_ // 5
    bins = dict(evidence.groups.get(group, {}))
    bins[float(ms), 10.0] = bins.get((float(ms), 10.0), 0) + requests
    return replace(
        evidence,
        codes={200: evidence.codes.get(200, 0) + requests - errors, 500: evidence.codes.get(500, 0) + errors},
        duration_ms=evidence.duration_ms + requests * ms,
        slices={**evidence.slices, slice_: grown},
        groups={**evidence.groups, group: bins},
    )


@pytest.mark.parametrize("guardrail", [MAX, RELATIVE])
def test_a_healthy_heavy_user_on_the_control_hides_nothing(guardrail: dict[str, Any]) -> None:
    control = heavy(arm(60_000, 300), 30_000, 0)
    assert _judge(guardrail, evidence_of(control, arm(2_000, 15))).verdict is not Verdict.HARMFUL
    judgement = _judge(guardrail, evidence_of(control, arm(2_000, 300)))
    assert judgement.verdict is Verdict.HARMFUL
    assert judgement.heaviest == pytest.approx(31_200 / 90_000)


@pytest.mark.parametrize("guardrail", [MAX, RELATIVE])
def test_a_healthy_heavy_user_on_the_candidate_hides_nothing(guardrail: dict[str, Any]) -> None:
    candidate = heavy(arm(2_000, 400), 10_000, 0)
    judgement = _judge(guardrail, evidence_of(arm(60_000, 300), candidate))
    assert judgement.verdict is Verdict.HARMFUL
    assert judgement.others
    assert judgement.value == pytest.approx(0.2, abs=0.01)
    assert judgement.n == 1_960, "without the heavy user's slice"


@pytest.mark.parametrize("guardrail", [MAX, RELATIVE])
@pytest.mark.parametrize("on_candidate", [False, True])
def test_a_heavy_user_who_fails_does_no_harm_and_holds_nothing(guardrail: dict[str, Any], on_candidate: bool) -> None:
    control, candidate = arm(60_000, 300), arm(20_000, 100)
    if on_candidate:
        candidate = heavy(candidate, 6_000, 6_000)
    else:
        control = heavy(control, 20_000, 20_000)
    judgement = _judge(guardrail, evidence_of(control, candidate))
    assert judgement.verdict is Verdict.HEALTHY
    assert judgement.value == pytest.approx(0.005, abs=1e-3), "what everybody else meets"
    assert judgement.others


def test_a_slow_heavy_user_neither_hides_nor_makes_a_slow_candidate() -> None:
    slower = {"metric": "latency_p95", "max_increase": "20%", "relative": True}
    typical, slow = {50: 10, 90: 10, 100: 1}, {100: 10, 180: 10, 200: 1}
    edges = {"latency_p95": (95.0,)}
    healthy = evidence_of(arm(60_000, ms=typical), heavy(arm(20_000, ms=typical), 8_000, 0, ms=900), edges=edges)
    assert _judge(slower, healthy).verdict is Verdict.HEALTHY
    hidden = evidence_of(heavy(arm(60_000, ms=typical), 30_000, 0, ms=900), arm(5_000, ms=slow), edges=edges)
    assert _judge(slower, hidden).verdict is Verdict.HARMFUL


def test_a_heavy_user_who_begins_to_fail_late_is_one_user() -> None:
    """What came since a checkpoint has its own busiest slice, and its own dispersion."""
    before = {"model-a": arm(60_000, 300), "model-b": arm(60_000, 300)}
    now = {"model-a": arm(61_000, 305), "model-b": heavy(arm(61_000, 305), 1_000, 1_000)}
    assert judge_since(before, now).verdict is not Verdict.HARMFUL
    everybody = {"model-a": arm(61_000, 305), "model-b": arm(61_000, 805)}
    found = judge_since(before, everybody)
    assert found.verdict is Verdict.HARMFUL
    assert found.since == pytest.approx(60)
    behind = {"model-a": arm(61_000, 305), "model-b": heavy(arm(61_000, 805), 20_000, 0)}
    assert judge_since(before, behind).verdict is Verdict.HARMFUL


def judge_since(before: dict[str, VariantEvidence], now: dict[str, VariantEvidence]) -> Judgement:
    """Of evidence that has a checkpoint a minute ago."""
    at = START.replace(hour=20)
    history = with_checkpoint(History(), START, at, before, NAMES)
    later = at.replace(minute=at.minute + 1)
    evidence = evidence_of(now["model-a"], now["model-b"])
    seen = replace(evidence, look_back=look_back(history.checkpoints, later, now, *NAMES, {}))
    return _judge(MAX, seen)


def test_what_is_left_out_is_left_out_of_every_metric() -> None:
    evidence = evidence_of(heavy(arm(5_000, 50), 5_000, 0), heavy(arm(5_000, 50), 5_000, 5_000, slice_=3))
    kept = evidence.without_dominant()
    rows = kept.rows(ERROR_RATE)
    assert (rows.a.n[0, 0, 17], rows.b.n[0, 0, 3], rows.a.n[0, 0, 3], rows.b.n[0, 0, 17]) == (0, 0, 100, 100)
    control, candidate = kept.latencies.of("duration")
    assert [int(control.sizes()[0, 0, group]) for group in (0, 3)] == [500, 0]
    assert [int(candidate.sizes()[0, 0, group]) for group in (0, 3)] == [0, 500]
    assert evidence.uneven(ERROR_RATE)
    assert evidence.uneven(MEASURED["latency_p95"])
    assert not evidence_of(arm(5_000), arm(5_000)).uneven(ERROR_RATE)


def test_nothing_is_left_of_a_variant_with_one_user() -> None:
    evidence: RolloutEvidence = evidence_of(arm(5_000), arm(100, 100, slices=[4]))
    assert evidence.without_busiest().rows(ERROR_RATE).b.n.sum() == 0
    assert evidence_of(NOTHING, NOTHING).heaviest == 0
    assert _judge(MAX, evidence).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("of_all", "of_others", "others"), [(2.0, 5.0, True), (5.0, 2.0, False), (11.0, 12.0, False), (-3.0, -3.0, False)]
)
def test_an_alarm_is_the_mean_of_both_views_and_shows_everybody_where_that_would_do(
    of_all: float, of_others: float, others: bool
) -> None:
    """A sum, or the larger of the two, would be wrong up to twice as often as asked for."""
    evidence = evidence_of(arm(100), arm(100))
    views = Views.of(lambda view: compare(ERROR_RATE, view, 1000, 0.05), evidence, ERROR_RATE)
    log_e, shown = views.mixed(lambda view: (of_all, 1) if view is views.whole else (of_others, 2), proven=10.0)
    assert log_e == pytest.approx(math.log((math.exp(of_all) + math.exp(of_others)) / 2))
    assert (shown.others, shown.row) == ((True, 2) if others else (False, 1))
    assert shown.view is (views.others if others else views.whole)
