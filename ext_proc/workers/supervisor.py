"""Keeps several workers running as one server.

:func:`ext_proc.server.run` calls :func:`supervise` for ``--workers N``. Workers are new processes, not forks, because
grpc does not survive a fork. They share TCP ports with SO_REUSEPORT, which the supervisor takes before and holds: if
anybody else listens there, the server does not start. A Unix socket cannot be shared: worker 0 listens on its path and
worker i on ``PATH.i``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ext_proc.exposition import Exposition, Processes, serve_metrics
from ext_proc.lifecycle import Signals, background, either, ready_line
from ext_proc.settings import Address, Kubernetes, Settings, Tcp, Tls, Unix
from ext_proc.telemetry import Counts, merge
from ext_proc.transport.sockets import hold
from ext_proc.workers.report import Report

log = logging.getLogger("ext_proc")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_STABLE_SECONDS: Final = 30.0
_KILL_AFTER_SECONDS: Final = 5.0
_LONGEST_LINE: Final = 64 * 1024 * 1024


async def supervise(settings: Settings) -> int:
    """Run a server of several workers until a signal.

    Returns:
        The exit code: 0 once every worker has drained, 1 otherwise.

    Raises:
        StartError: the server cannot listen on an address.
    """
    signals = Signals()
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.installed())
        addresses: list[Address] = []
        for address in settings.addresses:
            if isinstance(address, Tcp):
                held, address = hold(address)
                for made in held:
                    stack.callback(made.close)
            addresses.append(address)
        if any(isinstance(address, Tcp) for address in addresses):
            log.info(
                "%d workers share the port, and each connection stays with one worker: render Envoy with "
                "--streams-per-connection 2, so that it opens enough connections",
                settings.workers,
            )
        fleet = _Fleet(
            [_Slot(index, _command(settings, addresses, index)) for index in range(settings.workers)], signals
        )
        collectors = (Exposition(fleet.counts, time.time), fleet, Processes(fleet.processes))
        async with serve_metrics(settings.metrics, collectors, lambda: fleet.counts().config) as url:
            return await fleet.run(url, settings.drain_seconds)


def _command(settings: Settings, addresses: Sequence[Address], index: int) -> tuple[str, ...]:
    """The command line of a worker."""
    own = (
        Unix(address.path.with_name(f"{address.path.name}.{index}")) if isinstance(address, Unix) and index else address
        for address in addresses
    )
    return (
        *(sys.executable, "-P", "-m", "ext_proc", "--worker", str(index), "--metrics", "off"),
        *("--config", str(settings.config), "--drain", repr(settings.drain_seconds)),
        *("--poll", repr(settings.poll_interval), "--transport", settings.transport),
        *("--max-connections", str(settings.max_connections)),
        *(_kubernetes_flags(settings.kubernetes) if settings.kubernetes is not None else ()),
        *(_tls_flags(settings.tls) if settings.tls is not None else ()),
        *(part for address in own for part in ("--listen", str(address))),
    )


def _kubernetes_flags(wanted: Kubernetes) -> tuple[str, ...]:
    """The command-line flags for a cluster's experiments."""
    return (
        "--kubernetes",
        *(("--namespace", wanted.namespace) if wanted.namespace else ()),
        *(("--context", wanted.context) if wanted.context else ()),
        *(part for origin in wanted.event_origins for part in ("--event-origin", origin)),
    )


def _tls_flags(tls: Tls) -> tuple[str, ...]:
    """The command-line flags for TLS."""
    clients = () if tls.client_ca is None else ("--tls-client-ca", str(tls.client_ca))
    return ("--tls-cert", str(tls.cert), "--tls-key", str(tls.key), *clients)


