from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.model import Experiment
from abmesh.experiment.rollout import Warmup
from controller.decision.warmup import (
    Progress,
    Target,
    WarmupResult,
    Warmups,
    WarmupState,
    halves,
    judge_warmup,
    progress_of,
    settled,
    target_of,
)
from controller.records import ExperimentState, Phase, adopt
from controller.wording.verdicts import warmup_text
from tests.controller.support import NAME, START, experiment

PLAN = Warmup(path="/v1/chat/completions")
PACE = st.floats(0.1, 1e6)


def _warmup(**changes: Any) -> Warmup:
    return Warmup.model_validate({"path": "/v1/chat/completions", **changes})


def _judge(durations: Sequence[float | None], warmup: Warmup = PLAN, age: float = 10.0) -> WarmupResult:
    said = {"listeners": 1, "began": START, "problem": "status 503" if None in durations else ""}
    progress = progress_of(durations, warmup).model_copy(update=said)
    return judge_warmup(warmup, progress, START + timedelta(seconds=age))


def _first_settled(durations: Sequence[float | None], warmup: Warmup = PLAN) -> int | None:
    """After how many requests a warm-up is over."""
    return next((n for n in range(len(durations) + 1) if settled(durations[:n], warmup)), None)


@given(PACE, st.integers(2, 50))
def test_a_constant_pace_settles_as_soon_as_there_are_enough_requests(ms: float, least: int) -> None:
    warmup = _warmup(min_requests=least)
    assert _first_settled([ms] * 60, warmup) == least


@given(st.integers(0, 60), st.floats(1.3, 100))
def test_a_cold_start_is_over_before_twice_its_length_and_not_before_it(cold: int, factor: float) -> None:
    found = _first_settled([100 * factor] * cold + [100.0] * 200)
    assert found is not None
    # As many slow requests as make a median of their own look like a pace, so a long cold start needs min_requests.
    if cold <= PLAN.min_requests // 4:
        assert found == PLAN.min_requests
    assert found <= max(PLAN.min_requests, 2 * cold + PLAN.min_requests)


@given(st.lists(PACE, min_size=10, max_size=80))
def test_only_a_fall_keeps_it_from_settling(durations: list[float]) -> None:
    rising = sorted(durations)
    assert settled(rising, PLAN)
    found = halves(durations, PLAN)
    assert found is not None
    assert settled(durations, PLAN) == (found[1] >= found[0] * 0.9)


@given(st.lists(PACE, min_size=10, max_size=80), st.floats(0.01, 100))
def test_the_unit_of_time_does_not_matter(durations: list[float], unit: float) -> None:
    found, scaled = halves(durations, PLAN), halves([duration * unit for duration in durations], PLAN)
    assert found is not None
    assert scaled == pytest.approx(tuple(half * unit for half in found))


@given(st.lists(st.none() | PACE, max_size=80), st.integers(2, 20))
def test_a_failure_among_the_last_requests_never_counts_as_settled(durations: list[float | None], least: int) -> None:
    warmup = _warmup(min_requests=least)
    recent = durations[-least:]
    if len(durations) < least or None in recent[least % 2 :]:
        assert halves(durations, warmup) is None
        assert not settled(durations, warmup)


def test_failures_that_are_long_over_are_forgotten() -> None:
    assert settled([None] * 12 + [100.0] * 12, PLAN)
    assert not settled([None] * 12 + [100.0] * 9, PLAN)


@given(st.lists(st.none() | PACE, max_size=80))
def test_progress_counts_every_request_once(durations: list[float | None]) -> None:
    progress = progress_of(durations, PLAN)
    answered = [duration for duration in durations if duration is not None]
    assert progress.requests - progress.failed == len(answered)
    assert durations[len(durations) - progress.failing :] == [None] * progress.failing
    assert (progress.first_ms, progress.last_ms) == ((answered[0], answered[-1]) if answered else (None, None))
    assert Progress.model_validate_json(progress.model_dump_json()) == progress


@given(st.lists(st.none() | PACE, max_size=120), st.floats(0, 600))
def test_it_goes_on_only_below_its_limits(durations: list[float | None], age: float) -> None:
    result = _judge(durations, age=age)
    limit = len(durations) >= PLAN.max_requests or age >= PLAN.max_duration.total_seconds()
    assert (result.state is WarmupState.GOING) == (not limit and not settled(durations, PLAN))
    assert result.enough == (result.state in (WarmupState.WARM, WarmupState.UNSETTLED))
    if all(duration is None for duration in durations):
        assert not result.enough


