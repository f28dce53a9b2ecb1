"""Admin endpoints that answer with 600 MB, packed into 2: the controller refuses them and goes on with the others."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.drills.report import Drill
from tests.drills.rollouts import USERS, drilled, has_weight, peak_memory, rollout
from tests.e2e.load import under_load
from tests.e2e.support import CHAT, eventually, in_state, status

pytestmark = pytest.mark.envoy

HOSTILE = 6
LINE = b"abmesh.requests.experiment.chat.variant.model-b.slice.7.code.500: 1000000\n"


def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    part = LINE * (2**20 // len(LINE))
    return b"".join([*(packer.compress(part) for _ in range(megabytes)), packer.flush()])


async def test_gzip_bombs_from_admin_endpoints_neither_fill_memory_nor_stop_a_rollback(
    tmp_path: Path, drill: Drill
) -> None:
    packed, asked = _bomb(100), 0
    assert len(packed) < 2**20

    async def explode(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(body=packed, headers={"content-encoding": "gzip"})

    app = web.Application()
    app.router.add_get("/{number}/stats", explode)
    async with TestServer(app) as hostile, drilled(tmp_path, rollout()) as running:
        controller = running.children["controller"]
        await running.start_controller()
        async with under_load(running.url, USERS, pause=0.002) as load:
            load.path = CHAT
            await has_weight(running, 50)
            calm = peak_memory(controller.pid)
            await controller.stop()
            bombs = [item for number in range(HOSTILE) for item in ("--envoy", str(hostile.make_url(f"/{number}")))]
            controller.command = [*controller.command, *bombs]
            await running.start_controller()

            async def refused() -> bool:
                said = (await status(running))["reason"]
                drill.read = [said]
                return asked >= 2 * HOSTILE and "67,108,864 bytes when decompressed" in said

            await eventually(refused)
            await running.behave("model-b", error_rate=0.5)
            found = await in_state(running, "rolled_back")
        grown = peak_memory(controller.pid) - calm
        drill.sent, drill.failed = len(load.answers), len(load.broken)
        log = controller.log.read_text()
        drill.operator_reads(found["reason"], f"{grown / 2**20:.0f} MB more memory at the most")
    assert grown < 250 * 2**20

    assert "Traceback" not in log
