"""Durations and times to the first token as Envoy measures them, against the clock of the client who waited."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.envoy_process import wait_for
from tests.e2e.playing import STREAM, Play, Player, playing_mesh, split, stream

pytestmark = pytest.mark.envoy

ANSWERS = 60
ALLOWED_MS = 10.0
GROUP = "experiment.chat.variant.model-b.group.1"


class Lateness:
    """How late this process itself was, at worst, in milliseconds: what a client adds to all that it measures."""

    worst: float = 0

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async def watch() -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.001)
                self.worst = max(self.worst, 1000 * (time.monotonic() - before) - 1)

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _bins(player: Player, histogram: str) -> list[tuple[float, float]]:
    """Lower bound and width of the bin of every answer, rising; Envoy merges them now and then."""
    found: list[tuple[float, float]] = []

    def whole() -> bool:
        parts = player.mesh.envoy.histograms(rf"^abmesh\.{histogram}\.").get(f"abmesh.{histogram}.{GROUP}", [])
        found[:] = sorted(
            (float(part["lower_bound"]), float(part["width"])) for part in parts for _ in range(int(part["count"]))
        )
        return len(found) == ANSWERS

    await asyncio.to_thread(wait_for, whole, f"every answer in {histogram}", 15)
    return found


def _beyond(bins: Sequence[tuple[float, float]], seen: Sequence[float]) -> tuple[float, float]:
    """How far, at worst, what a client saw lies below and above the bin of the same rank, in milliseconds.

    Which answer is in which bin is not known. But where every answer is within a distance of its own bin, so is the
    answer of every rank of the bin of that rank.
    """
    pairs = list(zip(bins, sorted(seen), strict=True))
    return max(lower - own for (lower, _), own in pairs), max(own - (lower + width) for (lower, width), own in pairs)


async def test_durations_and_first_tokens_are_the_clients_own_within_a_bin_and_10_ms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(11)
    body = stream({"choices": [{"delta": {"content": "Hello"}}]}, {"choices": [{"delta": {"content": "you"}}]})
    # Headers come at once and the first token later, so that one cannot pass for the other.
    plays = [
        Play(split(body, 30, 60), STREAM, first=dice.uniform(0.01, 0.4), pause=dice.uniform(0.005, 0.15))
        for _ in range(ANSWERS)
    ]
    late = Lateness()
    async with playing_mesh(tmp_path) as player:
        waiting = iter(plays)

        async def client() -> None:
            for play in waiting:
                assert await player.ask(play) == play.body

        async with late.watched(), asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(client())
        for histogram, seen in (
            ("ttft", [play.ttft for play in plays]),
            ("duration", [play.duration for play in plays]),
        ):
            below, above = _beyond(await _bins(player, histogram), seen)
            with capsys.disabled():
                print(
                    f"\n{histogram} of {ANSWERS} answers, {min(seen):.0f} to {max(seen):.0f} ms: the client's clock is"
                    f" at most {max(below, 0):.1f} ms below Envoy's bin and {max(above, 0):.1f} ms above it;"
                    f" the client itself was at most {late.worst:.1f} ms late"
                )
            assert below <= ALLOWED_MS, "Envoy saw no answer take longer than whoever waited for it"
            assert above <= ALLOWED_MS + late.worst, "what a busy client adds is no error of Envoy's"
