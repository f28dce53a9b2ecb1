"""The models of the rollouts answer by experiment, variant and user."""

from __future__ import annotations

import math
from statistics import pstdev

import pytest

from abmesh.analysis.truth import Outage
from bench.load import request_of, run_load
from bench.rollouts.upstream import Model, Upstream, header, serving

HEADERS = ("x-ab-experiment: one", "x-model-version: model-b", "x-user-id: user-1")
MODELS = {("one", "model-a"): Model(0.0, latency_ms=1), ("one", "model-b"): Model(1.0, latency_ms=1)}


def _head(*lines: str) -> str:
    return "\r\n".join(("get / http/1.1", *lines, ""))


def test_a_header_is_found_wherever_it_stands_and_only_by_its_whole_name() -> None:
    assert header(_head(*HEADERS), "x-model-version") == "model-b"
    assert header(_head("x-user-id: last"), "x-user-id") == "last"
    assert header(_head("not-x-user-id: a"), "x-user-id") == header(_head("a: x-user-id:b"), "x-user-id") == ""


async def test_each_variant_answers_in_its_way_and_is_counted() -> None:
    async with serving(MODELS, 1) as upstream:
        good = [request_of("/", ("x-ab-experiment: one", "x-model-version: model-a", "x-user-id: user-1"))]
        result = await run_load(upstream.port, good, count=20, connections=2)
        assert result.statuses == {200: 20}
        result = await run_load(upstream.port, [request_of("/", HEADERS)], count=10, connections=2)
        assert result.statuses == {503: 10}
    assert upstream.answered["one"].requests == {"model-a": 20, "model-b": 10}
    assert upstream.answered["one"].errors == {"model-a": 0, "model-b": 10}
    assert upstream.unknown == 0


async def test_a_request_that_nobody_assigned_fails_and_is_evidence_of_nothing() -> None:
    async with serving(MODELS, 1) as upstream:
        result = await run_load(upstream.port, [request_of("/", ("x-user-id: user-1",))], count=3, connections=1)
    assert result.statuses == {503: 3}
    assert (upstream.unknown, dict(upstream.answered)) == (3, {})


def test_a_slower_model_is_slower_by_its_factor() -> None:
    def times(latency_ms: float) -> list[float]:
        upstream = Upstream({("one", "model-b"): Model(0.1, latency_ms=latency_ms, spread=0.1)}, seed=3)
        heads = [_head(HEADERS[0], HEADERS[1], f"x-user-id: user-{number}") for number in range(2_000)]
        return sorted(upstream.answer(head)[0] for head in heads)

    plain, slower = times(60), times(66)
    assert [time / 1.1 for time in slower] == pytest.approx(plain)
    assert plain[1_000] == pytest.approx(0.060, rel=0.02)
    assert plain[1_900] == pytest.approx(0.060 * 1.179, rel=0.03)  # exp(0.1 * 1.645)


def test_requests_of_one_user_are_alike_in_their_time() -> None:
    upstream = Upstream({("one", "model-b"): Model(0.1, spread=0.2)}, seed=3)

    def median(user: int) -> float:
        head = _head(HEADERS[0], HEADERS[1], f"x-user-id: user-{user}")
        return math.log(sorted(upstream.answer(head)[0] for _ in range(201))[100] / 0.010)

    # A quarter of the variance lies between users: a standard deviation of 0.1 of 0.2.
    assert pstdev(median(user) for user in range(200)) == pytest.approx(0.1, rel=0.25)


@pytest.mark.parametrize("fast", [True, False])
def test_an_outage_fails_at_once_or_as_other_answers_do(fast: bool) -> None:
    model = Model(0.0, latency_ms=60, spread=0.1, outage=Outage(0.4, fast))
    upstream = Upstream({("one", "model-b"): model}, seed=3)
    answers = [upstream.answer(_head(HEADERS[0], HEADERS[1], f"x-user-id: user-{n}")) for n in range(2_000)]
    failed = [seconds for seconds, answer in answers if b" 503 " in answer]
    assert len(failed) == upstream.answered["one"].errors["model-b"] == pytest.approx(800, abs=70)
    assert (max(failed) < 0.001) is fast
    assert all(seconds > 0.03 for seconds, answer in answers if b" 200 " in answer)


def test_a_user_with_a_rate_of_their_own_fails_at_that_rate() -> None:
    upstream = Upstream({("one", "model-b"): Model(0.9)}, seed=3, rates={"user-1": 0.0})
    answers = [upstream.answer(_head(*HEADERS))[1] for _ in range(100)]
    assert all(b" 200 " in answer for answer in answers)
