"""Many simulated rollouts in a bounded time, in processes of their own. Used by ``abmesh plan``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from abmesh.analysis.rollout_plan import Outlook
    from abmesh.analysis.scenarios import Scenario
    from abmesh.analysis.simulation import Played
    from abmesh.analysis.truth import Truth
    from abmesh.experiment.model import Experiment


_TELL_EVERY = 5.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be simulated.

    Attributes:
        runs: most rollouts of each truth.
        within: no rollout begins later than this after the start, but the first of each truth.
        processes: at a time.
    """

    runs: int
    within: timedelta
    processes: int


@dataclass(frozen=True, slots=True)
class Simulation:
    """What is simulated, whoever the candidate is.

    Attributes:
        experiment: with a rollout that can be simulated.
        longest: time after which a rollout is stuck.
        settle: the controller's settle time.
        seed: of the random numbers.
        budget: how much may be simulated.
    """

    experiment: Experiment
    longest: timedelta
    settle: timedelta
    seed: int
    budget: Budget


@dataclass(frozen=True, slots=True)
class Job:
    """One rollout."""

    experiment: Experiment
    truth: Truth
    longest: timedelta
    settle: timedelta
    seed: tuple[int, ...]


def simulate(given: Simulation, scenarios: Sequence[Scenario], part: int = 0) -> list[Outlook]:
    """Play the rollout of every candidate, and say on stderr how far that is.

    Args:
        given: what is simulated.
        scenarios: the candidates.
        part: another one has other random numbers.
    """
    from abmesh.analysis.rollout_plan import outlook

    began = told = time.monotonic()

    def jobs(number: int) -> list[Job]:
        # By the candidate's place, so that no two share their users.
        return [
            Job(given.experiment, item.truth, given.longest, given.settle, (given.seed, part, place, number))
            for place, item in enumerate(scenarios)
        ]

    def tell(rounds: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_EVERY or rounds == given.budget.runs:
            told = time.monotonic()
            typer.echo(
                f"simulated {rounds} of at most {given.budget.runs} rollouts of each of {len(scenarios)} candidates, "
                f"{told - began:.0f} s",
                err=True,
            )

    plays = play_all(jobs, given.budget, tell)
    return [outlook(item, each) for item, each in zip(scenarios, plays, strict=True)]


def play_all(jobs: Callable[[int], Sequence[Job]], budget: Budget, tell: Callable[[int], None]) -> list[list[Played]]:
    """The rollouts of every truth, as many of each.

    Rollouts begin in a fixed order, round by round, and each that has begun is finished: how long one takes, which
    depends on how it ends, does not decide whether it counts.

    Args:
        jobs: of a round, one for each truth.
        budget: of time and rollouts.
        tell: is told how many rounds are complete.
    """
    end = time.monotonic() + budget.within.total_seconds()
    found: list[list[Played]] = []
    for played in _rounds(jobs, budget, end):
        found.append(played)
        tell(len(found))
    return [list(of_truth) for of_truth in zip(*found, strict=True)]


def _rounds(jobs: Callable[[int], Sequence[Job]], budget: Budget, end: float) -> Iterator[list[Played]]:
    if budget.processes == 1:
        for number in range(budget.runs):
            if number and time.monotonic() > end:
                return
            yield [play_job(job) for job in jobs(number)]
        return
    import multiprocessing

    # Spawned, because threads of libraries do not survive a fork.
    with ProcessPoolExecutor(budget.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: list[list[Future[Played]]] = []
        begun = 0
        while begun < budget.runs or waiting:
            while begun < budget.runs and len(waiting) <= budget.processes:
                if begun and time.monotonic() > end:
                    break
                waiting.append([pool.submit(play_job, job) for job in jobs(begun)])
                begun += 1
            if not waiting:
                return
            yield [future.result() for future in waiting.pop(0)]


def play_job(job: Job) -> Played:
    """Simulate one rollout. At module level, so that it can be pickled for other processes."""
    from abmesh.analysis.rollout_plan import looks_of
    from abmesh.analysis.simulation import play

    assert job.experiment.rollout is not None
    ticks = looks_of(job.experiment.rollout.stage)
    return play(job.experiment, job.truth, tick=ticks, longest=job.longest, settle=job.settle, seed=list(job.seed))
