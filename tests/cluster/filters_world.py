"""A whole controller as a process, and a keeper of EnvoyFilters in this process, whose renderer a test can replace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from abmesh.kube.client import Client
from abmesh.kube.resources import EXPERIMENTS
from abmesh.kube.watching import follow
from abmesh.local.processes import free_ports
from abmesh.mesh.istio.render import Rendered
from abmesh.mesh.istio.wanted import Settings
from controller.cluster.filters.checking import Checks
from controller.cluster.filters.keeper import Keeper, Render
from controller.cluster.filters.pods import PodFleet
from controller.cluster.filters.reading import Reading
from controller.cluster.filters.rejects import Rejects
from controller.cluster.filters.writing import Writer
from controller.cluster.stores import stores
from controller.state.lease import Heartbeat
from tests.cluster.istio_world import World
from tests.paths import ROOT


def owner(name: str) -> dict[str, Any]:
    """What owns the filters: the chart's ClusterRole."""
    group = "rbac.authorization.k8s.io"
    return {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": []}


@contextlib.contextmanager
def controller_of(world: World, folder: Path, owner: str) -> Iterator[str]:
    """A controller of the namespace, with its own objects there; the address of its metrics."""
    plane, (port,) = world.cluster.plane, free_ports(1)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_bytes(plane.kubeconfig.read_bytes())
    program = [plane.programs.path("kubectl"), "--kubeconfig", str(kubeconfig), "config", "set-context", "--current"]
    subprocess.run([*program, f"--namespace={world.namespace}"], check=True, capture_output=True)
    entry = "import sys; sys.argv[0] = 'abmesh'; from abmesh.cli.main import run; run()"
    command = [sys.executable, "-c", entry, "controller", "--kubernetes", f"--http=127.0.0.1:{port}"]
    command += [f"--namespace={world.namespace}", f"--gateway-namespace={world.namespace}", "--interval=1s"]
    command += [f"--server=abmesh-ext-proc.{world.namespace}.svc.cluster.local:50051", f"--owner={owner}"]
    command.append(f"--istiod={plane.istiod_metrics.removesuffix('/metrics')}")
    environment = os.environ | {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(ROOT)}
    with (folder / "controller.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
        sys.stderr.write((folder / "controller.log").read_text()[-20_000:])


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
    # There are no ticks, without whose end a leader would give the Lease up.
    store.lease.beat(Heartbeat(at=datetime.now(UTC), every=3600))
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
