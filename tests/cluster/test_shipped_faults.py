"""What happens to a rollout of the shipped chart when a part of the cluster fails; users notice nothing.

The tests go on with one ramp, each from where the last one left it, and each may be run alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.asking import Json
from tests.cluster.cluster import Cluster
from tests.cluster.expired import expired
from tests.cluster.plane.daemon import Daemon
from tests.cluster.plane.network import NODE
from tests.cluster.plane.settings import API_PORT
from tests.cluster.releases import INSTANCE
from tests.cluster.shipped_world import Shipped, shipped
from tests.cluster.trial import CHAT, Rollout, until

LONG = ("test_the_api_server_is_gone_for_a_minute", "test_the_tokens_expire_and_are_replaced")
CRD = "experiments.abmesh.dev"


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Shipped]:
    """The chart, installed once for all of these tests."""
    with shipped(cluster) as made:
        yield made


@pytest.fixture(scope="module")
def rollout(world: Shipped) -> Rollout:
    """A ramp that goes on from test to test."""
    found = Rollout(world)
    found.begin()
    return found


def _leader(world: Shipped) -> tuple[str, int]:
    """The pod that leads, and its process."""
    pod = world.leader()
    return pod, world.cluster.node.process(world.release.namespace, pod, "controller")


async def test_the_leader_is_killed(world: Shipped, rollout: Rollout) -> None:
    async with rollout.through("the leader killed") as trial:
        pod, process = await asyncio.to_thread(_leader, world)
        os.kill(process, signal.SIGKILL)
        trial.edit()
        await until(lambda: world.leader() not in ("", pod), "another controller to lead")


async def test_the_leader_is_frozen_for_longer_than_its_lease_and_wakes(world: Shipped, rollout: Rollout) -> None:
    async with rollout.through("the leader frozen") as trial:
        pod, process = await asyncio.to_thread(_leader, world)
        os.kill(process, signal.SIGSTOP)
        try:
            trial.edit()
            await until(lambda: world.leader() not in ("", pod), "another controller to lead")
            await until(trial.taken, "it to take the edit over")
        finally:
            os.kill(process, signal.SIGCONT)
        said = (world.release.namespace, pod, "controller")
        await until(lambda: "leading no longer" in world.cluster.node.log(*said), "the one that was frozen to give way")


async def _back(server: Daemon) -> None:
    """Start it, and wait until it is ready; from this thread, with which it ends."""
    server.launch()
    await until(server.is_ready, f"{server.name} to be ready")


async def test_the_api_server_is_killed(world: Shipped, rollout: Rollout) -> None:
    server = world.cluster.plane.api_server
    async with rollout.through("the API server killed") as trial:
        trial.edit()
        server.kill()
        await until(lambda: all(_troubles(world, trial.servers)), "every server to notice")
        await _back(server)


async def test_the_api_server_is_frozen(world: Shipped, rollout: Rollout) -> None:
    """For longer than a Lease is held and any request waits; its connections stay open."""
    server = world.cluster.plane.api_server
    async with rollout.through("the API server frozen") as trial:
        trial.edit()
        server.freeze()
        try:
            await asyncio.sleep(12)
        finally:
            server.thaw()
        await until(server.is_ready, "it to answer")


async def test_the_api_server_is_stopped_and_etcd_compacted_before_it_starts_again(
    world: Shipped, rollout: Rollout
) -> None:
    """What was seen last cannot be followed any more."""
    plane = world.cluster.plane
    async with rollout.through("the API server stopped, etcd compacted, the API server started") as trial:
        trial.edit()
        await asyncio.to_thread(plane.api_server.stop)
        plane.compact_etcd()
        await _back(plane.api_server)


async def test_every_watch_is_cut(world: Shipped, rollout: Rollout) -> None:
    async with rollout.through("every connection to the API server cut") as trial:
        trial.edit()
        if not await asyncio.to_thread(_cut, world):
            pytest.skip("NOT TESTED: this kernel does not let root close a connection")


async def test_the_rights_are_withdrawn_and_given_back(world: Shipped, rollout: Rollout) -> None:
    async with rollout.through("the rights withdrawn") as trial:
        bindings = await asyncio.to_thread(_withdraw, world)
        trial.edit()
        await until(lambda: all(_troubles(world, trial.servers)), "every server to notice")
        await asyncio.to_thread(world.cluster.plane.apply, *bindings)


async def test_the_api_server_is_gone_for_a_minute(world: Shipped, rollout: Rollout) -> None:
    server = world.cluster.plane.api_server
    async with rollout.through("the API server gone for a minute") as trial:
        trial.edit()
        server.kill()
        await asyncio.sleep(60)
        await _back(server)


async def test_the_tokens_expire_and_are_replaced(world: Shipped, rollout: Rollout) -> None:
    plane, node = world.cluster.plane, world.cluster.node
    async with rollout.through("the tokens expired") as trial:
        with node.without_kubelet():
            files = [
                file for pods in ("controller", "ext-proc") for pod in world.pods(pods) for file in node.tokens(pod)
            ]
            assert len(files) == 4
            valid = {file: file.read_text() for file in files}
            for file, token in valid.items():
                file.write_text(expired(token, plane.files.account_key))
            trial.edit()
            await until(lambda: all(_troubles(world, trial.servers)), "every server to notice")
            for file, token in valid.items():
                file.write_text(token)


async def test_the_definition_is_deleted_and_comes_back_with_what_git_has(world: Shipped, rollout: Rollout) -> None:
    """All Experiments go with it. Between the definition and the Experiments there is nothing to be assigned by."""
    plane = world.cluster.plane
    definition = plane.read("crd", CRD)
    async with rollout.through("the definition deleted and applied again") as trial:
        trial.edit()
        await until(trial.taken, "the edit to be taken")
        stood, deleted = rollout.weight(), time.monotonic()
        await asyncio.to_thread(plane.kubectl, "delete", "crd", CRD)
        await until(lambda: all(_troubles(world, trial.servers)), "every server to notice")
        await asyncio.sleep(3)  # long enough for whatever would take the Experiments away
        since = time.monotonic()
        await asyncio.to_thread(plane.apply, _bare(definition))
        established = ("wait", "--for=condition=Established", f"crd/{CRD}", "--timeout=60s")
        await asyncio.to_thread(plane.kubectl, *established)
        await asyncio.to_thread(world.apply, *rollout.bodies())
        await until(lambda: rollout.weight() >= stood, "the ramp to be where it was")
        await asyncio.to_thread(world.wait_until_programmed, CHAT)
        ends = time.monotonic() + 1
        trial.unassigned = lambda each: each.ended > since and each.begun < ends
        # Gateways forget what they counted when the filters go, and no decision on it could be written before.
        trial.uncounted = lambda each: each.ended > deleted - 1 and each.begun < ends
        print(f"from the definition to Experiments that gateways assign by: {ends - 1 - since:.1f} s")
    assert world.condition(CHAT, "Restored")["status"] == "True"


def _troubles(world: Shipped, servers: list[str]) -> list[str]:
    """What keeps each server from following the Experiments; it serves all the while."""
    found = []
    for server in servers:
        with urllib.request.urlopen(f"{server}/healthz", timeout=5) as answer:
            found.append(str(json.load(answer)["trouble"]))
    return found


def _cut(world: Shipped) -> bool:
    """Close every connection of the chart's pods to the API server; whether there were any that could be closed."""
    closed = []
    for component, container in (("controller", "controller"), ("ext-proc", "ext-proc")):
        for pod in world.pods(component):
            process = world.cluster.node.process(world.release.namespace, pod["metadata"]["name"], container)
            command = ["nsenter", "--target", str(process), "--net", "ss", "--kill", "--no-header", "--tcp"]
            done = subprocess.run(
                [*command, "dst", NODE, "dport", "=", str(API_PORT)], capture_output=True, text=True, check=False
            )
            closed.append(done.stdout.strip())
    return all(closed)


def _withdraw(world: Shipped) -> list[Json]:
    """Delete all bindings of the release; what they were."""
    plane, kinds = world.cluster.plane, "clusterrolebindings,rolebindings"
    chosen = ("--selector", f"{INSTANCE}={world.release.name}")
    bindings = plane.read(kinds, "", "", "--all-namespaces", *chosen)["items"]
    for item in bindings:
        meta = item["metadata"]
        plane.kubectl("delete", item["kind"], meta["name"], namespace=meta.get("namespace", ""))
    return [_bare(item) for item in bindings]


def _bare(item: Json) -> Json:
    """An object as somebody applies it who read it."""
    kept = ("name", "namespace", "labels", "annotations")
    metadata: dict[str, Any] = {key: value for key, value in item["metadata"].items() if key in kept}
    return {key: value for key, value in item.items() if key != "status"} | {"metadata": metadata}
