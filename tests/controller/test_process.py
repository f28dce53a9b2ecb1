"""The controller as a process: killed at random moments, standing by, stopped; and what it weighs."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from abmesh.experiment.names import BUCKETS
from abmesh.experiment.store import FileStore
from controller.rollout.status import ExperimentStatus, read_status
from controller.settings import Settings
from controller.state.journal import read
from tests.controller.support import DOCUMENT, NAME, Traffic

pytestmark = pytest.mark.process

FAST = DOCUMENT.replace("steps: [10, 50, 100]", "steps: [10, 25, 50, 100]").replace(
    "{min_duration: 60s, max_duration: 1h, min_requests: 100}", "{min_duration: 300ms, min_requests: 20}"
)
EVERY_STEP_ONCE = [0, 1000, 2500, 5000, 10_000]


@asynccontextmanager
async def _envoy(folder: Path) -> AsyncIterator[str]:
    """An admin endpoint whose statistics grow with every look, by 500 requests split as the weights promise."""
    traffic = Traffic()
    documents = FileStore(folder / "experiments.yaml")

    async def stats(_: web.Request) -> web.Response:
        for variant, points in documents.read().document.experiment(NAME).weights.items():
            traffic.serve(variant, 500 * points // BUCKETS)
        return web.Response(text=traffic.answer(datetime.now(UTC)))

    app = web.Application()
    app.router.add_get("/stats", stats)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@asynccontextmanager
async def _controller(folder: Path, envoy: str, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = ["-m", "abmesh.cli", "controller", "--config", str(folder / "experiments.yaml"), "--envoy", envoy]
    command += ["--interval", "100ms", "--settle", "100ms", *flags]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _line(process: asyncio.subprocess.Process, wanted: str) -> str:
    """The next line of its log that holds a text."""
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while line := (await process.stderr.readline()).decode():
            if wanted in line:
                return line
    raise AssertionError(f"it ended without a line with {wanted!r}")


async def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it waits for another process
            await asyncio.sleep(0.02)


def _status(folder: Path) -> ExperimentStatus:
    return read_status(Settings(folder / "experiments.yaml"))[0]


async def test_killed_at_random_moments_it_takes_every_step_exactly_once(tmp_path: Path) -> None:
    (tmp_path / "experiments.yaml").write_text(FAST)
    moments = random.Random(3)
    kills = 0
    async with _envoy(tmp_path) as envoy:
        while _status(tmp_path).phase != "promoted":
            assert kills < 100, "the rollout makes no progress"
            async with _controller(tmp_path, envoy) as process:
                await _line(process, "ready")
                await asyncio.sleep(moments.uniform(0, 0.8))
                process.kill()
                kills += 1
    entries = read(tmp_path / ".abmesh" / "experiments" / "journal.jsonl")
    moves = [entry for entry in entries if entry.weights_before != entry.weights_after]
    assert [entry.weights_before["model-b"] for entry in moves] == EVERY_STEP_ONCE[:-1]
    assert [entry.weights_after["model-b"] for entry in moves] == EVERY_STEP_ONCE[1:]
    assert len({entry.id for entry in entries}) == len(entries)
    assert _status(tmp_path).weights == {"model-a": 0, "model-b": 10_000}
    assert kills >= 3


async def test_a_second_one_stands_by_and_takes_over_when_the_first_is_killed(tmp_path: Path) -> None:
    (tmp_path / "experiments.yaml").write_text(DOCUMENT)
    async with _envoy(tmp_path) as envoy, _controller(tmp_path, envoy) as first:
        await _line(first, "leading")
        async with _controller(tmp_path, envoy) as second:
            await _line(second, "standing by")
            assert (_status(tmp_path).leader or "").startswith(f"{first.pid} on ")
            first.kill()
            await _line(second, "leading")
            assert (_status(tmp_path).leader or "").startswith(f"{second.pid} on ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "experiments.yaml").write_text(DOCUMENT)
    async with _envoy(tmp_path) as envoy, _controller(tmp_path, envoy, "--http", "127.0.0.1:0") as process:
        ready = await _line(process, "abmesh controller ready")
        assert "envoys=1" in ready
        assert "http=127.0.0.1:" in ready
        await _until(lambda: _status(tmp_path).weight == 1000)
        process.send_signal(number)
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    assert _status(tmp_path).leader is None


async def test_it_stays_small(tmp_path: Path) -> None:
    """Near 120 MB, of which the command line takes 5; scipy.stats would add 23 to that."""
    (tmp_path / "experiments.yaml").write_text(DOCUMENT)
    async with _envoy(tmp_path) as envoy, _controller(tmp_path, envoy) as process:

        def judged() -> bool:
            found = _status(tmp_path)
            return found.requests > 200

        await _until(judged)
        assert psutil.Process(process.pid).memory_info().rss < 135e6
    heavy = "('scipy.stats', 'envoy_data_plane', 'grpc')"
    command = f"import sys, controller.wiring; print([name for name in {heavy} if name in sys.modules])"
    probe = await asyncio.create_subprocess_exec(sys.executable, "-c", command, stdout=asyncio.subprocess.PIPE)
    output, _ = await probe.communicate()
    assert json.loads(output) == []


async def test_an_address_that_is_taken_fails_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "experiments.yaml").write_text(DOCUMENT)
    async with _envoy(tmp_path) as envoy:
        taken = envoy.removeprefix("http://")
        async with _controller(tmp_path, envoy, "--http", taken) as process:
            await _line(process, f"cannot listen on {taken}")
            assert await process.wait() == 1
    assert NAME not in str(list((tmp_path / ".abmesh").rglob("evidence/*")))
