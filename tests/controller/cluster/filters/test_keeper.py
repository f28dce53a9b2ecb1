"""The keeper on an API server: applies, merges anew, leaves alone, takes back and cleans up."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from abmesh.kube.resources import ENVOY_FILTERS, EXPERIMENTS, VIRTUAL_SERVICES
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.render import render as usual_render
from tests.abmesh.kube.fake_api import FakeApi
from tests.abmesh.mesh.istio.worlds import SPLIT, service, to, virtual_service
from tests.controller.cluster.filters.keeping import SPEC, Kept, kept, usual

ALL = {"gateway", "statistics", "route"}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().running() as running:
        usual(running)
        yield running


def run(api: FakeApi, test: Callable[[Kept], Awaitable[None]], **more: Any) -> None:
    async def main() -> None:
        async with kept(api, **more) as found:
            await test(found)

    asyncio.run(main())


async def _installed(found: Kept) -> None:
    await found.until(lambda: found.filters().keys() == ALL, "the filters")
    await found.until(lambda: found.reason() == "CandidateOnRoute", "the verdict")


def _answer(api: FakeApi, **request: Any) -> None:
    """The leader's tick has answered a person's request."""
    at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    thing = api.read(EXPERIMENTS, "llm", "chat")
    api.put(EXPERIMENTS, "llm", "chat", spec=thing["spec"], status={"lastRequest": {"id": "1", "at": at, **request}})


def test_it_applies_them_merges_a_change_anew_and_leaves_nothing_behind(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await _installed(found)
        writes = [seen for seen in api.seen if seen.method == "PATCH" and "envoyfilters" in seen.path]
        assert [seen.query["fieldManager"] for seen in writes] == ["abmesh"] * 3
        assert {seen.query["fieldValidation"] for seen in writes} == {"Strict"}
        assert found.filters()["route"]["metadata"]["ownerReferences"][0]["kind"] == "ClusterRole"
        assert found.woken, "people are told by the next tick"
        assert {scope.namespace for scope in found.fleet.scopes} == {"edge"}
        await found.quiet()
        again = [seen for seen in api.seen if seen.method == "PATCH" and "envoyfilters" in seen.path]
        assert len(again) == len(writes), "what is as it should be is not written again"

        found.put(service("other"))
        begun = asyncio.get_running_loop().time()
        found.put(virtual_service({"name": "v1", "route": [to(host="other")]}))
        await found.until(lambda: "|other." in str(found.filters()["route"]["spec"]), "the new destination")
        assert asyncio.get_running_loop().time() - begun < 15, "some tenths of a second, on a machine with time"

        api.remove(EXPERIMENTS, "llm", "chat")
        await found.until(lambda: not found.filters(), "nothing to be left")
        await found.until(lambda: not found.memory()["filters"], "nothing to be remembered")

    run(api, test)


def test_one_that_a_person_deletes_stays_deleted_until_resume_whoever_leads(api: FakeApi) -> None:
    async def first(found: Kept) -> None:
        await _installed(found)
        route = found.filters()["route"]["metadata"]["name"]
        api.remove(ENVOY_FILTERS, "edge", route)
        await found.until(lambda: found.reason() == "RemovedByPerson", "it to be noticed")
        await found.quiet()
        assert found.filters().keys() == ALL - {"route"}
        assert route in found.keeper.revive("llm/chat")
        assert not found.keeper.revive("llm/other")

    async def second(found: Kept) -> None:
        await found.until(lambda: found.reason() == "RemovedByPerson", "it to be remembered")
        assert found.filters().keys() == ALL - {"route"}
        _answer(api, action="resume", outcome="refused")
        await found.quiet()
        assert found.reason() == "RemovedByPerson"
        _answer(api, action="resume", outcome="done")
        await _installed(found)

    run(api, first)
    run(api, second)


def test_who_begins_to_lead_knows_the_proxies_before_anything_is_checked(api: FakeApi) -> None:
    checking, go_on = threading.Event(), threading.Event()

    def trial(_: object) -> str:
        checking.set()
        assert go_on.wait(20)
        return ""

    async def second(found: Kept) -> None:
        try:
            await found.until(checking.is_set, "the checks to begin")
            assert {scope.namespace for scope in found.fleet.scopes} == {"edge"}
        finally:
            go_on.set()
        await _installed(found)

    run(api, _installed)
    run(api, second, trial=trial)


def test_a_route_that_goes_leaves_its_traffic_alone_and_comes_back(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await _installed(found)
        found.put(virtual_service({**SPLIT, "name": "renamed"}))
        await found.until(lambda: found.reason() == "RouteVanished", "it to be noticed")
        await found.until(lambda: not found.filters(), "the filters to go")
        found.put(virtual_service(SPLIT))
        await _installed(found)

    run(api, test)


def _no_weights(*args: Any) -> Rendered:
    """What no check would let through."""
    made = usual_render(*args)
    for item in made.filters:
        if item.kind == "route":
            for patch in item.body["spec"]["configPatches"]:
                for entry in patch["patch"]["value"]["route"].get("weighted_clusters", {}).get("clusters", ()):
                    entry["weight"] = 0
    return made


def test_a_wrong_value_never_reaches_a_gateway(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await found.until(lambda: found.reason() == "FilterInvalid", "the check")
        assert found.filters().keys() == ALL - {"route"}

    run(api, test, render=_no_weights)


def test_what_a_real_envoy_would_refuse_never_reaches_a_gateway_and_the_rest_does(api: FakeApi) -> None:
    def trial(filters: Any) -> str:
        return "bad route" if any(item.kind == "route" for item in filters) else ""

    async def test(found: Kept) -> None:
        await found.until(lambda: found.reason() == "FilterInvalid", "the check")
        assert found.filters().keys() == ALL - {"route"}
        assert "bad route" in found.keeper.programming("llm/chat").message  # type: ignore[union-attr]

    run(api, test, trial=trial)


def test_what_proxies_refuse_is_taken_back_and_the_culprit_found(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await found.until(lambda: "route" in found.filters(), "the filters")
        found.istiod.rejects = 2.0
        begun = asyncio.get_running_loop().time()
        await found.until(lambda: "route" not in found.filters(), "it to be taken back")
        assert asyncio.get_running_loop().time() - begun < 15, "some tenths of a second, on a machine with time"
        # Written with two others, so it is tried alone, once those were watched long enough.
        await found.until(lambda: "route" in found.filters(), "it to be tried alone")
        found.istiod.rejects = 3.0
        await found.until(lambda: found.reason() == "Rejected", "the culprit")
        assert found.filters().keys() == ALL - {"route"}
        assert "weights sum to 0" in found.keeper.programming("llm/chat").message  # type: ignore[union-attr]
        assert (found.keeper.status.rejects, found.keeper.status.writes["take_back"]) == (2, 2)
        await found.quiet()
        assert "route" not in found.filters()
        _answer(api, action="resume", outcome="done")
        await _installed(found)

    run(api, test)


def test_a_change_that_proxies_refuse_puts_back_what_was_there(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await _installed(found)
        await found.until(lambda: not found.keeper._carrier.probation.active, "the watch to end")
        before = copy.deepcopy(found.filters()["route"]["spec"])
        found.put(service("other"))
        found.put(virtual_service({"name": "v1", "route": [to(host="other")]}))
        await found.until(lambda: found.filters()["route"]["spec"] != before, "the change")
        found.istiod.rejects = 1.0
        await found.until(lambda: found.reason() == "Rejected", "it to be taken back")
        assert found.filters()["route"]["spec"] == before

    run(api, test)


def test_a_standby_writes_nothing_and_asks_nobody(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await found.until(lambda: not found.keeper._reading.waiting_for, "the lists")
        await found.quiet()
        assert not found.filters()
        assert {seen.method for seen in api.seen} == {"GET"}
        assert (found.keeper.status.managing, found.keeper.programming("llm/chat")) == (False, None)

    run(api, test, lead=False)


def test_one_that_leads_no_longer_writes_nothing_more(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await _installed(found)
        found.lease.lost("the test says so")
        found.put(service("other"))
        found.put(virtual_service({"name": "v1", "route": [to(host="other")]}))
        await found.quiet()
        assert "|other." not in str(found.filters()["route"]["spec"])
        assert not found.keeper.status.managing

    run(api, test)


def test_what_an_experiment_has_stays_while_it_is_not_accepted(api: FakeApi) -> None:
    bad = copy.deepcopy(SPEC)
    bad["variants"][0]["weight"] = 50

    async def first(found: Kept) -> None:
        await _installed(found)
        api.put(EXPERIMENTS, "llm", "chat", spec=bad)
        await found.quiet()
        assert found.filters().keys() == ALL

    async def second(found: Kept) -> None:
        await found.until(lambda: found.keeper.status.managing, "it to lead")
        await found.quiet()
        assert found.filters().keys() == ALL

    run(api, first)
    run(api, second)


def test_filters_from_git_are_only_compared(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await found.until(lambda: found.reason() == "FiltersMissing", "the verdict")
        await found.quiet()
        assert not found.filters()

    run(api, test, manage=False)


def test_what_the_api_server_refuses_is_told_and_tried_again(api: FakeApi) -> None:
    api.fail(403, "PATCH /apis/networking.istio.io", times=2, reason="Forbidden", message="no right to patch")

    async def test(found: Kept) -> None:
        await found.until(lambda: found.reason() == "ApplyFailed", "the failure to be told")
        await _installed(found)

    run(api, test)


def test_trouble_with_what_is_read_keeps_what_is_there(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await _installed(found)
        api.delete_kind(VIRTUAL_SERVICES)
        await found.until(lambda: "virtualservices" in found.keeper._reading.trouble, "the trouble")
        await found.quiet()
        assert found.filters().keys() == ALL

    run(api, test)
