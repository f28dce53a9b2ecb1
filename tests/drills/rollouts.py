"""Rollouts for drills of the controller: their document, their processes, and what the operator reads of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from abmesh.local.stack import Stack, StackOptions
from tests.e2e.support import INSTANT, PATIENT, document, eventually, status

USERS = [f"user-{number}" for number in range(400)]


def rollout(
    *,
    steps: str = "[50, 100]",
    min_duration: str = "1h",
    min_requests: int = 5,
    guardrails: str = "[{metric: error_rate, max: 5%}]",
    more: str = "",
) -> str:
    """A document with one rollout of model-b; ``more`` are further lines of it, indented by six spaces."""
    return document(
        {"model-a": 100.0, "model-b": 0.0},
        rollout=f"""\
    rollout:
      candidate: model-b
      steps: {steps}
      stage: {{min_duration: {min_duration}, min_requests: {min_requests}}}
      guardrails: {guardrails}
{more}""",
    )


def drilled(folder: Path, text: str, *, flush: timedelta = timedelta(milliseconds=500)) -> Stack:
    """A stack whose controller waits for ``start_controller``, so that its command can be changed before."""
    options = StackOptions(
        models=dict.fromkeys(("model-a", "model-b"), INSTANT),
        interval=timedelta(milliseconds=200),
        controller_later=True,
        settle=timedelta(milliseconds=500),
        stats_flush_interval=flush,
        message_timeout=PATIENT,
    )
    return Stack(text, options, folder)


async def has_weight(running: Stack, percent: float, seconds: float = 30.0) -> None:
    """Wait until the candidate has this share of the users."""

    async def there() -> bool:
        return bool((await status(running))["weights"]["model-b"] == percent)

    await eventually(there, seconds)


def peak_memory(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no peak of memory")
