"""The real server serves what a real API server holds, and goes on serving it whatever happens there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from abmesh.kube.client import Client
from abmesh.kube.connection import connect
from abmesh.kube.resources import EXPERIMENTS
from tests.cluster.cluster import Cluster
from tests.cluster.experiments import define, fresh_namespace, put, undefine
from tests.ext_proc.clients import SERVING, connected, health
from tests.ext_proc.programs import Program, program
from tests.ext_proc.test_kubernetes import assigned, page, until

ALL_ON_B = {"model-a": 0, "model-b": 100}


@pytest.fixture
def client(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
    found = Client(connect())
    define(found)
    yield found
    found.close()


@pytest.fixture
def own(client: Client) -> Iterator[str]:
    with fresh_namespace(client) as name:
        yield name


@pytest.fixture
async def server(own: str, client: Client, tmp_path: Path) -> AsyncIterator[Program]:
    """A server that follows one Experiment in the test's namespace, with everybody on model-a."""
    put(client, own, "chat", weights={"model-a": 100, "model-b": 0})
    async with program(tmp_path, "--kubernetes", "--namespace", own, "--listen", "127.0.0.1:0") as running:
        await running.ready()
        yield running


async def test_an_edit_without_a_controller_is_served_within_a_second(
    client: Client, own: str, server: Program
) -> None:
    async with connected(server.addresses[0]) as channel:
        took = []
        for variant in ("model-b", "model-a") * 5:
            other = "model-a" if variant == "model-b" else "model-b"
            put(client, own, "chat", weights={"model-a": 0, "model-b": 0, variant: 100, other: 0})

            async def moved(variant: str = variant) -> bool:
                return (await assigned(channel))["x-model-version"] == variant

            took.append(await until(moved))
        print(f"edit to the server: median {sorted(took)[5]:.3f} s, worst {max(took):.3f} s")
        assert max(took) < 1


async def test_users_of_a_deleted_experiment_pass_through_and_come_back(
    client: Client, own: str, server: Program
) -> None:
    async with connected(server.addresses[0]) as channel:

        async def free() -> bool:
            return "x-ab-experiment" not in await assigned(channel)

        client.delete(EXPERIMENTS, own, "chat")
        print(f"deletion to the server: {await until(free):.3f} s")
        assert await health(channel) == SERVING
        put(client, own, "chat", weights=ALL_ON_B)

        async def back() -> bool:
            return (await assigned(channel)).get("x-model-version") == "model-b"

        await until(back)


async def test_no_request_goes_wrong_while_the_api_server_is_killed_and_the_definition_deleted(
    cluster: Cluster, client: Client, own: str, server: Program
) -> None:
    wrong: list[dict[str, str]] = []
    asked = 0

    async def load() -> None:
        nonlocal asked
        async with connected(server.addresses[0]) as channel:
            while True:
                found = await assigned(channel, asked % 50)
                asked += 1
                if found.get("x-model-version") != "model-a" or found.get("x-ab-experiment") != f"{own}/chat":
                    wrong.append(found)
                await asyncio.sleep(0.002)

    loading = asyncio.create_task(load())
    try:
        cluster.plane.api_server.kill()

        async def told() -> bool:
            return bool((await asyncio.to_thread(page, server, "/healthz"))[1]["trouble"])

        await until(told)
        await asyncio.sleep(0.5)
        cluster.plane.api_server.start()

        async def well() -> bool:
            return not await told()

        await until(well)
        await asyncio.to_thread(undefine, client)
        begun = time.monotonic()
        await until(told)
        await asyncio.sleep(max(0.0, 3 - (time.monotonic() - begun)))
        status, found = await asyncio.to_thread(page, server, "/healthz")
        assert (status, found["serving"]) == (200, True)
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    print(f"{asked} requests, {len(wrong)} wrong")
    assert asked > 500
    assert wrong == []
