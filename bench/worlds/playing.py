"""Plays one rollout in a world, and many in processes of their own. Called by ``python -m bench.worlds`` and tests."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import numpy as np

from abmesh.analysis.rollout_evidence import RolloutQuestion
from abmesh.analysis.rollout_report import report_of_strata
from abmesh.analysis.rollout_segments import with_segments
from abmesh.analysis.simulation import play
from abmesh.analysis.table_question import TableQuestion
from abmesh.analysis.table_reader import read_table
from abmesh.analysis.table_report import report_of
from abmesh.experiment.model import Experiment
from bench.worlds.world import Events, Seen, World
from bench.worlds.worlds import world
from controller.decision.decide import Decided, Inputs, evidence_of
from controller.wording.reasons import reason

Report = Callable[[str], None]

_CHUNK: Final = 4


def played(subject: World, run: int, seed: int) -> Seen:
    """One rollout, or one table; the same world, run and seed give the same one."""
    # By name, so that a world stays as it is when others are added before it.
    mine = [seed, *subject.name.encode(), run]
    if subject.events is not None:
        return _analyzed(subject.events, mine)
    looks: list[tuple[Inputs, Decided]] = []
    said: set[bool] = set()
    split = False

    def watch(inputs: Inputs, decided: Decided) -> None:
        nonlocal split
        looks[:] = [(inputs, decided)]
        split |= decided.situation.sample_ratio.alarm
        if decided.situation.control.broken:
            said.add(reason(decided.decision, decided.situation, inputs.now).startswith("the control"))

    truth = subject.truths[run % len(subject.truths)]
    found = play(
        subject.document,
        truth,
        tick=subject.tick,
        longest=subject.longest,
        seed=mine,
        watch=watch,
    )
    inputs, decided = looks[-1]
    return Seen(
        ending=found.ending.value,
        cause=found.cause.value,
        minutes=found.after.total_seconds() / 60,
        weight=found.weight / 100,
        requests=found.requests,
        split_alarm=split,
        said=said == {True},
        found=_different(subject.document, inputs, decided, truth_segments(subject, run)) if subject.segments else (),
        reason=found.reason,
    )


def truth_segments(subject: World, run: int) -> list[str]:
    """Names of the segments that are declared in a run."""
    return [segment.name for segment in subject.truths[run % len(subject.truths)].segments]


def _different(experiment: Experiment, inputs: Inputs, decided: Decided, segments: Sequence[str]) -> tuple[str, ...]:
    """The metrics in which the rollout's report finds a significant difference in some segment."""
    strata = evidence_of(inputs, decided.history).strata
    question = RolloutQuestion.of(experiment)
    measured = tuple(experiment.metrics[name] for name in _REPORTED)
    report = with_segments(report_of_strata(strata, question, measured), strata, question, measured, segments)
    return tuple(
        part.metric.name
        for part in report.metrics
        if any(finding.significant for each in part.segments for finding in each.findings)
    )


def _analyzed(events: Events, seed: list[int]) -> Seen:
    """What ``abmesh analyze`` says of a table."""
    random = np.random.default_rng(seed)
    shares = {"control": events.control, "other": events.other}
    rows = [f"{name},{events.size},{random.binomial(events.size, share)}\n" for name, share in shares.items()]
    report = report_of([read_table(["variant,n,sum\n", *rows], "world")], TableQuestion())
    significant = report.metrics[0].comparisons[0].findings[0].significant
    return Seen("reported", "significant" if significant else "open", 0.0, 50.0, events.size)


_REPORTED: Final = ("error_rate", "latency_p95", "click_rate", "output_tokens_mean")


def play_all(
    names: Sequence[str], runs: int | None, seed: int, processes: int, tell: Report | None = None
) -> Mapping[str, list[Seen]]:
    """Every world's rollouts, in the order of the names.

    Args:
        names: of the worlds.
        runs: of each; None: as many as the world says.
        seed: of all random numbers.
        processes: at a time; the result does not depend on them.
        tell: is told of progress.
    """
    jobs = [(name, run, seed) for name in names for run in range(runs or world(name).runs)]
    found: dict[str, list[Seen]] = {name: [] for name in names}
    began = time.monotonic()

    def take(results: Iterable[Seen]) -> None:
        for (name, _, _), seen in zip(jobs, results, strict=True):
            found[name].append(seen)
            if tell is not None and len(found[name]) == (runs or world(name).runs):
                tell(f"{name}: {len(found[name])} rollouts, {time.monotonic() - began:.0f} s")

    if processes == 1:
        take(map(_one, jobs))
    else:
        # Spawned, because threads of libraries do not survive a fork.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            take(pool.map(_one, jobs, chunksize=_CHUNK))
    return found


def _one(job: tuple[str, int, int]) -> Seen:
    name, run, seed = job
    return played(world(name), run, seed)


def to_stderr(line: str) -> None:
    """Progress for people."""
    print(line, file=sys.stderr, flush=True)
