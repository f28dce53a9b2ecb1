"""Requests per second, latency and CPU of every data path, side by side in one run. Called by ``python -m bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

from bench import contenders
from bench.contenders import CONTENDERS, REFERENCE
from bench.load import requests_of
from bench.summary import Sample, row

USERS: Final = 5000

T = TypeVar("T")


async def measure(folder: Path, rounds: int, count: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure every data path; one row for each, in the order of :data:`bench.contenders.CONTENDERS`.

    All are started first. Then each round measures every one of them once, in an order that moves on by one from
    round to round, so that slow changes of the machine meet all alike.

    Args:
        folder: where files go.
        rounds: how many.
        count: requests in one round of one data path.
        tell: shows progress.

    Raises:
        ProcessError: a program does not start.
        TimeoutError: a round took longer than a minute.
    """
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in CONTENDERS}
    requests = requests_of([f"user-{number}" for number in range(USERS)], contenders.PATH)
    async with AsyncExitStack() as stack:
        upstream = await contenders.start_upstream(folder, stack)
        running = [await contenders.start(contender, upstream, folder, stack) for contender in CONTENDERS]
        for number in range(rounds):
            for one in turned(running, number):
                sample = await one.measure(requests, count)
                samples[one.contender.name].append(sample)
                tell(f"round {number + 1}/{rounds}  {one.contender.name}: {sample.requests_per_second:.0f} requests/s")
    return [row(name, found, samples[REFERENCE]) for name, found in samples.items()]


def turned(items: Sequence[T], number: int) -> list[T]:
    """A sequence that begins with its member of a number, and goes round."""
    start = number % len(items)
    return [*items[start:], *items[:start]]
