"""A controller that decides on what a real Prometheus scraped from a real Envoy."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import Stack, answers
from tests.e2e.load import under_load
from tests.e2e.prometheus_process import Prometheus, need_prometheus, prometheus
from tests.e2e.support import CHAT, abmesh, document, eventually, stack, status

pytestmark = pytest.mark.envoy

USERS = [f"user-{number}" for number in range(400)]
ROLLOUT = document(
    {"model-a": 100.0, "model-b": 0.0},
    rollout="""\
    rollout:
      candidate: model-b
      steps: [20, 50]
      stage: {min_duration: 1s, max_duration: 1h, min_requests: 20}
      guardrails:
        - {metric: error_rate, max: 20%}
""",
)


@asynccontextmanager
async def _controller(running: Stack, url: str, folder: Path) -> AsyncIterator[Child]:
    """A controller on a Prometheus server."""
    command = [sys.executable, "-m", "abmesh.cli", "controller", "--config", str(running.config)]
    command += ["--state", str(running.state), "--interval", "500ms", "--settle", "500ms", "--max-age", "5s"]
    http = f"127.0.0.1:{free_ports(1)[0]}"
    child = Child("controller", [*command, "--source", "prometheus", "--url", url, "--http", http], folder / "c.log")
    try:
        await child.start()
        await child.wait_until(lambda: answers(f"http://{http}/healthz"))
        yield child
    finally:
        await child.stop()


@asynccontextmanager
async def _scraped(running: Stack, folder: Path) -> AsyncIterator[Prometheus]:
    async with prometheus(folder / "prometheus", {"envoy": running.admin.removeprefix("http://")}) as server:
        yield server


async def _until(running: Stack, **wanted: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def there() -> bool:
        found.update(await status(running))
        return all(found[name] == value for name, value in wanted.items())

    await eventually(there, 90)
    return found


async def test_a_rollout_advances_and_is_rolled_back_for_harm(tmp_path: Path) -> None:
    need_prometheus()
    async with (
        stack(tmp_path / "stack", ROLLOUT) as running,
        _scraped(running, tmp_path) as server,
        under_load(running.url, USERS) as load,
        _controller(running, server.url, tmp_path),
    ):
        load.path = CHAT
        await _until(running, weights={"model-a": 50.0, "model-b": 50.0})
        await running.behave("model-b", error_rate=0.6)
        found = await _until(running, state="rolled_back")
    assert "error_rate" in found["reason"]
    code, output, errors = await abmesh("replay", str(running.state / "journal.jsonl"))
    assert code == 0, errors
    assert ", 0 differ" in output


async def test_an_envoy_that_is_not_scraped_holds_the_rollout_and_so_does_a_prometheus_that_is_gone(
    tmp_path: Path,
) -> None:
    need_prometheus()
    async with (
        stack(tmp_path / "stack", ROLLOUT) as running,
        _scraped(running, tmp_path) as server,
        _controller(running, server.url, tmp_path),
    ):
        await _until(running, weights={"model-a": 80.0, "model-b": 20.0})
        address = running.admin.removeprefix("http://")

        async def holds_because_of(what: str) -> bool:
            found = await status(running)
            return found["last_decision"] == "hold" and what in found["reason"]

        await running.children["envoy"].kill()
        await eventually(lambda: holds_because_of(f"{address} (the server could not scrape it)"), 60)
        await server.process.kill()
        await eventually(lambda: holds_because_of(f"{server.url} (no connection"), 60)
