"""Serves from one process: follows the document, answers Envoy, and drains.

:mod:`ext_proc.server` calls :func:`serve` for a server of one process, :mod:`ext_proc.workers.worker` for each worker.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from ext_proc.lifecycle import Signals, background, either, spare_garbage_collection
from ext_proc.service import Service
from ext_proc.settings import Settings
from ext_proc.snapshot import Follower
from ext_proc.sources import source_of
from ext_proc.telemetry import Counts
from ext_proc.transport.choice import available, loop_factory, new_server
from ext_proc.transport.versions import library

log = logging.getLogger("ext_proc")

T = TypeVar("T")

_SWITCH_SECONDS: Final = 0.0005

Ready = Callable[[tuple[str, ...]], None]
"""Called with the listening addresses, with their real ports, once requests are answered there."""


def run_on_loop(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the event loop that suits the transport."""
    with asyncio.Runner(loop_factory=loop_factory(settings.transport)) as runner:
        return runner.run(work)


async def serve(settings: Settings, signals: Signals, counts: Counts, ready: Ready) -> int:
    """Answer Envoy until a signal, then drain.

    Args:
        settings: of the server; the caller deals with ``metrics`` and ``workers``.
        signals: say when to stop.
        counts: where requests and errors are counted.
        ready: called once requests are answered.

    Returns:
        0 after a drain, 1 if a second signal cut it short.

    Raises:
        StartError: the server cannot listen on an address.
        NotConfigured: the experiments are in a cluster, and there is no way to its API server.
    """
    # While a thread compiles a new document, requests wait at most this long for the interpreter (default: 5 ms).
    sys.setswitchinterval(_SWITCH_SECONDS)
    service = Service(counts)
    transport = available(settings.transport)
    log.info("transport %s: %s", transport, library(transport))
    server = new_server(transport, service, settings)
    follower = Follower(source_of(settings).watch, service, server.set_serving)
    async with background(follower.run()):
        # Listen only once the document is in force or has been refused: a server that takes over from another must not
        # leave requests unassigned that the other would have assigned.
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
