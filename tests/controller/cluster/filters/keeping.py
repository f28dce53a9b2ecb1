"""A keeper on the fake API server, with an istiod that counts as it is told, and steps one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from abmesh.kube.client import Client
from abmesh.kube.resources import (
    CLUSTER_ROLES,
    CONFIG_MAPS,
    DESTINATION_RULES,
    ENVOY_FILTERS,
    EXPERIMENTS,
    ISTIO_GATEWAYS,
    SERVICES,
    VIRTUAL_SERVICES,
    Resource,
)
from abmesh.kube.watching import follow
from abmesh.mesh.istio.render import render as usual_render
from abmesh.mesh.istio.wanted import Settings
from controller.cluster.filters.checking import Checks, Trial
from controller.cluster.filters.keeper import Keeper, Render
from controller.cluster.filters.pods import PodFleet
from controller.cluster.filters.reading import Reading
from controller.cluster.filters.writing import MAP, Writer
from controller.cluster.lease import Times
from controller.cluster.stores import stores
from tests.abmesh.kube.fake_api import FakeApi
from tests.abmesh.mesh.istio import worlds

OWNER = "abmesh-controller"
OURS = "abmesh"
SPEC: dict[str, Any] = {
    "routes": [{"kind": "VirtualService", "name": "chat", "rule": "v1"}],
    "match": {"pathPrefix": "/v1/"},
    "unit": [{"header": "x-user-id"}],
    "variants": [
        {
            "name": name,
            "backend": {"service": "llm-inference", "subset": name, "port": 8000},
            "weight": weight,
            **({"control": True} if name == "model-a" else {}),
        }
        for name, weight in (("model-a", 95), ("model-b", 5))
    ],
}
_KINDS: dict[str, Resource] = {
    "Service": SERVICES,
    "DestinationRule": DESTINATION_RULES,
    "Gateway": ISTIO_GATEWAYS,
    "VirtualService": VIRTUAL_SERVICES,
}


@dataclass
class Istiod:
    """What is said of rejects."""

    rejects: float | None = 0.0

    async def count(self) -> float | None:
        return self.rejects

    async def words(self) -> str:
        return "route: weights sum to 0"

    async def version(self) -> str:
        return "1.31.0"


@dataclass
class Kept:
    """One controller's part of it.

    Attributes:
        api: where everything is.
        istiod: what says which configuration proxies refuse.
    """

    api: FakeApi
    client: Client
    keeper: Keeper
    istiod: Istiod
    fleet: PodFleet
    lease: Any
    experiments: Any
    documents: Any
    woken: list[float] = field(default_factory=list)

    def put(self, item: dict[str, Any]) -> None:
        """Somebody applies an object."""
        meta = item["metadata"]
        self.api.put(_KINDS[item["kind"]], meta["namespace"], meta["name"], spec=item["spec"])

    def filters(self) -> dict[str, dict[str, Any]]:
        """abmesh's filters, by their kind."""
        found = self.client.list(ENVOY_FILTERS, "edge").items
        return {item["metadata"]["labels"]["abmesh.dev/kind"]: item for item in found}

    def memory(self) -> dict[str, Any]:
        """What is remembered, as the API server has it."""
        text = self.client.get(CONFIG_MAPS, OURS, MAP)["data"]["filters.json"]
        found: dict[str, Any] = json.loads(text)
        return found

    def reason(self, name: str = "llm/chat") -> str:
        """What is said of an Experiment."""
        found = self.keeper.programming(name)
        return "" if found is None else found.reason

    async def until(self, condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
        """Wait until a condition holds."""
        ends = time.monotonic() + seconds
        while not (said := await asyncio.to_thread(condition)):
            assert time.monotonic() < ends, (
                f"waited in vain for {what}: {said!r}, {self.reason()!r}, {self.keeper.status}"
            )
            await asyncio.sleep(0.02)

    async def quiet(self, steps: int = 3) -> None:
        """Let it look some times without anything to do."""
        for _ in range(steps):
            await asyncio.sleep(0.3)


def usual(api: FakeApi) -> None:
    """The guides' cluster, and an Experiment."""
    api.put(CLUSTER_ROLES, "", OWNER)
    api.put(ENVOY_FILTERS, "theirs", "theirs")  # the fake only knows kinds of which there is something
    for item in worlds.USUAL:
        meta = item["metadata"]
        api.put(_KINDS[item["kind"]], meta["namespace"], meta["name"], spec=item["spec"])
    api.put(EXPERIMENTS, "llm", "chat", spec=SPEC)


@contextlib.asynccontextmanager
async def kept(
    api: FakeApi, *, lead: bool = True, render: Render = usual_render, trial: Trial | None = None, **more: Any
) -> AsyncIterator[Kept]:
    """A controller's keeper that runs while the context lasts."""
    client = api.client()
    woken: list[float] = []
    store = stores(client, OURS, settle=timedelta(), tell=lambda _: None, times=Times(60, 50, 40))
    reading = Reading(api.connection, ["edge"], "cluster.local", lambda: keeper.wake())
    istiod, fleet = Istiod(), PodFleet(reading.pods, 15099)
    keeper = Keeper(
        store.lease,
        store.experiments,
        store.documents,
        reading,
        Writer(client, OURS, store.lease, OWNER),
        istiod,
        Settings(gateway_namespaces=("edge",)),
        fleet,
        Checks(trial, ["edge"]),
        render=render,
        on_change=lambda: woken.append(time.monotonic()),
        **more,
    )
    found = Kept(api, client, keeper, istiod, fleet, store.lease, store.experiments, store.documents, woken)
    if lead:
        assert await asyncio.to_thread(store.lease.acquire)
    tasks = [
        asyncio.create_task(store.experiments.follow(follow(api.connection, EXPERIMENTS))),
        asyncio.create_task(reading.run()),
        asyncio.create_task(keeper.run()),
    ]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(store.lease.release)
