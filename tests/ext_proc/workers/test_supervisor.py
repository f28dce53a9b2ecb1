"""A server of several workers as a program, called over real gRPC."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from tests.ext_proc.clients import ask, connected, scrape, total
from tests.ext_proc.programs import Program, eventually, program
from tests.ext_proc.samples import DOCUMENT_TEXT, headers_set

pytestmark = pytest.mark.process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a valid document."""
    (tmp_path / "experiments.yaml").write_text(DOCUMENT_TEXT)
    return tmp_path


async def call(server: Program, count: int) -> None:
    """Make calls, each on its own connection, which the kernel distributes over the workers."""
    for _ in range(count):
        async with connected(server.addresses[0]) as channel:
            assert headers_set(await ask(channel))["x-ab-experiment"] == "chat-model"


def requests(server: Program) -> float:
    return total(scrape(server.metrics), "abmesh_ext_proc_requests_total")


async def test_workers_share_a_port_and_show_their_counts_as_one(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--workers", "2") as server:
        await server.ready()
        workers = server.children()
        assert len(workers) == 2
        await call(server, 40)
        await eventually(lambda: requests(server) == 40, "all requests in the merged metrics")
        samples = await asyncio.to_thread(scrape, server.metrics)
        assert samples["abmesh_ext_proc_workers"] == 2
        assert samples["abmesh_config_valid"] == 1
        assert samples["abmesh_ext_proc_processing_seconds_count"] == 40
        assert samples["abmesh_ext_proc_processing_seconds_bucket{le=+Inf}"] == 40
        assert await server.stop() == 0
        assert not any(worker.is_running() for worker in workers)
        assert "Traceback" not in server.text


async def test_a_worker_that_dies_is_restarted_and_its_counts_are_kept(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--workers", "2") as server:
        await server.ready()
        await call(server, 20)
        await eventually(lambda: requests(server) == 20, "the requests")
        first, second = server.children()
        first.kill()
        await eventually(
            lambda: (
                scrape(server.metrics)["abmesh_ext_proc_worker_restarts_total"] == 1
                and scrape(server.metrics)["abmesh_ext_proc_workers"] == 2
            ),
            "another worker",
        )
        assert second in server.children()
        assert first not in server.children()
        await call(server, 20)
        await eventually(lambda: requests(server) == 40, "all requests")
        assert "exited with code -9, restarting it" in server.text
        assert await server.stop() == 0


async def test_no_worker_outlives_a_killed_supervisor(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--workers", "2") as server:
        await server.ready()
        workers = server.children()
        await server.stop(signal.SIGKILL)
        try:
            await eventually(lambda: not any(map(alive, workers)), "the workers' end")
        finally:
            for worker in filter(alive, workers):
                worker.kill()


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_each_worker_has_a_unix_socket_of_its_own(folder: Path) -> None:
    path = folder / "ext_proc.sock"
    async with program(folder, "--listen", f"unix:{path}", "--workers", "2") as server:
        await server.ready()
        assert server.addresses == [f"unix:{path}", f"unix:{path}.1"]
        for address in server.addresses:
            async with connected(address) as channel:
                assert headers_set(await ask(channel))
        await eventually(lambda: requests(server) == 2, "the requests")
        assert await server.stop() == 0
        assert not sockets(folder)


def sockets(folder: Path) -> list[Path]:
    return list(folder.glob("*.sock*"))


async def test_ctrl_c_is_one_signal_to_every_worker(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--workers", "2") as server:
        await server.ready()
        assert await server.interrupt() == 0


async def test_workers_that_cannot_start_end_the_server(folder: Path) -> None:
    flags = ("--listen", f"unix:{folder}/missing/x.sock", "--workers", "2")
    async with program(folder, *flags) as server:
        assert await asyncio.wait_for(server.process.wait(), 30) == 1
        assert "could not start" in server.text
        assert "must be a folder" in server.text
        assert "Traceback" not in server.text


async def test_a_second_signal_ends_workers_that_still_drain(folder: Path) -> None:
    async with program(folder, "--listen", "127.0.0.1:0", "--workers", "2", "--drain", "3600") as server:
        await server.ready()
        workers = server.children()
        for worker in workers:
            worker.suspend()  # hangs, so that it cannot drain
        stopped = psutil.STATUS_STOPPED
        await eventually(lambda: all(worker.status() == stopped for worker in workers), "hanging workers")
        server.process.send_signal(signal.SIGTERM)
        await eventually(lambda: all(is_pending(signal.SIGTERM, worker) for worker in workers), "the first signal")
        assert await server.stop() == 1
        assert not any(map(alive, workers))


def is_pending(number: int, process: psutil.Process) -> bool:
    """Whether a process that hangs has been sent a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("ShdPnd:")).split()[1]
    return bool(int(mask, 16) & 1 << (number - 1))