def _environment() -> dict[str, str]:
    """The environment of workers: they import the same packages as we do, whatever their working directory."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}


@dataclass(slots=True)
class _Slot:
    """One worker: its process is replaced when it ends, its index and command stay."""

    index: int
    command: tuple[str, ...]
    process: asyncio.subprocess.Process | None = None
    report: Report = field(default_factory=Report)


class _Fleet(Collector):
    """The workers of one server."""

    def __init__(self, slots: Sequence[_Slot], signals: Signals) -> None:
        self._slots = slots
        self._signals = signals
        self._retired = Counts()
        self._counting = threading.Lock()
        self._restarts = 0
        self._all_ready = asyncio.Event()
        self._failed = False

    def counts(self) -> Counts:
        """The counts of all workers since the supervisor started, at most half a second old."""
        with self._counting:  # a scrape, in its own thread, must not see a worker's counts twice or not at all
            return merge([slot.report.counts for slot in self._slots if slot.report.addresses], [self._retired])

    def processes(self) -> dict[str, int]:
        """The ids of the processes that run now, by the label under which their metrics are shown."""
        running = {str(slot.index): slot.process.pid for slot in list(self._slots) if slot.process is not None}
        return {"supervisor": os.getpid(), **running}

    def collect(self) -> Iterator[Metric]:
        """The supervisor's own metrics."""
        ready = sum(bool(slot.report.addresses) for slot in self._slots)
        yield GaugeMetricFamily("abmesh_ext_proc_workers", "Workers that answer requests.", ready)
        yield CounterMetricFamily("abmesh_ext_proc_worker_restarts", "Worker restarts.", self._restarts)

    async def run(self, metrics_url: str | None, drain_seconds: float) -> int:
        """Keep the workers running until a signal, and wait until they have drained."""
        async with background(self._announce(metrics_url)), background(self._stop(drain_seconds)):
            await asyncio.gather(*map(self._keep, self._slots))
        return 1 if self._failed or self._signals.now.is_set() else 0

    async def _announce(self, metrics_url: str | None) -> None:
        await self._all_ready.wait()
        addresses = dict.fromkeys(address for slot in self._slots for address in slot.report.addresses)
        log.info(ready_line(tuple(addresses), metrics_url, self.counts().config.generation))

    async def _stop(self, drain_seconds: float) -> None:
        """Pass a signal on, and kill workers that do not exit in time."""
        await self._signals.stop.wait()
        for slot in self._slots:
            if slot.process is not None:
                _signal(slot.process, force=False)
        await either(self._signals.now.wait(), asyncio.sleep(drain_seconds + _KILL_AFTER_SECONDS))
        for slot in self._slots:
            if slot.process is not None:
                log.warning("worker %d did not exit in time, killing it", slot.index)
                _signal(slot.process, force=True)

    async def _keep(self, slot: _Slot) -> None:
        """Keep one worker running."""
        pause = _FIRST_PAUSE
        while not self._signals.stop.is_set():
            started = time.monotonic()
            code = await self._run_process(slot)
            if self._signals.stop.is_set():
                self._failed |= code != 0
                return
            if not self._all_ready.is_set():
                log.error("worker %d could not start (exit code %d), stopping the server", slot.index, code)
                self._failed = True
                self._signals.stop.set()
                return
            pause = _FIRST_PAUSE if time.monotonic() - started > _STABLE_SECONDS else min(2 * pause, _LONGEST_PAUSE)
            log.error("worker %d exited with code %d, restarting it in %g s", slot.index, code, pause)
            await either(self._signals.stop.wait(), asyncio.sleep(pause))
            self._restarts += 1

    async def _run_process(self, slot: _Slot) -> int:
        """Run one worker process; returns its exit code, negative if a signal killed it."""
        process = await asyncio.create_subprocess_exec(
            *slot.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
            limit=_LONGEST_LINE,
            # In its own process group, so that Ctrl-C reaches only the supervisor: a second signal would end the drain.
            process_group=0,
        )
        slot.process = process
        try:
            if self._signals.stop.is_set():  # it was set while the process started
                _signal(process, force=False)
            assert process.stdout is not None  # a pipe was asked for
            async for line in process.stdout:
                self._take_report(slot, line)
            return await process.wait()
        finally:
            slot.process = None
            with self._counting:
                self._retired = merge([], [self._retired, slot.report.counts])
                slot.report = Report()

    def _take_report(self, slot: _Slot, line: bytes) -> None:
        try:
            slot.report = Report.from_line(line)
        except ValueError:
            log.warning("worker %d wrote a line that is not a report", slot.index)
            return
        if all(slot.report.addresses for slot in self._slots):
            self._all_ready.set()


def _signal(process: asyncio.subprocess.Process, *, force: bool) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just exited
        process.kill() if force else process.terminate()
