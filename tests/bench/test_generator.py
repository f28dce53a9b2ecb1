"""The load generator on raw sockets, against a tiny real server."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.generator import StoppedError, generate, moments
from bench.load import NO_ANSWER, request_of, requests_of
from tests.bench.tiny_server import ok, serving


async def test_every_request_is_sent_once_and_every_answer_counted() -> None:
    users = [f"user-{number}" for number in range(10)]
    async with serving(lambda number: ok("model-b" if number % 4 == 0 else "model-a")) as server:
        result = await asyncio.to_thread(generate, server.port, requests_of(users, "/v1/x"), count=100, connections=4)
        assert server.most_open == 4
    assert result.statuses == {200: 100}
    assert result.versions == {b"model-a": 75, b"model-b": 25}
    assert all(0 < seconds <= result.seconds for seconds in result.latencies)
    assert len(result.latencies) == 100
    for user in users:
        assert sum(f"x-user-id: {user}\r\n" in seen for seen in server.seen) == 10


async def test_other_answers_than_200_are_failures() -> None:
    bad = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    async with serving(lambda number: bad if number < 3 else ok()) as server:
        result = await asyncio.to_thread(generate, server.port, [request_of("/")], count=20, connections=2)
    assert result.statuses == {200: 17, 503: 3}
    assert result.failed == 3


async def test_a_connection_that_breaks_is_a_failure_and_the_others_take_over() -> None:
    async with serving(lambda number: None if number == 5 else ok()) as server:
        result = await asyncio.to_thread(generate, server.port, [request_of("/")], count=20, connections=2)
    assert result.statuses == {200: 19, NO_ANSWER: 1}


@pytest.mark.parametrize("rate", [None, 2000.0])
async def test_requests_that_could_not_be_sent_because_every_connection_broke_are_failures(rate: float | None) -> None:
    async with serving(lambda number: None if number >= 5 else ok()) as server:
        result = await asyncio.to_thread(generate, server.port, [request_of("/")], count=20, connections=2, rate=rate)
    assert result.statuses == {200: 5, NO_ANSWER: 15}


async def test_an_answer_that_is_not_http_is_a_failure() -> None:
    async with serving(lambda _: b"SSH-2.0-OpenSSH_9.6 or something like it\r\n\r\n") as server:
        result = await asyncio.to_thread(generate, server.port, [request_of("/")], count=3, connections=1)
    assert result.failed == 3


async def test_a_large_request_arrives_whole() -> None:
    lines = [f"x-filler-{number}: {'f' * 900}" for number in range(60)]
    async with serving(lambda _: ok()) as server:
        result = await asyncio.to_thread(generate, server.port, [request_of("/", lines)], count=4, connections=2)
    assert result.statuses == {200: 4}
    assert all(len(seen) > 54_000 and seen.endswith("\r\n\r\n") for seen in server.seen)


async def test_a_server_that_never_answers_ends_in_a_timeout() -> None:
    async with serving(lambda _: b"") as server:
        with pytest.raises(TimeoutError, match=r"3 of 3 answers late after 0\.2 s"):
            await asyncio.to_thread(generate, server.port, [request_of("/")], count=3, connections=2, seconds=0.2)


async def test_a_run_that_is_stopped_ends_at_once() -> None:
    stop = threading.Event()
    stop.set()
    async with serving(lambda _: b"") as server:
        with pytest.raises(StoppedError):
            await asyncio.to_thread(
                generate, server.port, [request_of("/")], count=3, connections=2, seconds=60, stop=stop
            )


async def test_nobody_listening_is_an_error() -> None:
    async with serving(lambda _: ok()) as server:
        port = server.port
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(generate, port, [request_of("/")], count=1)


async def test_requests_are_sent_at_their_moments_whatever_the_answers_do() -> None:
    """With a rate the run takes as long as its moments say, though answers would come sooner."""
    async with serving(lambda _: ok()) as server:
        result = await asyncio.to_thread(generate, server.port, [request_of("/")], count=100, connections=8, rate=200)
    assert result.failed == 0
    assert moments(200, 100)[-1] <= result.seconds


async def test_a_latency_begins_when_its_request_was_meant_to_be_sent() -> None:
    """One answer that takes 0.3 s makes all wait that were due meanwhile on the only connection."""

    def slow_first(number: int) -> bytes:
        if number == 0:
            time.sleep(0.3)
        return ok()

    async with serving(slow_first) as server:
        result = await asyncio.to_thread(generate, server.port, [request_of("/")], count=20, connections=1, rate=1000)
    due = moments(1000, 20)
    assert all(latency >= 0.3 - (moment - due[0]) for latency, moment in zip(result.latencies, due, strict=True))


@given(st.floats(1, 1e5), st.integers(1, 500))
def test_moments_ascend_and_scale_with_the_rate(rate: float, count: int) -> None:
    found = moments(rate, count)
    assert len(found) == count
    assert found == sorted(found)
    assert found[0] > 0
    assert moments(rate * 2, count) == pytest.approx([moment / 2 for moment in found])


def test_moments_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    found = moments(500, 20_000)
    gaps = [after - before for before, after in pairwise(found)]
    assert mean(gaps) == pytest.approx(1 / 500, rel=0.03)
    assert sum(gap > 1 / 500 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.02)
