"""A server of a cluster's Experiments as a program, called over real gRPC. Its API server is a fake.

``tests/cluster/`` has the same against a real one.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from abmesh.experiment import bucketing
from abmesh.kube.resources import EXPERIMENTS
from ext_proc import wire
from tests.abmesh.kube.experiments import spec
from tests.abmesh.kube.fake_api import FakeApi
from tests.ext_proc.clients import NOT_SERVING, SERVING, ask, connected, health, scrape
from tests.ext_proc.programs import LIMIT, Program, program
from tests.ext_proc.samples import headers_set, request_headers
from tests.paths import ROOT

pytestmark = pytest.mark.process

BAD = {"model-a": 90, "model-b": 20}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """An API server that the server's kubeconfig names."""
    fake = FakeApi()
    with fake.running():
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{fake.port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "c"}}
        user: dict[str, Any] = {"name": "c", "user": {}}
        content = {"current-context": "c", "clusters": [cluster], "users": [user], "contexts": [context]}
        (tmp_path / "kubeconfig").write_text(json.dumps(content))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield fake


@pytest.fixture
async def server(api: FakeApi, tmp_path: Path) -> AsyncIterator[Program]:
    """A server that follows one Experiment."""
    api.put(EXPERIMENTS, "llm", "chat", spec=spec())
    async with program(tmp_path, "--kubernetes", "--listen", "127.0.0.1:0") as running:
        await running.ready()
        yield running


@pytest.fixture
async def channel(server: Program) -> AsyncIterator[grpc.aio.Channel]:
    async with connected(server.addresses[0]) as channel:
        yield channel


def page(server: Program, path: str) -> tuple[int, dict[str, Any]]:
    url = server.metrics.replace("/metrics", path)
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def assigned(channel: grpc.aio.Channel, user: int = 1, path: bytes = b"/v1/chat") -> dict[str, str]:
    return headers_set(await ask(channel, request_headers([("x-user-id", b"u-%d" % user)], target=path)))


async def until(condition: Callable[[], Awaitable[bool]], limit: float = LIMIT) -> float:
    """Wait for a condition that is asked for; returns the seconds that it took."""
    begun = time.monotonic()
    while not await condition():
        assert time.monotonic() - begun < limit
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


async def test_every_user_is_assigned_as_the_law_says(channel: grpc.aio.Channel) -> None:
    ranges = bucketing.initial_ranges({"model-a": 9000, "model-b": 1000})
    for user in range(300):
        found = await assigned(channel, user)
        assert found["x-ab-experiment"] == "llm/chat"
        bucket = bucketing.bucket_of("chat", b"u-%d" % user)
        assert any(start <= bucket < stop for start, stop in ranges[found["x-model-version"]])


async def test_an_edit_is_served_within_a_second_and_has_another_generation(
    api: FakeApi, server: Program, channel: grpc.aio.Channel
) -> None:
    status, before = await asyncio.to_thread(page, server, "/generation")
    assert (status, list(before["experiments"])) == (200, ["llm/chat"])
    others = {user: (await assigned(channel, user))["x-model-version"] for user in range(40)}
    assert "model-a" in others.values()

    api.put(EXPERIMENTS, "llm", "chat", spec=spec(weights={"model-a": 0, "model-b": 100}))

    async def moved() -> bool:
        return (await assigned(channel))["x-model-version"] == "model-b"

    assert await until(moved) < 1
    _, after = await asyncio.to_thread(page, server, "/generation")
    assert after["generation"] != before["generation"]
    samples = await asyncio.to_thread(scrape, server.metrics)
    assert f"{int(samples['abmesh_config_generation']):013x}" == after["generation"]


async def test_a_bad_object_keeps_its_last_good_form_and_touches_no_other(
    api: FakeApi, server: Program, channel: grpc.aio.Channel
) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec(weights=BAD))
    everybody = {"weights": {"model-a": 0, "model-b": 100}, "match": {"pathPrefix": "/v2/"}}
    api.put(EXPERIMENTS, "web", "other", spec=spec(**everybody))

    async def there() -> bool:
        return (await assigned(channel, path=b"/v2/x")).get("x-ab-experiment") == "web/other"

    await until(there)
    assert (await assigned(channel))["x-ab-experiment"] == "llm/chat"
    assert "experiment llm/chat refused, what was accepted of it stays in force" in server.text
    assert list((await asyncio.to_thread(page, server, "/generation"))[1]["experiments"]) == ["web/other"]
    status, found = await asyncio.to_thread(page, server, "/healthz")
    assert (status, found["serving"]) == (200, True)
    assert "weights must sum to exactly 100" in found["refused"]
    assert await health(channel) == SERVING
    samples = await asyncio.to_thread(scrape, server.metrics)
    assert (samples["abmesh_config_valid"], samples["abmesh_config_rejected_total"]) == (0, 1)


