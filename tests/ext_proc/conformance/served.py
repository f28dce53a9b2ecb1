"""Starts and ends the servers for the tests of this folder."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from abmesh.local.processes import ending_with_parent
from tests.paths import ROOT

TRANSPORTS = ("grpcio", "nghttp2")
LIMIT = 30.0


class Counters(NamedTuple):
    """A server's resources.

    Attributes:
        streams: open ones; None where the transport does not say.
        connections: open ones; None where the transport does not say.
        tasks: asyncio's, beyond those that the program itself has.
        rss_mb: resident memory, in MB.
        files: open ones, sockets included.
        cpu_seconds: used so far.
    """

    streams: int | None
    connections: int | None
    tasks: int
    rss_mb: float
    files: int
    cpu_seconds: float


@dataclass
class Served:
    """A running server of one transport."""

    transport: str
    process: subprocess.Popen[str]
    log: Path
    addresses: list[str]
    idle_tasks: int = 0

    @property
    def tcp(self) -> str:
        """Its TCP address."""
        return self.addresses[0]

    @property
    def unix(self) -> str:
        """Its Unix socket's address."""
        return self.addresses[1]

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def command(self, text: str) -> dict[str, Any]:
        """Send a command; returns the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the server ended; its log:\n{self.text[-4000:]}"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, answer
        return answer

    def counters(self) -> Counters:
        """Its resources now."""
        return Counters(**self.command("counters"))

    def memory(self) -> float:
        """Its resident memory without garbage, in MB."""
        return Counters(**self.command("counters all")).rss_mb

    def until(self, holds: Callable[[Counters], bool], what: str, limit: float = LIMIT) -> Counters:
        """Wait until its resources meet a condition."""
        deadline = time.monotonic() + limit
        while not holds(found := self.counters()):
            assert time.monotonic() < deadline, f"waited {limit} s for {what}; found {found}"
            time.sleep(0.02)
        return found

    def forgets(self) -> Counters:
        """Wait until no stream and no connection of a client is left."""
        return self.until(lambda now: self._no_streams(now) and not now.connections, "nothing open")

    def forgets_streams(self) -> Counters:
        """Wait until no stream is left, whatever connections there are."""
        return self.until(self._no_streams, "no open stream")

    def _no_streams(self, now: Counters) -> bool:
        # grpc.aio does not report how many there are, but has a task for each.
        return now.tasks <= self.idle_tasks if now.streams is None else now.streams == 0

    def unharmed(self) -> None:
        """Check that it runs and has logged no traceback."""
        assert self.process.poll() is None, self.text[-4000:]
        assert "Traceback" not in self.text, self.text[-4000:]


def skip_unless_there(transport: str) -> None:
    """Skip a test whose transport is not installed."""
    if transport == "nghttp2" and importlib.util.find_spec("ngh2") is None:
        pytest.skip("ngh2 is not installed")


@contextlib.contextmanager
def serving(
    folder: Path,
    transport: str,
    *,
    socket: str = "",
    tls: dict[str, str] | None = None,
    limits: dict[str, float] | None = None,
) -> Iterator[Served]:
    """Run a server; at the end, check that it exits with 0 and has logged no traceback.

    Args:
        folder: for its log and its socket.
        transport: one of :data:`TRANSPORTS`.
        socket: path of its Unix socket, if not one in the folder.
        tls: paths of its TLS files.
        limits: of nghttp2, in seconds.
    """
    skip_unless_there(transport)
    folder.mkdir(parents=True, exist_ok=True)
    options = {"transport": transport, "socket": socket or str(folder / "s.sock"), "tls": tls, "limits": limits or {}}
    command = [sys.executable, "-m", "tests.ext_proc.conformance.serving", json.dumps(options)]
    log = folder / "log.txt"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            ending_with_parent(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        found = Served(transport, process, log, json.loads(line)["addresses"])
        found.idle_tasks = found.counters().tasks
        yield found
        if process.poll() is None:
            process.stdin.close()
            assert process.wait(LIMIT) == 0, found.text[-4000:]
        assert "Traceback" not in found.text, found.text[-4000:]
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
