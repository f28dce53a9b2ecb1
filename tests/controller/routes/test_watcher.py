"""An Envoy that still does not serve the published routes after the settle time is reported."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from abmesh.experiment.store import format_generation
from controller.metrics.telemetry import Telemetry
from controller.routes.publisher import RoutesStatus
from controller.routes.watcher import VERSION, Watcher

OLD, NEW = format_generation(1), format_generation(2)


class Setup:
    """Two Envoys whose versions the test sets, on a clock that the test advances."""

    def __init__(self) -> None:
        self.status = RoutesStatus(generation=2)
        self.versions: dict[str, str | None] = {"http://a": NEW, "http://b": NEW}
        self.seconds = 0.0
        self.watcher = Watcher(
            tuple(self.versions),
            self.status,
            settle=timedelta(seconds=5),
            interval=timedelta(seconds=1),
            timeout=timedelta(seconds=1),
            ask=self.ask,
            clock=lambda: self.seconds,
        )

    async def ask(self, envoy: str) -> str | None:
        return self.versions[envoy]

    async def after(self, seconds: float) -> dict[str, str]:
        self.seconds += seconds
        await self.watcher.check()
        return self.status.behind


async def test_an_envoy_that_refuses_the_routes_is_reported_once_until_it_serves_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = Setup()
    telemetry = Telemetry()
    telemetry.add_routes(setup.status)
    assert await setup.after(0) == {}
    setup.versions["http://b"] = OLD
    assert await setup.after(1) == {}
    assert await setup.after(5) == {}, "it has the settle time"
    for _ in range(2):
        assert await setup.after(1) == {"http://b": OLD}
    assert "abmesh_routes_envoys_behind 1.0" in telemetry.render().decode()
    assert [record.message.partition(":")[0] for record in caplog.records] == ["http"], "once"
    assert f"http://b does not serve the published routes: found generation {OLD} instead of {NEW}" in caplog.text
    setup.versions["http://b"] = NEW
    assert await setup.after(1) == {}
    assert "abmesh_routes_envoys_behind 0.0" in telemetry.render().decode()


async def test_an_envoy_that_follows_every_generation_in_time_is_not_reported() -> None:
    setup = Setup()
    for generation in range(3, 20):
        setup.status.generation = generation
        assert await setup.after(3) == {}
        setup.versions = dict.fromkeys(setup.versions, format_generation(generation))
        assert await setup.after(3) == {}


async def test_an_envoy_that_never_follows_is_reported_although_the_generation_changes() -> None:
    setup = Setup()
    for generation in range(3, 6):
        setup.status.generation = generation
        behind = await setup.after(3)
    assert behind == {"http://a": NEW, "http://b": NEW}


async def test_no_envoy_is_behind_before_the_first_publication_or_without_an_answer() -> None:
    setup = Setup()
    setup.versions = {"http://a": None, "http://b": ""}
    setup.status.generation = None
    for _ in range(3):
        assert await setup.after(10) == {}
    setup.status.generation = 2
    await setup.after(0)
    assert await setup.after(10) == {"http://b": ""}, "an Envoy that has no routes at all"


async def test_a_bug_does_not_end_the_watcher(caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Event()
    looks = 0

    async def ask(_: str) -> str | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise KeyError("a bug")
        asked.set()
        return NEW

    brief = timedelta(milliseconds=1)
    watcher = Watcher(["a"], RoutesStatus(generation=2), settle=brief, interval=brief, timeout=brief, ask=ask)
    task = asyncio.create_task(watcher.run())
    async with asyncio.timeout(20):
        await asked.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "this is a bug in abmesh" in caplog.text


@pytest.mark.parametrize(
    ("answer", "found"), [(f'{VERSION}: "{OLD}"\n', OLD), (f'{VERSION}: ""\n', ""), ("", None), ("\udc80", None)]
)
async def test_an_answer_without_the_statistic_is_no_version(answer: str, found: str | None) -> None:
    async def stats(request: web.Request) -> web.Response:
        assert request.query["filter"] == "^http\\.abmesh\\.rds\\.abmesh\\.version_text$"
        return web.Response(body=answer.encode(errors="surrogateescape"))

    app = web.Application()
    app.router.add_get("/stats", stats)
    async with TestServer(app) as server:
        status = RoutesStatus(generation=2)
        envoys = [str(server.make_url("")).rstrip("/"), "http://127.0.0.1:1"]
        zero, second = timedelta(), timedelta(seconds=1)
        seconds = iter(range(100))
        watcher = Watcher(envoys, status, settle=zero, interval=second, timeout=5 * second, clock=lambda: next(seconds))
        for _ in range(2):
            await watcher.check()
        assert status.behind == ({} if found is None else {envoys[0]: found})
