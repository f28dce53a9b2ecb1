"""Whole rollouts by the shipped chart: its controller and servers as pods, four gateways, and users who are there."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.cluster.asking import Json
from tests.cluster.cluster import Cluster
from tests.cluster.edges import STARTING
from tests.cluster.history import History
from tests.cluster.istio_world import MIRROR, VARIANTS, model_of, models, simple_route, variant_of
from tests.cluster.lawful import check_forged, check_others, check_their_settings, check_unassigned, wrong
from tests.cluster.load import Load
from tests.cluster.shipped_world import Shipped, rollout, shipped
from tests.cluster.waiting import wait_for

USERS = [f"user-{number}" for number in range(2000)]
TEAMS_HOST = "teams.example.com"


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> Iterator[Shipped]:
    """The chart, installed once for all of these tests."""
    with shipped(cluster) as made:
        yield made


@pytest.fixture
def world(installed: Shipped) -> Iterator[Shipped]:
    """The same, without Experiments of other tests."""
    yield installed
    installed.cluster.plane.kubectl("delete", "experiments", "--all", "--all-namespaces")
    wait_for(lambda: not installed.filters(), "no EnvoyFilter of ours to be left", STARTING)


def _law(world: Shipped, name: str) -> Callable[[str], str]:
    """The law of an Experiment as it is now."""
    found = world.in_force(name)
    return lambda user: variant_of(found, user)


async def _until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_for, condition, what, STARTING)


@pytest.mark.parametrize("users", [300, pytest.param(2000, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("lane", "prefix", "stamp", "note"),
    [("ext_proc", "/v1/", "", "CandidateOnRoute"), ("native", "/v1", "model-a", "NativeLane")],
)
def test_users_of_four_gateways_go_by_the_law_and_the_routes_stay_their_owners(
    world: Shipped, lane: str, prefix: str, stamp: str, note: str, users: int
) -> None:
    versions = world.their_versions()
    mirror = model_of(world.cluster, world.namespace, MIRROR)
    world.apply(world.experiment("chat", lane=lane, match={"pathPrefix": prefix}))
    world.wait_until_programmed("chat")
    assert world.condition("chat", "Programmed")["reason"] == note
    law = _law(world, "chat")
    for name, gateway in world.gateways.items():
        assert not wrong(gateway.door, USERS[:users], law), world.why(name)
        check_unassigned(gateway.door, stamp)
        check_forged(gateway.door, f"{world.namespace}/chat", USERS, law, stamp)
        check_their_settings(gateway.door, USERS[0], mirror, of_istio=name != "inner")
    check_others(world.gateways["edge"].door, USERS[0])
    assert world.their_versions() == versions
    world.delete("chat")
    assert world.their_versions() == versions


def test_each_request_is_counted_once(world: Shipped) -> None:
    world.apply(world.experiment("chat"))
    world.wait_until_programmed("chat")
    wait_for(lambda: world.ticks(), "all gateways to be read", STARTING)
    seen = world.ticks()
    wait_for(lambda: world.ticks() > seen + 2, "their first totals, which are no requests yet", STARTING)
    before, law = world.counted(), _law(world, "chat")
    for name, gateway in world.gateways.items():
        assert not wrong(gateway.door, USERS[:300], law), name
    expected = before + Counter(law(user) for user in USERS[:300] for _ in world.gateways)
    wait_for(lambda: world.counted() == expected, f"{expected} requests to be counted", STARTING)


def _fail(world: Shipped, model: str, share: float) -> None:
    url = f"{model_of(world.cluster, world.namespace, model).url}/failing/{share:g}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()


async def test_a_ramp_and_a_rollback_under_load_lose_no_request_and_send_none_astray(world: Shipped) -> None:
    def phase() -> str:
        return str(world.status("chat").get("phase"))

    def weight() -> float:
        return float(world.status("chat")["weights"]["model-b"])

    def item(run: str) -> Json:
        return world.experiment("chat", 100, 0, rollout=rollout(20, 50, 100, run=run))

    history = History(world, "chat")
    load = Load({name: gateway.door for name, gateway in world.gateways.items()}, USERS[:300])
    world.apply(item("first"))
    await asyncio.to_thread(world.wait_until_programmed, "chat")
    async with history.followed(), load.running():
        await _until(lambda: phase() == "Promoted", "the candidate to be promoted")
        promoted = len(load.sent)
        assert [each for each in load.sent if each.status != 200] == []
        world.apply(item("second"))
        await _until(lambda: phase() == "Progressing" and weight() >= 20, "the second rollout to have users")
        _fail(world, "model-b", 1.0)
        await _until(lambda: phase() == "RolledBack", "the candidate that fails to be rolled back")
        rolled_back = len(load.sent)
        await _until(lambda: len(load.sent) > rolled_back + 200, "requests after the rollback")
    _fail(world, "model-b", 0)
    after = [each for each in load.sent if each.begun > history.moments[-1].everywhere]
    assert history.weights("model-b")[-1] == 0
    failed = Counter(f"{each.status} {each.version}" for each in load.sent if each.status != 200)
    print(
        f"{len(load.sent)} requests, {promoted} until the promotion; failed: {dict(failed)}; weights "
        f"{[value / 100 for value in history.weights('model-b')]}; {history.told()}"
    )
    assert not history.wrong(load.sent), [world.why(name) for name in world.gateways]
    assert set(failed) <= {"503 model-b"}, "nobody fails but the model"
    assert after
    assert {(each.status, each.version) for each in after} == {(200, "model-a")}
    assert max(history.spread()) < 1


async def test_edits_without_a_controller_are_served_within_a_second_and_manual_when_it_is_back(world: Shipped) -> None:
    world.apply(world.experiment("chat", 80, 20, rollout=rollout(20, 50, 100)))
    await asyncio.to_thread(world.wait_until_programmed, "chat")
    world.scale(0)
    try:
        history = History(world, "chat")

        def edited(weight: int) -> bool:
            return history.settled() and history.weights("model-b")[-1] == 100 * weight

        async with history.followed():
            for weight in (25, 30, 35, 40, 45, 50, 55, 60, 65, 60):
                patch = [
                    {"op": "replace", "path": f"/spec/variants/{place}/weight", "value": value}
                    for place, value in enumerate((100 - weight, weight))
                ]
                command = ("patch", "experiment", "chat", "--type=json", "--patch", json.dumps(patch))
                await asyncio.to_thread(world.cluster.plane.kubectl, *command, namespace=world.namespace)
                await _until(partial(edited, weight), f"all servers to serve {weight}%")
        print(f"edits without a controller: {history.told()}")
        assert history.weights("model-b")[1:] == [2500, 3000, 3500, 4000, 4500, 5000, 5500, 6000, 6500, 6000]
        assert max(history.spread()) < 1
        for name, gateway in world.gateways.items():
            assert not wrong(gateway.door, USERS[:100], _law(world, "chat")), name
    finally:
        world.scale(2)
    await _until(lambda: world.status("chat").get("phase") == "Manual", "the controller to take note of the edit")
    assert world.status("chat")["weights"] == {"model-a": 40, "model-b": 60}


def test_users_of_an_experiment_that_is_deleted_and_applied_again_stay(world: Shipped) -> None:
    item = world.experiment("chat", 100, 0, rollout=rollout(20, 50, 100))
    world.apply(item)
    world.wait_until_programmed("chat")
    world.command("promote", "chat", "--yes")
    assert world.status("chat")["phase"] == "Promoted"
    world.delete("chat")
    for gateway in world.gateways.values():
        assert gateway.door.ask(USERS[0]).version == "claimed-by-upstream"
    world.apply(item)
    world.wait_until_programmed("chat")
    assert world.condition("chat", "Restored")["status"] == "True"
    assert world.status("chat")["phase"] == "Promoted"
    for name, gateway in world.gateways.items():
        assert not wrong(gateway.door, USERS[:50], lambda _: "model-b"), name


def test_a_filter_that_a_person_deletes_stays_deleted_until_resume(world: Shipped) -> None:
    world.apply(world.experiment("chat"))
    world.wait_until_programmed("chat")
    edge = world.gateways["edge"]
    own = [key for key in world.filters() if "route" in key[1] and "virtualservice" in key[1]]
    (deleted,) = [key for key in own if _selects(world, key, "edge")]
    world.cluster.plane.kubectl("delete", "envoyfilter", deleted[1], namespace=deleted[0])
    wait_for(
        lambda: world.condition("chat", "Programmed").get("reason") == "RemovedByPerson", "it to be noticed", STARTING
    )
    wait_for(lambda: world.as_before("edge"), "its routes to be as before", STARTING)
    ticks = world.ticks()
    wait_for(lambda: world.ticks() > ticks + 3, "the controller to look again", STARTING)
    assert deleted not in world.filters()
    assert edge.door.ask(USERS[0]).version == "claimed-by-upstream"
    assert not wrong(world.gateways["partner"].door, USERS[:50], _law(world, "chat")), "other gateways go on"

    world.command("resume", "chat", "--yes")
    wait_for(lambda: deleted in world.filters(), "resume to bring it back", STARTING)
    world.wait_until_programmed("chat")
    assert not wrong(edge.door, USERS[:50], _law(world, "chat"))


def _selects(world: Shipped, key: tuple[str, str], app: str) -> bool:
    return bool(world.filters()[key]["spec"]["workloadSelector"]["labels"] == {"app": app})


def test_a_route_that_loses_its_name_is_left_alone_until_it_is_back(world: Shipped) -> None:
    def rename(name: str) -> None:
        patch = [{"op": "replace", "path": "/spec/http/1/name", "value": name}]
        command = ("patch", "virtualservice", "chat", "--type=json", "--patch", json.dumps(patch))
        world.cluster.plane.kubectl(*command, namespace=world.namespace)

    world.apply(world.experiment("chat"))
    world.wait_until_programmed("chat")
    door = world.gateways["edge"].door
    rename("renamed")
    try:
        wait_for(
            lambda: world.condition("chat", "Programmed").get("reason") == "RouteVanished", "it to be noticed", STARTING
        )
        wait_for(lambda: door.ask(USERS[0]).version == "claimed-by-upstream", "its traffic to be left alone", STARTING)
        assert world.gateways["inner"].door.ask(USERS[0]).version == world.law("chat", USERS[0])
    finally:
        rename("v1")
    world.wait_until_programmed("chat")
    assert not wrong(door, USERS[:50], _law(world, "chat"))


def test_two_experiments_on_one_route_get_their_own_users(world: Shipped) -> None:
    wide = world.experiment("chat", salt="wide")
    narrow = world.experiment("deep", 30, 70, salt="narrow", match={"pathPrefix": "/v1/deep/"})
    world.apply(wide, narrow)
    for name in ("chat", "deep"):
        world.wait_until_programmed(name)
    paths = {"chat": "/v1/x", "deep": "/v1/deep/x"}
    laws = {name: _law(world, name) for name in paths}
    assert any(laws["chat"](user) != laws["deep"](user) for user in USERS[:50])
    for gateway in world.gateways.values():
        for name, path in paths.items():
            assert not wrong(gateway.door, USERS[:50], laws[name], path=path), (gateway.name, name)


def test_two_teams_with_the_same_host_and_path_on_two_gateways_get_their_own_users(world: Shipped) -> None:
    plane, other = world.cluster.plane, f"{world.namespace}-other"
    plane.kubectl("create", "namespace", other)
    try:
        plane.apply(*models(), namespace=other)
        plane.kubectl("rollout", "status", "deployment", namespace=other, limit=STARTING)
        teams = {world.namespace: "edge", other: "partner"}
        for number, (namespace, name) in enumerate(teams.items()):
            gateway = world.gateways[name]
            route = simple_route("teams", TEAMS_HOST, f"{gateway.namespace}/{name}")
            plane.apply(route, namespace=namespace)
            wait_for(lambda: gateway.door.serves(host=TEAMS_HOST), f"the route at {name}", STARTING)  # noqa: B023 - at once
            ref = {"kind": "VirtualService", "name": "teams", "rule": "v1"}
            item = world.experiment("teams", routes=[ref], salt=f"team-{number}")
            world.apply(item | {"metadata": {"name": "teams", "namespace": namespace}})
        for namespace, name in teams.items():
            door = world.gateways[name].door
            own = f"{namespace}/teams"
            wait_for(lambda: door.ask(USERS[0], host=TEAMS_HOST).version in VARIANTS, f"{own} to assign", STARTING)  # noqa: B023
            law = _law(world, own)
            assert not wrong(door, USERS[:100], law, host=TEAMS_HOST), own
            assert door.ask(USERS[0], host=TEAMS_HOST).upstream["headers"]["x-ab-experiment"] == own
        laws = [_law(world, f"{namespace}/teams") for namespace in teams]
        assert any(laws[0](user) != laws[1](user) for user in USERS[:100])
    finally:
        plane.kubectl("delete", "virtualservice", "teams", "--ignore-not-found", namespace=world.namespace)
        plane.delete_namespaces(other)


async def test_uninstalling_leaves_gateways_as_they_were_and_nothing_but_what_is_kept(world: Shipped) -> None:
    """Last: the chart is gone then. One Experiment is deleted before, and one is left there."""
    versions = world.their_versions()
    world.apply(world.experiment("chat"), world.experiment("stays", match={"pathPrefix": "/v1/stays/"}))
    for name in ("chat", "stays"):
        await asyncio.to_thread(world.wait_until_programmed, name)
    load = Load({name: gateway.door for name, gateway in world.gateways.items()}, USERS[:100], rate=40)
    async with load.running():
        plane = world.cluster.plane
        await asyncio.to_thread(plane.kubectl, "delete", "experiment", "chat", namespace=world.namespace)
        await asyncio.to_thread(lambda: world.release.uninstall(hooks=True))
        for name in world.gateways:
            await _until(lambda name=name: world.as_before(name), f"the routes of {name} to be as before")  # type: ignore[misc]
    failed = [each for each in load.sent if each.status != 200]
    print(f"{len(load.sent)} requests while all of it was taken away, {len(failed)} failed")
    assert not failed
    assert world.their_versions() == versions
    assert not world.filters()
    await _until(lambda: not world.release.left(), "nothing but what is kept on purpose to be left")
    assert world.thing("stays")["spec"]["variants"]
