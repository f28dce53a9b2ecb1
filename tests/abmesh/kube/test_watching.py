from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from abmesh.kube import watching
from abmesh.kube.resources import EXPERIMENTS, PODS, Resource
from abmesh.kube.watching import Listing, follow
from tests.abmesh.kube.fake_api import FakeApi


class Followed:
    """What a follower has been told last."""

    def __init__(self) -> None:
        self.listings: list[Listing] = []

    @property
    def last(self) -> Listing:
        return self.listings[-1]

    async def until(self, condition: Callable[[Listing], bool]) -> Listing:
        async with asyncio.timeout(15):
            while not self.listings or not condition(self.last):  # noqa: ASYNC110 - what is told comes one by one
                await asyncio.sleep(0.01)
        return self.last

    async def names(self, *expected: str) -> Listing:
        return await self.until(lambda it: sorted(name for _, name in it.items) == sorted(expected) and not it.trouble)


@contextlib.asynccontextmanager
async def following(api: FakeApi, resource: Resource = EXPERIMENTS, **options: Any) -> AsyncIterator[Followed]:
    followed = Followed()

    async def run() -> None:
        async for listing in follow(api.connection, resource, **options):
            followed.listings.append(listing)

    task = asyncio.create_task(run())
    try:
        yield followed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def watches(api: FakeApi) -> int:
    return sum(seen.query.get("watch") == "true" for seen in api.seen)


def lists(api: FakeApi) -> int:
    return sum("limit" in seen.query for seen in api.seen)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - the fake runs in another thread
            await asyncio.sleep(0.01)


async def test_what_is_there_comes_first_and_each_change_after_it(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "a", spec={"x": 1})
    async with following(api) as followed:
        await followed.names("a")
        changed = api.put(EXPERIMENTS, "llm", "a", spec={"x": 2})
        found = await followed.until(lambda it: it.items["llm", "a"]["spec"] == {"x": 2})
        assert found.at == changed["metadata"]["resourceVersion"]
        api.put(EXPERIMENTS, "web", "b")
        await followed.names("a", "b")
        api.remove(EXPERIMENTS, "llm", "a")
        await followed.names("b")


async def test_only_what_was_asked_for_is_followed(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "a", metadata={"labels": {"team": "x"}})
    api.put(EXPERIMENTS, "llm", "b")
    api.put(EXPERIMENTS, "web", "c", metadata={"labels": {"team": "x"}})
    async with following(api, namespace="llm", labels="team=x") as followed:
        await followed.names("a")
        api.put(EXPERIMENTS, "llm", "d")
        api.put(EXPERIMENTS, "llm", "e", metadata={"labels": {"team": "x"}})
        await followed.names("a", "e")


async def test_items_of_a_list_are_complete_objects(api: FakeApi) -> None:
    stored = api.put(EXPERIMENTS, "llm", "a", spec={"x": 1})
    async with following(api) as followed:
        assert (await followed.names("a")).items["llm", "a"] == stored


