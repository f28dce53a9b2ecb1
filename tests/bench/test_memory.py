"""Memory: what a server worker and the controller keep does not depend on how many requests there have been.

The worker's 100,000 requests (60,000 on grpcio, which takes several times as long for each; 40,000 in ``make test``) go
through a real Envoy, whose upstream is an Envoy that answers alone. No two of them are alike: whatever the server kept
of a request or a user would add up. A client of our own would be no faster, and would not end its streams as Envoy
does, which decides what grpc.aio frees.

What the server remembers of the last 8,192 to 16,384 messages is full within the first half of these requests, and
what falls out of it and comes in goes up and down by megabytes. So halves are compared by the most that each had.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.local.stack import fetch
from bench.contenders import Contender, missing
from bench.load import LoadResult, request_of, requests_of, run_load
from bench.running import Bench, Running
from bench.usage import resident_mb
from ext_proc.settings import DEFAULT_TRANSPORT, TRANSPORTS, Settings, Transport
from tests.e2e.support import CHAT, document, envoy_stats, eventually, metric, stack

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(900)]

BATCH = 5_000
WORKER_LIMITS_MB: dict[Transport, float] = {"nghttp2": 95, "grpcio": 115}
"""20 MB of each are for what is remembered."""
CONTROLLER_LIMIT_MB = 200

# Allocators keep free pages for later, more or less of them from one moment to the next. A server that kept no more
# than 40 bytes of each of 50,000 requests (70 bytes of 30,000 on grpcio) would exceed this.
TOLERANCE_MB = 2.0
# The journal of an hour-long stage is written to disk, not kept.
CONTROLLER_TOLERANCE_MB = 5.0
# Of the look-back's checkpoints at most sixteen are kept, at growing distances. While they are few, each new one keeps
# pages that would else be free: 10 MB in the first 200 ticks, and less and less from there.
SETTLED_TICKS = 200


def hostile(chance: random.Random) -> bytes:
    """A request that may have any identity, or several, or none, and whatever else clients send."""
    token = f"{chance.getrandbits(128):x}"
    name = (
        f"user-{token}" if chance.random() < 0.9 else bytes(chance.choices(range(0x80, 0x100), k=60)).decode("latin-1")
    )
    known = [
        [f"x-user-id: {name}"],
        [f"x-user-id: {name}", f"cookie: llm-session={token}"],
        [f"cookie: theme=dark; llm-session={token}; _ga=GA1.{chance.random()}"],
        [f"cookie: llm-session=; ;;=; llm-session = {token} ;", "cookie: a", "cookie: llm-session"],
        [f"cookie: {token}={'x' * chance.choice((10, 100, 8000))}"],
        ["x-user-id:   ", f"cookie: other={token}"],
        [],
    ]
    lines = chance.choices(known, weights=(40, 10, 15, 10, 5, 5, 15))[0]
    if chance.random() < 0.3:
        lines = [*lines, f"x-user-segment: {chance.choice(('power', 'casual', 'other', token))}"]
    if chance.random() < 0.05:
        lines = [*lines, f"x-user-group: {chance.choice(('beta-testers', token))}"]
    if chance.random() < 0.05:
        lines = [*lines, f"x-model-version: {token}", f"x-ab-slice: {token}", f"x-ab-experiment: {token}"]
    query = chance.choice(("", "", f"?user_id={token}", f"?a=%zz&user_id={token}%", f"?{token}&&=&user_id"))
    return request_of(f"/v1/{chance.choice(('models', token))}{query}", lines)


async def most_mb(running: Running, chance: random.Random, count: int) -> float:
    """The most memory that the server had while it got requests of which no two are alike."""
    assert running.server is not None
    most = 0.0
    for _ in range(count // BATCH):
        result = await run_load(running.port, [hostile(chance) for _ in range(BATCH)], count=BATCH)
        assert answered(result) == BATCH
        most = max(most, resident_mb(running.server.pid))
    return most


def answered(result: LoadResult) -> int:
    """Requests that ended well and were assigned."""
    assert not result.failed, result.statuses
    return sum(count for version, count in result.versions.items() if version)


def test_the_contender_is_what_the_command_runs_by_default() -> None:
    assert Contender("default", "", "ext_proc").transport == Settings(Path("x")).transport == DEFAULT_TRANSPORT


def test_every_transport_is_measured() -> None:
    assert set(WORKER_LIMITS_MB) == set(TRANSPORTS)


@pytest.mark.parametrize(
    ("transport", "half"),
    [
        ("nghttp2", 20_000),
        pytest.param("nghttp2", 50_000, marks=pytest.mark.soak),
        pytest.param("grpcio", 30_000, marks=pytest.mark.soak),
    ],
)
async def test_a_worker_stays_small_and_does_not_grow(short_path: Path, transport: Transport, half: int) -> None:
    contender = Contender("one_worker", "as `abmesh ext-proc` runs it", "ext_proc", workers=1, transport=transport)
    if reason := missing(contender):
        pytest.skip(reason)
    async with AsyncExitStack() as ending:
        bench = Bench(short_path, ending)
        await bench.start_upstream()
        running = await bench.start(contender)
        chance = random.Random(2)
        first = await most_mb(running, chance, half)
        assert first < WORKER_LIMITS_MB[transport]
        second = await most_mb(running, chance, half)
        assert second < WORKER_LIMITS_MB[transport]
        assert second - first < TOLERANCE_MB, f"{first:.1f} MB at {half} requests, {second:.1f} MB at {2 * half}"


@pytest.mark.soak
async def test_a_controller_that_reads_every_statistic_there_is_stays_small(tmp_path: Path) -> None:
    rollout = """\
    rollout:
      candidate: model-b
      steps: [60, 100]
      stage: {min_duration: 1h}
      guardrails:
        - {metric: error_rate, max: 90%}
        - {metric: latency_p99, max: 60s}
        - {metric: latency_p95, max_increase: 60s}
"""
    text = document({"model-a": 50.0, "model-b": 50.0}, rollout=rollout)
    users = [f"user-{number}" for number in range(1000)]
    async with stack(tmp_path, text, interval=timedelta(milliseconds=100)) as running:
        pid, port = running.children["controller"].pid, running.ports["envoy"]

        async def ticks() -> float:
            return metric(await fetch(f"{running.controller_url}/metrics") or "", "abmesh_controller_ticks_total")

        async def more_ticks(count: int) -> None:
            before = await ticks()

            async def enough() -> bool:
                return await ticks() >= before + count

            await eventually(enough, seconds=120)

        # Every slice of both variants, with three codes each.
        await run_load(port, requests_of(users, "/v1/models"), count=len(users))
        await run_load(port, requests_of(users, "/v1/nothing"), count=len(users))
        for model in running.options.models:
            await running.behave(model, error_rate=0.5)
        chats = [request_of(CHAT, (f"x-user-id: {user}",), b'{"messages": []}') for user in users]
        await run_load(port, chats, count=len(chats))
        assert len(await envoy_stats(running, "^abmesh.requests")) >= 3 * 90
        await more_ticks(SETTLED_TICKS)
        first = resident_mb(pid)
        await more_ticks(60)
        second = resident_mb(pid)
    assert first < CONTROLLER_LIMIT_MB
    assert second < CONTROLLER_LIMIT_MB
    assert second - first < CONTROLLER_TOLERANCE_MB, f"{first:.1f} MB, and {second:.1f} MB 60 ticks later"
