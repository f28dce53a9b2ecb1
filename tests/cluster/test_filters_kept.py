"""What Envoys refuse is taken back: the real API server, istiod and Envoys. test_shipped_rollout.py has the rest."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.render import render as usual_render
from tests.cluster.asking import ask
from tests.cluster.cluster import Cluster
from tests.cluster.filters_world import keeper_of, owner
from tests.cluster.istio_world import World, make_world
from tests.cluster.waiting import wait_for

OWNER = "abmesh-controller"


def _filters(world: World) -> dict[str, dict[str, Any]]:
    found = world.cluster.plane.read("envoyfilters", "", world.namespace)["items"]
    return {item["metadata"]["name"]: item for item in found}


def _released(world: World, name: str) -> bool:
    """Whether a gateway serves its owner's route as if there were no abmesh."""
    return ask(world.urls[name], "user-0").version == "claimed-by-upstream"


def _owned(cluster: Cluster) -> None:
    cluster.plane.apply(owner(OWNER))


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
