"""A keeper of EnvoyFilters in this process, whose renderer a test replaces to get wrong values past all checks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from abmesh.kube.client import Client
from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.watching import follow
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.wanted import Settings
from controller.cluster.filters.checking import Checks
from controller.cluster.filters.keeper import Keeper, Render
from controller.cluster.filters.pods import PodFleet
from controller.cluster.filters.reading import Reading
from controller.cluster.filters.rejects import Rejects
from controller.cluster.filters.writing import Writer
from controller.cluster.stores import stores
from tests.cluster.istio_world import World


def owner(name: str) -> dict[str, Any]:
    """What owns the filters: the chart's ClusterRole."""
    group = "rbac.authorization.k8s.io"
    return {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": []}


class _Unchecked(Checks):
    """Finds nothing wrong."""

    def faults(self, rendered: Rendered) -> dict[Any, str]:
        return {}


@contextlib.asynccontextmanager
async def keeper_of(client: Client, world: World, owner: str, render: Render) -> AsyncIterator[Keeper]:
    """A keeper that leads, and runs while the context lasts."""
    space, connection = world.namespace, client.connection
    store = stores(client, space, watched=space, settle=timedelta(), tell=lambda _: None)
    reading = Reading(connection, [space], "cluster.local", lambda: keeper.wake())
    rejects = Rejects(world.cluster.plane.istiod_metrics.removesuffix("/metrics"))
    keeper = Keeper(
        store.lease,
        store.experiments,
        store.documents,
        reading,
        Writer(client, space, store.lease, owner),
        rejects,
        Settings(server_namespace=space, gateway_namespaces=(space,)),
        PodFleet(reading.pods, 15099),
        _Unchecked(None, [space]),
        render=render,
    )
    assert await asyncio.to_thread(store.lease.acquire)
    tasks = [
        asyncio.create_task(store.experiments.follow(follow(connection, EXPERIMENTS, space))),
        asyncio.create_task(reading.run()),
        asyncio.create_task(keeper.run()),
    ]
    try:
        yield keeper
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await rejects.close()
        await asyncio.to_thread(store.lease.release)
