"""From measured rounds to the figures that are shown: medians, ratios, and what went wrong. Pure.

:mod:`bench.contenders` and :mod:`bench.reactions` make the samples; :mod:`bench.report` shows and writes the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one data path.

    Attributes:
        p50_ms: median latency that the clients saw.
        p99_ms: 99th percentile of it.
        p999_ms: 99.9th percentile; of fewer than a thousand requests the longest.
        envoy_cpu_us: CPU time of the Envoy under test per request, in microseconds; None where there is none.
        server_cpu_us: of our server, all its processes; None where there is none.
        failures: what must not happen, by what it is called; all zero in a good round.
        rss_mb: resident memory of the largest worker, in 10^6 bytes.
        envoy_rss_mb: of the Envoy under test.
        shares: each worker's share of the workers' CPU time, largest first; what its share of the requests was.
    """

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float = math.nan
    envoy_cpu_us: float | None = None
    server_cpu_us: float | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    rss_mb: float | None = None
    envoy_rss_mb: float | None = None
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Reaction:
    """How long something takes to show.

    Attributes:
        name: as the results name it.
        meaning: what is measured, from when until when.
        seconds: every measurement.
    """

    name: str
    meaning: str
    seconds: tuple[float, ...]


def row(name: str, samples: Sequence[Sample], reference: Sequence[Sample]) -> dict[str, Any]:
    """The figures of one data path.

    Ratios are the median of each round's own ratio: whatever else the machine did in a round, it did to both.

    Args:
        name: of the data path.
        samples: one for each round.
        reference: the reference's, of the same rounds in the same order.
    """

    def middle(of: Callable[[Sample], float | None], digits: int) -> float | None:
        values = [value for sample in samples if (value := of(sample)) is not None]
        return round(median(values), digits) if values else None

    def ratio(of: Callable[[Sample], float]) -> float:
        return round(median(of(mine) / of(its) for mine, its in zip(samples, reference, strict=True)), 3)

    failures = total_failures(samples)
    return {
        "name": name,
        "requests_per_second": middle(lambda sample: sample.requests_per_second, 0),
        "p50_ms": middle(lambda sample: sample.p50_ms, 2),
        "p99_ms": middle(lambda sample: sample.p99_ms, 2),
        "p999_ms": middle(lambda sample: sample.p999_ms, 2),
        "server_cpu_us": middle(lambda sample: sample.server_cpu_us, 1),
        "envoy_cpu_us": middle(lambda sample: sample.envoy_cpu_us, 1),
        "failed_streams": sum(failures.values()),
        "failures": failures,
        "rss_mb": middle(lambda sample: sample.rss_mb, 1),
        "envoy_rss_mb": middle(lambda sample: sample.envoy_rss_mb, 1),
        "requests_per_second_ratio": ratio(lambda sample: sample.requests_per_second),
        "p50_ratio": ratio(lambda sample: sample.p50_ms),
        "p99_ratio": ratio(lambda sample: sample.p99_ms),
        "worker_shares": _middle_shares([sample.shares for sample in samples]),
        "requests_per_second_rounds": [round(sample.requests_per_second) for sample in samples],
    }


def _middle_shares(shares: Sequence[Sequence[float]]) -> list[float]:
    return [round(median(column), 2) for column in zip(*shares, strict=True)]


def total_failures(samples: Sequence[Sample]) -> dict[str, int]:
    """What went wrong over all rounds, by what it is called."""
    total: dict[str, int] = {}
    for sample in samples:
        for what, count in sample.failures.items():
            total[what] = total.get(what, 0) + count
    return total


def reaction(measured: Reaction) -> dict[str, Any]:
    """The figures of one reaction time, in seconds."""
    return {
        "name": measured.name,
        "meaning": measured.meaning,
        "median_s": round(median(measured.seconds), 3),
        "max_s": round(max(measured.seconds), 3),
        "seconds": [round(value, 3) for value in measured.seconds],
    }


def problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each data path on which something failed."""
    return [
        f"{found['name']}: {found['failed_streams']} failed streams ("
        + ", ".join(f"{count} {what}" for what, count in found["failures"].items() if count)
        + "); allowed: none"
        for found in rows
        if found["failed_streams"]
    ]
