"""`abmesh controller --kubernetes` keeps EnvoyFilters: the real API server, istiod and Envoys."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.render import render as usual_render
from tests.cluster.asking import ask, ask_all
from tests.cluster.cluster import Cluster
from tests.cluster.filters_world import controller_of, keeper_of, owner
from tests.cluster.istio_world import World, make_world
from tests.cluster.waiting import wait_for

USERS = [f"user-{number}" for number in range(300)]
OWNER = "abmesh-controller"


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def _reason(world: World) -> str:
    """What the condition Programmed says, in a word."""
    thing = world.cluster.plane.read("experiments", "chat", world.namespace)
    conditions = thing.get("status", {}).get("conditions", [])
    return next((str(each["reason"]) for each in conditions if each["type"] == "Programmed"), "")


def _filters(world: World) -> dict[str, dict[str, Any]]:
    found = world.cluster.plane.read("envoyfilters", "", world.namespace)["items"]
    return {item["metadata"]["name"]: item for item in found}


def _lawful(world: World, name: str) -> bool:
    return ask(world.urls[name], USERS[0]).version == world.law(USERS[0])


def _released(world: World, name: str) -> bool:
    """Whether a gateway serves its owner's route as if there were no abmesh."""
    return ask(world.urls[name], USERS[0]).version == "claimed-by-upstream"


def _same(world: World, name: str, before: list[dict[str, Any]]) -> bool:
    return world.routes(name) == before


def _wrong(world: World, name: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for user, answer in zip(USERS, ask_all(world.urls[name], USERS), strict=True):
        if (answer.status, answer.version) != (200, world.law(user)):
            found[f"{answer.status} {answer.version}"] += 1
    return found


def _counted(metrics: str) -> dict[str, int]:
    """Requests by variant, as the controller's metrics have them."""
    found: Counter[str] = Counter()
    pattern = r'^llm_requests_total\{[^}]*model_version="([^"]+)"[^}]*\} ([0-9.e+]+)$'
    for variant, value in re.findall(pattern, _get(f"{metrics}/metrics"), re.MULTILINE):
        found[variant] += int(float(value))
    return dict(found)


def _owned(cluster: Cluster) -> None:
    cluster.plane.apply(owner(OWNER))


def _rename(world: World, name: str) -> None:
    patch = [{"op": "replace", "path": "/spec/http/1/name", "value": name}]
    arguments = ("patch", "virtualservice", "chat", "--type=json", "-p", json.dumps(patch))
    world.cluster.plane.kubectl(*arguments, namespace=world.namespace)


def test_a_controller_keeps_the_filters_of_an_experiment(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    world = make_world(cluster, namespace)
    plane = cluster.plane
    _owned(cluster)
    before = {name: world.routes(name) for name in world.urls}
    versions = world.versions()
    with controller_of(world, tmp_path, OWNER) as metrics:
        plane.apply(world.said)
        wait_for(lambda: _reason(world) == "CandidateOnRoute", "the Experiment to be programmed", 240)
        for name in world.urls:
            wait_for(partial(_lawful, world, name), f"the first assigned user at {name}", 60)
        pattern = r'abmesh_controller_sources\{state="answering"\} 2\.0'
        wait_for(lambda: re.search(pattern, _get(f"{metrics}/metrics")), "both gateways to be read", 60)
        time.sleep(2)  # two ticks: totals begin with the first reading
        counted = _counted(metrics)
        for name in world.urls:
            assert not _wrong(world, name), name
        expected = Counter({name: counted.get(name, 0) for name in ("model-a", "model-b")})
        expected.update(world.law(user) for user in USERS for _ in world.urls)
        wait_for(lambda: _counted(metrics) == dict(expected), f"{dict(expected)} requests to be counted", 60)
        assert world.versions() == versions, "the users' objects are as they were"

        _rename(world, "renamed")
        wait_for(lambda: _reason(world) == "RouteVanished", "the renamed route to be noticed", 90)
        wait_for(partial(_released, world, "edge"), "its traffic to be left alone", 90)
        assert _lawful(world, "inner"), "the other route goes on"
        _rename(world, "v1")
        wait_for(partial(_lawful, world, "edge"), "the route to be split again", 90)

        route = next(name for name in _filters(world) if name.startswith("abmesh-route") and "virtualservice" in name)
        plane.kubectl("delete", "envoyfilter", route, namespace=namespace)
        wait_for(lambda: _reason(world) == "RemovedByPerson", "the deletion to be noticed", 90)
        wait_for(partial(_released, world, "edge"), "traffic to be as before", 90)
        time.sleep(3)
        assert route not in _filters(world), "it stays deleted"
        request = json.dumps({"id": "again-1", "action": "resume", "by": "ada"})
        plane.kubectl("annotate", "experiment", "chat", f"abmesh.dev/request={request}", namespace=namespace)
        wait_for(lambda: route in _filters(world), "resume to bring it back", 90)
        wait_for(partial(_lawful, world, "edge"), "the route to be split again", 90)

        plane.kubectl("delete", "experiment", "chat", namespace=namespace)
        wait_for(lambda: not _filters(world), "nothing of ours to be left", 90)
        for name in world.urls:
            wait_for(partial(_same, world, name, before[name]), f"{name} to be as before", 60)


def _without_weights(*args: Any) -> Rendered:
    """What none of the checks would let through: Envoy refuses a route whose weights sum to 0."""
    made = usual_render(*args)
    for item in made.filters:
        if item.kind == "route":
            for patch in item.body["spec"]["configPatches"]:
                for entry in patch["patch"]["value"]["route"].get("weighted_clusters", {}).get("clusters", ()):
                    entry["weight"] = 0
    return made


def test_what_envoys_refuse_is_taken_back_within_five_seconds(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
    world = make_world(cluster, namespace)
    _owned(cluster)
    cluster.plane.apply(world.said)
    client = Client(connect())

    async def main() -> None:
        async with keeper_of(client, world, OWNER, _without_weights) as keeper:
            written = taken = 0.0
            writes, ends = 0, time.monotonic() + 240
            while not taken:
                assert time.monotonic() < ends, keeper.status
                if (now := keeper.status.writes["apply"]) != writes:
                    writes, written = now, time.monotonic()  # the routes come last
                if keeper.status.writes["take_back"]:
                    taken = time.monotonic()
                await asyncio.sleep(0.02)
            print(f"taken back {taken - written:.2f} s after the write")
            assert taken - written < 5
            # Both routes are wrong, and each is tried alone once more to be sure.
            while len(keeper.status.held) < len(world.urls):
                assert time.monotonic() < ends, keeper.status
                await asyncio.sleep(0.1)
            found = keeper.programming(f"{namespace}/chat")
            assert found is not None
            assert (found.truth, found.reason) == ("False", "Rejected")
            left = await asyncio.to_thread(_filters, world)
            assert not [name for name in left if name.startswith("abmesh-route")]

    asyncio.run(main())
    for name in world.urls:
        wait_for(partial(_released, world, name), f"{name} to serve its owner's route", 60)
