"""The demo's users send requests as configured, and report what they saw."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from abmesh.cli.demo.users import UNASSIGNED, Population, Seen, User
from tests.e2e.support import eventually


def _seen(variant: str, at: float, seconds: float, status: int = 200, override: bool = False) -> Seen:
    return Seen(at, variant, override, status, seconds)


def test_users_carry_their_identity_in_one_place_and_keep_it() -> None:
    for carries, found in (("header", "x-user-id"), ("query", "?user_id=user-3"), ("cookie", "cookie")):
        user = User(3, carries, tester=False, power=False, cookie="llm-session=abc")
        path, headers = user.request()
        places = {"x-user-id": "x-user-id" in headers, "?user_id=user-3": "?" in path, "cookie": "cookie" in headers}
        assert [place for place, there in places.items() if there] == [found]


def test_the_population_is_the_same_for_the_same_seed() -> None:
    assert Population("http://x", seed=3).users == Population("http://x", seed=3).users
    carried = Counter(user.carries for user in Population("http://x", seed=3).users)
    assert set(carried) == {"header", "cookie", "query"}


def test_a_summary_leaves_out_beta_testers_old_answers_and_the_times_of_failures() -> None:
    population = Population("http://x", size=1)
    for seen in (
        _seen("b", at=1, seconds=9.0),
        _seen("b", at=5, seconds=9.0, override=True),
        *(_seen("b", at=5, seconds=index / 1000) for index in range(1, 101)),
        _seen("b", at=5, seconds=9.0, status=503),
        _seen("a", at=5, seconds=0.5),
    ):
        population.record(seen)
    summary = population.summary(since=2)
    assert list(summary) == ["a", "b"]
    assert (summary["b"].requests, summary["b"].errors) == (101, 1)
    assert math.isclose(summary["b"].p50_ms, 50)
    assert math.isclose(summary["b"].p95_ms, 95)
    assert (population.requests, population.errors) == (104, 1)


async def test_users_without_an_identity_keep_the_cookie_that_they_are_given_and_share_it_with_nobody() -> None:
    identities: Counter[str] = Counter()
    issued = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal issued
        response = web.json_response({}, headers={"x-model-version": "model-a"})
        if "llm-session" in request.cookies:
            identities[request.cookies["llm-session"]] += 1
        elif "x-user-id" not in request.headers and "user_id" not in request.query:
            issued += 1
            response.set_cookie("llm-session", f"identity-{issued}")
        return response

    application = web.Application()
    application.router.add_post("/v1/chat/completions", answer)
    async with TestServer(application) as server:
        population = Population(str(server.make_url("")).rstrip("/"), size=8, rate=2000, seed=2)
        running = asyncio.create_task(population.run())

        async def enough() -> bool:
            return population.requests >= 300

        await eventually(enough)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert population.errors == 0
    assert set(population.by_variant) == {"model-a"}
    cookies = [user.cookie for user in population.users if user.cookie]
    assert cookies
    assert len(set(cookies)) == len(cookies)
    assert set(identities) <= {f"identity-{number}" for number in range(1, issued + 1)}


async def test_an_unreachable_endpoint_counts_as_errors_without_a_variant() -> None:
    server = TestServer(web.Application())
    await server.start_server()
    url = str(server.make_url("")).rstrip("/")
    await server.close()
    population = Population(url, size=2, rate=500)
    async with aiohttp.ClientSession() as session:
        await population.ask(session, population.users[0])
    assert population.by_variant == {UNASSIGNED: 1}
    assert population.errors == 1


async def test_users_react_to_answers_of_their_variant_and_segment_with_their_own_identity() -> None:
    events: list[tuple[str, str, bool]] = []

    async def answer(_: web.Request) -> web.Response:
        response = web.json_response({}, headers={"x-model-version": "model-b"})
        response.set_cookie("llm-session", "mine")
        return response

    async def count(request: web.Request) -> web.Response:
        known = "x-user-id" in request.headers or "user_id" in request.query or "llm-session" in request.cookies
        events.append((request.match_info["event"], request.headers["x-user-segment"], known))
        return web.Response(status=204 if request.match_info["event"] == "click" else 400)

    application = web.Application()
    application.router.add_post("/v1/chat/completions", answer)
    application.router.add_post("/_ab/events/{event}", count)
    feedback = {"model-b": {"power": {"click": 1.0, "thumbs_up": 1.0}}, "model-a": {"casual": {"click": 1.0}}}
    async with TestServer(application) as server, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        population = Population(str(server.make_url("")).rstrip("/"), size=60, feedback=feedback)
        for user in population.users:
            await population.ask(session, user)
    power = sum(user.power for user in population.users)
    assert 0 < power < 60
    assert events == [("click", "power", True), ("thumbs_up", "power", True)] * power
    assert population.events == {"click": power, "thumbs_up": power}
    assert population.events_refused == power
    assert population.requests == 60


async def test_a_failed_answer_gets_no_reaction() -> None:
    application = web.Application()
    async with TestServer(application) as server, aiohttp.ClientSession() as session:
        feedback = {UNASSIGNED: {"power": {"click": 1.0}, "casual": {"click": 1.0}}}
        population = Population(str(server.make_url("")).rstrip("/"), size=1, feedback=feedback)
        await server.close()
        await population.ask(session, population.users[0])
    assert population.errors == 1
    assert population.events == {}
