"""Servers as separate processes, which always end with the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.paths import ROOT

LIMIT = 30.0


async def eventually(condition: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    """Wait for a condition; the limit is generous, since the machine may be busy."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit} s for {what}"
        await asyncio.sleep(0.02)


@dataclass
class Program:
    """A running ``python -m ext_proc``."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    def _ready(self) -> re.Match[str] | None:
        return re.search(r"ext_proc: serving on (?P<on>\S+(?:, \S+)*?), metrics on (?P<metrics>\S+), gen", self.text)

    async def ready(self) -> None:
        """Wait until it logs that it serves."""
        await eventually(lambda: self._ready() is not None or self.process.returncode is not None, "a ready server")
        assert self._ready(), self.text

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        found = self._ready()
        assert found
        return found["on"].split(", ")

    @property
    def metrics(self) -> str:
        """Its metrics endpoint."""
        found = self._ready()
        assert found
        return found["metrics"]

    def children(self) -> list[psutil.Process]:
        """Its workers."""
        return psutil.Process(self.process.pid).children()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; returns its exit code."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), LIMIT)

    async def interrupt(self) -> int:
        """Signal its whole process group, as a terminal does on Ctrl-C, and wait; returns its exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), LIMIT)


@contextlib.asynccontextmanager
async def program(folder: Path, *arguments: str) -> AsyncIterator[Program]:
    """Run ``python -m ext_proc`` with a document ``experiments.yaml`` in a folder, metrics on a free port."""
    log = folder / "log.txt"
    command = [sys.executable, "-m", "ext_proc", "--config", str(folder / "experiments.yaml"), "--poll", "0.02"]
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command, "--metrics", "127.0.0.1:0", *arguments, stderr=stderr, cwd=ROOT, process_group=0
        )
    family: list[psutil.Process] = []
    try:
        yield Program(process, log)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        if process.returncode is None:
            process.kill()
            await process.wait()
