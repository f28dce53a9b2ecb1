"""Sends warm-up requests, beside the controller's loop, which only looks at how far they are.

Each warm-up is a task that ends by itself: when durations have settled, or at a limit. What that means for the rollout
is decided by the next tick (:mod:`controller.decision.warmup`). Nothing is kept between processes: whoever starts again
does not know how warm the model still is, and warms it afresh.

Requests go to Envoys' warm-up listeners, in turn, with the headers that those route on. Bodies and the values of
headers are never logged.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp
from yarl import URL

from abmesh.experiment.names import EXPERIMENT, MODEL_VERSION
from controller.decision.warmup import (
    AGAIN_AFTER,
    Progress,
    Target,
    Warmups,
    WarmupState,
    judge_warmup,
    progress_of,
    settled,
)
from controller.records import Cause
from controller.rollout.tick import Report

log = logging.getLogger("abmesh.controller")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the next request after one that failed, doubled each time: a model that is still starting must not use
up all requests in an instant."""

OnRequest = Callable[[Target, bool, float], None]
"""Is told of every request: whether it succeeded, and its seconds."""


class _SettledError(Exception):
    """Ends the requests that are still on their way. Never leaves this module."""


@dataclass(slots=True)
class _Run:
    """One warm-up, and what is known of it."""

    target: Target
    began: datetime
    listeners: Iterator[str]
    durations: list[float | None] = field(default_factory=list)
    problem: str = ""
    sent: int = 0
    look_at: int = 0
    task: asyncio.Task[None] | None = None
    failed_at: datetime | None = None


class Warmer:
    """All warm-ups of a controller. For use in its event loop only.

    Args:
        listeners: base addresses of Envoys' warm-up listeners; requests go to each in turn.
        on_request: is told of every request.
        first_pause: seconds before the next request after one that failed.
    """

    def __init__(
        self, listeners: Sequence[str], *, on_request: OnRequest | None = None, first_pause: float = FIRST_PAUSE
    ) -> None:
        self._listeners = tuple(listeners)
        self._on_request = on_request
        self._first_pause = first_pause
        self._runs: dict[str, _Run] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def warmups(self) -> Warmups:
        """How far all are."""
        known = {name: (run.target, self._progress(run)) for name, run in self._runs.items()}
        return Warmups(len(self._listeners), known)

    def follow(self, report: Report, now: datetime) -> None:
        """Begin and end warm-ups as a tick's decisions want it.

        One begins when a rollout waits for it, and goes on while the rollout waits for anything else, such as an Envoy
        that does not answer. It ends when there is nothing to be warmed any more, or when nobody can tell.
        """
        outcomes = {outcome.experiment: outcome for outcome in report.outcomes}
        undecided = {*report.failures, *report.superseded}
        for name in [name for name in self._runs if name not in undecided]:
            if name not in outcomes or outcomes[name].warms != self._runs[name].target:
                self._end(name)
        if not self._listeners:
            return
        for name, outcome in outcomes.items():
            run = self._runs.get(name)
            if outcome.warms is not None and run is None and outcome.decision.cause is Cause.WARMING:
                self._begin(outcome.warms, now)
            elif run is not None:
                self._mind(run, now)

    async def close(self) -> None:
        """End all of them."""
        for name in list(self._runs):
            self._end(name)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _begin(self, target: Target, now: datetime) -> None:
        run = _Run(target, now, itertools.cycle(self._listeners))
        run.task = asyncio.create_task(self._warm(run), name=f"warm-up of {target.experiment}")
        self._runs[target.experiment] = run

    def _end(self, name: str) -> None:
        task = self._runs.pop(name).task
        if task is not None and not task.done():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()

    def _mind(self, run: _Run, now: datetime) -> None:
        """Begin again what failed a while ago."""
        run.began = min(run.began, now)  # The clock may have been set back.
        if judge_warmup(run.target.warmup, self._progress(run), now).state is not WarmupState.FAILED:
            return
        if run.failed_at is None or now < run.failed_at:
            run.failed_at = now
        elif now - run.failed_at >= AGAIN_AFTER:
            self._end(run.target.experiment)
            self._begin(run.target, now)

    def _progress(self, run: _Run) -> Progress:
        said = {"listeners": len(self._listeners), "began": run.began, "problem": run.problem}
        return progress_of(run.durations, run.target.warmup).model_copy(update=said)

    async def _warm(self, run: _Run) -> None:
        """Send requests until they settle, or to a limit."""
        warmup = run.target.warmup
        connector = aiohttp.TCPConnector(limit=0)
        # The environment's proxies are not for Envoy's listeners. What was answered is not looked at, so not unpacked.
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )
        try:
            async with session, asyncio.timeout(warmup.max_duration.total_seconds()), asyncio.TaskGroup() as group:
                for _ in range(warmup.concurrency):
                    group.create_task(self._send_in_turn(session, run))
        except* _SettledError:
            pass
        except* TimeoutError:
            log.info("%s: the warm-up of %s has reached its max_duration", run.target.experiment, run.target.candidate)
        except* Exception:
            log.exception("%s: this is a bug in abmesh; the warm-up ends", run.target.experiment)

    async def _send_in_turn(self, session: aiohttp.ClientSession, run: _Run) -> None:
        clock = asyncio.get_running_loop().time
        warmup, pause = run.target.warmup, self._first_pause
        while run.sent < warmup.max_requests:
            run.sent += 1
            started = clock()
            problem = await _ask(session, next(run.listeners), run.target)
            seconds = clock() - started
            if self._on_request is not None:
                self._on_request(run.target, not problem, seconds)
            _note(run, problem, seconds * 1000)
            if problem:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause = self._first_pause


def _note(run: _Run, problem: str, ms: float) -> None:
    """Note how a request ended.

    Raises:
        _SettledError: no more are needed.
    """
    run.durations.append(None if problem else ms)
    run.problem = problem or run.problem
    count = len(run.durations)
    if count >= run.look_at:
        if settled(run.durations, run.target.warmup):
            raise _SettledError
        # Ever more seldom: a look takes longer the more requests there are.
        run.look_at = count + max(1, count // 20)


async def _ask(session: aiohttp.ClientSession, listener: str, target: Target) -> str:
    """Send one request and read its answer to the end; why it failed, or nothing."""
    warmup = target.warmup
    headers = {"user-agent": "abmesh-warmup"}
    if warmup.body:
        headers["content-type"] = "application/json"
    headers |= {**warmup.headers, MODEL_VERSION: target.candidate, EXPERIMENT: target.experiment}
    data = warmup.body.encode() or None
    url = URL(listener + warmup.path, encoded=True)
    try:
        async with session.request(warmup.method, url, data=data, headers=headers, allow_redirects=False) as response:
            async for _ in response.content.iter_any():
                pass
    except aiohttp.ClientConnectorError as error:
        return f"no connection: {error.os_error.strerror or error.os_error}"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Not the error's own text, which may quote a header.
        return f"the connection broke: {type(error).__name__}"
    return "" if 200 <= response.status < 300 else f"status {response.status}"
