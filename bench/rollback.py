"""How soon a candidate that begins to fail is rolled back, by the controller. Called by ``python -m bench``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from abmesh.experiment import bucketing
from abmesh.experiment.codec import parse
from abmesh.local.model_server import Behaviour
from abmesh.local.stack import Stack, StackOptions
from bench.load import LoadResult, request_of, run_load
from bench.probe import Probe, ProbeError
from bench.reactions import DOCUMENT, A, B, at_any_moment
from bench.summary import Reaction

INTERVAL: Final = timedelta(milliseconds=500)
ERROR_RATE: Final = 0.5
HEALTHY_SECONDS: Final = 3.0
_CONNECTIONS: Final = 4
_PAUSE: Final = 0.02
_LIMIT: Final = 30.0

_DOCUMENT: Final = f"""\
{DOCUMENT}    rollout:
      candidate: model-b
      steps: [50, 100]
      stage: {{min_duration: 1h, min_requests: 1000}}
      guardrails:
        - {{metric: error_rate, max: 5%}}
"""


async def measure(folder: Path, times: int, tell: Callable[[str], None]) -> list[Reaction]:
    """Measure the time from the first errors to the rollback, each time in a rollout of its own.

    Raises:
        ProbeError: there was no rollback, or one before the errors began.
        ProcessError: a program does not start.
    """
    seconds = []
    for number in range(times):
        seconds.append(await _once(folder / str(number)))
        tell(f"errors_rolled_back: {seconds[-1]:.3f} s")
    meaning = (
        f"half of the candidate's answers turn 503, after {HEALTHY_SECONDS:g} s without errors at 50% -> first "
        f"request of its user on the control (interval {INTERVAL.total_seconds():g} s)"
    )
    return [Reaction("errors_rolled_back", meaning, tuple(seconds))]


async def _once(folder: Path) -> float:
    models = dict.fromkeys((A, B), Behaviour(latency_ms=5, spread=0, output_tokens=2))
    options = StackOptions(models=models, interval=INTERVAL, settle=INTERVAL)
    async with Stack(_DOCUMENT, options, folder) as stack, Probe(stack.ports["envoy"], a_user_of(B)) as probe:
        load = asyncio.create_task(_load(stack.ports["envoy"]))
        try:
            await probe.until_on(B)
            await asyncio.sleep(HEALTHY_SECONDS)
            await at_any_moment()
            if (await probe.ask()).variant != B:
                raise ProbeError("the candidate was rolled back before it failed")
            await stack.behave(B, error_rate=ERROR_RATE)
            began = time.monotonic()
            return (await probe.until_on(A, _LIMIT)).at - began
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)


async def _load(port: int) -> LoadResult:
    """Users who chat until cancelled; the probe's own requests do not reach what fails."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = ("content-type: application/json",)
    requests = [
        request_of("/v1/chat/completions", (f"x-user-id: user-{number}", *headers), body) for number in range(500)
    ]
    return await run_load(port, requests, count=100_000, connections=_CONNECTIONS, pause=_PAUSE)


def a_user_of(variant: str) -> str:
    """A user who is on a variant at the first step."""
    experiment = parse(_DOCUMENT, "the benchmark's document").experiments[0]
    half = bucketing.initial_ranges({A: 5000, B: 5000})
    cells = bucketing.cells(half, experiment.slices)
    names = (f"probe-{number}" for number in range(1000))
    return next(
        name for name in names if cells[bucketing.bucket_of(experiment.hash_salt, name.encode())].variant == variant
    )
