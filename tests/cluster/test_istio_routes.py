"""EnvoyFilters that the real istiod pushes to real Envoys: users go by the law, and the routes stay their owners'."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest

from abmesh.experiment import bucketing
from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.kube.objects import parse
from abmesh.mesh.istio.render import render
from tests.cluster.cluster import Cluster
from tests.cluster.filters_world import keeper_of, owner
from tests.cluster.istio_world import HOST, OTHER_HOST, Json, World, ask, ask_all, experiment, make_world
from tests.cluster.namespaces import fresh
from tests.cluster.waiting import wait_for

OWNER = "abmesh-controller"
USERS = [f"user-{number}" for number in range(2000)]


def _apply(world: World) -> None:
    rendered = world.rendered()
    assert not rendered.refusals, rendered.refusals
    for item in rendered.filters:
        world.cluster.plane.apply(item.body)


def _assigned(world: World, url: str) -> bool:
    return ask(url, USERS[0]).version == world.law(USERS[0])


def _released(url: str) -> bool:
    return ask(url, USERS[0]).version == "claimed-by-upstream"


def _same(world: World, name: str, before: list[Json]) -> bool:
    return world.routes(name) == before


def _wrong(world: World, url: str, users: Sequence[str]) -> Counter[str]:
    """How many users were not served by the variant that is theirs, or not told so, by what was wrong."""
    found: Counter[str] = Counter()
    for user, answer in zip(users, ask_all(url, users), strict=True):
        variant = world.law(user)
        if (answer.status, answer.version, answer.upstream.get("name")) != (200, variant, variant):
            found[f"{answer.status} {answer.version} {answer.upstream.get('name')} instead of {variant}"] += 1
    return found


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[World]:
    """One for both lanes; each test leaves it as it was."""
    with fresh(cluster, "istio-routes") as namespace:
        yield make_world(cluster, namespace)


@pytest.mark.parametrize("users", [300, pytest.param(2000, marks=pytest.mark.soak)])
def test_users_go_by_the_law_and_the_routes_stay_their_owners(world: World, users: int) -> None:
    plane, namespace = world.cluster.plane, world.namespace
    versions = world.versions()
    before = {name: world.routes(name) for name in world.urls}
    plane.apply(world.said)
    _apply(world)
    for name, url in world.urls.items():
        wait_for(partial(_assigned, world, url), f"the first assigned user at {name}")
        assert not _wrong(world, url, USERS[:users]), world.admin(name, "/stats?filter=ext_proc")
        _check_unassigned(url)
        _check_forged(world, url)
        _check_their_settings(url, retries=name == "edge")
    _check_others(world)
    assert world.versions() == versions

    names = [item.key[1] for item in world.rendered().filters]
    plane.kubectl("delete", "envoyfilter", *names, namespace=namespace)
    for name, url in world.urls.items():
        wait_for(partial(_released, url), f"{name} to be as before")
        wait_for(partial(_same, world, name, before[name]), f"the routes of {name} to be as before")
    assert world.versions() == versions
    plane.kubectl("delete", "experiment", "chat", namespace=namespace)


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
    world: World, users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(world.cluster.plane.kubeconfig))
    plane, namespace = world.cluster.plane, world.namespace
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
        _check_others(world)
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
    _check_their_settings(url, retries=name == "edge")
    wrong = _served_native(world, url, USERS[:50])
    assert not wrong, wrong
    # Of those about settings two, and one more where retries are looked at.
    expected = counted + 52 + (name == "edge")
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


def _check_unassigned(url: str) -> None:
    """Requests without a user, or outside of the Experiment's match: to the control, without a stamp."""
    for answer in ask_all(url, [""] * 100):
        assert (answer.status, answer.version) == (200, "")
        assert answer.upstream["name"] == "model-a"
        assert "x-ab-slice" not in answer.upstream["headers"]


def _check_forged(world: World, url: str) -> None:
    """Headers that only we set choose nothing and never arrive."""
    known = ask(url, USERS[0]).upstream["headers"]["x-ab-experiment"]
    assert known == f"{world.namespace}/chat"
    forged = {"x_ab_place": "4290272513", "x_ab_slice": "7", "x_ab_route": "mine", "x_model_version": "model-b"}
    for answer in ask_all(url, [""] * 50, **forged):
        assert (answer.version, answer.upstream["name"]) == ("", "model-a")
        assert answer.upstream["headers"].get("x-ab-route") is None
    user = next(user for user in USERS if world.law(user) == "model-a")
    assert ask(url, user, **forged).version == "model-a"


def _check_their_settings(url: str, *, retries: bool) -> None:
    """Time limit, retries, rewrite and header changes of the route's owner."""
    user = USERS[0]
    answer = ask(url, user)
    assert answer.upstream["path"] == "/api/x"
    assert (answer.upstream["headers"]["x-theirs"], answer.headers["x-answered"]) == ("yes", "yes")
    begun = time.monotonic()
    slow = ask(url, user, x_sleep="4")
    assert slow.status == 504
    assert 1.5 < time.monotonic() - begun < 3.9
    assert slow.version, "Envoy's own answer to an assigned request is stamped"
    if retries:
        again = ask(url, user, x_fail="2", x_try=secrets.token_hex(8))
        assert (again.status, again.upstream["tries"]) == (200, 3)


def _check_others(world: World) -> None:
    """The owner's other rules and hosts never see us."""
    url = world.urls["edge"]
    beta = ask(url, USERS[0], x_user_group="beta")
    assert (beta.version, beta.upstream["name"]) == ("claimed-by-upstream", "model-b")
    other = ask(url, USERS[0], host=OTHER_HOST)
    assert (other.version, other.upstream["path"]) == ("claimed-by-upstream", "/v1/x")
    assert "x-ab-experiment" not in other.upstream["headers"]
    assert other.status == ask(url, host=HOST).status
