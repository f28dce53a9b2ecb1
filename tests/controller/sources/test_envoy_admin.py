from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from controller.evidence.parse import parse
from controller.sources import envoy_admin
from controller.sources.envoy_admin import EnvoyAdminSource
from tests.paths import ROOT

REAL = gzip.decompress((ROOT / "bench" / "recorded" / "answer.txt.gz").read_bytes())
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def _admin(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/stats", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@asynccontextmanager
async def _source(*envoys: str, seconds: float = 5.0) -> AsyncIterator[EnvoyAdminSource]:
    source = EnvoyAdminSource(envoys, timeout=seconds, max_bytes=10**6)
    try:
        yield source
    finally:
        await source.close()


async def _good(_: web.Request) -> web.Response:
    return web.Response(body=REAL)


async def test_it_asks_only_for_our_statistics_and_the_uptime() -> None:
    asked: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.Response(body=REAL)

    async with _admin(handler) as envoy, _source(envoy) as source:
        (found,) = await source.observe()
    assert found.envoy == envoy
    assert found.error == ""
    assert found.sample is not None
    assert found.sample == parse(REAL)
    assert asked == [
        {
            "usedonly": "",
            "filter": "^(abmesh\\.|server\\.uptime$|server\\.hot_restart_epoch$)",
            "histogram_buckets": "detailed",
        }
    ]


def _packed(body: bytes, encoding: str = "gzip") -> Handler:
    """An answer that says that it is compressed."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"content-encoding": encoding})

    return handler


@pytest.mark.parametrize("body", [gzip.compress(REAL), gzip.compress(REAL[:1000]) + gzip.compress(REAL[1000:])])
async def test_a_compressed_answer_is_read_as_any_other(body: bytes) -> None:
    async with _admin(_packed(body)) as envoy, _source(envoy) as source:
        (found,) = await source.observe()
    assert found.sample == parse(REAL)


async def test_few_large_answers_are_read_at_the_same_time_and_waiting_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is large here, and two never end: the last one's turn comes after two time limits."""
    monkeypatch.setattr(envoy_admin, "LARGE", 3)
    monkeypatch.setattr(envoy_admin, "LARGE_READERS", 1)
    async with _admin(_trickle) as bad, _admin(_good) as good, _source(bad, bad, good, seconds=0.3) as source:
        found = await source.observe()
    assert [item.error for item in found] == ["no answer within 0.3 s"] * 2 + [""]


async def _not_found(_: web.Request) -> web.Response:
    raise web.HTTPNotFound


async def _redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def _page(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def _hang(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    raise web.HTTPOk


async def _trickle(request: web.Request) -> web.StreamResponse:
    """A byte at a time, for ever: each read succeeds, the whole never does."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def _cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "1000"})
    await response.prepare(request)
    await response.write(b"{")
    assert request.transport is not None
    request.transport.close()
    return response


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (_packed(gzip.compress(b" " * 100_000_000, 1)), "longer than 1,000,000 bytes when decompressed"),
        (_packed(gzip.compress(REAL)[:-100]), "ends in the middle of its gzip data"),
        (_packed(b""), "ends in the middle of its gzip data"),
        (_packed(REAL), "claims to be gzip and is not"),
        (_packed(REAL, "br"), "content-encoding other than gzip"),
        (_not_found, "404"),
        (_redirect, "302"),
        (_page, "not an Envoy statistic"),
        (_hang, "no answer within 0.3 s"),
        (_trickle, "no answer within 0.3 s"),
        (_endless, "longer than 1,000,000 bytes"),
        (_cut_off, "connection broke"),
    ],
)
async def test_an_envoy_that_fails_gives_an_observation_with_an_error(handler: Handler, says: str) -> None:
    seconds = 0.3 if says.startswith("no answer") else 10.0
    async with _admin(handler) as bad, _admin(_good) as good, _source(bad, good, seconds=seconds) as source:
        first, second = await source.observe()
    assert first.sample is None
    assert says in first.error
    assert second.sample is not None


async def test_an_unreachable_envoy_is_an_error_until_it_is_back() -> None:
    envoy = f"http://127.0.0.1:{unused_port()}"
    async with _source(envoy) as source:
        (found,) = await source.observe()
        assert found.sample is None
        assert "no connection" in found.error
        app = web.Application()
        app.router.add_get("/stats", _good)
        async with TestServer(app, port=int(envoy.rpartition(":")[2])):
            (found,) = await source.observe()
        assert found.sample is not None


async def test_all_envoys_are_asked_concurrently() -> None:
    waiting = 0
    everybody = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            everybody.set()
        await everybody.wait()
        return web.Response(text="server.uptime: 0\n")

    async with _admin(handler) as a, _admin(handler) as b, _admin(handler) as c, _source(a, b, c) as source:
        assert [item.error for item in await source.observe()] == ["", "", ""]


async def test_an_address_that_cannot_be_encoded_gives_an_observation_with_an_error() -> None:
    async with _admin(_good) as good, _source(f"http://{'x' * 64}.test:9901", good) as source:
        first, second = await source.observe()
    assert first.sample is None
    assert first.error
    assert second.sample is not None


async def test_waiting_for_a_reader_does_not_count_against_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer is read at a time here, and three never end: the last one's turn comes after three time limits."""
    monkeypatch.setattr(envoy_admin, "READERS", 1)
    async with _admin(_trickle) as bad, _admin(_good) as good, _source(bad, bad, bad, good, seconds=0.3) as source:
        *slow, last = await source.observe()
    assert [item.error for item in slow] == ["no answer within 0.3 s"] * 3
    assert last.error == ""


async def test_no_more_envoys_than_allowed_are_asked_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_admin, "CONNECTIONS", 2)
    asked, most = 0, 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await asyncio.sleep(0.05)
        asked -= 1
        return web.Response(body=REAL)

    async with _admin(handler) as envoy, _source(*[envoy] * 7) as source:
        found = await source.observe()
    assert [item.error for item in found] == [""] * 7
    assert most == 2
