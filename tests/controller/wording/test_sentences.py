"""Exact sentences, as somebody reads them who was woken by one."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from abmesh.experiment.limits import Guardrail
from controller.decision.policy import Situation, apply_policy
from controller.decision.verdicts import Judgement, OnHarm, Trend, Verdict
from controller.evidence.coverage import Coverage
from controller.records import Cause, Phase, adopt
from controller.wording.reasons import reason
from controller.wording.verdicts import heaviest_text, judgement_text
from tests.controller.support import START, experiment

MAX = {"metric": "error_rate", "max": "5%"}
ANY = {"metric": "error_rate", "max_increase": "100%", "relative": True, "harm": "any"}
P95 = {"metric": "latency_p95", "max_increase": "20%", "relative": True}
MIN = {"metric": "click_rate", "min": "10%"}


def _judgement(guardrail: dict[str, Any], value: float, limit: float, **changes: Any) -> Judgement:
    rail = Guardrail.model_validate(guardrail)
    fields: dict[str, Any] = {
        "metric": rail.metric,
        "kind": rail.kind,
        "verdict": Verdict.INCONCLUSIVE,
        "value": value,
        "limit": limit,
        "n": 824,
        "log_e_harm": math.log(4),
        "log_e_healthy": math.log(10),
        "alpha_harm": 0.02,
        "alpha_healthy": 0.05,
        "latest_n": 824.0,
        "elapsed": 412.0,
        "guardrail": rail,
        **changes,
    }
    return Judgement(**fields)


INSIDE = _judgement(MAX, 0.031, 0.05, leads=Verdict.HEALTHY, needed=240)
BEYOND = _judgement(MAX, 0.073, 0.05, leads=Verdict.HARMFUL, needed=92, trend=Trend.RISING)
WATCHED = replace(BEYOND, on_harm=OnHarm.REPORT)
AT_LIMIT = _judgement(MAX, 0.05, 0.05)
SAME_USERS = _judgement(MAX, 0.031, 0.05, leads=Verdict.HEALTHY, returning=0.8)
FAR = _judgement(MAX, 0.031, 0.05, leads=Verdict.HEALTHY, returning=0.3)

JUDGEMENTS = {
    "inside": (
        INSIDE,
        "error_rate 3.1% over 824 requests is within its limit of 5%, but not significantly so far: p 0.1, needs 0.05; "
        "if it stays so, it is healthy after about 240 more requests (2m at this rate)",
    ),
    "inside and steady": (
        replace(INSIDE, trend=Trend.STEADY),
        "error_rate 3.1% over 824 requests, steady, is within its limit of 5%, but not significantly so far: p 0.1, "
        "needs 0.05; if it stays so, it is healthy after about 240 more requests (2m at this rate)",
    ),
    "beyond": (
        BEYOND,
        "error_rate 7.3% over 824 requests, rising, is above its limit of 5%, but not significantly so far: p 0.25, "
        "rolls back at 0.02; if it stays so, it is rolled back after about 92 more requests (46s at this rate)",
    ),
    "beyond, but the evidence of all stages leads to health": (
        replace(BEYOND, leads=Verdict.HEALTHY, trend=Trend.UNKNOWN),
        "error_rate 7.3% over 824 requests is above its limit of 5%, but not significantly so far: p 0.1, needs 0.05; "
        "if it stays so, it is healthy after about 92 more requests (46s at this rate)",
    ),
    "beyond, where harm pauses": (
        replace(BEYOND, on_harm=OnHarm.PAUSE),
        "error_rate 7.3% over 824 requests, rising, is above its limit of 5%, but not significantly so far: p 0.25, "
        "pauses at 0.02; if it stays so, it is paused after about 92 more requests (46s at this rate)",
    ),
    "beyond, where a guardrail only watches": (
        WATCHED,
        "error_rate 7.3% over 824 requests, rising, is above its limit of 5%, but not significantly so far: p 0.25, "
        "would act at 0.02; if it stays so, it is harmful after about 92 more requests (46s at this rate); it only "
        "watches (dry_run)",
    ),
    "below what it must reach": (
        _judgement(MIN, 0.08, 0.1, leads=Verdict.HARMFUL, needed=92, trend=Trend.FALLING),
        "click_rate 8% over 824 requests, falling, is below its limit of 10%, but not significantly so far: p 0.25, "
        "rolls back at 0.02; if it stays so, it is rolled back after about 92 more requests (46s at this rate)",
    ),
    "worse than the control where any harm counts": (
        _judgement(ANY, 0.018, 0.02, control=0.01, leads=Verdict.HARMFUL, needed=92),
        "error_rate 1.8% over 824 requests is within its limit of 2% (model-a's 1% times 2), but above model-a's, "
        "which is harm, too (harm: any): p 0.25, rolls back at 0.02; if it stays so, it is rolled back after about 92 "
        "more requests (46s at this rate)",
    ),
    "at the limit": (
        AT_LIMIT,
        "error_rate 5% over 824 requests is at its limit of 5%: too close to it for any number of requests to settle",
    ),
    "the same users": (
        SAME_USERS,
        "error_rate 3.1% over 824 requests is within its limit of 5%, but not significantly so far: p 0.1, needs 0.05; "
        "at 10% mostly the same users return, and more of their requests will hardly settle it; a larger step (abmesh "
        "promote --step) or more users would",
    ),
    "far away": (
        FAR,
        "error_rate 3.1% over 824 requests is within its limit of 5%, but not significantly so far: p 0.1, needs 0.05; "
        "if it stays so, it is healthy after more than 20 times as many requests",
    ),
    "no edge yet": (
        _judgement(P95, 150.0, 180.0, control=150.0, log_e_healthy=0.0),
        "latency_p95 150 ms over 824 requests cannot be compared with model-a's yet, which takes 200 requests of "
        "model-a",
    ),
    "nothing to compare": (
        _judgement(ANY, 0.0, 0.0, control=0.0, log_e_healthy=0.0),
        "error_rate 0% over 824 requests cannot be compared with model-a's while both are 0",
    ),
    "a mean of few users": (
        _judgement({"metric": "latency_mean", "max": "500ms"}, 150.0, 500.0, log_e_healthy=0.0),
        "latency_mean 150 ms over 824 requests cannot be judged yet, which takes 50 requests, and users in 10 slices "
        "on both variants",
    ),
    "this stage alone": (
        replace(INSIDE, log_e_healthy=5.0, within=False, leads=None, needed=None, latest=0.08),
        "error_rate 3.1% over 824 requests is significantly within its limit of 5% over all stages, but not within it "
        "in this stage alone, where it is 8%",
    ),
    "without the busiest": (
        replace(INSIDE, others=True),
        "error_rate 3.1% over 824 requests without the busiest users is within its limit of 5%, but not significantly "
        "so far: p 0.1, needs 0.05; if it stays so, it is healthy after about 240 more requests (2m at this rate)",
    ),
    "healthy": (
        replace(INSIDE, verdict=Verdict.HEALTHY, log_e_healthy=5.0, trend=Trend.RISING),
        "error_rate 3.1% over 824 requests, rising, is significantly within its limit of 5%: p 0.0067",
    ),
    "harmful": (
        replace(BEYOND, verdict=Verdict.HARMFUL, log_e_harm=9.0, leads=None, needed=None),
        "error_rate 7.3% over 824 requests is significantly above its limit of 5%: p 0.00012, rolls back at 0.02",
    ),
}


@pytest.mark.parametrize(("judgement", "sentence"), JUDGEMENTS.values(), ids=JUDGEMENTS)
def test_a_judgement_says_where_a_value_stands_where_it_moves_and_what_comes_next(
    judgement: Judgement, sentence: str
) -> None:
    assert judgement_text(judgement, _state()) == sentence


def test_at_the_last_step_no_larger_one_is_recommended() -> None:
    found = judgement_text(SAME_USERS, _state(100))
    assert found.endswith("more of their requests will hardly settle it; more users would")


def _state(weight: int = 10) -> Any:
    return adopt(experiment(weight=weight), Phase.PROGRESSING, "s", START)


def _reason(*judgements: Judgement, cause: Cause = Cause.INCONCLUSIVE, **changes: Any) -> str:
    minutes = changes.pop("minutes", 7)
    subject = experiment(weight=changes.pop("weight", 10), rollout=changes.pop("rollout", {}))
    fields: dict[str, Any] = {
        "experiment": subject,
        "state": adopt(subject, Phase.PROGRESSING, "s", START),
        "judgements": judgements,
        "requests": 824,
        "collecting": True,
        "coverage": Coverage(1),
        **changes,
    }
    situation, now = Situation(**fields), START + timedelta(minutes=minutes)
    decision = apply_policy(situation, now)
    assert decision.cause is cause
    return reason(decision, situation, now)


NEXT = {
    "one guardrail": ((INSIDE,), {}, "(2m at this rate); then it advances to 50%"),
    "two guardrails": ((INSIDE, INSIDE), {}, "(2m at this rate); once all guardrails are healthy, it advances to 50%"),
    "this stage alone": (
        (replace(INSIDE, log_e_healthy=5.0, within=False, leads=None, needed=None, latest=0.08),),
        {},
        "in this stage alone, where it is 8%; once all guardrails are healthy, it advances to 50%",
    ),
    "the last step": ((INSIDE,), {"weight": 100}, "(2m at this rate); then it is promoted"),
    "a rollback ahead": ((INSIDE, BEYOND), {}, "is rolled back after about 92 more requests (46s at this rate)"),
    "the same users": (
        (SAME_USERS,),
        {},
        "or more users would; as things are, only abmesh promote or abmesh rollback moves it",
    ),
    "at the limit": (
        (AT_LIMIT,),
        {},
        "for any number of requests to settle; as things are, only abmesh promote or abmesh rollback moves it",
    ),
    "the stage's time is over before": (
        (replace(INSIDE, needed=24_000),),
        {"rollout": {"on_timeout": "rollback"}},
        "(3h20m at this rate); in 53m the stage reaches its max_duration and is rolled back (on_timeout: rollback)",
    ),
    "the stage's time is long enough": (
        (INSIDE,),
        {"rollout": {"on_timeout": "rollback"}},
        "(2m at this rate); then it advances to 50%",
    ),
}


@pytest.mark.parametrize(("judgements", "changes", "end"), NEXT.values(), ids=NEXT)
def test_a_hold_says_what_it_waits_for(judgements: tuple[Judgement, ...], changes: dict[str, Any], end: str) -> None:
    found = _reason(*judgements, **changes)
    assert found.startswith(f"model-b at {changes.get('weight', 10)}% holds: error_rate ")
    assert found.endswith(end), found


@pytest.mark.parametrize("judged", [WATCHED, replace(AT_LIMIT, on_harm=OnHarm.REPORT)], ids=["harm", "nothing"])
def test_what_a_guardrail_that_only_watches_leads_to_is_not_what_comes_next(judged: Judgement) -> None:
    """Nor does it hurry a stage, stand in its way, or make one guardrail two."""
    assert _reason(INSIDE, judged) == _reason(INSIDE)
    rollout = {"on_timeout": "rollback"}
    waits: dict[str, Any] = {"cause": Cause.MIN_REQUESTS, "requests": 40}
    assert _reason(INSIDE, judged, rollout=rollout) == _reason(INSIDE, rollout=rollout)
    assert _reason(INSIDE, judged, **waits) == _reason(INSIDE, **waits)


def test_a_stage_that_waits_for_requests_says_how_long_and_what_threatens_it() -> None:
    plain = _reason(cause=Cause.MIN_REQUESTS, requests=40)
    assert plain == "model-b at 10% has 40 of at least 100 requests after 7m; at this rate it has them in 10m"
    later = replace(BEYOND, needed=500)
    found = _reason(INSIDE, later, BEYOND, cause=Cause.MIN_REQUESTS, requests=40)
    assert found == f"{plain}; {judgement_text(BEYOND, _state())}"


def test_a_stage_that_waits_for_its_time_says_what_threatens_it() -> None:
    found = _reason(INSIDE, BEYOND, cause=Cause.MIN_DURATION, minutes=0.5)
    assert found == f"model-b at 10% has run 30s of at least 1m, with 824 requests; {judgement_text(BEYOND, _state())}"
    assert _reason(INSIDE, cause=Cause.MIN_DURATION, minutes=0.5).endswith("with 824 requests")


def test_one_slice_with_many_of_the_requests_is_named_in_every_reason_while_it_has_them() -> None:
    heavy = replace(INSIDE, heaviest=0.304)
    assert heaviest_text([INSIDE, heavy]) == "one slice of users has 30% of a variant's requests"
    assert heaviest_text([INSIDE]) == ""
    assert _reason(heavy).endswith("advances to 50%; one slice of users has 30% of a variant's requests")
    few = _reason(heavy, cause=Cause.MIN_REQUESTS, requests=40)
    assert few.endswith("in 10m; one slice of users has 30% of a variant's requests")


@pytest.mark.parametrize("kind", ["hold", "rollback"])
def test_a_stage_whose_time_is_over_says_why_once(kind: str) -> None:
    found = _reason(AT_LIMIT, cause=Cause.TIMEOUT, minutes=61, rollout={"on_timeout": kind})
    does = "and is rolled back (on_timeout: rollback); it was held because"
    if kind == "hold":
        does = "and keeps holding (on_timeout: hold), because"
    assert found == f"model-b at 10% exceeded its max_duration of 1h {does} {judgement_text(AT_LIMIT, _state())}"
