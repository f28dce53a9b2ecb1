"""Sends warm-up requests, beside the controller's loop, which starts and stops warm-ups and reads their progress.

Each warm-up is a task that ends once durations have settled, or at a limit. The next tick decides what that means for
the rollout (:mod:`controller.decision.warmup`). Nothing is kept between processes: a restarted controller cannot know
whether the model is still warm, so it warms it up again.

Requests go to the Envoys' warm-up listeners in turn, with the headers that these route by. Bodies and header values are
never logged.
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
from controller.rollout.asking import ask, open_session
from controller.rollout.tick import TickReport

log = logging.getLogger("abmesh.controller")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds to wait after a failed request, doubled each time, so that a model that is still starting does not use up all
requests at once."""

OnRequest = Callable[[Target, bool, float], None]
"""Called after every request with whether it succeeded and how many seconds it took."""


class _SettledError(Exception):
    """Cancels the requests still in flight. Never leaves this module."""


@dataclass(slots=True)
class _Run:
    """One warm-up and its progress.

    Attributes:
        durations: of each finished request in milliseconds; None for one that failed.
        problem: why the last failed request failed; empty if none did.
        next_check: how many requests must have finished before the next check whether durations have settled.
        failed_at: when a tick first saw that the warm-up had failed.
    """

    target: Target
    began: datetime
    listeners: Iterator[str]
    durations: list[float | None] = field(default_factory=list)
    problem: str = ""
    sent: int = 0
    next_check: int = 0
    task: asyncio.Task[None] | None = None
    failed_at: datetime | None = None


class Warmer:
    """All warm-ups of a controller. Use it only in the event loop's thread.

    Args:
        listeners: base addresses of Envoys' warm-up listeners; requests go to each in turn.
        on_request: called after every request.
        first_pause: seconds to wait after a first failed request.
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
        """The progress of all warm-ups."""
        known = {name: (run.target, self._progress(run)) for name, run in self._runs.items()}
        return Warmups(len(self._listeners), known)

    def follow(self, report: TickReport, now: datetime) -> None:
        """Start and stop warm-ups according to a tick's decisions.

        A warm-up starts when its rollout waits for it. It continues while the rollout waits for something else, such as
        an Envoy that does not answer. It stops when its rollout no longer needs it, or when the document is refused.
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
                self._retry_failed(run, now)

    async def close(self) -> None:
        """Stop all warm-ups."""
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

    def _retry_failed(self, run: _Run, now: datetime) -> None:
        """Start a warm-up again some time after it failed."""
        run.began = min(run.began, now)  # the clock may have been set back
        if judge_warmup(run.target.warmup, self._progress(run), now).state is not WarmupState.FAILED:
            return
        if run.failed_at is None or now < run.failed_at:
            run.failed_at = now
        elif now - run.failed_at >= AGAIN_AFTER:
            self._end(run.target.experiment)
            self._begin(run.target, now)

    def _progress(self, run: _Run) -> Progress:
        known = {"listeners": len(self._listeners), "began": run.began, "problem": run.problem}
        return progress_of(run.durations, run.target.warmup).model_copy(update=known)

    async def _warm(self, run: _Run) -> None:
        """Send requests until durations settle or a limit is reached."""
        warmup = run.target.warmup
        try:
            async with (
                open_session() as session,
                asyncio.timeout(warmup.max_duration.total_seconds()),
                asyncio.TaskGroup() as group,
            ):
                for _ in range(warmup.concurrency):
                    group.create_task(self._send_in_turn(session, run))
        except* _SettledError:
            pass
        except* TimeoutError:
            log.info("%s: the warm-up of %s reached its max_duration", run.target.experiment, run.target.candidate)
        except* Exception:
            log.exception("%s: the warm-up failed; this is a bug in abmesh", run.target.experiment)

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
            _record(run, problem, seconds * 1000)
            if problem:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause = self._first_pause


def _record(run: _Run, problem: str, ms: float) -> None:
    """Record how a request ended.

    Raises:
        _SettledError: no more requests are needed.
    """
    run.durations.append(None if problem else ms)
    run.problem = problem or run.problem
    count = len(run.durations)
    if count >= run.next_check:
        if settled(run.durations, run.target.warmup):
            raise _SettledError
        # The more requests, the longer a check takes, and the rarer it gets.
        run.next_check = count + max(1, count // 20)


async def _ask(session: aiohttp.ClientSession, listener: str, target: Target) -> str:
    """Send one request and read its whole answer; returns why it failed, or an empty string."""
    headers = {MODEL_VERSION: target.candidate, EXPERIMENT: target.experiment}
    url = URL(listener + target.warmup.path, encoded=True)
    asked = await ask(session, url, warmup=target.warmup, agent="abmesh-warmup", headers=headers)
    if asked.problem:
        return asked.problem
    return "" if 200 <= asked.status < 300 else f"status {asked.status}"
