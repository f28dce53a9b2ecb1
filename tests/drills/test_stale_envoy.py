"""Issue 12, entry 3: an Envoy that was rendered from an older document says so, and for which part."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

from abmesh.local.stack import Stack, answers, fetch
from tests.drills.report import Drill
from tests.e2e.load import under_load
from tests.e2e.support import abmesh, document, eventually, stack

USERS = [f"user-{number}" for number in range(40)]
ADDED = "    events: [click]\n"


async def _health(running: Stack, key: str) -> object:
    text = await fetch(f"{running.controller_url}/healthz")
    return json.loads(text)[key] if text else None


async def _render_again(running: Stack) -> None:
    """As an operator does: render, then restart Envoy."""
    flags = {"--listen": running.url, "--admin": running.admin, "--warmup": running.warmup}
    where = [text for flag, url in flags.items() for text in (flag, url.removeprefix("http://"))]
    code, output, errors = await abmesh(
        "render", "envoy", *where, "--ext-proc", running.ext_proc_address, config=running.config
    )
    assert code == 0, errors
    await _restart(running, output)


async def _restart(running: Stack, bootstrap: str) -> None:
    (running.folder / "envoy.yaml").write_text(bootstrap)
    await running.children["envoy"].kill()
    await running.children["envoy"].start()
    await running.children["envoy"].wait_until(lambda: answers(f"{running.admin}/ready"))


async def _reads(running: Stack, drill: Drill) -> str:
    code, output, errors = await abmesh("status", "--state", str(running.state), config=running.config)
    assert code == 0, errors
    text = " ".join(output.split())
    drill.operator_reads(*re.findall(r"http\S+ must be rendered again.*|not known whether.*", text))
    return text


async def test_status_health_and_metrics_name_the_envoy_and_the_part(tmp_path: Path, drill: Drill) -> None:
    text = document({"model-a": 50.0, "model-b": 50.0})
    async with stack(tmp_path, text, interval=timedelta(milliseconds=100)) as running:

        async def stale(*parts: str) -> bool:
            return await _health(running, "envoys_to_render") == ({running.admin: list(parts)} if parts else {})

        async def counted(state: str) -> bool:
            metrics = await fetch(f"{running.controller_url}/metrics") or ""
            return f'abmesh_envoys_rendered{{state="{state}"}} 1.0' in metrics

        await eventually(lambda: counted("current"))
        assert "rendered again" not in await _reads(running, drill)
        async with under_load(running.url, USERS) as load:
            # Weights need no new rendering.
            code, _, errors = await abmesh("weights", "chat", "model-b=20", "model-a=80", config=running.config)
            assert code == 0, errors
            # A new event does: the server would count it, but this Envoy has no route for it.
            running.config.write_text(
                running.config.read_text().replace("    issue_cookie", f"{ADDED}    issue_cookie")
            )
            await eventually(lambda: stale("chat/events", "headers", "statistics"))
        drill.sent, drill.failed = len(load.answers) + len(load.broken), len(load.failures)
        assert not load.failures
        assert await counted("stale")
        told = await _reads(running, drill)
        assert f"{running.admin} must be rendered again, because the document has changed: chat/events" in told
        await _render_again(running)
        await eventually(lambda: counted("current"))
        assert await stale()
        assert "rendered again" not in await _reads(running, drill)

        # An Envoy that was rendered by hand, or by a version that did not say.
        bootstrap = (running.folder / "envoy.yaml").read_text()
        await _restart(running, re.sub(r"\n  metadata:\n(    .*\n)+", "\n", bootstrap, count=1))
        await eventually(lambda: counted("unknown"))
        assert await _health(running, "envoys_rendering_unknown") == [running.admin]
        assert "not known whether these Envoys must be rendered again" in await _reads(running, drill)
        log = (running.folder / "controller.log").read_text()
        drill.operator_reads(*[line for line in log.splitlines() if "abmesh.renderings" in line])
        assert log.count("it does not say what it was rendered from") == 1
