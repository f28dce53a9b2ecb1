"""The native lane on the real istiod and Envoys: gateways assign users themselves, and the keeper moves weights."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest

from abmesh.experiment import bucketing
from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.kube.objects import parse
from abmesh.mesh.istio.render import render
from tests.cluster.asking import Json, ask, ask_all
from tests.cluster.cluster import Cluster
from tests.cluster.filters_world import keeper_of, owner
from tests.cluster.istio_world import World, experiment, make_world
from tests.cluster.waiting import wait_for

OWNER = "abmesh-controller"
USERS = [f"user-{number}" for number in range(2000)]


def _released(url: str) -> bool:
    return ask(url, USERS[0]).version == "claimed-by-upstream"


def _same(world: World, name: str, before: list[Json]) -> bool:
    return world.routes(name) == before


def _assigned(world: World, url: str) -> bool:
    try:
        return ask(url, USERS[0]).version == world.law(USERS[0])
    except OSError:  # our filters are new to the listener, so that the gateway drains it, once
        return False


def _native(world: World, weights: Mapping[str, int]) -> World:
    """The same world with an Experiment in the native lane, at some weights."""
    said = experiment(world.namespace, lane="native", match={"pathPrefix": "/v1"})
    for variant in said["spec"]["variants"]:
        variant["weight"] = weights[variant["name"]]
    return replace(world, said=said)


def _put_in_force(world: World, weights: Mapping[str, int]) -> float:
    """Write a status as the leader does; when."""
    item = parse(world.said).experiment
    ranges = {name: [list(part) for part in parts] for name, parts in item.effective_ranges.items()}
    shares = {name: points / 100 for name, points in item.weights.items()}
    status = {"weights": shares, "ranges": ranges, "lastSeenSpecWeights": weights}
    change = json.dumps({"status": status})
    patch = ("patch", "experiment", "chat", "--subresource=status", "--type=merge", "-p", change)
    world.cluster.plane.kubectl(*patch, namespace=world.namespace)
    return time.monotonic()


def _counted(world: World, name: str) -> int:
    """How many requests a gateway has counted as evidence."""
    found = re.findall(r"^istio\.abmesh\.requests\b[^:]*: ([0-9]+)$", world.admin(name, "/stats"), re.MULTILINE)
    return sum(map(int, found))


def _served_native(world: World, url: str, users: Sequence[str]) -> Counter[str]:
    """How many users are served by another variant than the law's, or in another slice, by what was wrong."""
    item = parse(world.said).experiment
    found: Counter[str] = Counter()
    for user, answer in zip(users, ask_all(url, users), strict=True):
        cell = item.cells[bucketing.bucket_of(item.hash_salt, user.encode())]
        headers = answer.upstream.get("headers", {})
        seen = (answer.status, answer.version, answer.upstream.get("name"), headers.get("x-ab-slice"))
        if seen != (200, cell.variant, cell.variant, str(cell.slice)):
            found[f"{seen} instead of {cell}"] += 1
    return found


@pytest.mark.parametrize("users", [300, pytest.param(2000, marks=pytest.mark.soak)])
def test_in_the_native_lane_proxies_assign_users_themselves_and_the_keeper_moves_weights(
    cluster: Cluster, namespace: str, users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
    world, plane = make_world(cluster, namespace), cluster.plane
    before, versions = {name: world.routes(name) for name in world.urls}, world.versions()
    spec = {"model-a": 70, "model-b": 30}
    first = _native(world, spec)
    plane.apply(owner(OWNER), first.said)
    client = Client(connect())

    def check() -> None:
        for name, url in world.urls.items():
            wait_for(partial(_assigned, first, url), f"the first assigned user at {name}", 120)
            wrong = _served_native(first, url, USERS[:users])
            assert not wrong, wrong
            _check_evidence(first, name)
        for weight in (60, 100, 0):
            there = {"model-a": 100 - weight, "model-b": weight}
            moved = _native(world, there)
            begun = _put_in_force(moved, spec)
            for name in world.urls:
                _check_moved(moved, name, begun)
        assert world.versions() == versions
        plane.kubectl("delete", "experiment", "chat", namespace=namespace)
        for name, url in world.urls.items():
            wait_for(partial(_released, url), f"{name} to be as before", 120)
            wait_for(partial(_same, world, name, before[name]), f"the routes of {name} to be as before", 120)

    async def main() -> None:
        async with keeper_of(client, first, OWNER, render):
            await asyncio.to_thread(check)

    asyncio.run(main())
    assert world.versions() == versions
    assert not plane.read("envoyfilters", "", namespace)["items"]


def _check_evidence(world: World, name: str) -> None:
    """What is counted: requests of users, and nothing else."""
    url, counted = world.urls[name], _counted(world, name)
    _check_without_unit(url)
    _check_their_settings(url)
    wrong = _served_native(world, url, USERS[:50])
    assert not wrong, wrong
    expected = counted + 50 + 2  # those about settings
    wait_for(lambda: _counted(world, name) == expected, f"{expected} counted requests at {name}", 30)


def _check_moved(world: World, name: str, begun: float) -> None:
    """Every user is where the new weights say."""
    url, weight = world.urls[name], parse(world.said).experiment.weights["model-b"]

    def wrong() -> Counter[str]:
        return _served_native(world, url, USERS[:60])

    wait_for(lambda: not wrong(), f"{weight} basis points to be served at {name}", 120)
    print(f"{weight} basis points served to 60 users at {name} {time.monotonic() - begun:.2f} s after the status")
    assert ask(url).upstream["name"] == ("model-a" if weight < 10_000 else "model-b"), "without a unit"


def _check_without_unit(url: str) -> None:
    """To the control, whatever a client claims."""
    forged = {"x_ab_route": "mine", "x_ab_slice": "7", "x_ab_experiment": "mine", "x_model_version": "model-b"}
    for more in ({}, forged):
        for answer in ask_all(url, [""] * 50, **more):
            assert (answer.status, answer.upstream["name"], answer.version) == (200, "model-a", "model-a")
            headers = answer.upstream["headers"]
            assert "x-ab-route" not in headers, "what marks evidence"
            assert headers["x-model-version"] == "model-a"


def _check_their_settings(url: str) -> None:
    """What the route's owner has set stays in force."""
    answer = ask(url, USERS[0])
    assert answer.upstream["path"] == "/api/x"
    assert (answer.upstream["headers"]["x-theirs"], answer.headers["x-answered"]) == ("yes", "yes")
    begun = time.monotonic()
    assert ask(url, USERS[0], x_sleep="4").status == 504
    assert 1.5 < time.monotonic() - begun < 3.9
