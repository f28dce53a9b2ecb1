"""Requests that are odd, in trouble or nobody's come to the same in both lanes."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from abmesh.experiment.bucketing import bucket_of
from abmesh.experiment.store import FileStore
from tests.e2e.lanes import LANES, VARIANTS, Lanes, Reply, experiment, lanes, request, send, send_alone
from tests.e2e.support import eventually

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(120)]

SEGMENTS = {"header": "x-user-segment", "values": ["power", "casual"]}
OVERRIDES = [
    {"header": {"x-user-group": "beta", "x-tier": "a,b"}, "variant": "model-c"},
    {"header": {"x-user-group": "beta"}, "variant": "model-b"},
]
COOKIE = {"name": "sid", "max_age": "1h"}
HOSTILE = 600


def odd(chance: random.Random) -> tuple[list[bytes], bytes]:
    """Header lines and a query that are odd in one way or another, and yet close to what clients send."""
    blanks = [b"", b"", b"", b" ", b"\t", b"  "]
    names = [b"sid", b"sid", b"asid", b"sidx", b"SID", b""]
    units = [
        b"",
        b"u-1",
        b"u 1",
        "Zoë 用户".encode(),
        b"a,b",
        b"a=b",
        b'"u"',
        b"\xff\xfe",
        b"\xc3",
        b"%41",
        b"+",
        b"?",
        b"&",
    ]

    def blank() -> bytes:
        return chance.choice(blanks)

    def cookie() -> bytes:
        name, unit = chance.choice(names), chance.choice(units)
        return blank() + name + blank() + chance.choice([b"=", b"=", b""]) + blank() + unit + blank()

    def parameter() -> bytes:
        name = chance.choice([b"user_id", b"user_id", b"user-id", b"user%5fid", b"a"])
        return name + chance.choice([b"=", b"=", b""]) + chance.choice(units).replace(b" ", b"%20").replace(b"\t", b"")

    lines = []
    for _ in range(chance.choice([0, 0, 1, 1, 2])):
        lines.append(chance.choice([b"x-user-id", b"X-User-ID"]) + b":" + blank() + chance.choice(units) + blank())
    for _ in range(chance.choice([0, 1, 1, 2])):
        lines.append(b"Cookie: " + b";".join(cookie() for _ in range(chance.randrange(4))))
    for _ in range(chance.choice([0, 1, 1, 2])):
        lines.append(b"x-user-segment: " + chance.choice([b"power", b"casual", b"power,casual", b"evil", b"\xff", b""]))
    for name, value in ((b"x-user-group", b"beta"), (b"x-tier", b"a"), (b"x-tier", b"b"), (b"x-tier", b"a,b")):
        if chance.random() < 0.15:
            lines.append(name + b": " + value)
    for name in (
        b"x-ab-slice",
        b"x-ab-experiment",
        b"x-model-version",
        b"x_ab_segment",
        b"x-envoy-upstream-rq-timeout-ms",
    ):
        if chance.random() < 0.2:
            lines.append(name + b": " + chance.choice([b"1", b"native", b"model-b"]))
    chance.shuffle(lines)
    query = b"?" + b"&".join(parameter() for _ in range(chance.randrange(3))) if chance.random() < 0.5 else b""
    return lines, query


async def test_hostile_requests_come_to_the_same_in_both_lanes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(5)
    requests = [odd(chance) for _ in range(HOSTILE)]
    gates = asyncio.Semaphore(16)

    async def alone(port: int, sent: bytes) -> Reply:
        async with gates:
            return await send_alone(port, sent)

    replies: dict[str, list[Reply]] = {}
    asked: dict[str, int] = {}
    async with lanes(tmp_path, segments=SEGMENTS, overrides=OVERRIDES, issue_cookie=COOKIE) as running:
        for lane in LANES:
            before = await running.asked()
            replies[lane] = await asyncio.gather(*(alone(running.port, request(lane, *sent)) for sent in requests))
            asked[lane] = await running.asked() - before
        statistics = await running.statistics(r"^abmesh\.")
    assigned = 0
    for sent, native, server in zip(requests, *replies.values(), strict=True):
        assert (native.status, native.issued) == (server.status, server.issued), sent
        assert bool(native.cookie) == bool(server.cookie) == bool(native.issued), sent
        if native.issued:
            continue  # a new identity is another one each time
        assert native.without_experiment() == server.without_experiment(), sent
        assert (native.experiment, server.experiment) == (LANES if native.status == 200 else ("", "")), sent
        assigned += native.status == 200
    assert assigned > HOSTILE / 2
    assert asked["native"] < 0.6 * asked["server"], "what is not too odd is taken without the server"
    assert not [name for name in statistics if "evil" in name or ("unassigned" in name and "code.400" not in name)]
    with capsys.disabled():
        print(f"\nof {HOSTILE} hostile requests, {assigned} have a unit; the server was asked about {asked}")


def users_of(running: Lanes) -> dict[str, str]:
    """A user of each variant."""
    places = FileStore(running.stack.config).read().document.experiment("native").cells
    found: dict[str, str] = {}
    for number in range(1000):
        found.setdefault(places[bucket_of("lanes", f"u-{number}".encode())].variant, f"u-{number}")
    return found


async def counted(running: Lanes, requests: int) -> dict[str, int]:
    """Statistics of assigned requests, of both lanes, once there are so many."""

    async def there() -> bool:
        return sum((await running.statistics(r"^abmesh\.requests\.")).values()) >= requests

    await eventually(there)
    return await running.statistics(r"^abmesh\.(requests|unassigned)\.")


def of_lane(statistics: dict[str, int], lane: str) -> dict[str, int]:
    return {name.replace(lane, "LANE"): value for name, value in statistics.items() if f".{lane}." in name}


def thirds(*timeouts: str | None, **changes: Any) -> dict[str, Any]:
    variants = [
        {"name": name, "cluster": name, "weight": weight, "control": name == "model-a"}
        for name, weight in zip(VARIANTS, (34, 33, 33), strict=True)
    ]
    for variant, timeout in zip(variants, timeouts, strict=False):
        if timeout is not None:
            variant["timeout"] = timeout
    return {"variants": variants, **changes}


async def test_time_limits_are_each_variants_own_and_overrides_keep_them(tmp_path: Path) -> None:
    overrides = [{"header": {"x-want": name}, "variant": name} for name in VARIANTS]
    limits: dict[str, str] = {"model-a": "250", "model-b": "", "model-c": "10000"}
    async with lanes(tmp_path, **thirds("250ms", None, "10s"), overrides=overrides) as running:
        users = users_of(running)
        lines = {name: [b"x-user-id: " + users[name].encode()] for name in VARIANTS}
        for name, limit in limits.items():
            for said in (lines[name], [b"x-want: " + name.encode()]):
                native, server = await running.both(said)
                assert native.without_experiment() == server.without_experiment()
                assert (native.upstream, native.timeout) == (name, limit)
                assert bool(native.slice) == ("x-want" not in str(said)), "an override is no evidence"
        for name, status in zip(VARIANTS, (504, 200, 200), strict=True):
            slow = await asyncio.gather(
                *(send_alone(running.port, request(lane, lines[name], b"?sleep=0.6")) for lane in LANES)
            )
            assert [(reply.status, reply.stamp) for reply in slow] == [(status, name)] * 2
        statistics = await counted(running, 12)
    assert sum(statistics.values()) == 12, "overrides are not counted"
    assert of_lane(statistics, "native") == of_lane(statistics, "server")
    assert [value for name, value in statistics.items() if name.endswith("code.504")] == [1, 1]


async def test_a_variant_that_is_down_is_counted_with_its_503_in_both_lanes(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))

        def edit(said: dict[str, Any]) -> None:
            said["clusters"]["model-b"] = {"host": "127.0.0.1", "port": closed.getsockname()[1]}  # refuses
            said["clusters"]["model-c"] = {"host": "nowhere.invalid", "port": 80}  # has no host

        async with lanes(tmp_path, edit=edit, **thirds("5s", "5s", None)) as running:
            for name, user in users_of(running).items():
                for _ in range(3):
                    for reply in await running.both([b"x-user-id: " + user.encode()]):
                        assert (reply.status, reply.stamp) == (200 if name == "model-a" else 503, name)
            statistics = await counted(running, 18)
            flags = await running.statistics("model-[bc].upstream_cx_(connect_fail|none_healthy)$")
    assert of_lane(statistics, "native") == of_lane(statistics, "server")
    assert sorted(value for name, value in statistics.items()) == [3] * 6
    assert len([name for name in statistics if name.endswith("code.503")]) == 4
    assert flags == {
        "cluster.model-b.upstream_cx_connect_fail": 6,
        "cluster.model-c.upstream_cx_none_healthy": 6,
    }, "one refused, the other had no host"


async def test_a_request_without_a_unit_gets_one_from_the_server_and_stays_with_its_variant(tmp_path: Path) -> None:
    async with lanes(tmp_path, issue_cookie=COOKIE, **thirds()) as running:
        for _ in range(12):
            first = await send_alone(running.port, request("native"))
            assert first.issued == "1"
            before = await running.asked()
            for _ in range(3):
                later = await send_alone(
                    running.port, request("native", [b"cookie: " + first.cookie.split(";")[0].encode()])
                )
                assert later == first._replace(cookie="", issued="")
            assert await running.asked() == before, "whoever has a unit is assigned by Envoy"
        await running.stack.children["ext-proc"].kill()

        async def down() -> bool:
            return (await send_alone(running.port, request("native"))).stamp == ""

        await eventually(down)
        known = [request("native", [b"x-user-id: " + user.encode()]) for user in users_of(running).values()]
        assert {reply.stamp for reply in await send(running.port, known)} == set(VARIANTS), "without the server, too"
        assert (await send_alone(running.port, request("server", [b"x-user-id: u"]))).stamp == ""


async def test_continuation_leaves_the_issued_cookie_to_the_server_and_other_units_to_envoy(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"issue_cookie": COOKIE, "events": ["continuation"]}
    async with lanes(tmp_path, **changes) as running:
        first = await send_alone(running.port, request("native"))
        session = [b"cookie: " + first.cookie.split(";")[0].encode()]
        second = await send_alone(running.port, request("native", session))
        assert (second.continued, second.cookie.split("=")[0]) == ("1", "sid-continued")
        before = await running.asked()
        assert (await send_alone(running.port, request("native", [b"x-user-id: u-1"]))).slice
        assert (await send_alone(running.port, request("native", query=b"?user_id=u-1"))).slice
        assert await running.asked() == before


async def test_the_first_experiment_that_matches_wins_whichever_lane_it_is_in(tmp_path: Path) -> None:
    def matching(lane: str, name: str, **match: Any) -> dict[str, Any]:
        return experiment(lane) | {"name": name, "match": {"path_prefix": "/native/", **match}}

    of = [
        matching("server", "one", host="a.example"),
        matching("native", "two", headers={"x-tier": "a,b"}),
        matching("server", "three", headers={"x-tier": "c"}),
        matching("native", "four"),
    ]
    expected = {b"a.example:1": "one", b"a.example:": "one", b"b.example": "four"}
    async with lanes(tmp_path, *of) as running:

        async def got(host: bytes, *lines: bytes) -> str:
            sent = request("native", [b"x-user-id: u", *lines]).replace(b"host: a", b"host: " + host)
            return (await send_alone(running.port, sent)).experiment

        assert {host: await got(host) for host in expected} == expected
        assert await got(b"a.example:x") == "", "no host that Envoy and the server read in the same way"
        assert await got(b"b.example", b"x-tier: a", b"x-tier: b") == "two"
        assert await got(b"b.example", b"x-tier: c") == "three"
        assert await got(b"a.example", b"x-tier: c") == "one"
