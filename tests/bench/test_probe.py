"""The probe against a tiny real server."""

from __future__ import annotations

import time

import pytest

from bench.probe import Probe, ProbeError
from tests.bench.tiny_server import ok, serving


async def test_it_sees_status_variant_and_time() -> None:
    async with serving(lambda _: ok("model-b")) as server, Probe(server.port, "user-7") as probe:
        before = time.monotonic()
        seen = await probe.ask()
        assert (seen.status, seen.variant) == (200, "model-b")
        assert before <= seen.at - seen.seconds <= seen.at <= time.monotonic()
    assert "x-user-id: user-7\r\n" in server.seen[0]


async def test_it_asks_until_the_variant_shows_and_no_longer() -> None:
    def sixth_differs(number: int) -> bytes:
        return ok("model-b" if number >= 5 else "model-a")

    async with serving(sixth_differs) as server, Probe(server.port, "user-1") as probe:
        assert (await probe.until_on("model-b")).variant == "model-b"
        assert len(server.seen) == 6


async def test_an_answer_without_a_variant_is_an_unassigned_one() -> None:
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    async with serving(lambda _: plain) as server, Probe(server.port, "user-1") as probe:
        assert (await probe.until_on("")).variant == ""


async def test_waiting_in_vain_ends_and_says_for_what() -> None:
    async with serving(lambda _: ok("model-a")) as server, Probe(server.port, "user-1") as probe:
        with pytest.raises(ProbeError, match=r"waited 0\.1 s in vain for a request on model-b.*model-a"):
            await probe.until_on("model-b", seconds=0.1)


async def test_a_request_that_fails_is_an_error() -> None:
    bad = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    async with serving(lambda _: bad) as server, Probe(server.port, "user-1") as probe:
        with pytest.raises(ProbeError, match="503"):
            await probe.ask()


async def test_a_connection_that_breaks_is_an_error() -> None:
    async with serving(lambda _: None) as server, Probe(server.port, "user-1") as probe:
        with pytest.raises(ProbeError, match="closed the connection"):
            await probe.ask()
