"""One of several worker processes, and how it talks with its supervisor.

:mod:`ext_proc.supervisor` starts workers as ``python -m ext_proc ... --worker INDEX`` and holds two pipes to each: the
worker's stdin, which ends when the supervisor does, however that happened; and its stdout, on which the worker reports
where it listens and what it has counted, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ext_proc.lifecycle import Signals, background, log_to_stderr
from ext_proc.server import on_loop, serve
from ext_proc.settings import Settings
from ext_proc.telemetry import Counts

log = logging.getLogger("ext_proc")

REPORT_SECONDS: Final = 0.5
_FLUSH_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells.

    Attributes:
        addresses: where it listens; empty until it answers requests.
    """

    addresses: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)

    def to_line(self) -> bytes:
        """The report on one line."""
        return json.dumps({"addresses": self.addresses, "counts": self.counts.dump()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        """The report that a worker wrote.

        Raises:
            ValueError: the line is none.
        """
        try:
            content = json.loads(line)
            return cls(tuple(content["addresses"]), Counts.load(content["counts"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a report: {type(error).__name__}") from error


def run_worker(settings: Settings, index: int) -> int:
    """Serve as a supervisor's worker; returns the exit code.

    Raises:
        StartError: an address cannot be listened on.
    """
    log_to_stderr(f"ext_proc[{index}]")
    return on_loop(settings, _work(settings))


async def _work(settings: Settings) -> int:
    signals, counts = Signals(), Counts()
    reporter = _Reporter(counts)
    with signals.installed():
        await reporter.connect()
        async with background(_end_with_supervisor(signals.ask)), background(reporter.run()):
            code = await serve(settings, signals, counts, reporter.ready)
        await reporter.close()
    return code


async def _end_with_supervisor(ask: Callable[[], None]) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(1024):
            pass
        log.warning("the supervisor is gone")
        ask()
    finally:
        transport.close()


class _Reporter(asyncio.Protocol):
    """Writes reports to stdout without ever making a request wait for whoever reads them."""

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
            # A reader that is behind gets the next report instead, which holds everything in this one.
            if self._transport.get_write_buffer_size() == 0:
                self._write()

    def _write(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(Report(self._addresses, self._counts).to_line())

    async def close(self) -> None:
        """Report a last time."""
        self._write()
        self._transport.close()
        await asyncio.wait({self._closed}, timeout=_FLUSH_SECONDS)
