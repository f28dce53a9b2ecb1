"""Each Envoy is asked once after each of its starts what it was rendered from, and compared with the document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from abmesh.experiment.errors import SourceError, StateError
from abmesh.experiment.model import Document
from abmesh.experiment.store import Rejected, Snapshot
from abmesh.mesh import parts
from controller.evidence.parse import Sample
from controller.metrics.telemetry import Telemetry
from controller.sources.base import Observation
from controller.sources.renderings import PERIOD, RETRY, Digests, NotingSource, Renderings, RenderingsReader
from tests.abmesh.mesh.documents import document, experiment
from tests.e2e.support import eventually

A = "http://a"


def chat(path: str = "/v1/") -> Document:
    return document(experiment("chat", match={"path_prefix": path}))


class Setup:
    """One Envoy and a document, both set by the test, on a clock that the test advances."""

    def __init__(self) -> None:
        self.found = Renderings()
        self.telemetry = Telemetry()
        self.telemetry.add_renderings(self.found)
        self.answer: Digests | Exception | None = parts.digests(chat())
        self.asked = 0
        self.seconds = 100.0
        self.saved: dict[str, Digests | None] = {}
        self.save_error = False
        self.documents: asyncio.Queue[Document] = asyncio.Queue()
        self.reader = RenderingsReader(
            self.watch,
            self.found,
            timeout=timedelta(seconds=1),
            save=self.save,
            ask=self.ask,
            clock=lambda: self.seconds,
        )

    async def watch(self) -> AsyncIterator[Snapshot | Rejected]:
        while True:
            yield Snapshot(await self.documents.get(), "", 1)

    async def ask(self, envoy: str) -> Digests | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def save(self, envoys: object) -> None:
        if self.save_error:
            raise StateError("the disk is full")
        assert isinstance(envoys, dict)
        self.saved = envoys

    async def note(self, uptime: float | None, after: float = 5.0) -> None:
        self.seconds += after
        sample = Sample({}, uptime=uptime) if uptime is not None else None
        self.reader.note([Observation(A, sample, "" if sample else "no answer")])
        await self.settle()

    async def use(self, wanted: Document) -> None:
        self.documents.put_nowait(wanted)
        digests = parts.digests(wanted)

        async def used() -> bool:
            return self.found.today == digests

        await eventually(used, pause=0.001)

    async def settle(self) -> None:
        async def idle() -> bool:
            return not self.reader.busy

        await eventually(idle, pause=0.01)

    async def __aenter__(self) -> Setup:
        self.task = asyncio.create_task(self.reader.run())
        await self.use(chat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def test_an_envoy_is_stale_until_it_is_rendered_again(caplog: pytest.LogCaptureFixture) -> None:
    async with Setup() as setup:
        await setup.note(50.0)
        assert (setup.found.stale, setup.found.unknown) == ({}, ())
        await setup.use(chat("/v2/"))
        assert setup.found.stale == {A: ("chat/match",)}
        metrics = setup.telemetry.render().decode()
        assert 'abmesh_envoys_rendered{state="stale"} 1.0' in metrics
        assert f'abmesh_envoy_stale{{envoy="{A}",part="chat/match"}} 1.0' in metrics
        assert caplog.text.count("must be rendered again, because the document has changed: chat/match") == 1
        await setup.note(55.0)
        assert setup.asked == 1
        setup.answer = parts.digests(chat("/v2/"))
        await setup.note(1.0)
        assert setup.found.stale == {}
        assert setup.saved == setup.found.envoys
        assert 'abmesh_envoys_rendered{state="current"} 1.0' in setup.telemetry.render().decode()


async def test_a_restart_is_seen_by_its_later_start_too_and_a_long_life_by_the_period() -> None:
    async with Setup() as setup:
        await setup.note(8.0)
        await setup.note(18.0, after=10)
        assert setup.asked == 1
        await setup.note(19.0, after=20)  # it must have started again in between
        assert setup.asked == 2
        await setup.note(19.0 + PERIOD, after=PERIOD)
        assert setup.asked == 3


async def test_two_starts_within_seconds_are_told_apart_once_the_second_is_older() -> None:
    async with Setup() as setup:
        await setup.note(0.0)
        assert (setup.asked, setup.found.unknown) == (1, ())
        setup.answer = None
        await setup.note(0.0, after=3)  # another process: its uptime has not fallen, and it was never seen away
        assert (setup.asked, setup.found.unknown) == (1, ())
        await setup.note(7.0, after=7)
        assert (setup.asked, setup.found.unknown) == (2, (A,))
        await setup.note(12.0)
        assert setup.asked == 2


async def test_an_envoy_without_digests_is_unknown_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with Setup() as setup:
        setup.answer = None
        await setup.note(1.0)
        await setup.note(1.0 + PERIOD, after=PERIOD)
        assert setup.asked == 2
        assert list(setup.found.unknown) == [A]
        assert caplog.text.count("cannot tell whether http://a must be rendered again: it does not say") == 1


async def test_an_envoy_that_gives_no_answer_is_asked_again_later(caplog: pytest.LogCaptureFixture) -> None:
    async with Setup() as setup:
        setup.answer = SourceError("no answer within 1 s")
        setup.save_error = True
        await setup.note(1.0)
        await setup.note(6.0)
        assert (setup.asked, setup.found.envoys) == (1, {A: None})
        assert "the disk is full" in caplog.text
        setup.answer = parts.digests(chat())
        await setup.note(1.0 + RETRY, after=RETRY - 5)
        assert (setup.asked, setup.found.unknown) == (2, ())
        await setup.note(None)
        await setup.note(2.0 + RETRY)
        assert setup.asked == 3, "it may have restarted while it was away"


async def test_an_envoy_that_restarts_and_gives_no_answer_is_unknown() -> None:
    async with Setup() as setup:
        await setup.note(50.0)
        setup.answer = SourceError("it answered with status 403 instead of 200")
        await setup.note(50.0 + PERIOD, after=PERIOD)
        assert list(setup.found.unknown) == [], "it is still the one that answered"
        await setup.note(1.0)
        assert list(setup.found.unknown) == [A]
        setup.answer = parts.digests(chat("/v2/"))
        await setup.note(1.0 + RETRY, after=RETRY)
        assert setup.found.stale == {A: ("chat/match",)}


async def test_an_observation_passes_the_noting_source_unchanged() -> None:
    class Fake:
        closed = False

        async def observe(self) -> list[Observation]:
            return [Observation(A, None, "gone")]

        async def close(self) -> None:
            self.closed = True

    seen: list[Observation] = []
    fake = Fake()
    source = NotingSource(fake, seen.extend)
    assert await source.observe() == seen == [Observation(A, None, "gone")]
    await source.close()
    assert fake.closed


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, json.dumps({"node": {"metadata": parts.node_metadata({"a": "b"})}}), {"a": "b"}),
        (200, "{}", None),
        (200, "[]", None),
        (200, "not json", "its answer is not JSON"),
        (403, "", "status 403"),
    ],
)
async def test_what_an_admin_endpoint_may_say(status: int, body: str, expected: object) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_get("/server_info", answer)
    async with TestServer(app) as server:
        found = Renderings()
        reader = RenderingsReader(Setup().watch, found, timeout=timedelta(seconds=5))
        ask = reader.ask_admin(str(server.make_url("")).rstrip("/"))
        if isinstance(expected, str):
            with pytest.raises(SourceError, match=expected):
                await ask
        else:
            assert await ask == expected