async def test_a_fresh_server_passes_the_traffic_of_a_bad_object_through(api: FakeApi, tmp_path: Path) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec(weights=BAD))
    async with program(tmp_path, "--kubernetes", "--listen", "127.0.0.1:0") as running:
        await running.ready()
        async with connected(running.addresses[0]) as channel:
            assert "x-ab-experiment" not in await assigned(channel)
            assert await health(channel) == SERVING
    assert "experiment llm/chat refused, its traffic passes untouched" in running.text


async def test_a_cluster_without_experiments_is_served(api: FakeApi, tmp_path: Path) -> None:
    async with program(tmp_path, "--kubernetes", "--listen", "127.0.0.1:0") as running:
        await running.ready()
        async with connected(running.addresses[0]) as channel:
            assert await health(channel) == SERVING
            assert "x-ab-experiment" not in await assigned(channel)
        assert (await asyncio.to_thread(page, running, "/generation"))[0] == 200


async def test_a_dead_api_server_fails_no_request_and_is_told_everywhere(
    api: FakeApi, server: Program, channel: grpc.aio.Channel
) -> None:
    api.fail(503, times=100_000, message="etcd is gone")
    api.cut()

    async def told() -> bool:
        return bool((await asyncio.to_thread(page, server, "/healthz"))[1]["trouble"])

    await until(told)
    assert (await assigned(channel))["x-ab-experiment"] == "llm/chat"
    assert await health(channel) == SERVING
    status, found = await asyncio.to_thread(page, server, "/healthz")
    assert (status, found["serving"]) == (200, True)
    assert "etcd is gone" in found["trouble"]
    assert "stays in force: cannot" in server.text
    samples = await asyncio.to_thread(scrape, server.metrics)
    assert samples["abmesh_config_followed"] == 0
    assert samples["abmesh_ext_proc_errors_total{kind=watch}"] == 1

    api.put(EXPERIMENTS, "llm", "chat", spec=spec(weights={"model-a": 0, "model-b": 100}))
    api.heal()

    async def moved() -> bool:
        return (await assigned(channel))["x-model-version"] == "model-b"

    await until(moved)
    assert "changes are followed again" in server.text
    assert (await asyncio.to_thread(scrape, server.metrics))["abmesh_config_followed"] == 1


async def test_a_server_without_an_api_server_passes_traffic_and_is_not_ready(api: FakeApi, tmp_path: Path) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec())
    api.fail(503, times=100_000)
    async with program(tmp_path, "--kubernetes", "--listen", "127.0.0.1:0") as running:
        await running.ready()
        async with connected(running.addresses[0]) as channel:
            assert await health(channel) == NOT_SERVING
            assert await ask(channel) == wire.UNCONFIGURED
            assert (await asyncio.to_thread(page, running, "/healthz"))[0] == 503
            assert (await asyncio.to_thread(page, running, "/generation"))[0] == 503
            api.heal()

            async def serves() -> bool:
                return bool(await health(channel) == SERVING)

            await until(serves)
            assert (await assigned(channel))["x-ab-experiment"] == "llm/chat"


async def test_workers_follow_the_cluster_too(api: FakeApi, tmp_path: Path) -> None:
    api.put(EXPERIMENTS, "llm", "chat", spec=spec())
    api.put(EXPERIMENTS, "web", "chat", spec=spec())
    flags = ("--kubernetes", "--namespace", "llm", "--event-origin", "https://a.example")
    async with program(tmp_path, *flags, "--workers", "2", "--listen", "127.0.0.1:0") as running:
        await running.ready()
        async with connected(running.addresses[0]) as channel:
            assert (await assigned(channel))["x-ab-experiment"] == "llm/chat"
        status, found = await asyncio.to_thread(page, running, "/generation")
        assert (status, list(found["experiments"])) == (200, ["llm/chat"])


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "abmesh.cli", "ext-proc", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False, cwd=ROOT)


def test_the_command_says_in_one_line_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: FakeApi
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    found = command("--kubernetes", "--listen", "127.0.0.1:0")
    assert found.returncode == 1
    assert f"abmesh: no kubeconfig: found no file at {tmp_path / 'nowhere'}" in found.stderr
    assert "Traceback" not in found.stderr
    assert command("--namespace", "llm").returncode == 2
    assert "only with --kubernetes" in command("--namespace", "llm").stderr
