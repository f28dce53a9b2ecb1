"""Probes: where they go, which answers count, and when the controller's loop sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer, unused_port

from abmesh.experiment.parts import Cluster, Tls
from abmesh.experiment.rollout import Warmup
from controller.decision.probes import Probe, ProbeTarget, probe_target
from controller.records import Cause, DecisionRecord, Kind, Phase, adopt
from controller.rollout.asking import THROUGH_ENVOY
from controller.rollout.prober import Prober, probe
from controller.rollout.tick import Outcome, TickReport
from tests.controller.support import NAME, START, experiment

WARMUP = Warmup(path="/v1/chat/completions", body="{}", headers={"authorization": "Bearer secret"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _target(cluster: Cluster | None = None, warmup: Warmup | None = None) -> ProbeTarget:
    return ProbeTarget(NAME, "model-a", cluster, "/v1/", warmup)


def _answering(status: int, *, from_upstream: bool = True, asked: list[web.Request] | None = None) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        if asked is not None:
            asked.append(request)
        return web.Response(status=status, headers={THROUGH_ENVOY: "3"} if from_upstream else {})

    return handler


@asynccontextmanager
async def _served(handler: Handler) -> AsyncIterator[BaseTestServer]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    async with TestServer(app) as server:
        yield server


def _at(server: BaseTestServer) -> Cluster:
    assert server.port is not None
    return Cluster(host="127.0.0.1", port=server.port)


async def test_a_cluster_is_asked_where_the_document_says_it_is() -> None:
    asked: list[web.Request] = []
    async with _served(_answering(404, asked=asked)) as server:
        found = await probe(_target(_at(server)), ())
    assert (found.answered, found.failed, found.problem) == (1, 0, "")
    assert found.passed
    assert found.ms is not None
    assert (asked[0].method, asked[0].path, asked[0].headers["user-agent"]) == ("GET", "/v1/", "abmesh-probe")


async def test_a_warmup_listener_is_asked_for_the_variant_with_the_documents_request() -> None:
    asked: list[web.Request] = []
    async with _served(_answering(200, asked=asked)) as server:
        listener = str(server.make_url("")).rstrip("/")
        found = await probe(_target(warmup=WARMUP), [listener, f"http://127.0.0.1:{unused_port()}"])
    assert (found.answered, found.failed) == (1, 1)
    assert not found.passed
    assert "no connection" in found.problem
    assert (asked[0].method, asked[0].path) == ("POST", "/v1/chat/completions")
    assert asked[0].headers["x-model-version"] == "model-a"
    assert asked[0].headers["x-ab-experiment"] == NAME


@pytest.mark.parametrize(
    ("status", "from_upstream", "warmup", "problem"),
    [
        (404, True, None, ""),
        (404, False, None, "status 404 from Envoy itself"),
        (503, True, None, "status 503"),
        (404, True, WARMUP, "status 404"),
        (204, True, WARMUP, ""),
    ],
)
async def test_what_counts_as_an_answer(status: int, from_upstream: bool, warmup: Warmup | None, problem: str) -> None:
    async with _served(_answering(status, from_upstream=from_upstream)) as server:
        found = await probe(_target(warmup=warmup), [str(server.make_url("")).rstrip("/")])
    assert found.passed is (problem == "")
    assert found.problem.partition("/: ")[0].endswith(problem)
    assert "secret" not in found.problem


async def test_a_model_that_hangs_does_not_answer() -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise web.HTTPOk

    async with _served(hang) as server:
        found = await probe(_target(_at(server)), (), seconds=0.2)
    assert (found.answered, found.failed) == (0, 1)
    assert found.problem.endswith("no answer within 0.2 s")


async def test_without_a_place_nobody_is_asked() -> None:
    found = await probe(_target(), ())
    assert (found.answered, found.failed, found.passed) == (0, 0, False)


async def test_certificates_that_are_not_here_are_named() -> None:
    cluster = Cluster(host="127.0.0.1", port=unused_port(), tls=Tls(ca_file="/no/such/file"))
    found = await probe(_target(cluster), ())
    assert "cannot use /no/such/file here: No such file or directory" in found.problem


def test_the_target_has_the_variants_cluster_and_the_rollouts_request() -> None:
    subject = experiment(rollout={"warmup": {"path": "/x"}}, match={"path_prefix": "/v1/"})
    cluster = Cluster(host="m", port=1)
    found = probe_target(subject, "model-a", {"a": cluster, "b": Cluster(host="n", port=2)})
    assert (found.experiment, found.variant, found.cluster, found.path) == (NAME, "model-a", cluster, "/v1/")
    assert found.warmup == subject.rollout.warmup  # type: ignore[union-attr]
    assert probe_target(subject, "model-a", None).cluster is None


def _report(target: ProbeTarget | None) -> TickReport:
    state = adopt(experiment(weight=100), Phase.PROMOTED, "s", START)
    made = DecisionRecord(id="d", kind=Kind.HOLD, cause=Cause.PROBING, reason="x", at=START)
    return TickReport(1, outcomes=(Outcome(NAME, state, state.weights, made, probes=target),))


async def _result(prober: Prober) -> Probe:
    async with asyncio.timeout(10):
        while prober.waiting:
            await asyncio.sleep(0.01)
            prober.probes()
    return prober.probes()[NAME]


async def test_the_loop_asks_once_for_each_need_again_when_it_is_old_and_forgets() -> None:
    asked: list[web.Request] = []
    async with _served(_answering(200, asked=asked)) as server:
        prober, target = Prober(()), _target(_at(server))
        now = datetime.now(UTC)
        prober.follow(_report(target), now)
        prober.follow(_report(target), now)
        assert prober.waiting
        assert (await _result(prober)).answered == 1
        prober.follow(_report(target), now)
        await _result(prober)
        assert len(asked) == 1
        prober.follow(_report(target), now + timedelta(seconds=6))
        await _result(prober)
        assert len(asked) == 2
        prober.follow(_report(None), now)
        assert prober.probes() == {}
        await prober.close()
