"""The parts of a run, and how much of each is measured. Called by ``python -m bench``."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench import (
    aims,
    contenders,
    evidence,
    growth,
    half_load,
    native_rollout,
    reactions,
    report,
    rollback,
    streams,
    throughput,
)
from bench.contenders import REFERENCE, Contender
from bench.placement import Placement
from bench.running import Bench
from bench.summary import reaction, row

PARTS: Final = ("throughput", "half_load", "growth", "streams", "reactions", "evidence")
"""``half_load`` needs the rates that ``throughput`` finds, and so measures both."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of every data path.
        requests: of one round of one data path.
        half_load_seconds: of one round of one data path at half load.
        growth_rounds: of every point of growth.
        growth_requests: of one round of one point.
        times: how often each reaction is measured.
        rollbacks: how often the rollback is, each in a rollout of its own.
        fleets: numbers of Envoys that a controller's tick is measured over.
    """

    rounds: int
    requests: int
    half_load_seconds: float
    growth_rounds: int
    growth_requests: int
    times: int
    rollbacks: int
    fleets: tuple[int, ...] = evidence.SIZES

    def of(self, rounds: int | None, requests: int | None) -> Plan:
        """The plan with other numbers of rounds and requests."""
        return replace(self, rounds=rounds or self.rounds, requests=requests or self.requests)


FULL: Final = Plan(5, 10_000, half_load_seconds=2.0, growth_rounds=3, growth_requests=2000, times=5, rollbacks=3)
QUICK: Final = Plan(2, 1000, 0.5, growth_rounds=1, growth_requests=300, times=1, rollbacks=1, fleets=(1, 50))

Rows = list[dict[str, Any]]


async def measure(
    plan: Plan, only: str | None, names: Sequence[str], placement: Placement, tell: Callable[[str], None]
) -> report.Measured:
    """Measure some parts, or all.

    Args:
        plan: how much.
        only: one of :data:`PARTS`; None: all.
        names: of the contenders to measure; empty: all that can start here. The reference always is.
        placement: which CPUs run what.
        tell: shows progress.

    Raises:
        ProcessError: a program does not start.
        ProbeError: something did not happen, or a request failed.
        TimeoutError: a round took longer than a minute.
    """
    wanted, skipped = contenders.chosen([*names, REFERENCE] if names else ())
    for one in skipped:
        tell(f"SKIPPED {one['name']}: {one['reason']}")
    measured = report.Measured(skipped=skipped)
    # A short name: the path of a Unix socket has at most some ninety characters.
    with tempfile.TemporaryDirectory(prefix="abmesh-bench-") as name:
        folder = Path(name)
        if only in (None, "throughput", "half_load"):
            paths = await _paths(plan, only, wanted, Bench(folder, AsyncExitStack(), placement), tell)
            measured = replace(measured, **paths)
        if only in (None, "growth"):
            found = await growth.measure(folder, placement, wanted, plan.growth_rounds, plan.growth_requests, tell)
            measured = replace(measured, growth=found)
        if only in (None, "streams"):
            measured = replace(measured, streams=await streams.measure(folder, plan.rounds, tell))
        if only in (None, "reactions"):
            measured = replace(measured, reactions=await _reactions(plan, folder, tell))
        if only in (None, "evidence"):
            ticks = await asyncio.to_thread(evidence.measure, tell, plan.fleets)
            measured = replace(measured, ticks=ticks)
    return measured


async def _paths(
    plan: Plan, only: str | None, wanted: Sequence[Contender], bench: Bench, tell: Callable[[str], None]
) -> dict[str, Rows]:
    async with bench.stack:
        await bench.start_upstream()
        running = [await bench.start(contender) for contender in wanted]
        samples = await throughput.measure(running, plan.rounds, plan.requests, tell)
        rows = []
        for contender in wanted:
            figures = row(contender.name, samples[contender.name], samples[REFERENCE])
            requests = contender.count(plan.requests)
            rows.append({**figures, "meaning": contender.meaning, "requests": requests * plan.rounds})
        found: dict[str, Rows] = {"rows": rows, "ratios": aims.ratios(samples)}
        if only in (None, "half_load"):
            highest = {one["name"]: one["requests_per_second"] for one in rows}
            found["half_load"] = await half_load.measure(running, highest, plan.rounds, tell, plan.half_load_seconds)
    return found


async def _reactions(plan: Plan, folder: Path, tell: Callable[[str], None]) -> Rows:
    found = await reactions.measure(folder / "reactions", plan.times, tell)
    found += await native_rollout.measure(folder / "native", plan.times, tell)
    found += await rollback.measure(folder / "rollback", plan.rollbacks, tell)
    return [reaction(one) for one in found]
