"""A Prometheus server as the source of statistics: what it is asked, and everything that can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from controller.evidence.counts import Counts
from controller.sources.base import Observation
from controller.sources.prometheus import PrometheusSource
from tests.controller.scrapes import NOW, answer, target
from tests.controller.support import NAME

COUNTS = Counts({("model-a", 0, 200): 7})
SELECTOR = 'job="envoy",namespace=~"a+b c&d"'
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def scrapes(ages: dict[str, float], **more: Any) -> str:
    """When targets were last scraped, as so many seconds ago."""
    series = [{"metric": {"instance": name}, "value": [NOW, f"{NOW - age:.3f}"]} for name, age in ages.items()]
    return answer(series, **more)


@dataclass
class Server:
    """What a server answers to both queries, and what it was asked."""

    ages: str
    series: str
    asked: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.asked.append(form)
        text = self.ages if form["query"].startswith("min") else self.series
        return web.Response(text=text, content_type="application/json")


@asynccontextmanager
async def _served(handler: Handler, *, seconds: float = 10.0) -> AsyncIterator[PrometheusSource]:
    app = web.Application()
    app.router.add_post("/prefix/api/v1/query", handler)
    async with TestServer(app) as server:
        url = str(server.make_url("/prefix"))
        source = PrometheusSource(
            url, selector=SELECTOR, timeout=seconds, max_age=timedelta(minutes=2), max_bytes=10**6
        )
        try:
            yield source
        finally:
            await source.close()


async def _observed(server: Server) -> list[Observation]:
    async with _served(server.handle) as source:
        return await source.observe()


async def test_it_asks_for_ages_and_then_for_all_series_of_the_same_moment() -> None:
    server = Server(scrapes({"a:1": 3.5, "b:1": 0}), answer([*target(COUNTS, "b:1"), *target(COUNTS, "a:1")]))
    found = await _observed(server)
    assert [(item.envoy, item.error, item.age) for item in found] == [
        ("a:1", "", timedelta(seconds=3.5)),
        ("b:1", "", timedelta(0)),
    ]
    assert all(item.sample is not None and item.sample.counts(NAME) == COUNTS for item in found)
    first, second = server.asked
    assert first == {"query": f"min by (instance) (timestamp(up{{{SELECTOR}}}))", "timeout": "10s"}
    assert second["time"] == f"{NOW:.3f}"
    assert second["query"].startswith("sum by (__name__,instance,experiment,")
    assert (
        '{__name__=~"up|envoy_server_uptime|envoy_server_hot_restart_epoch|envoy_abmesh_(requests|' in second["query"]
    )
    assert second["query"].endswith(f'",{SELECTOR}}})')


async def test_a_target_whose_scrape_failed_or_is_too_old_gives_an_error() -> None:
    ages = scrapes({"down:1": 1, "fresh:1": 119, "old:1": 121})
    series = answer([*target(COUNTS, "down:1", up=0), *target(COUNTS, "fresh:1"), *target(COUNTS, "old:1")])
    down, fresh, old = await _observed(Server(ages, series))
    assert (down.sample, fresh.error, old.sample) == (None, "", None)
    assert "could not scrape" in down.error
    assert old.error == "it was last scraped 121 s ago; at most 2m is allowed"


async def test_a_target_that_appears_or_disappears_between_the_queries_is_reported() -> None:
    gone, new = await _observed(Server(scrapes({"gone:1": 1}), answer(target(COUNTS, "new:1"))))
    assert (gone.envoy, gone.sample) == ("gone:1", None)
    assert (new.envoy, new.error) == ("new:1", "")


async def test_only_targets_scraped_since_the_last_tick_are_queried() -> None:
    more = Counts({("model-a", 0, 200): 9})
    server = Server(scrapes({"a.b:1": 5, "c:1": 5}), answer([*target(COUNTS, "a.b:1"), *target(COUNTS, "c:1")]))
    async with _served(server.handle) as source:
        await source.observe()
        server.ages, server.series = scrapes({"a.b:1": 1, "c:1": 5}), answer(target(more, "a.b:1"))
        first, second = await source.observe()
        assert server.asked[-1]["query"].endswith(r'",job="envoy",namespace=~"a+b c&d",instance=~"a\\.b:1"})')
        server.series = "not asked for"
        assert await source.observe() == [first, second]
        server.ages = scrapes({"c:1": 5})
        assert await source.observe() == [second]
    assert (first.age, second.age) == (timedelta(seconds=1), timedelta(seconds=5))
    assert first.sample is not None
    assert first.sample.counts(NAME) == more
    assert second.sample is not None
    assert second.sample.counts(NAME) == COUNTS


async def test_targets_are_queried_again_after_a_warning() -> None:
    server = Server(scrapes({"a:1": 1}), answer([], warnings=["store b is down"]))
    async with _served(server.handle) as source:
        gone, _ = await source.observe()
        server.series = answer(target(COUNTS, "a:1"))
        (found,) = await source.observe()
    assert gone.error == "the server no longer scrapes it"
    assert found.error == ""


async def test_a_selector_that_selects_nothing_is_an_error_of_the_server() -> None:
    (found,) = await _observed(Server(answer([]), answer([])))
    assert found.sample is None
    assert found.error == f"no target of it matches {SELECTOR}; select the Envoys with --selector"
    assert found.envoy.endswith("/prefix")


@pytest.mark.parametrize("query", ["ages", "series"])
async def test_a_warning_is_an_error_of_the_server(query: str) -> None:
    warnings = {"warnings": ["store b is down"]}
    ages = scrapes({"a:1": 1}, **(warnings if query == "ages" else {}))
    series = answer(target(COUNTS, "a:1"), **(warnings if query == "series" else {}))
    envoy, server = await _observed(Server(ages, series))
    assert envoy.sample is not None
    assert server.sample is None
    assert server.error == "its answer may be incomplete: store b is down"


def _says(status: int, text: str) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    return handle


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def _hang(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    raise web.HTTPOk


async def _cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "1000"})
    await response.prepare(request)
    await response.write(b"{")
    assert request.transport is not None
    request.transport.close()
    return response


BAD_QUERY = '{"status":"error","errorType":"bad_data","error":"parse error: unexpected end"}'


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (_says(400, BAD_QUERY), "status 400 instead of 200: it refused the query: parse error: unexpected end"),
        (_says(503, "no healthy upstream"), "status 503 instead of 200"),
        (_says(302, ""), "status 302 instead of 200"),
        (_says(200, BAD_QUERY), "parse error"),
        (_says(200, "<html>"), "is this a Prometheus server"),
        (_says(200, scrapes({"a:1": 1}).replace(f"{NOW - 1:.3f}", "soon")), "not a number: soon"),
        (_endless, "longer than 1,000,000 bytes"),
        (_hang, "no answer within 0.3 s"),
        (_cut_off, "connection broke"),
    ],
)
async def test_a_server_that_fails_gives_one_observation_with_an_error(handler: Handler, says: str) -> None:
    async with _served(handler, seconds=0.3 if says.startswith("no answer") else 10.0) as source:
        (found,) = await source.observe()
    assert found.sample is None
    assert says in found.error


async def test_an_unreachable_server_gives_one_observation_with_an_error() -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    source = PrometheusSource(url, selector=SELECTOR, timeout=5, max_age=timedelta(minutes=2))
    (found,) = await source.observe()
    await source.close()
    assert (found.envoy, found.sample) == (url, None)
    assert "no connection" in found.error