def test_a_warm_up_under_way_says_how_far_it_is() -> None:
    assert warmup_text(_judge([])) == "is warming up: 0 of at most 100 requests"
    assert warmup_text(_judge([900.0] * 11 + [180.0], _warmup(min_requests=20))) == (
        "is warming up: 12 of at most 100 requests, last 180 ms"
    )
    assert warmup_text(_judge([900.0, None, 7.25])) == (
        "is warming up: 3 of at most 100 requests, last 7.2 ms, 1 failed, the last one with: status 503"
    )


def test_one_that_has_settled_says_what_it_brought() -> None:
    result = _judge([900.0] * 4 + [180.0] * 20)
    assert result.state is WarmupState.WARM
    assert warmup_text(result) == "warmed up with 24 requests: 900 ms -> 180 ms"


def test_one_that_reached_a_limit_is_taken_as_warm_and_says_so() -> None:
    falling = [1000 * 0.99**n for n in range(100)]
    result = _judge(falling)
    assert result.state is WarmupState.UNSETTLED
    assert warmup_text(result) == (
        "counts as warm after 100 requests, the max_requests, although its latency has not settled: 1000 ms -> 417 ms"
    )
    assert warmup_text(_judge([900.0, None, 300.0], age=300)) == (
        "counts as warm after 3 requests in 5m, the max_duration, although its latency has not settled: "
        "900 ms -> 300 ms, 1 failed, the last one with: status 503"
    )


@pytest.mark.parametrize(
    ("durations", "age", "says"),
    [
        ([None] * 100, 10, "all 100 requests failed, the last one with: status 503"),
        ([None] * 3, 300, "all 3 requests failed, the last one with: status 503"),
        ([], 300, "no request was answered within 5m"),
        ([100.0] * 9 + [None] * 91, 10, "the last 91 of 100 requests failed, the last one with: status 503"),
    ],
)
def test_a_candidate_that_does_not_answer_is_not_taken_as_warm(
    durations: list[float | None], age: float, says: str
) -> None:
    result = _judge(durations, age=age)
    assert result.state is WarmupState.FAILED
    assert warmup_text(result) == f"could not warm up: {says}; the next try is 1m later"


def test_without_a_listener_it_says_what_to_do() -> None:
    result = judge_warmup(PLAN, Progress(), START)
    assert result.state is WarmupState.FAILED
    assert "--warmup http://HOST:PORT, or remove warmup from the document" in warmup_text(result)


def test_one_that_has_not_begun_goes_on_however_late_it_is() -> None:
    result = judge_warmup(PLAN, Progress(listeners=1), START + timedelta(days=1))
    assert result.state is WarmupState.GOING
    assert warmup_text(result) == "is about to warm up"


def test_a_clock_that_was_set_back_ends_nothing() -> None:
    assert _judge([100.0], age=-3600).state is WarmupState.GOING


def _subject(weight: float = 0, **changes: Any) -> tuple[Experiment, ExperimentState]:
    subject = experiment(weight=weight, rollout={"warmup": {"path": "/v1/x"}})
    return subject, adopt(subject, Phase.PROGRESSING, "s", START).model_copy(update=changes)


def test_a_candidate_without_users_in_a_rollout_under_way_is_to_be_warmed() -> None:
    assert target_of(*_subject()) == Target(NAME, "model-b", "s", _warmup(path="/v1/x"))


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.PROGRESSING])
def test_no_other_phase_warms(phase: Phase) -> None:
    assert target_of(*_subject(phase=phase)) is None


def test_nor_is_a_candidate_with_users_warmed_nor_another_plans_nor_one_without_warm_up() -> None:
    assert target_of(*_subject(weight=10)) is None
    assert target_of(*_subject(candidate="model-c")) is None
    assert target_of(experiment(weight=0), _subject()[1]) is None
    assert target_of(experiment(weight=10, rollout={"warmup": {"path": "/v1/x"}}), _subject()[1]) is None


def test_progress_counts_only_for_what_it_was_made_for() -> None:
    target = target_of(*_subject())
    assert target is not None
    progress = Progress(listeners=2, began=START, requests=7)
    warmups = Warmups(2, {NAME: (target, progress)})
    assert warmups.of(target) == progress
    assert warmups.of(None) is None
    others = (
        Target(NAME, "model-c", target.stage, target.warmup),
        Target(NAME, target.candidate, "resumed", target.warmup),
        Target(NAME, target.candidate, target.stage, _warmup(path="/v2/x")),
        Target("other", target.candidate, target.stage, target.warmup),
    )
    assert [warmups.of(other) for other in others] == [Progress(listeners=2)] * 4
