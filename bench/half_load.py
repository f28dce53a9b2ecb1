"""What a contender adds to the latency when it is half busy. Called by ``python -m bench``.

Requests are sent at half of the contender's own highest rate, at random moments that do not depend on answers, and a
latency begins when its request was meant to be sent. Right after it (or before, in turn) the reference is sent the very
same requests at the same moments, and what is added is the difference of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from bench.contenders import REFERENCE
from bench.running import Running
from bench.summary import Sample, total_failures
from bench.throughput import usual_requests

LOAD: Final = 0.5
CONNECTIONS: Final = 64
_SECONDS: Final = 2.0
_FEWEST: Final = 60
"""Requests of a round; a slow contender takes longer for it."""

Pair = tuple[Sample, Sample]
"""A contender's round, and the reference's at the same rate."""


async def measure(
    running: Sequence[Running],
    highest: Mapping[str, float],
    rounds: int,
    tell: Callable[[str], None],
    seconds: float = _SECONDS,
) -> list[dict[str, Any]]:
    """Measure every contender; one row for each.

    Args:
        running: the contenders, the reference among them.
        highest: every contender's highest rate, in requests per second.
        rounds: how many.
        tell: shows progress.
        seconds: that one round of one contender takes.

    Raises:
        TimeoutError: a round took longer than a minute.
    """
    reference = next(one for one in running if one.contender.name == REFERENCE)
    requests = usual_requests()
    found: dict[str, list[Pair]] = {one.contender.name: [] for one in running}
    for number in range(rounds):
        for one in running:
            rate = highest[one.contender.name] * LOAD
            count = max(_FEWEST, round(rate * seconds))
            pair = [one, reference] if number % 2 else [reference, one]
            samples = [await each.measure(requests, count, CONNECTIONS, rate) for each in pair]
            mine, its = samples if number % 2 else reversed(samples)
            found[one.contender.name].append((mine, its))
            tell(f"half load {number + 1}/{rounds}  {one.contender.name}: {mine.p99_ms - its.p99_ms:+.2f} ms at p99")
    return [row(name, highest[name] * LOAD, pairs) for name, pairs in found.items()]


def row(name: str, rate: float, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Figures of one contender; what is added is the median of each round's own difference."""

    def middle(of: Callable[[Sample, Sample], float]) -> float:
        return round(median(of(mine, its) for mine, its in pairs), 3)

    failures = total_failures([sample for pair in pairs for sample in pair])
    return {
        "name": name,
        "requests_per_second": round(rate, 1),
        "p50_ms": middle(lambda mine, _: mine.p50_ms),
        "p99_ms": middle(lambda mine, _: mine.p99_ms),
        "reference_p50_ms": middle(lambda _, its: its.p50_ms),
        "reference_p99_ms": middle(lambda _, its: its.p99_ms),
        "added_p50_ms": middle(lambda mine, its: mine.p50_ms - its.p50_ms),
        "added_p99_ms": middle(lambda mine, its: mine.p99_ms - its.p99_ms),
        "server_cpu_us": _middle([mine.server_cpu_us for mine, _ in pairs]),
        "envoy_cpu_us": _middle([mine.envoy_cpu_us for mine, _ in pairs]),
        "added_p99_rounds": [round(mine.p99_ms - its.p99_ms, 3) for mine, its in pairs],
        "failed_streams": sum(failures.values()),
        "failures": failures,
    }


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None
