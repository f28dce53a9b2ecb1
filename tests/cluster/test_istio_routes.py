"""EnvoyFilters that the real istiod pushes to real Envoys: users go by the law, and the routes stay their owners'."""

from __future__ import annotations

from functools import partial

import pytest

from tests.cluster.asking import Door, Json, ask
from tests.cluster.cluster import Cluster
from tests.cluster.istio_world import MIRROR, World, make_world, model_of
from tests.cluster.lawful import check_forged, check_others, check_their_settings, check_unassigned, wrong
from tests.cluster.waiting import wait_for

USERS = [f"user-{number}" for number in range(2000)]


def _apply(world: World) -> None:
    rendered = world.rendered()
    assert not rendered.refusals, rendered.refusals
    for item in rendered.filters:
        world.cluster.plane.apply(item.body)


def _assigned(world: World, url: str) -> bool:
    try:
        return ask(url, USERS[0]).version == world.law(USERS[0])
    except OSError:  # our filters are new to the listener, so that the gateway drains it, once
        return False


def _released(url: str) -> bool:
    return ask(url, USERS[0]).version == "claimed-by-upstream"


def _same(world: World, name: str, before: list[Json]) -> bool:
    return world.routes(name) == before


@pytest.mark.parametrize("users", [300, pytest.param(2000, marks=pytest.mark.soak)])
def test_users_go_by_the_law_and_the_routes_stay_their_owners(cluster: Cluster, namespace: str, users: int) -> None:
    world = make_world(cluster, namespace)
    plane = cluster.plane
    versions = world.versions()
    before = {name: world.routes(name) for name in world.urls}
    mirror = model_of(cluster, namespace, MIRROR)
    plane.apply(world.said)
    _apply(world)
    for name, url in world.urls.items():
        wait_for(partial(_assigned, world, url), f"the first assigned user at {name}")
        door = Door(url)
        assert not wrong(door, USERS[:users], world.law), world.admin(name, "/stats?filter=ext_proc")
        check_unassigned(door)
        check_forged(door, f"{namespace}/chat", USERS, world.law)
        check_their_settings(door, USERS[0], mirror, of_istio=name == "edge")
    check_others(Door(world.urls["edge"]), USERS[0])
    assert world.versions() == versions

    names = [item.key[1] for item in world.rendered().filters]
    plane.kubectl("delete", "envoyfilter", *names, namespace=namespace)
    for name, url in world.urls.items():
        wait_for(partial(_released, url), f"{name} to be as before")
        wait_for(partial(_same, world, name, before[name]), f"the routes of {name} to be as before")
    assert world.versions() == versions
