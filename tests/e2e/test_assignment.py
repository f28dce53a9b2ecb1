"""Every user gets the variant that the law predicts, and keeps it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import aiohttp
import psutil
import pytest

from abmesh.local.stack import Stack
from tests.e2e.support import abmesh, ask, ask_all, document, envoy_stats, eventually, predicted, session, stack

pytestmark = pytest.mark.envoy

USERS = [f"user-{number}" for number in range(5000)]
FOREIGN = [f"Zoë-{number}-用户" for number in range(10)]


async def _variants(running: Stack, users: list[str]) -> dict[str, str | None]:
    answers = await ask_all(running.url, users)
    assert {answer.status for answer in answers.values()} == {200}
    for user, answer in answers.items():
        assert answer.model == answer.variant, f"{user} was routed to {answer.model} but stamped {answer.variant}"
        assert not answer.cookies, f"{user} carries an id and was given a cookie"
    return {user: answer.variant for user, answer in answers.items()}


def _worker_seconds(running: Stack) -> dict[int, float]:
    """CPU seconds that each process below the server's supervisor has used."""
    used = {}
    for worker in psutil.Process(running.children["ext-proc"].pid).children(recursive=True):
        times = worker.cpu_times()
        used[worker.pid] = times.user + times.system
    return used


@pytest.mark.parametrize("count", [1500, pytest.param(len(USERS), marks=pytest.mark.soak)])
async def test_users_get_what_assign_predicts_also_after_a_restart_and_with_4_workers(
    tmp_path: Path, short_path: Path, count: int
) -> None:
    weights = {"model-a": 70.0, "model-b": 30.0}
    everybody = [*USERS[: count - len(FOREIGN)], *FOREIGN]
    async with stack(tmp_path / "one", document(weights)) as running:
        expected = await predicted(running.config, everybody)
        assert await _variants(running, everybody) == expected
    for name, share in weights.items():
        mean, deviation = len(everybody) * share / 100, math.sqrt(len(everybody) * 0.7 * 0.3)
        assert abs(Counter(expected.values())[name] - mean) < 3 * deviation
    async with stack(tmp_path / "again", document(weights), workers=4) as running:
        before = _worker_seconds(running)
        assert await _variants(running, everybody) == expected
        worked = [seconds - before.get(pid, 0.0) for pid, seconds in _worker_seconds(running).items()]
        assert sum(seconds > max(worked) / 20 for seconds in worked) >= 2, f"CPU seconds of the workers: {worked}"
    async with stack(short_path, document(weights), tcp=False) as running:
        assert await _variants(running, everybody[-500:]) == {user: expected[user] for user in everybody[-500:]}


async def _set_weights(running: Stack, assignments: dict[str, float]) -> None:
    texts = [f"{name}={weight}" for name, weight in assignments.items()]
    code, _, errors = await abmesh("weights", "chat", *texts, config=running.config)
    assert code == 0, errors


async def _after_the_move(running: Stack, users: list[str]) -> dict[str, str | None]:
    """Who is where, once the server serves the document that is on disk."""
    expected = await predicted(running.config, users)
    seen: dict[str, str | None] = {}

    async def moved() -> bool:
        seen.update(await _variants(running, users))
        return seen == expected

    await eventually(moved)
    return seen


async def test_raising_a_weight_never_takes_a_user_from_the_growing_variant(tmp_path: Path) -> None:
    users = USERS[:400]
    async with stack(tmp_path, document({"model-a": 100.0, "model-b": 0.0})) as running:
        before = await _variants(running, users)
        assert set(before.values()) == {"model-a"}
        for weight in (5, 10, 25, 50, 75, 100):
            await _set_weights(running, {"model-b": weight})
            after = await _after_the_move(running, users)
            left = [user for user in users if before[user] == "model-b" and after[user] != "model-b"]
            assert not left, f"raising model-b to {weight}% took {left} from it"
            before = after
        assert set(before.values()) == {"model-b"}


