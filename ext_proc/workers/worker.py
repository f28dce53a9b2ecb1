"""One of several worker processes.

:mod:`ext_proc.workers.supervisor` starts workers as ``python -m ext_proc ... --worker INDEX``; ``ext_proc.__main__``
then calls :func:`run_worker`. Two pipes connect a worker with its supervisor: stdin, which closes when the supervisor
ends for whatever reason; and stdout, on which the worker writes a :class:`~ext_proc.workers.report.Report` per line.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

from ext_proc.lifecycle import Signals, background, log_to_stderr
from ext_proc.serving import run_on_loop, serve
from ext_proc.settings import Settings
from ext_proc.telemetry import Counts
from ext_proc.workers.report import Report

log = logging.getLogger("ext_proc")

REPORT_SECONDS: Final = 0.5
_FLUSH_SECONDS: Final = 2.0


def run_worker(settings: Settings, index: int) -> int:
    """Serve as a supervisor's worker; returns the exit code.

    Raises:
        StartError: the worker cannot listen on an address.
    """
    log_to_stderr(f"ext_proc[{index}]")
    return run_on_loop(settings, _work(settings))


async def _work(settings: Settings) -> int:
    signals, counts = Signals(), Counts()
    reporter = _Reporter(counts)
    with signals.installed():
        await reporter.connect()
        async with background(_stop_with_supervisor(signals.ask)), background(reporter.run()):
            code = await serve(settings, signals, counts, reporter.ready)
        await reporter.close()
    return code


async def _stop_with_supervisor(ask: Callable[[], None]) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(1024):
            pass
        log.warning("the supervisor has ended; draining")
        ask()
    finally:
        transport.close()


class _Reporter(asyncio.Protocol):
    """Writes reports to stdout, and never makes a request wait for the supervisor to read them."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._addresses: tuple[str, ...] = ()
        self._transport: Any = None
        self._closed = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        self._transport, _ = await asyncio.get_running_loop().connect_write_pipe(lambda: self, sys.stdout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio, also when the supervisor has gone away."""
        if not self._closed.done():
            self._closed.set_result(exc)

    def ready(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses
        self._write()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            # If the supervisor is behind, skip this one: the next report holds everything in it.
            if self._transport.get_write_buffer_size() == 0:
                self._write()

    def _write(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(Report(self._addresses, self._counts).to_line())

    async def close(self) -> None:
        """Write a last report."""
        self._write()
        self._transport.close()
        await asyncio.wait({self._closed}, timeout=_FLUSH_SECONDS)
