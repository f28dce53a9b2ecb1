"""How soon new weights of the native lane are obeyed: from the edit to the first and to the last request that shows it.

Called by ``python -m bench``. The controller writes the routes file as soon as the document changes, and Envoy takes
it up. Some clients ask all the while, each on a connection of its own, beside a load that no change may disturb.
Everybody belongs to one of two variants, so that one answer is enough to tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

from abmesh.local.model_server import Behaviour
from abmesh.local.stack import Stack, StackOptions
from bench.load import requests_of, run_load
from bench.probe import Probe, ProbeError
from bench.reactions import DOCUMENT, A, B, at_any_moment
from bench.summary import Reaction

NATIVE: Final = DOCUMENT.replace("    match:", "    lane: native\n    match:")
PROBES: Final = 4
_LOAD_CONNECTIONS: Final = 4
_LOAD_PAUSE: Final = 0.01
_BATCH: Final = 200
_OBEYS_FOR: Final = 20
"""Requests of every client that must go on to obey before a change counts as done."""

_MEANINGS: Final = {
    "native_first": "weights edited -> first request on the new variant, by the routes file",
    "native_last": "weights edited -> the last client's first request on the new variant",
}


async def measure(folder: Path, times: int, tell: Callable[[str], None]) -> list[Reaction]:
    """Measure how soon edits are obeyed.

    Args:
        folder: where files go.
        times: how often.
        tell: shows progress.

    Raises:
        ProbeError: a client saw the old variant again, or a request failed.
        ProcessError: a program does not start.
    """
    model = Behaviour(latency_ms=1, spread=0, output_tokens=2)
    options = StackOptions(models={A: model, B: model}, interval=timedelta(milliseconds=500), routes_file=True)
    found: dict[str, list[float]] = {name: [] for name in _MEANINGS}
    async with Stack(NATIVE, options, folder) as stack, AsyncExitStack() as clients:
        port = stack.ports["envoy"]
        probes = [await clients.enter_async_context(Probe(port, f"user-{number}")) for number in range(PROBES)]
        await asyncio.gather(*(probe.until_on(A) for probe in probes))
        ending = asyncio.Event()
        load = asyncio.create_task(_load(port, ending))
        try:
            for number in range(times):
                first, last = await _reaction(stack, probes, *((A, B) if number % 2 == 0 else (B, A)))
                found["native_first"].append(first)
                found["native_last"].append(last)
                tell(f"native_first: {first:.3f} s  native_last: {last:.3f} s")
        finally:
            ending.set()
            sent = await load
    tell(f"native: {sent} requests beside it, none failed")
    return [Reaction(name, _MEANINGS[name], tuple(seconds)) for name, seconds in found.items()]


async def _load(port: int, ending: asyncio.Event) -> int:
    """Users who ask all the while; how many requests that were.

    Raises:
        ProbeError: one failed, or was not assigned.
    """
    requests = requests_of([f"load-{number}" for number in range(500)], "/v1/models")
    sent = 0
    while not ending.is_set():
        result = await run_load(port, requests, count=_BATCH, connections=_LOAD_CONNECTIONS, pause=_LOAD_PAUSE)
        sent += _BATCH
        if result.failed or result.versions[b""]:
            unassigned = result.versions[b""]
            raise ProbeError(f"beside a rollout {result.failed} requests failed, {unassigned} were not assigned")
    return sent


async def _reaction(stack: Stack, probes: list[Probe], old: str, new: str) -> tuple[float, float]:
    """Seconds from an edit that moves everybody to the first and the last client's first request that shows it."""
    await at_any_moment()
    stack.config.write_text(edited(stack.config.read_text(), old, new))
    changed = time.monotonic()
    seen = await asyncio.gather(*(probe.until_on(new) for probe in probes))
    for probe in probes:
        for _ in range(_OBEYS_FOR):
            if (again := await probe.ask()).variant != new:
                raise ProbeError(f"a client on {new} was sent to {again.variant or 'nobody'} again")
    moments = [one.at - changed for one in seen]
    return min(moments), max(moments)


def edited(text: str, old: str, new: str) -> str:
    """A document that gives everybody to ``old``, changed to give everybody to ``new``."""
    lines = text.splitlines(keepends=True)
    for place, line in enumerate(lines):
        if f"name: {old}," in line:
            lines[place] = line.replace("weight: 100", "weight: 0")
        elif f"name: {new}," in line:
            lines[place] = line.replace("weight: 0", "weight: 100")
    return "".join(lines)
