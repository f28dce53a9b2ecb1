"""Sends probes: one request to a variant at each place where it can be asked.

Places are the Envoys' warm-up listeners, which lead to the variant as a user's request would be led; without one, the
cluster's address in the document. :class:`Prober` asks beside the controller's loop, when a decision waits for it;
operators' commands call :func:`probe` themselves.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from abmesh.experiment.names import EXPERIMENT, MODEL_VERSION
from abmesh.experiment.parts import Cluster
from controller.decision.probes import FRESH_FOR, Probe, ProbeTarget, summed
from controller.rollout.asking import ask, open_session
from controller.rollout.tick import TickReport

log = logging.getLogger("abmesh.controller")

TIMEOUT_SECONDS = 30.0
"""Longest wait for one answer: a large model's whole one."""

AGENT = "abmesh-probe"


async def probe(
    target: ProbeTarget,
    listeners: Sequence[str],
    *,
    seconds: float = TIMEOUT_SECONDS,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Probe:
    """Ask a variant at all places at the same time.

    With the document's warm-up request, an answer counts with a 2xx status; without one, with any status below 500 of
    the variant's own, because only the document knows what it can be asked. Never raises.

    Args:
        target: whom to ask, and with what.
        listeners: base addresses of warm-up listeners.
        seconds: time limit of each request.
        clock: the wall clock, in UTC.
    """
    async with open_session() as session:
        if listeners:
            asking = [_through(session, listener, target, seconds) for listener in listeners]
        elif target.cluster is not None:
            asking = [_directly(session, target.cluster, target, seconds)]
        else:
            asking = []
        answers = await asyncio.gather(*asking)
    return summed(target.variant, clock(), answers)


class Prober:
    """The probes of a controller. Use it only in the event loop's thread.

    Args:
        listeners: base addresses of Envoys' warm-up listeners.
    """

    def __init__(self, listeners: Sequence[str]) -> None:
        self._listeners = tuple(listeners)
        self._tasks: dict[str, asyncio.Task[Probe]] = {}
        self._known: dict[str, Probe] = {}

    @property
    def waiting(self) -> bool:
        """Whether a decision waits for a probe."""
        return bool(self._tasks)

    def probes(self) -> Mapping[str, Probe]:
        """The last probe for each experiment whose decision needs one."""
        for name, task in list(self._tasks.items()):
            if not task.done() or task.cancelled():
                continue
            del self._tasks[name]
            if (error := task.exception()) is not None:
                log.error("%s: the probe failed; this is a bug in abmesh: %r", name, error)
            else:
                self._known[name] = task.result()
        return dict(self._known)

    def follow(self, report: TickReport, now: datetime) -> None:
        """Start the probes that a tick's decisions wait for, and forget those that none does."""
        wanted = {item.experiment: item.probes for item in report.outcomes if item.probes is not None}
        for name in [name for name in self._known if name not in wanted]:
            del self._known[name]
        for name, target in wanted.items():
            known = self._known.get(name)
            # Asked again well before the last answer is too old to be decided on.
            current = known is not None and known.says_of(target.variant, now) and abs(now - known.at) < FRESH_FOR / 3
            if name not in self._tasks and not current:
                self._tasks[name] = asyncio.create_task(probe(target, self._listeners), name=f"probe for {name}")

    async def close(self) -> None:
        """Stop all probes."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def _through(
    session: aiohttp.ClientSession, listener: str, target: ProbeTarget, seconds: float
) -> tuple[str, str, float]:
    headers = {MODEL_VERSION: target.variant, EXPERIMENT: target.experiment}
    return await _timed(session, listener, target, seconds, headers=headers, listener=True)


async def _directly(
    session: aiohttp.ClientSession, cluster: Cluster, target: ProbeTarget, seconds: float
) -> tuple[str, str, float]:
    host = f"[{cluster.host}]" if ":" in cluster.host else cluster.host
    place = f"{'http' if cluster.tls is None else 'https'}://{host}:{cluster.port}"
    if cluster.tls is None:
        return await _timed(session, place, target, seconds)
    try:
        context = ssl.create_default_context(cafile=cluster.tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        return place, f"cannot use {cluster.tls.ca_file} here: {error.strerror or error}", 0.0
    return await _timed(session, place, target, seconds, tls=context, server_name=cluster.tls.sni)


async def _timed(
    session: aiohttp.ClientSession,
    place: str,
    target: ProbeTarget,
    seconds: float,
    *,
    headers: Mapping[str, str] | None = None,
    listener: bool = False,
    tls: ssl.SSLContext | bool = True,
    server_name: str | None = None,
) -> tuple[str, str, float]:
    """Ask at one place: the place, why it failed or an empty string, and milliseconds."""
    clock = asyncio.get_running_loop().time
    path = target.path if target.warmup is None else target.warmup.path
    started = clock()
    try:
        async with asyncio.timeout(seconds):
            asked = await ask(
                session,
                URL(place + path, encoded=True),
                warmup=target.warmup,
                agent=AGENT,
                headers=headers or {},
                tls=tls,
                server_name=server_name,
            )
    except TimeoutError:
        return place, f"no answer within {seconds:g} s", 0.0
    problem = asked.problem
    if not problem and listener and not asked.from_envoy:
        problem = f"status {asked.status} from Envoy itself"
    elif not problem and (asked.status >= 500 if target.warmup is None else not 200 <= asked.status < 300):
        problem = f"status {asked.status}"
    return place, problem, (clock() - started) * 1000
