"""Statistics of Envoys that come and go: each known by its process, missed only if it should answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.test_utils import TestServer

from abmesh.experiment.names import STATS_SCOPE
from abmesh.mesh.istio.stats_paths import STATS_PATH
from controller.cluster.filters.pods import statistics_query
from controller.evidence.coverage import Coverage
from controller.evidence.parse import parse
from controller.rollout.tick import Tick
from controller.sources.base import Observation, present, readings_of
from controller.sources.envoy_admin import EnvoyAdminSource
from controller.sources.members import Member, StaticFleet
from tests.controller.sources.test_envoy_admin import REAL

AT = datetime(2026, 12, 1, tzinfo=UTC)
NOBODY = "http://127.0.0.1:9"


class Pods:
    """A fleet that a test changes."""

    complete = True

    def __init__(self, *members: Member) -> None:
        self.now: Sequence[Member] = members

    def members(self) -> Sequence[Member]:
        return self.now


async def _observed(fleet: Pods) -> list[Observation]:
    source = EnvoyAdminSource(fleet, timeout=5, query=statistics_query)
    try:
        return await source.observe()
    finally:
        await source.close()


async def test_the_fenced_listener_is_asked_and_its_prefix_taken_off() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        lines = REAL.replace(f"\n{STATS_SCOPE}.".encode(), f"\nistio.{STATS_SCOPE}.".encode())
        first = b"istio." if lines.startswith(f"{STATS_SCOPE}.".encode()) else b""
        return web.Response(body=first + lines)

    app = web.Application()
    app.router.add_get("/stats", handler)
    async with TestServer(app) as server:
        address = str(server.make_url("")).rstrip("/")
        (found,) = await _observed(Pods(Member("uid/istio-proxy/0", address, "edge/gw-1", AT)))
    assert asked == [STATS_PATH], "letter by letter"
    assert found.sample == parse(REAL)
    assert (found.envoy, found.name, found.started, found.listed) == ("uid/istio-proxy/0", "edge/gw-1", AT, True)


async def test_one_that_is_ready_and_silent_is_missing_data_and_others_are_not() -> None:
    found = await _observed(
        Pods(
            Member("a", NOBODY, "edge/a"),
            Member("b", NOBODY, "edge/b", ready=False),
            Member("c", NOBODY, "edge/c", leaving=True),
        )
    )
    assert [item.absent for item in found] == [True, False, False]
    coverage = Tick(found, AT, AT).coverage
    assert (coverage.total, [name for name, _ in coverage.absent]) == (1, ["edge/a"])


def test_without_anybody_that_should_answer_nothing_is_complete() -> None:
    assert not Tick([], AT, AT).coverage.complete
    only = [Observation("b", None, "no answer", missed=False, listed=True)]
    assert Tick(only, AT, AT).coverage == Coverage(0)


def test_only_a_fleet_that_lists_every_process_says_who_is_gone() -> None:
    there = [Observation("a", None, listed=True), Observation("b", parse(REAL), listed=True)]
    assert present(there) == frozenset({"a", "b"})
    assert present([]) is None
    assert present([*there, Observation("c", None)]) is None
    assert [member.key for member in StaticFleet(["http://a"]).members()] == ["http://a"]
    assert not StaticFleet(["http://a"]).complete


def test_a_readings_process_start_comes_with_it() -> None:
    sample = parse(REAL)
    name = next(iter(sample.experiments))
    (reading,) = readings_of([Observation("a", sample, started=AT)], name, AT).values()
    assert reading.started == AT
