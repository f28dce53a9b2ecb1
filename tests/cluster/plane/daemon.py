"""One program of the cluster: started, waited for, killed, frozen and started anew, as the tests of faults need it.

It is a child of this process, and the kernel kills it when this process ends, however that ends.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from abmesh.local.processes import ending_with_parent
from tests.cluster.errors import ClusterError

START_LIMIT = 120.0
STOP_LIMIT = 10.0


class Daemon:
    """One program.

    Attributes:
        name: as people read it.
        log: file that its output goes to, over all its runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._ready = ready
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running program; ClusterError if it does not run."""
        if self._process is None:
            raise ClusterError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended; a frozen program runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def ended(self) -> bool:
        """Whether it was started and ended by itself, and nobody knows yet."""
        return self._process is not None and self._process.poll() is not None

    def launch(self) -> None:
        """Start it without waiting for it."""
        if self.running:
            raise ClusterError(f"{self.name} is already running")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ending_with_parent(self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment,
                process_group=0,
            )

    def start(self, limit: float = START_LIMIT) -> None:
        """Start it and wait until it is ready.

        Raises:
            ClusterError: it ended, or was not ready in time; quotes the end of its log.
        """
        self.launch()
        self.wait_until_ready(limit)

    def wait_until_ready(self, limit: float = START_LIMIT) -> None:
        """Wait until it is ready.

        Raises:
            ClusterError: it ended, or was not ready in time; quotes the end of its log.
        """
        deadline = time.monotonic() + limit
        while not self.is_ready():
            if not self.running:
                raise ClusterError(f"{self.name} ended while it was waited for; the end of its log:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} was not ready after {limit:g} s; the end of its log:\n{self.tail()}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether it says that it is ready now."""
        try:
            return self._ready()
        except (OSError, http.client.HTTPException):
            return False

    def kill(self) -> None:
        """End it at once, also while it is frozen. Does nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it by SIGTERM; by force if it takes longer than 10 s. Does nothing if it does not run."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT)
        self.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: go on after :meth:`freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, limit: float = START_LIMIT) -> None:
        """Kill it, start it with the same ports and files, and wait until it is ready."""
        self.kill()
        self.start(limit)

    def tail(self, lines: int = 20) -> str:
        """The last lines of its output."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(no output)"