async def test_long_lists_come_in_pages(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PAGE", 3)
    for number in range(10):
        api.put(EXPERIMENTS, "llm", f"e{number}")
    async with following(api) as followed:
        await followed.names(*(f"e{number}" for number in range(10)))
    assert lists(api) == 4


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_refusals_keep_the_last_good_set_and_are_told(api: FakeApi, status: int) -> None:
    api.put(EXPERIMENTS, "llm", "a")
    async with following(api) as followed:
        await followed.names("a")
        await until(lambda: watches(api) > 0)
        api.fail(status, times=1000, message="not now")
        api.end_watches()
        found = await followed.until(lambda it: "not now" in it.trouble)
        assert list(found.items) == [("llm", "a")]
        api.put(EXPERIMENTS, "llm", "b")
        api.heal()
        await followed.names("a", "b")


async def test_the_pause_between_attempts_doubles_to_two_seconds(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds >= 0.1:
            paused.append(seconds)
        await real(min(seconds, 0.01))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    api.fail(503, times=10_000)
    async with following(api):
        async with asyncio.timeout(15):
            while len(paused) < 8:
                await real(0.01)
    assert paused[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


async def test_trouble_is_told_before_the_first_list_too(api: FakeApi) -> None:
    api.fail(403, times=1000, message="cannot list")
    async with following(api) as followed:
        found = await followed.until(lambda it: "may not list experiments.abmesh.dev" in it.trouble)
        assert (dict(found.items), found.at) == ({}, "")


async def test_a_watch_goes_on_from_the_last_event(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "a")
    async with following(api) as followed:
        await followed.names("a")
        last = api.put(EXPERIMENTS, "llm", "b")
        await followed.names("a", "b")
        api.cut()
        api.put(EXPERIMENTS, "llm", "c")
        await followed.names("a", "b", "c")
    assert lists(api) == 1
    assert last["metadata"]["resourceVersion"] in [seen.query.get("resourceVersion") for seen in api.seen]


@pytest.mark.parametrize("how", ["410", "error 410", "error 500"])
async def test_a_place_that_is_forgotten_is_listed_again(api: FakeApi, how: str) -> None:
    api.put(EXPERIMENTS, "llm", "a")
    async with following(api) as followed:
        await followed.names("a")
        await until(lambda: watches(api) > 0)
        api.put(PODS, "llm", "elsewhere")
        if how == "410":
            api.compact()
            api.end_watches()
        else:
            api.end_watches({"kind": "Status", "code": int(how[-3:]), "message": "forgotten"})
        api.put(EXPERIMENTS, "llm", "b")
        await followed.names("a", "b")
        assert lists(api) == 2


async def test_a_restarted_api_server_is_found_again() -> None:
    api = FakeApi()
    with api.running():
        api.put(EXPERIMENTS, "llm", "a")
        connection_before = api.connection.server
    async with contextlib.AsyncExitStack() as stack:
        with api.running():
            followed = await stack.enter_async_context(following(api))
            await followed.names("a")
        found = await followed.until(lambda it: bool(it.trouble))
        assert list(found.items) == [("llm", "a")]
        with api.running():
            assert api.connection.server == connection_before
            api.put(EXPERIMENTS, "llm", "b")
            await followed.names("a", "b")


async def test_a_frozen_api_server_is_noticed(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PIECE_SECONDS", 1)
    monkeypatch.setattr(watching, "_LATE_SECONDS", 0.5)
    api.put(EXPERIMENTS, "llm", "a")
    async with following(api) as followed:
        await followed.names("a")
        api.freeze()
        found = await followed.until(lambda it: "no answer in time" in it.trouble)
        assert list(found.items) == [("llm", "a")]
        api.thaw()
        api.put(EXPERIMENTS, "llm", "b")
        await followed.names("a", "b")


async def test_a_deleted_kind_takes_no_object_away(api: FakeApi) -> None:
    for name in "abc":
        api.put(EXPERIMENTS, "llm", name)
    async with following(api) as followed:
        await followed.names("a", "b", "c")
        await until(lambda: watches(api) > 0)
        api.delete_kind(EXPERIMENTS)
        await followed.until(lambda it: bool(it.trouble))
        await until(lambda: lists(api) > 3)
        assert {len(listing.items) for listing in followed.listings if listing.at} == {3}
        api.create_kind(EXPERIMENTS)
        api.put(EXPERIMENTS, "llm", "d")
        await followed.names("d")


async def test_a_kind_that_is_being_deleted_is_not_taken_for_deletions(api: FakeApi) -> None:
    for name in "abc":
        api.put(EXPERIMENTS, "llm", name)
    async with following(api) as followed:
        await followed.names("a", "b", "c")
        await until(lambda: watches(api) > 0)
        api._terminating.add(EXPERIMENTS.full_name)  # its objects go, and it can still be listed
        api.remove(EXPERIMENTS, "llm", "a")
        found = await followed.until(lambda it: "is being deleted" in it.trouble)
        assert len(found.items) == 3


async def test_without_a_right_to_ask_for_kinds_deletions_are_looked_at_twice(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_GONE_SECONDS", 0.1)
    api.put(EXPERIMENTS, "llm", "a")
    api.put(EXPERIMENTS, "llm", "b")
    async with following(api) as followed:
        await followed.names("a", "b")
        await until(lambda: watches(api) > 0)
        api.fail(403, "v1alpha1 ", times=1000)
        api.remove(EXPERIMENTS, "llm", "a")
        await followed.names("b")
        assert lists(api) == 3


async def test_deletions_of_a_built_in_kind_are_applied_at_once(api: FakeApi) -> None:
    api.put(PODS, "llm", "a")
    api.put(PODS, "llm", "b")
    async with following(api, PODS) as followed:
        await followed.names("a", "b")
        api.remove(PODS, "llm", "a")
        await followed.names("b")
        assert lists(api) == 1


async def test_who_is_slow_gets_the_newest_set_next(api: FakeApi) -> None:
    listings = follow(api.connection, EXPERIMENTS)
    await anext(listings)
    await until(lambda: watches(api) > 0)
    for number in range(50):
        api.put(EXPERIMENTS, "llm", f"e{number}")
    seen = 0
    async with asyncio.timeout(15):
        await asyncio.sleep(0.3)  # the slow work of the caller
        async for listing in listings:
            seen += 1
            if len(listing.items) == 50:
                break
    assert seen < 10
    await listings.aclose()


async def test_large_objects_pass(api: FakeApi) -> None:
    async with following(api) as followed:
        await followed.until(lambda it: bool(it.at))
        api.put(EXPERIMENTS, "llm", "a", spec={"text": "x" * 1_400_000})
        await followed.names("a")


async def test_a_page_of_something_else_is_trouble() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    api = FakeApi()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        api.port = server.sockets[0].getsockname()[1]
        async with following(api) as followed:
            await followed.until(lambda it: "is this an API server?" in it.trouble)


async def test_a_broken_watch_that_can_be_begun_again_is_no_trouble(api: FakeApi) -> None:
    api.put(EXPERIMENTS, "llm", "a")
    async with following(api) as followed:
        await followed.names("a")
        for number in range(1, 4):
            await until(lambda expected=number: watches(api) == expected)  # type: ignore[misc]
            api.cut()
        await until(lambda: watches(api) == 4)
        api.put(EXPERIMENTS, "llm", "b")
        await followed.names("a", "b")
        assert {listing.trouble for listing in followed.listings} == {""}
