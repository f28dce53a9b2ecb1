"""A rollout that asks a real Prometheus and a real webhook: it holds, goes on, and is rolled back by what they say."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import Stack, answers
from tests.e2e.load import under_load
from tests.e2e.prometheus_process import need_prometheus, prometheus
from tests.e2e.support import CHAT, abmesh, document, eventually, stack, status

pytestmark = pytest.mark.envoy

USERS = [f"user-{number}" for number in range(200)]
ROLLOUT = """\
    rollout:
      candidate: model-b
      steps: [20, 50, 90]
      stage: {min_duration: 5s, max_duration: 1h, min_requests: 20}
      guardrails:
        - {metric: error_rate, max: 20%}
      checks:
        - {name: scraped, prometheus: 'max(up{job="envoy"})', min: 1, interval: 1s, address: "http://PROMETHEUS"}
        - {name: nothing, prometheus: 'no_such_series', min: 1, interval: 1s, address: "http://PROMETHEUS"}
        - {name: gate, webhook: "http://WEBHOOK/ask", interval: 1s, failures: 2, on_failure: rollback}
"""


@asynccontextmanager
async def _controller(running: Stack, folder: Path) -> AsyncIterator[Child]:
    command = [sys.executable, "-m", "abmesh.cli", "controller", "--config", str(running.config)]
    command += ["--state", str(running.state), "--interval", "500ms", "--settle", "500ms", "--envoy", running.admin]
    http = f"127.0.0.1:{free_ports(1)[0]}"
    child = Child("controller", [*command, "--http", http], folder / "controller.log")
    try:
        await child.start()
        await child.wait_until(lambda: answers(f"http://{http}/healthz"))
        yield child
    finally:
        await child.stop()


async def test_checks_hold_let_go_on_and_roll_back(tmp_path: Path) -> None:
    need_prometheus()
    said: dict[str, Any] = {"status": 200, "asked": []}

    async def handler(request: web.Request) -> web.Response:
        said["asked"].append(await request.json())
        return web.Response(status=said["status"])

    app = web.Application()
    app.router.add_post("/ask", handler)
    text = document({"model-a": 100.0, "model-b": 0.0}, rollout=ROLLOUT)
    async with TestServer(app) as gate, stack(tmp_path / "stack", text) as running:
        targets = {"envoy": running.admin.removeprefix("http://")}
        async with (
            prometheus(tmp_path / "prometheus", targets) as server,
            under_load(running.url, USERS) as load,
        ):
            load.path = CHAT
            written = running.config.read_text().replace("WEBHOOK", f"127.0.0.1:{gate.port}")
            running.config.write_text(written.replace("http://PROMETHEUS", server.url))
            async with _controller(running, tmp_path):

                async def shows(*texts: str, **wanted: Any) -> bool:
                    found = await status(running)
                    shown = " ".join([found["reason"] or "", *(item["text"] for item in found["remarks"])])
                    return all(found[name] == value for name, value in wanted.items()) and all(
                        text in shown for text in texts
                    )

                silent = "check nothing (outside of alpha) has no answer: the query gives no series instead of one"
                passing = "check scraped (outside of alpha) passes: 1 is within min 1"
                first = {"model-a": 80.0, "model-b": 20.0}
                await eventually(lambda: shows(silent, passing, weights=first, last_decision="hold"), 90)
                assert said["asked"][-1]["candidate"] == "model-b"
                assert said["asked"][-1]["weight"] == 20.0

                running.config.write_text(running.config.read_text().replace("no_such_series", "vector(1)"))
                await eventually(lambda: shows(weights={"model-a": 50.0, "model-b": 50.0}), 90)
                said["status"] = 403
                await eventually(lambda: _over(running), 90)
                assert (
                    "check gate (outside of alpha) fails: its webhook answered with status 403"
                    in ((await status(running))["reason"])
                )
    code, output, errors = await abmesh("replay", str(running.state / "journal.jsonl"))
    assert code == 0, errors
    assert ", 0 differ" in output


async def _over(running: Stack) -> bool:
    return bool((await status(running))["state"] == "rolled_back")