async def test_of_three_variants_only_users_of_the_shrinking_ones_move(tmp_path: Path) -> None:
    users = USERS[:400]
    names = ("model-a", "model-b", "model-c")
    weights = dict(zip(names, (60.0, 30.0, 10.0), strict=True))
    async with stack(tmp_path, document(weights), models=names) as running:
        before = await _variants(running, users)
        for changed in ({"model-a": 40, "model-b": 30, "model-c": 30}, {"model-a": 50, "model-b": 10, "model-c": 40}):
            await _set_weights(running, {name: float(weight) for name, weight in changed.items()})
            after = await _after_the_move(running, users)
            moved = {(before[user], after[user]) for user in users if before[user] != after[user]}
            growing = {name for name in names if changed[name] > weights[name]}
            shrinking = {name for name in names if changed[name] < weights[name]}
            assert moved, "nobody moved"
            assert {source for source, _ in moved} <= shrinking
            assert {target for _, target in moved} <= growing
            before, weights = after, {name: float(weight) for name, weight in changed.items()}


async def test_a_client_cannot_forge_an_assignment_with_the_server_up_or_down(tmp_path: Path) -> None:
    forged: tuple[dict[str, str], ...] = (
        {"x-model-version": "model-b"},
        {"X-AB-Slice": "3"},
        {"x-ab-experiment": "chat"},
    )
    async with stack(tmp_path, document({"model-a": 100.0, "model-b": 0.0})) as running, session() as client:
        for headers in ({}, *forged):
            up = await ask(client, running.url, {"x-user-id": "user-1", **headers})
            assert (up.status, up.variant, up.model) == (200, "model-a", "model-a"), headers
        await running.children["ext-proc"].kill()
        for headers in forged:
            down = await ask(client, running.url, {"x-user-id": "user-1", **headers})
            assert (down.status, down.variant, down.model) == (200, None, "model-a"), headers


async def test_who_has_no_identity_gets_a_cookie_and_overrides_are_no_evidence(tmp_path: Path) -> None:
    extra = "    overrides:\n      - {header: {x-user-group: beta-testers}, variant: model-b}\n"
    text = document({"model-a": 50.0, "model-b": 50.0}, extra)
    async with stack(tmp_path, text) as running, session() as client:
        await _one_cookie_keeps_the_variant(running, client)
        expected = await predicted(running.config, USERS[:20])
        answer = await ask(client, running.url, path="/v1/models?user_id=user-7&x=1")
        assert (answer.variant, answer.cookies) == (expected["user-7"], ()), "a user of the query gets no cookie"
        await _overrides_choose(running, client, next(user for user in expected if expected[user] == "model-a"))


async def _one_cookie_keeps_the_variant(running: Stack, client: aiohttp.ClientSession) -> None:
    variants: Counter[str | None] = Counter()
    for _ in range(40):
        first = await ask(client, running.url)
        assert len(first.cookies) == 1
        pair, *attributes = first.cookies[0].split("; ")
        name, _, identity = pair.partition("=")
        assert name == "llm-session"
        assert len(bytes.fromhex(identity)) == 16
        assert {"HttpOnly", "SameSite=Lax", "Max-Age=3600", "Path=/"} <= set(attributes)
        for _ in range(3):
            later = await ask(client, running.url, {"cookie": f"theme=dark; {pair}"})
            assert later.variant == first.variant
            assert not later.cookies
        variants[first.variant] += 1
    assert set(variants) == {"model-a", "model-b"}


async def _overrides_choose(running: Stack, client: aiohttp.ClientSession, user: str) -> None:
    async def evidence() -> int:
        return sum((await envoy_stats(running, "^abmesh.requests")).values())

    async def settled() -> bool:
        """Whether Envoy has counted all of the 161 requests before."""
        return await evidence() == 161

    await eventually(settled)
    for _ in range(5):
        answer = await ask(client, running.url, {"x-user-id": user, "x-user-group": "beta-testers"})
        assert (answer.variant, answer.model) == ("model-b", "model-b")
    await ask(client, running.url, {"x-user-id": user})

    async def counted() -> bool:
        return await evidence() > 161

    await eventually(counted)
    assert await evidence() == 162
