"""How long each chunk of a streamed answer is under way, with and without Envoy and our filters.

A chunk carries the time at which the model server wrote it; its delay ends when the client has read it. Straight from
the server, through Envoy alone, and through Envoy with everything that abmesh renders are measured in turn, so that
the difference of the first two is what Envoy takes, and that of the last two what our filters add. Called by
``python -m bench``.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp

from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import answers
from bench.contenders import BY_NAME, REFERENCE
from bench.running import Bench

RATES: Final = (20, 100, 500)
"""Chunks a second of one answer."""

STREAMS: Final = 4
"""Answers at the same time."""

WITH_FILTERS: Final = "nghttp2_1_worker"
DIRECT: Final = "direct"
_SECONDS: Final = 1.5
_PREFIX: Final = b"data: "

Delays = list[float]
"""Milliseconds."""


async def measure(
    folder: Path, rounds: int, tell: Callable[[str], None], rates: Sequence[int] = RATES
) -> list[dict[str, Any]]:
    """Measure every path at every rate; one row for each of both.

    Args:
        folder: where files go.
        rounds: how often each is measured, in turn.
        tell: shows progress.
        rates: chunks a second.

    Raises:
        ProcessError: a program does not start.
        aiohttp.ClientError: an answer broke off.
    """
    found: dict[tuple[str, int], list[Delays]] = {}
    async with AsyncExitStack() as stack:
        (port,) = free_ports(1)
        upstream = Child(
            "stream upstream", [sys.executable, "-m", "bench.stream_upstream", str(port)], folder / "s.log"
        )
        stack.push_async_callback(upstream.stop)
        await upstream.start()
        await upstream.wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"))
        ports = {DIRECT: port}
        bench = Bench(folder, stack, upstream=port)
        for name in (REFERENCE, WITH_FILTERS):
            ports[name] = (await bench.start(BY_NAME[name])).port
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60))
        )
        for number in range(rounds):
            for rate in rates:
                order = list(ports)
                for name in [*order[number % 3 :], *order[: number % 3]]:
                    delays = await _round(session, ports[name], rate)
                    found.setdefault((name, rate), []).append(delays)
            tell(f"round {number + 1}/{rounds}  streams")
    return [_row(name, rate, found) for name in ports for rate in rates]


async def _round(session: aiohttp.ClientSession, port: int, rate: int) -> Delays:
    """Delays of all chunks of some answers at the same time."""
    count = max(10, round(rate * _SECONDS))
    parts = await asyncio.gather(*(_one(session, port, rate, count, number) for number in range(STREAMS)))
    return [delay for part in parts for delay in part]


async def _one(session: aiohttp.ClientSession, port: int, rate: int, count: int, number: int) -> Delays:
    delays: Delays = []
    url = f"http://127.0.0.1:{port}/v1/stream?count={count}&rate={rate}"
    async with session.post(url, headers={"x-user-id": f"user-{number}"}, data=b"{}") as response:
        response.raise_for_status()
        async for line in response.content:
            now = time.monotonic_ns()
            if line.startswith(_PREFIX + b'{"id"'):
                delays.append((now - json.loads(line[len(_PREFIX) :])["sent"]) / 1e6)
    if len(delays) != count:
        raise aiohttp.ClientPayloadError(f"{len(delays)} of {count} chunks arrived")
    return delays


def _row(name: str, rate: int, found: dict[tuple[str, int], list[Delays]]) -> dict[str, Any]:
    """Figures of one path at one rate; what it adds is the median of each round's own difference to Envoy alone."""
    rounds, reference = found[name, rate], found[REFERENCE, rate]
    added = [median(mine) - median(its) for mine, its in zip(rounds, reference, strict=True)]
    return {
        "name": name,
        "chunks_per_second": rate,
        "chunks": sum(map(len, rounds)),
        "p50_ms": round(median(median(delays) for delays in rounds), 3),
        "p99_ms": round(median(_p99(delays) for delays in rounds), 3),
        "added_p50_ms": round(median(added), 3),
    }


def _p99(delays: Delays) -> float:
    ordered = sorted(delays)
    return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]
