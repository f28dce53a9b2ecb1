"""Requests per second, latency and CPU of every contender, side by side in one run. Called by ``python -m bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from bench import documents
from bench.load import requests_of
from bench.running import Running
from bench.summary import Sample

USERS: Final = 5000

T = TypeVar("T")

Samples = dict[str, list[Sample]]
"""Every contender's rounds, in order."""


def usual_requests() -> list[bytes]:
    """The requests that every contender gets: one of each of many users."""
    return requests_of([f"user-{number}" for number in range(USERS)], documents.PATH)


async def measure(running: Sequence[Running], rounds: int, count: int, tell: Callable[[str], None]) -> Samples:
    """Measure every contender in every round, in an order that moves on by one from round to round.

    So slow changes of the machine meet all alike.

    Args:
        running: the contenders, started.
        rounds: how many.
        count: requests in one round of one contender; slow ones get fewer.
        tell: shows progress.

    Raises:
        TimeoutError: a round took longer than a minute.
    """
    samples: Samples = {one.contender.name: [] for one in running}
    requests = usual_requests()
    for number in range(rounds):
        for one in turned(running, number):
            sample = await one.measure(requests, one.contender.count(count))
            samples[one.contender.name].append(sample)
            tell(f"round {number + 1}/{rounds}  {one.contender.name}: {sample.requests_per_second:.0f} requests/s")
    return samples


def turned(items: Sequence[T], number: int) -> list[T]:
    """A sequence that begins with its member of a number, and goes round."""
    start = number % len(items)
    return [*items[start:], *items[:start]]
