"""How the cost grows with experiments, headers, connections and new users. Called by ``python -m bench``.

One of the four grows at a time, the others stay as they are everywhere else: one experiment, few headers, sixteen
connections, and users whose requests have come before. All points of one document take turns in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal

from bench import documents
from bench.contenders import REFERENCE, Contender
from bench.load import request_of
from bench.placement import Placement
from bench.running import CONNECTIONS, Bench, Running
from bench.summary import Sample, row
from bench.throughput import USERS, turned

COMPARED: Final = (REFERENCE, "native", "nghttp2_1_worker", "grpcio_1_worker", "go_1_processor")
SERIES: Final = ("experiments", "header_kb", "connections", "new_users_percent")
"""What grows, in the order of the tables."""

EXPERIMENTS: Final = (1, 10, 100)
HEADER_KB: Final = (1, 20)
CONNECTION_COUNTS: Final = (16, 64, 256, 1024)
NEW_USERS_PERCENT: Final = 100
"""Share of the requests that are of users who have never come before, which our server cannot answer from memory."""

_HEADER_BYTES: Final = 500
"""Of one header; Envoy takes at most 100 headers."""

_MESSAGE_TIMEOUT: Final = timedelta(seconds=30)
"""For all: a thousand requests at once wait for longer than Envoy would, and then it would not ask."""

_USERS_WITH_HEADERS: Final = 500
"""Fewer, since the load generator keeps every request in memory."""


@dataclass(frozen=True, slots=True)
class Point:
    """One size of what grows.

    Attributes:
        what: grows.
        size: how much of it.
    """

    what: Literal["usual", "experiments", "header_kb", "connections", "new_users_percent"] = "usual"
    size: int = 0

    @property
    def experiments(self) -> int:
        return self.size if self.what == "experiments" else 1

    @property
    def connections(self) -> int:
        return self.size if self.what == "connections" else CONNECTIONS

    def requests(self, count: int, round_: int) -> list[bytes]:
        """The requests: of every user one, spread over the experiments, each with the headers of this size.

        Args:
            count: how many will be sent; new users are as many.
            round_: number of the round, by which users are new.
        """
        if self.what == "new_users_percent":
            return [request_of(documents.PATH, (f"x-user-id: user-{round_}-{number}",)) for number in range(count)]
        extra = filler(self.size * 1000) if self.what == "header_kb" else []
        paths = documents.paths(self.experiments)
        users = USERS if not extra else _USERS_WITH_HEADERS
        return [
            request_of(paths[number % len(paths)], (f"x-user-id: user-{number}", *extra)) for number in range(users)
        ]


USUAL: Final = Point()


def filler(size: int) -> list[str]:
    """Header lines of some bytes in all."""
    lines: list[str] = []
    while size > 0:
        name = f"x-filler-{len(lines)}: "
        lines.append(name + "f" * max(0, min(_HEADER_BYTES, size) - len(name) - 2))
        size -= _HEADER_BYTES
    return lines


def points(experiments: int) -> list[Point]:
    """What is measured with a document of so many experiments."""
    if experiments > 1:
        return [Point("experiments", experiments)]
    headers = [Point("header_kb", size) for size in HEADER_KB]
    connections = [Point("connections", size) for size in CONNECTION_COUNTS if size != CONNECTIONS]
    return [USUAL, *headers, *connections, Point("new_users_percent", NEW_USERS_PERCENT)]


Found = dict[tuple[str, Point], list[Sample]]


async def measure(
    folder: Path,
    placement: Placement,
    contenders: Sequence[Contender],
    rounds: int,
    count: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure some contenders at every point; one row for each of both.

    Args:
        folder: where files go.
        placement: which CPUs run what.
        contenders: those that can start; only some of them are measured.
        rounds: of every point.
        count: requests in one round of one point.
        tell: shows progress.

    Raises:
        ProcessError: a program does not start.
        TimeoutError: a round took longer than a minute.
    """
    compared = [contender for contender in contenders if contender.name in COMPARED]
    found: Found = {}
    for experiments in EXPERIMENTS:
        async with AsyncExitStack() as stack:
            bench = Bench(folder, stack, placement)
            await bench.start_upstream()
            running = [await bench.start(contender, experiments, _MESSAGE_TIMEOUT) for contender in compared]
            for number in range(rounds):
                for point in points(experiments):
                    await _round(turned(running, number), point, count, number, found)
                    tell(f"growth {number + 1}/{rounds}  {point.what} {point.size or ''}")
    return rows(found)


async def _round(running: Sequence[Running], point: Point, count: int, number: int, found: Found) -> None:
    sent = max(count, 4 * point.connections)
    requests = point.requests(sent, number)
    for one in running:
        sample = await one.measure(requests, sent, point.connections)
        found.setdefault((one.contender.name, point), []).append(sample)


def rows(found: Found) -> list[dict[str, Any]]:
    """One row for each contender and point; the usual one stands in every series in its place.

    Ratios are to the contender's own usual cost, of the same rounds where the document is the same.
    """
    made = [one for (name, point), samples in found.items() for one in _rows(name, point, samples, found[name, USUAL])]
    return sorted(made, key=lambda one: (SERIES.index(one["what"]), COMPARED.index(one["name"]), one["size"]))


_KEPT: Final = (
    "requests_per_second",
    "requests_per_second_ratio",
    "p50_ms",
    "p99_ms",
    "server_cpu_us",
    "envoy_cpu_us",
    "rss_mb",
    "failed_streams",
    "failures",
)


def _rows(name: str, point: Point, samples: Sequence[Sample], usual: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    figures = row(name, samples, usual)
    for placed in _series(point):
        yield {"what": placed.what, "size": placed.size, "name": name, **{key: figures[key] for key in _KEPT}}


def _series(point: Point) -> Iterator[Point]:
    if point.what != "usual":
        yield point
        return
    yield replace(point, what="experiments", size=1)
    yield replace(point, what="header_kb", size=0)
    yield replace(point, what="connections", size=CONNECTIONS)
    yield replace(point, what="new_users_percent", size=0)
