"""Plays many simulated rollouts in several processes, and says on standard error how far it is.

Used by ``abmesh simulate``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from abmesh.experiment.quantities import format_duration

if TYPE_CHECKING:
    from abmesh.analysis.simulation import Played
    from abmesh.analysis.truth import Truth
    from abmesh.experiment.model import Experiment

PROGRESS_SECONDS = 10.0
"""Time between two lines of progress."""

_LARGEST_CHUNK = 16
"""Most rollouts that a process plays before it reports."""

Job = tuple["Experiment", "Truth", timedelta, timedelta, list[int]]
"""A rollout to play: experiment, truth, tick, longest time and seed."""


def play_all(jobs: Sequence[Job], processes: int) -> list[Played]:
    """The simulated rollouts, in order. Seeds make the result independent of the number of processes."""
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

    progress = _Progress(jobs)
    if processes == 1 or len(jobs) == 1:
        found = []
        for job in jobs:
            found.append(_play(job, progress))
            progress.done += 1
        return found
    size = max(1, min(_LARGEST_CHUNK, len(jobs) // (processes * 8)))
    # Spawned, because threads of libraries do not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_play_some, jobs[start : start + size]) for start in range(0, len(jobs), size)]
        open_ = set(futures)
        try:
            while open_:
                done, open_ = wait(open_, timeout=1, return_when=FIRST_COMPLETED)
                progress.done += sum(len(future.result()) for future in done)
                progress.tell()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [played for future in futures for played in future.result()]


def _play_some(jobs: Sequence[Job]) -> list[Played]:
    """At module level, so that it can be pickled for other processes."""
    return [_play(job) for job in jobs]


def _play(job: Job, progress: _Progress | None = None) -> Played:
    from abmesh.analysis.simulation import play

    experiment, truth, tick, longest, seed = job
    watch = None if progress is None else lambda *_: progress.tell()
    return play(experiment, truth, tick=tick, longest=longest, seed=seed, watch=watch)


class _Progress:
    """Prints a line every ten seconds."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.done = 0
        self._all = len(jobs)
        self._longest = max((job[3] for job in jobs), default=timedelta())
        self._began = self._told = time.monotonic()

    def tell(self) -> None:
        """Print the line, if it is due."""
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS or self.done == self._all:
            return
        first = self._told == self._began
        self._told = now
        took = format_duration(timedelta(seconds=int(now - self._began)))
        hint = ""
        if first:
            hint = (
                f"; a candidate that is truly at a limit is never decided and is played until "
                f"{format_duration(self._longest)} (--longest)"
            )
        typer.echo(f"{self.done} of {self._all} rollouts simulated in {took}{hint}", err=True)
