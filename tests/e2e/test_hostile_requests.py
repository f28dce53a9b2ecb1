"""Hostile requests to the whole of abmesh: Envoy's statistics stay what the document declares, and no log grows."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.experiment.codec import parse
from abmesh.experiment.metrics import CONTINUATION
from abmesh.experiment.model import Document
from abmesh.experiment.names import GROUPS, OTHER_SEGMENT
from abmesh.local.stack import Stack, fetch
from abmesh.mesh.routes import route_configuration
from tests.e2e.support import CHAT, document, envoy_stats, eventually, stack

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(240)]

USUAL, HOSTILE = 500, 2000
TEXT = document(
    {"model-a": 50.0, "model-b": 50.0},
    extra="""\
    overrides:
      - {header: {x-user-group: beta-testers}, variant: model-b}
    segments: {header: x-user-segment, values: [power, casual]}
    events: [click, {name: purchase, value: {min: 0.5, max: 500}}, continuation]
    slices: 10
""",
    rollout="""\
    rollout:
      candidate: model-b
      steps: [50, 100]
      stage: {min_duration: 1h}
      guardrails:
        - {metric: error_rate, max: 90%}
""",
)
OF_A_SLICE = 14
"""Durations, failed answers, caches, first tokens, tokens, generation, refusals, broken answers, sessions; requests and
events apart."""

OF_A_SEGMENT = 8
"""Of each group of a segment's users: three histograms, what answers say they took, and which broke off or were left;
requests and events apart."""


def bound(declared: Document, codes: int) -> int:
    """How many statistics there may be at most, where Envoy answered with so many different codes."""
    count = 0
    for experiment in declared.experiments:
        events = len(experiment.events)
        values = 2 * sum(event.value is not None for event in experiment.events)
        segments = 0 if experiment.segments is None else len({*experiment.segments.values, OTHER_SEGMENT})
        of_a_variant = experiment.slices * (codes + OF_A_SLICE + events + values) + GROUPS * 3
        count += len(experiment.variants) * (of_a_variant + segments * GROUPS * (codes + OF_A_SEGMENT + events))
    routes = {route.name for host in route_configuration(declared).virtual_hosts for route in host.routes}
    return count + codes * (len(routes) + 1)  # and one for requests that took no route


def request(chance: random.Random, *, hostile: bool) -> bytes:
    """A request, or an event, of a user; whatever a client chooses is new each time where it is hostile."""
    noise = f"evil{chance.getrandbits(64):x}"
    raw = "evil" + bytes(chance.choices(range(0x80, 0x100), k=40)).decode("latin-1")

    def chosen(*usual: str) -> str:
        options = [*usual, noise, raw] if hostile else list(usual)
        return chance.choice(options)

    event, value = chosen("click", "purchase", CONTINUATION), chosen("7", "0.001", "12.5")
    query = f"?value={value}&user_id={chosen('ada')}&experiment={chosen('chat')}" if chance.random() < 0.5 else ""
    paths = ["/v1/models", CHAT, f"/_ab/events/{event}{query}", f"/v1/{chosen('models')}{query}", f"/{chosen('')}"]
    lines = [f"x-user-id: {chosen('ada', 'eve', noise)}", f"x-user-segment: {chosen('power', 'casual')}"]
    lines += [f"cookie: llm-session={chosen('1')}; llm-session-continued={chosen('1')}; {chosen('a')}={noise}"]
    lines += [f"x-user-group: {chosen('beta-testers', 'none')}"]
    forged = ("model-version", "ab-experiment", "ab-slice", "ab-group", "ab-segment", "ab-issued", "ab-event")
    lines += [f"{chance.choice(('x-', 'X_'))}{name}: {chosen('1')}" for name in (*forged, "ab-value", "envoy-retry-on")]
    some = chance.sample(lines, chance.randrange(len(lines) + 1))
    body = b'{"messages": []}' if chance.random() < 0.6 else b""
    method, length = ("POST", [f"content-length: {len(body)}"]) if body else ("GET", [])
    head = [f"{method} {chance.choice(paths)} HTTP/1.1", "host: a", *some, *length, "connection: close", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


async def send(port: int, requests: list[bytes]) -> Counter[int]:
    """Send each on a connection of its own; the answers by code."""
    codes: Counter[int] = Counter()
    waiting = iter(requests)

    async def client(waiting: Iterator[bytes]) -> None:
        for sent in waiting:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            code = int((await reader.readuntil(b"\r\n\r\n"))[9:12])
            # Where Envoy answers before it has read the whole request, it leaves the connection open for a while.
            if code not in (400, 404, 405):
                await reader.read()
            codes[code] += 1
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client(waiting))
    return codes


async def statistics(running: Stack) -> set[str]:
    """Names of Envoy's statistics of ours, histograms too."""
    text = await fetch(f"{running.admin}/stats?filter=^abmesh[.]")
    assert text is not None
    return {line.partition(": ")[0] for line in text.splitlines()}


def logged(running: Stack) -> dict[str, list[str]]:
    names = ("envoy", "ext-proc", "controller")
    return {name: (running.folder / f"{name}.log").read_text(errors="replace").splitlines() for name in names}


async def test_hostile_requests_make_no_statistic_that_is_not_declared_and_no_line_in_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(8)
    async with stack(tmp_path, TEXT, interval=timedelta(milliseconds=200)) as running:
        port = running.ports["envoy"]

        async def counted(requests: int) -> bool:
            """Whether Envoy has counted as many requests as it was sent: each is one of these."""
            found = await envoy_stats(running, "^http.*downstream_rq_completed$")
            return sum(value for name, value in found.items() if "admin" not in name) >= requests

        codes = await send(port, [request(chance, hostile=False) for _ in range(USUAL)])
        await eventually(lambda: counted(USUAL))
        before = logged(running)
        usual = await statistics(running)
        codes += await send(port, [request(chance, hostile=True) for _ in range(HOSTILE)])
        await eventually(lambda: counted(USUAL + HOSTILE))
        found = await statistics(running)
        most = bound(parse(running.config.read_text()), len(codes))
        lines = {name: after[len(before[name]) :] for name, after in logged(running).items()}
        assigned = await envoy_stats(running, r"^abmesh\.requests\.")
    with capsys.disabled():
        print(
            f"\n{len(usual)} statistics of abmesh after {USUAL} usual requests, {len(found)} after {HOSTILE} hostile"
            f" ones, {most} at most; answers by code: {dict(codes)}; new lines in logs:"
            f" { ({name: len(some) for name, some in lines.items()}) }"
        )
    assert sum(assigned.values()) > HOSTILE / 10, "they reached what they were meant to trouble"
    assert len(found) <= most
    assert not [name for name in found if "evil" in name]
    for name, some in lines.items():
        assert not [line for line in some if "evil" in line], name
        assert len(some) < HOSTILE / 100, (name, some[:5])
