"""Runs one server from settings to exit code, in this process or with several workers.

``abmesh ext-proc`` and ``python -m ext_proc`` call :func:`run`.
"""

from __future__ import annotations

import asyncio
import logging
import time

from ext_proc.exposition import Exposition, Processes, serve_metrics
from ext_proc.lifecycle import Signals, log_to_stderr, ready_line
from ext_proc.settings import Settings
from ext_proc.telemetry import Counts

log = logging.getLogger("ext_proc")


def run(settings: Settings) -> int:
    """Serve until a signal.

    SIGTERM or SIGINT drains; a second one stops at once.

    Returns:
        The exit code: 0 after a drain, 1 after a second signal or if workers cannot be kept running.

    Raises:
        StartError: the server cannot listen on an address.
    """
    log_to_stderr("ext_proc")
    # Late imports: one process needs no supervisor, and a supervisor should not spend 30 MB on gRPC.
    if settings.workers > 1:
        from ext_proc.workers.supervisor import supervise

        return asyncio.run(supervise(settings))
    from ext_proc.serving import run_on_loop

    return run_on_loop(settings, _run_alone(settings))


async def _run_alone(settings: Settings) -> int:
    from ext_proc.serving import serve

    signals, counts = Signals(), Counts()
    exposition = Exposition(lambda: counts, time.time)
    with signals.installed():
        async with serve_metrics(settings.metrics, (exposition, Processes()), lambda: counts.config) as url:

            def ready(addresses: tuple[str, ...]) -> None:
                log.info(ready_line(addresses, url, counts.config.generation))

            return await serve(settings, signals, counts, ready)
