"""Child processes end with their parent, and say why when they fail; ports are free and in their range."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from abmesh.local.processes import Child, ProcessError, free_ports

pytestmark = pytest.mark.process

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


async def _never() -> bool:
    return False


async def test_a_child_is_ended_by_stop_even_if_it_hangs(tmp_path: Path) -> None:
    child = Child("sleeper", SLEEP, tmp_path / "log")
    await child.start()
    child.signal(signal.SIGSTOP)
    assert child.running
    assert await child.stop() == -signal.SIGTERM
    assert not child.running


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child = Child("deaf", [sys.executable, "-c", script], tmp_path / "log")
    await child.start()

    async def deaf() -> bool:
        return "deaf" in child.tail()

    await child.wait_until(deaf)
    assert await child.stop(seconds=0.2) == -signal.SIGKILL


async def test_a_child_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = Child("hasty", [sys.executable, "-c", "import sys; sys.exit('no such model')"], tmp_path / "log")
    await child.start()
    with pytest.raises(ProcessError, match="hasty ended at once:\nno such model"):
        await child.wait_until(_never)


async def test_a_child_that_is_never_ready_is_reported(tmp_path: Path) -> None:
    child = Child("lazy", SLEEP, tmp_path / "log")
    await child.start()
    try:
        with pytest.raises(ProcessError, match="lazy was not ready after 0 s"):
            await child.wait_until(_never, seconds=0.1)
    finally:
        await child.stop()


async def test_a_program_that_does_not_exist_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="cannot start ghost"):
        await Child("ghost", [str(tmp_path / "ghost")], tmp_path / "log").start()


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
from abmesh.local.processes import Child
async def main():
    child = Child("orphan", {SLEEP!r}, Path({str(tmp_path / "log")!r}))
    await child.start()
    print(child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=dict(os.environ)) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def test_free_ports_are_all_different_and_none_can_become_an_outgoing_connections() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < first_ephemeral


def test_ports_come_from_the_range_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    low, *_ = free_ports(1)
    monkeypatch.setenv("ABMESH_PORTS", f"{low}-{low + 20}")
    found = free_ports(3)
    assert len(set(found)) == 3
    assert set(found) <= set(range(low, low + 21))
    with pytest.raises(ProcessError, match=f"fewer than 22 ports are free from {low} to {low + 20}"):
        free_ports(22)
