"""The load generator against a tiny real server."""

from __future__ import annotations

import asyncio
import math

import pytest

from bench.load import NO_ANSWER, LoadResult, request_of, requests_of, run_load
from tests.bench.tiny_server import ok, serving


async def test_every_request_is_sent_once_and_every_answer_counted() -> None:
    users = [f"user-{number}" for number in range(10)]
    async with serving(lambda number: ok("model-b" if number % 4 == 0 else "model-a")) as server:
        result = await run_load(server.port, requests_of(users, "/v1/x"), count=100, connections=4)
    assert len(server.seen) == len(result.latencies) == 100
    assert server.most_open == 4
    assert result.statuses == {200: 100}
    assert result.versions == {b"model-a": 75, b"model-b": 25}
    assert result.failed == 0
    for user in users:
        assert sum(f"x-user-id: {user}\r\n" in seen for seen in server.seen) == 10
    assert all(0 < seconds <= result.seconds for seconds in result.latencies)
    assert result.requests_per_second == pytest.approx(100 / result.seconds)


async def test_other_answers_than_200_are_failures() -> None:
    bad = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    async with serving(lambda number: bad if number < 3 else ok()) as server:
        result = await run_load(server.port, [request_of("/")], count=20, connections=2)
    assert result.statuses == {200: 17, 503: 3}
    assert result.failed == 3


async def test_a_connection_that_breaks_is_a_failure_and_the_others_take_over() -> None:
    async with serving(lambda number: None if number == 5 else ok()) as server:
        result = await run_load(server.port, [request_of("/")], count=20, connections=2)
    assert result.statuses == {200: 19, NO_ANSWER: 1}
    assert result.failed == 1


async def test_requests_that_could_not_be_sent_because_every_connection_broke_are_failures() -> None:
    async with serving(lambda number: None if number >= 5 else ok()) as server:
        result = await run_load(server.port, [request_of("/")], count=20, connections=2)
    assert result.statuses == {200: 5, NO_ANSWER: 15}


async def test_an_answer_that_is_not_http_is_a_failure() -> None:
    async with serving(lambda _: b"SSH-2.0-OpenSSH_9.6 or something like it\r\n\r\n") as server:
        result = await run_load(server.port, [request_of("/")], count=3, connections=1)
    assert result.failed == 3


async def test_a_server_that_never_answers_ends_in_a_timeout_without_open_connections() -> None:
    async with serving(lambda _: b"") as server:
        with pytest.raises(TimeoutError):
            await run_load(server.port, [request_of("/")], count=3, connections=2, seconds=0.2)
        deadline = asyncio.get_running_loop().time() + 5
        while server.open:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)


async def test_nobody_listening_is_an_error() -> None:
    async with serving(lambda _: ok()) as server:
        port = server.port
    with pytest.raises(OSError, match=str(port)):
        await run_load(port, [request_of("/")], count=1)


async def test_a_pause_slows_each_connection_down() -> None:
    async with serving(lambda _: ok()) as server:
        result = await run_load(server.port, [request_of("/")], count=10, connections=2, pause=0.05)
    assert result.seconds >= 4 * 0.05
    assert result.failed == 0


async def test_a_body_is_posted_with_its_length() -> None:
    async with serving(lambda _: ok()) as server:
        await run_load(server.port, [request_of("/v1/chat", ("x-a: 1",), b"{}")], count=1, connections=1)
    (seen,) = server.seen
    assert seen.startswith("POST /v1/chat HTTP/1.1\r\n")
    assert "x-a: 1\r\n" in seen
    assert seen.endswith("content-length: 2\r\n\r\n{}")


def test_a_quantile_is_the_nearest_rank() -> None:
    result = LoadResult(latencies=[0.004, 0.001, 0.003, 0.002])
    assert [result.quantile_ms(share) for share in (0.0, 0.25, 0.5, 0.51, 0.99, 1.0)] == [1, 1, 2, 3, 4, 4]
    assert math.isnan(LoadResult().quantile_ms(0.5))
