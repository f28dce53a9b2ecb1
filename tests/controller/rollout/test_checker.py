"""Asking checks: what is sent, what counts as an answer, how often, and that nothing waits or is told to anybody."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer, unused_port

from abmesh.experiment.checks import Check
from abmesh.experiment.errors import SourceError
from controller.decision.checks import CheckResult, CheckTarget
from controller.records import Cause, DecisionRecord, Kind, Phase, adopt
from controller.rollout.checker import MAX_BYTES, Checker, number_of
from controller.rollout.tick import Outcome, TickReport
from tests.controller.support import NAME, START, experiment

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def vector(*values: str) -> dict[str, Any]:
    return {
        "status": "success",
        "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1.5, value]} for value in values]},
    }


@asynccontextmanager
async def _served(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    async with TestServer(app) as server:
        yield _address(server)


def _address(server: BaseTestServer) -> str:
    return str(server.make_url("")).rstrip("/")


@asynccontextmanager
async def _checker(address: str | None = None) -> AsyncIterator[Checker]:
    checker = Checker(address)
    try:
        yield checker
    finally:
        await checker.close()


def _check(**fields: Any) -> Check:
    kind = {} if "webhook" in fields else {"prometheus": "load", "max": 5}
    return Check.model_validate({"name": "c", "interval": "1s", "timeout": "5s", **kind, **fields})


def _report(*checks: Check, name: str = NAME, **changes: Any) -> TickReport:
    state = adopt(experiment(weight=25), Phase.PROGRESSING, "stage-7", START)
    made = DecisionRecord(id="d", kind=Kind.HOLD, cause=Cause.SETTLING, reason="r", at=START)
    target = CheckTarget(name, "model-b", "model-a", 2500, "progressing", "stage-7", checks) if checks else None
    return TickReport(1, outcomes=(Outcome(name, state, state.weights, made, checks=target),), **changes)


async def _answer(checker: Checker, check: Check, after: CheckResult | None = None) -> CheckResult:
    """The next result of a check."""
    async with asyncio.timeout(20):
        while True:
            checker.follow(_report(check))
            found = checker.results().get(NAME, {}).get(check.name)
            if found is not None and found != after:
                return found
            await asyncio.sleep(0.01)


async def test_a_query_is_sent_with_the_names_in_it_and_its_number_comes_back() -> None:
    asked: list[tuple[str, str, dict[str, str], str]] = []

    async def handler(request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        asked.append((request.method, request.path, form, request.headers.get("authorization", "")))
        return web.json_response(vector("3.5"))

    async with _served(handler) as server, _checker() as checker:
        check = _check(
            prometheus='max(load{app="{{candidate}}"})',
            address=f"{server}/prefix/",
            headers={"authorization": "Bearer s3cret"},
        )
        found = await _answer(checker, check)
    assert (found.value, found.problem, found.failing) == (3.5, "", 0)
    form = {"query": 'max(load{app="model-b"})', "timeout": "5s"}
    assert asked[0] == ("POST", "/prefix/api/v1/query", form, "Bearer s3cret")


async def test_a_webhook_gets_the_rollout_as_json() -> None:
    asked: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.method, request.path_qs, request.headers["user-agent"], await request.json()))
        return web.Response(status=204)

    async with _served(handler) as server, _checker() as checker:
        found = await _answer(checker, _check(webhook=f"{server}/ask?team=a"))
    assert (found.status, found.value, found.failing, found.problem) == (204, None, 0, "")
    body = {
        "check": "c",
        "experiment": NAME,
        "candidate": "model-b",
        "control": "model-a",
        "weight": 25.0,
        "phase": "progressing",
        "decision": "stage-7",
    }
    assert asked[0] == ("POST", "/ask?team=a", "abmesh-check", body)


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_any_other_status_of_a_webhook_fails_and_redirects_are_not_followed(status: int) -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"location": "/elsewhere"})

    async with _served(handler) as server, _checker() as checker:
        found = await _answer(checker, _check(webhook=f"{server}/ask"))
    assert (found.status, found.failing, found.problem) == (status, 1, "")
    assert paths == ["/ask"]


async def test_failing_answers_in_a_row_are_counted_and_forgotten_with_one_that_passes() -> None:
    values = iter(["7", "8", "3", "9"])

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(vector(next(values)))

    async with _served(handler) as server, _checker(server) as checker:
        check, last, found = _check(), None, []
        for _ in range(4):
            last = await _answer(checker, check, last)
            found.append((last.value, last.failing))
    assert found == [(7.0, 1), (8.0, 2), (3.0, 0), (9.0, 1)]


async def test_it_is_asked_no_more_often_than_its_interval_says() -> None:
    asked = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response(vector("1"))

    async with _served(handler) as server, _checker(server) as checker:
        check = _check(interval="1h")
        waited = [checker.waiting]
        checker.follow(_report(check))
        waited.append(checker.waiting)
        first = await _answer(checker, check)
        waited.append(checker.waiting)
        assert waited == [False, True, False]
        for _ in range(20):
            checker.follow(_report(check))
            await asyncio.sleep(0)
        assert checker.results()[NAME]["c"] == first
        # Another check by the same name is asked anew, and knows nothing of the first.
        assert (await _answer(checker, _check(interval="1h", max=0), first)).failing == 1
    assert asked == 2


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (None, "there is no Prometheus server: give the check an address, or use --source prometheus"),
        ("http://127.0.0.1:PORT", "no connection: "),
        ("http://127.0.0.1:99999", "its address is not usable"),
    ],
)
async def test_a_server_that_cannot_be_asked_is_no_answer(address: str | None, why: str) -> None:
    where = None if address is None else address.replace("PORT", str(unused_port()))
    async with _checker(where) as checker:
        found = await _answer(checker, _check())
    assert found.problem.startswith(why)
    assert (found.value, found.failing) == (None, 0)


async def test_one_that_does_not_answer_in_time_keeps_no_tick_waiting_and_ends_with_its_rollout() -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        arrived.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            left.set()
            raise
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    async with TestServer(app, handler_cancellation=True) as server, _checker() as checker:
        slow = _check(webhook=f"{_address(server)}/", timeout="200ms")
        found = await _answer(checker, slow)
        assert (found.problem, found.status) == ("no answer within 0.2 s", 0)
        arrived.clear()
        left.clear()
        checker.follow(_report(_check(webhook=f"{_address(server)}/", timeout="5m")))
        async with asyncio.timeout(20):
            await arrived.wait()
            checker.follow(_report())
            await left.wait()
        assert checker.results() == {}


async def test_what_a_tick_could_not_tell_is_kept() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(vector("1"))

    async with _served(handler) as server, _checker(server) as checker:
        found = await _answer(checker, _check())
        checker.follow(TickReport(1, failures={NAME: "the disk is full"}))
        assert checker.results() == {NAME: {"c": found}}
        checker.follow(TickReport(1, superseded=(NAME,)))
        assert checker.results() == {NAME: {"c": found}}
        checker.follow(TickReport(1))
        assert checker.results() == {}


async def test_an_answer_is_read_up_to_a_limit_only() -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            sent += MAX_BYTES
            await response.write(b"x" * MAX_BYTES)
        return response

    async with _served(handler) as server:
        async with _checker(server) as checker:
            found = await _answer(checker, _check())
        assert f"longer than {MAX_BYTES:,} bytes" in found.problem
        async with _checker() as checker:
            hook = await _answer(checker, _check(webhook=f"{server}/"))
        assert (hook.status, hook.problem) == (200, "")
    assert sent < 1000 * MAX_BYTES


async def test_neither_the_log_nor_a_reason_tells_addresses_or_headers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def handler(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    problems = []
    async with _served(handler) as server:
        for fields in (
            {"webhook": f"{server}/s3cret"},
            {"webhook": "http://127.0.0.1:99999/s3cret"},
            {"webhook": f"http://127.0.0.1:{unused_port()}/s3cret"},
            {"address": f"{server}/s3cret", "headers": {"authorization": "s3cret"}},
        ):
            async with _checker() as checker:
                problems.append((await _answer(checker, _check(**fields))).problem)
    assert all(problems)
    assert "s3cret" not in " ".join([*problems, caplog.text.replace("POST /s3cret", "")])


OK = json.dumps(vector("1")).encode()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (vector(), "the query gives no series instead of one"),
        (vector("1", "2"), "the query gives 2 series instead of one"),
        (vector("NaN"), "the query gives nan, which is not a finite number"),
        (vector("+Inf"), "the query gives inf, which is not a finite number"),
        (vector("many"), "cannot parse its answer"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "the query gives a matrix"),
        ({"status": "success", "data": {"resultType": "string", "result": [1, "x"]}}, "the query gives a string"),
        ({"status": "success", "data": {}}, "cannot parse its answer"),
        ({**vector("1"), "warnings": ["a store is down"]}, "its answer may be incomplete: a store is down"),
        ({"status": "error", "error": "parse error"}, "it refused the query with status 200: parse error"),
        ([], "cannot parse its answer"),
        ("x", "cannot parse its answer"),
    ],
)
def test_anything_but_one_finite_number_is_no_answer(answer: Any, why: str) -> None:
    with pytest.raises(SourceError) as caught:
        number_of(200, json.dumps(answer).encode())
    assert str(caught.value).startswith(why)


def test_one_number_is_an_answer() -> None:
    assert number_of(200, OK) == 1.0
    scalar = {"status": "success", "data": {"resultType": "scalar", "result": [1.5, "-2.5e3"]}}
    assert number_of(200, json.dumps(scalar).encode()) == -2500.0
    info = {**vector("4"), "warnings": ["PromQL info: metric might not be a counter"]}
    assert number_of(200, json.dumps(info).encode()) == 4.0


@pytest.mark.parametrize("text", [b"<html>", b"\xff\xfe", b"", b"[" * 100_000])
def test_what_is_not_json_is_no_answer(text: bytes) -> None:
    with pytest.raises(SourceError, match="is this a Prometheus server"):
        number_of(200, text)
    with pytest.raises(SourceError, match="it answered with status 502"):
        number_of(502, text)


def test_a_refusal_says_why_with_its_status() -> None:
    with pytest.raises(SourceError, match="it refused the query with status 400: bad query"):
        number_of(400, json.dumps({"status": "error", "error": "bad query"}).encode())
