"""Runs one server from settings to exit code.

``abmesh ext-proc`` and ``python -m ext_proc`` call :func:`run`. With one worker everything happens in this process;
with several, it supervises workers (:mod:`ext_proc.supervisor`, :mod:`ext_proc.worker`) that call :func:`serve`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from ext_proc.exposition import Exposition, serve_metrics
from ext_proc.lifecycle import Signals, background, either, log_to_stderr, ready_line, spare_garbage_collection
from ext_proc.settings import Settings
from ext_proc.telemetry import Counts

log = logging.getLogger("ext_proc")

T = TypeVar("T")

_SWITCH_SECONDS: Final = 0.0005

Ready = Callable[[tuple[str, ...]], None]
"""Told the listening addresses, with their real ports, once requests are answered there."""


def run(settings: Settings) -> int:
    """Serve until a signal.

    SIGTERM or SIGINT drains; a second one stops at once.

    Returns:
        The exit code: 0 after a drain, 1 after a second signal or if workers cannot be kept running.

    Raises:
        StartError: an address cannot be listened on.
    """
    log_to_stderr("ext_proc")
    if settings.workers > 1:
        from ext_proc import supervisor  # a server of one process needs none

        return asyncio.run(supervisor.supervise(settings))
    return on_loop(settings, _run_alone(settings))


def on_loop(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run something on the event loop that suits the settings' transport."""
    from ext_proc.transport.choice import loop_factory  # a supervisor needs none

    with asyncio.Runner(loop_factory=loop_factory(settings.transport)) as runner:
        return runner.run(work)


async def _run_alone(settings: Settings) -> int:
    signals, counts = Signals(), Counts()
    exposition = Exposition(lambda: counts, time.time)
    with signals.installed():
        async with serve_metrics(settings.metrics, (exposition,)) as url:

            def ready(addresses: tuple[str, ...]) -> None:
                log.info(ready_line(addresses, url, counts.config.generation))

            return await serve(settings, signals, counts, ready)


async def serve(settings: Settings, signals: Signals, counts: Counts, ready: Ready) -> int:
    """Answer Envoy until told to stop, then drain.

    Args:
        settings: of the server; ``metrics`` and ``workers`` are the caller's business.
        signals: tell when to stop.
        counts: counted into.
        ready: called once requests are answered.

    Returns:
        0 after a drain, 1 if told to stop at once.

    Raises:
        StartError: an address cannot be listened on.
    """
    # Late: a supervisor, which imports this module, should not spend 30 MB on grpc.
    from abmesh.experiment.store import FileStore
    from ext_proc.service import Service
    from ext_proc.snapshot import Follower
    from ext_proc.transport.choice import available, new_server

    # While a thread compiles a new document, requests wait this long for the interpreter at most (default: 5 ms).
    sys.setswitchinterval(_SWITCH_SECONDS)
    service = Service(counts)
    transport = available(settings.transport)
    server = new_server(transport, service, settings)
    store = FileStore(settings.config, warn=log.warning)
    follower = Follower(lambda: store.watch(interval=settings.poll_interval), service, server.set_serving)
    async with background(follower.run()):
        # Serve only once the document is in force, or known to be refused: a server that takes over from another
        # should not let requests pass unassigned that the other would have assigned.
        await either(follower.seen.wait(), signals.stop.wait())
        try:
            addresses = await server.start(settings.addresses)
            spare_garbage_collection()
            ready(addresses)
            await signals.stop.wait()
            log.info("draining for at most %g s; a second signal stops at once", settings.drain_seconds)
            await either(server.drain(settings.drain_seconds), signals.now.wait())
        finally:
            await server.abort()
    log.info("stopped")
    return 1 if signals.now.is_set() else 0
