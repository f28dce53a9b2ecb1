"""The keeper and the native lane: weights are in a filter, so it follows them, and nothing else holds them up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.status import percentages
from abmesh.mesh.istio.native_route import shape_of
from controller.cluster.conditions import Programming
from controller.cluster.filters.carried import Carried
from controller.cluster.filters.plan import Write, body_of, digest_of
from controller.cluster.filters.probation import Probation
from tests.abmesh.kube.fake_api import FakeApi
from tests.abmesh.mesh.istio.test_native import at
from tests.abmesh.mesh.istio.worlds import USUAL, rendered
from tests.controller.cluster.filters.keeping import SPEC, Kept, kept, usual

NATIVE = {**SPEC, "lane": "native", "match": {"pathPrefix": "/"}}


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().running() as running:
        usual(running)
        running.put(EXPERIMENTS, "llm", "chat", spec=NATIVE)
        yield running


def write(weight: int, before: int | None = None) -> Write:
    """The route's filter at a weight of the candidate, with what is there at another."""

    def body(of: int) -> dict[str, Any]:
        (item,) = [item for item in rendered(USUAL, at(of)).filters if item.kind == "route"]
        return body_of(item, None)

    (item,) = [item for item in rendered(USUAL, at(weight)).filters if item.kind == "route"]
    return Write(item, body(weight), digest_of(body(weight)), None if before is None else body(before))


def weights(filters: dict[str, Any]) -> dict[str, int]:
    """The weight of each cluster in the route's filter."""
    if "route" not in filters:
        return {}
    (patch,) = filters["route"]["spec"]["configPatches"]
    found: dict[str, int] = {}
    for entry in patch["patch"]["value"]["route"]["weighted_clusters"]["clusters"]:
        subset = entry["name"].split("|")[2]
        found[subset] = found.get(subset, 0) + entry["weight"]
    return found


def _status(weight: int) -> dict[str, Any]:
    split = {"model-a": 10_000 - weight, "model-b": weight}
    shares = {"model-a": [[0, 10_000 - weight]], "model-b": [[10_000 - weight, 10_000]] if weight else []}
    seen = {"model-a": 95, "model-b": 5}
    return {"weights": percentages(split), "ranges": shares, "lastSeenSpecWeights": seen}


def test_a_change_of_weights_reaches_the_filter_at_once_and_is_not_taken_back(api: FakeApi) -> None:
    tried: list[int] = []

    def trial(filters: Any) -> str:
        tried.append(len(filters))
        return ""

    async def test(found: Kept) -> None:
        await found.until(lambda: weights(found.filters()) == {"model-a": 9500, "model-b": 500}, "the spec's weights")
        await found.until(lambda: not found.keeper.carried(_accepted(found)).behind, "the keeper to know of them")
        since = found.keeper.carried(_accepted(found)).since
        read = len(tried)
        assert read, "an Envoy reads them the first time"
        api.put(EXPERIMENTS, "llm", "chat", spec=NATIVE, status=_status(3000))
        await found.until(lambda: weights(found.filters()) == {"model-a": 7000, "model-b": 3000}, "the status' weights")
        await found.until(lambda: not found.keeper._carrier.probation.active, "the watch to end")
        found.istiod.rejects = 1.0  # somebody else's mistake, in the very moment of a rollback
        api.put(EXPERIMENTS, "llm", "chat", spec=NATIVE, status=_status(0))
        await found.until(lambda: weights(found.filters()) == {"model-a": 10_000}, "the rollback")
        assert len(tried) == read, "nothing in them is new to an Envoy"
        await found.until(lambda: not found.keeper.carried(_accepted(found)).behind, "the keeper to know of it")
        assert found.keeper.status.writes["take_back"] == 0
        later = found.keeper.carried(_accepted(found))
        assert since is not None
        assert later.since is not None
        assert later.since > since

    asyncio.run(_run(api, test, trial=trial))


def _accepted(found: Kept) -> Any:
    return found.documents.read().document.experiment("llm/chat")


def test_weights_of_the_other_lane_change_no_wish(api: FakeApi) -> None:
    async def test(found: Kept) -> None:
        await found.until(lambda: "route" in found.filters(), "the filters")
        spec = {**NATIVE, "lane": "ext_proc"}
        api.put(EXPERIMENTS, "llm", "chat", spec=spec)
        await found.until(lambda: "x-ab-place" in str(found.filters()["route"]), "places")
        version = found.filters()["route"]["metadata"]["resourceVersion"]
        api.put(EXPERIMENTS, "llm", "chat", spec=spec, status=_status(3000))
        await found.quiet()
        assert found.filters()["route"]["metadata"]["resourceVersion"] == version

    asyncio.run(_run(api, test))


async def _run(api: FakeApi, test: Any, **more: Any) -> None:
    async with kept(api, **more) as found:
        await test(found)


@pytest.mark.parametrize(
    ("before", "after", "moves"), [(500, 3000, True), (3000, 0, True), (3000, 3000, True), (0, 500, False)]
)
def test_only_what_has_nothing_new_moves_weights_alone(before: int, after: int, moves: bool) -> None:
    assert write(after, before).moves_weights is moves


def test_a_first_write_and_other_routes_are_no_change_of_weights() -> None:
    assert not write(3000).moves_weights
    (places,) = [item for item in rendered().filters if item.kind == "route"]
    body = body_of(places, None)
    assert not Write(places, body, digest_of(body), body).moves_weights
    native = write(3000).body
    edited = {"spec": {"configPatches": [{"patch": {"value": {"route": "x"}}}]}}
    assert not replace(write(3000), before=edited).moves_weights
    assert not shape_of(body).allows(shape_of(native))


def test_weights_that_move_while_the_filter_is_watched_still_go_back_to_what_was_there_first() -> None:
    probation = Probation()
    probation.begin(0)
    probation.wrote(write(500), 0.0)
    probation.moved(write(3000, 500))
    found = probation.look(1, 1.0)
    assert found is not None
    assert (found.write.digest, found.restore) == (write(3000).digest, False)
    probation.moved(write(0, 3000))
    assert not probation.active, "what is not watched does not begin to be"


def test_buckets_are_carried_only_where_the_experiment_is_programmed() -> None:
    placed, now = at(3000), datetime.now(UTC)
    carried, good = Carried(), Programming("True", "Programmed", "fine")
    bad = Programming("False", "ApplyFailed", "the API server is full")
    assert carried.of(placed.experiment, None).behind.endswith("not applied yet")
    carried.note([placed], {"llm/chat": bad}, now)
    assert carried.of(placed.experiment, bad).behind.endswith("not applied: the API server is full")
    carried.note([placed], {"llm/chat": good}, now)
    carried.note([placed], {"llm/chat": good}, datetime.now(UTC))
    assert carried.of(placed.experiment, good).since == now, "since the first time"
    assert carried.of(at(5000).experiment, good).behind.endswith("not applied yet")
    carried.clear()
    assert carried.of(placed.experiment, good).behind
