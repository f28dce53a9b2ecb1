"""Envoy assigns requests itself, and nobody can tell it from the server's assigning them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from abmesh.experiment.bucketing import bucket_of
from abmesh.experiment.store import FileStore
from tests.e2e.lanes import LANES, VARIANTS, Lanes, Reply, lanes, request, send
from tests.e2e.support import eventually

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(240)]

SEGMENTS = {"header": "x-user-segment", "values": ["power", "casual"]}
STEPS = (500, 1000, 2500, 5000, 7500, 10_000)
"""Basis points of the growing variant."""


def user(number: int) -> tuple[bytes, list[bytes], bytes]:
    """A user's unit, header lines and query: by header, cookie, both or query; ASCII and not; of some segment."""
    plain, other = f"user-{number}".encode(), f"Zoë-{number} 用户".encode()
    kinds: list[tuple[bytes, list[bytes], bytes]] = [
        (plain, [b"x-user-id: " + plain], b""),
        (other, [b"X-User-Id: " + other], b""),
        (plain, [b"cookie: theme=dark; sid=" + plain + b"; a=b"], b""),
        (other, [b"cookie: sid=; asid=x;sid = " + other], b""),
        (plain, [b"x-user-id: " + plain, b"cookie: sid=" + other], b""),
        (other, [b"cookie: sid=" + plain, b"x-user-id: " + other], b"?user_id=x"),
        (plain, [b"cookie: asid=x"], b"?a=%20&user_id=" + plain),
        (plain, [], b"?user_id=" + plain + b"&user_id=x"),
    ]
    unit, lines, query = kinds[number % len(kinds)]
    segment = (b"power", b"casual", b"evil", b"")[number // len(kinds) % 4]
    return unit, [*lines, b"x-user-segment: " + segment] if segment else lines, query


def ramp(candidate: int) -> dict[str, int]:
    """Weights of three variants, of which the last grows."""
    second = (10_000 - candidate) * 2 // 5
    return dict(zip(VARIANTS, (10_000 - candidate - second, second, candidate), strict=True))


def predicted(running: Lanes, numbers: range) -> list[Reply]:
    """What the law says of users: the pure functions of ``experiment``, without a server or an Envoy."""
    places = FileStore(running.stack.config).read().document.experiment("native").cells
    found = []
    for number in numbers:
        unit, lines, _ = user(number)
        place = places[bucket_of("lanes", unit)]
        declared = [name for name in ("power", "casual") if f"x-user-segment: {name}".encode() in lines]
        told = ["", str(place.slice), str(place.group), *(declared or ["other"]), "", "", place.variant]
        found.append(Reply(200, place.variant, "", place.variant, *told))
    return found


@pytest.mark.parametrize("users", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_both_lanes_give_users_what_the_law_says_through_every_step_of_a_ramp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], users: int
) -> None:
    numbers = range(users)
    sent = {lane: [request(lane, *user(number)[1:]) for number in numbers] for lane in LANES}
    counted: Counter[tuple[str, str, str]] = Counter()
    of_segments: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    asked_for: Counter[str] = Counter()
    async with lanes(tmp_path, segments=SEGMENTS) as running:
        for step in STEPS:
            await running.weigh(ramp(step))
            expected = predicted(running, numbers)

            async def arrived(expected: list[Reply] = expected) -> bool:
                """Envoy's workers get new routes a moment after its main thread; overrides count as no evidence."""
                probes = [*range(0, users, users // 25)]
                got = await send(running.port, [sent["native"][probe] for probe in probes])
                counted.update(("native", reply.variant, reply.slice) for reply in got)
                of_segments.update(("native", reply.segment) for reply in got)
                return [reply.without_experiment() for reply in got] == [expected[probe] for probe in probes]

            await eventually(arrived)
            for lane in LANES:
                before, started = await running.asked(), time.monotonic()
                replies = await send(running.port, sent[lane])
                seconds[lane] += round(1000 * (time.monotonic() - started))
                asked_for[lane] += await running.asked() - before
                assert {reply.experiment for reply in replies} == {lane}
                wrong = [
                    (number, reply, wanted)
                    for number, reply, wanted in zip(numbers, replies, expected, strict=True)
                    if reply.without_experiment() != wanted
                ]
                assert not wrong, f"{lane}, {step}: {len(wrong)}, such as {wrong[:3]}"
                counted.update((lane, reply.variant, reply.slice) for reply in replies)
                of_segments.update((lane, reply.segment) for reply in replies)
        assert asked_for == {"native": 0, "server": len(STEPS) * len(numbers)}

        async def all_counted() -> bool:
            return sum((await running.statistics(r"^abmesh\.requests\.")).values()) >= counted.total()

        await eventually(all_counted)
        statistics = await running.statistics(r"^abmesh\.")
    requests = {
        f"abmesh.requests.experiment.{lane}.variant.{variant}.slice.{slice_}.code.200": count
        for (lane, variant, slice_), count in counted.items()
    }
    assert {name: value for name, value in statistics.items() if name.startswith("abmesh.requests.")} == requests
    by_segment: Counter[tuple[str, str]] = Counter()
    for name, value in statistics.items():
        if name.startswith("abmesh.requests_by_segment."):
            parts = name.split(".")
            by_segment[(parts[3], parts[7])] += value
    assert by_segment == of_segments
    assert not [name for name in statistics if "unassigned" in name or "evil" in name]
    with capsys.disabled():
        rates = {lane: f"{1000 * len(STEPS) * len(numbers) / spent:.0f}/s" for lane, spent in seconds.items()}
        print(f"\n{len(STEPS)} steps of {len(numbers)} users: {rates}")
