"""What the drills of the controller share: a rollout, more controllers, and what is done to their files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from abmesh.cli.json_records import status_json
from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import fetch
from controller.rollout.status import read_status
from controller.settings import Settings
from tests.drills.report import Drill
from tests.e2e.load import Load
from tests.e2e.support import abmesh, document

USERS: Final = [f"user-{number}" for number in range(400)]


def rollout(min_duration: str = "1h", steps: str = "[50, 100]") -> str:
    """A document whose candidate gets its first step at once and stays there for the time given."""
    return document(
        {"model-a": 100.0, "model-b": 0.0},
        rollout=f"""\
    rollout:
      candidate: model-b
      steps: {steps}
      stage: {{min_duration: {min_duration}, min_requests: 5}}
      guardrails:
        - {{metric: error_rate, max: 5%}}
""",
    )


class Files(Protocol):
    """Where a stack, or as much of one as a drill needs, has its files."""

    @property
    def folder(self) -> Path: ...
    @property
    def config(self) -> Path: ...
    @property
    def state(self) -> Path: ...
    @property
    def admin(self) -> str: ...


def controller(running: Files, name: str, *arguments: str, environment: tuple[str, ...] = ()) -> tuple[Child, str]:
    """Another controller of a stack, not started, and its HTTP address. It is fast, and so notices a stall soon."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "abmesh.cli", "controller", "--config", str(running.config)]
    command += ["--state", str(running.state), "--envoy", running.admin, "--http", f"127.0.0.1:{port}"]
    command += ["--interval", "200ms", "--settle", "300ms", "--timeout", "500ms", *arguments]
    prefix = ["env", *environment] if environment else []
    return Child(name, prefix + command, running.folder / f"{name}.log"), f"http://127.0.0.1:{port}"


async def health(url: str) -> dict[str, Any]:
    """What ``/healthz`` says; empty while nobody answers."""
    text = await fetch(f"{url}/healthz")
    return json.loads(text) if text else {}


def statuses(running: Files) -> dict[str, dict[str, Any]]:
    """What ``abmesh status --json`` says by experiment, without the time that a new process takes."""
    settings = Settings(config=running.config, state_dir=running.state)
    return {found.experiment: status_json(found) for found in read_status(settings)}


async def shown(running: Files) -> str:
    """What ``abmesh status`` shows, in one line."""
    code, output, errors = await abmesh("status", "--state", str(running.state), config=running.config)
    assert code == 0, errors
    return " ".join(output.split())


def has(running: Files, experiment: str = "chat", **wanted: Any) -> Callable[[], Awaitable[bool]]:
    """A condition: whether the status has these values; ``weight`` is the candidate's."""

    async def there() -> bool:
        found = statuses(running)[experiment]
        found["weight"] = found["weights"]["model-b"]
        return all(found[name] == value for name, value in wanted.items())

    return there


async def moves(running: Files, experiment: str = "chat") -> list[tuple[str, float, float]]:
    """Every decision in the journal that moved the candidate: kind, its weight before, its weight after."""
    code, output, errors = await abmesh("journal", experiment, "--json", "--state", str(running.state))
    assert code == 0, errors
    return [
        (entry["decision"], entry["weights_before"]["model-b"], entry["weights_after"]["model-b"])
        for entry in map(json.loads, output.splitlines())
        if entry["weights_before"] != entry["weights_after"]
    ]


def account(drill: Drill, *loads: Load, harmed: bool = False) -> None:
    """Count a load's requests. Where the candidate itself is made to fail, its errors are not abmesh's."""
    for load in loads:
        drill.sent += len(load.answers) + len(load.broken)
        failed = [found for _, found in load.answers if found.status != 200]
        if harmed:
            failed = [found for found in failed if found.variant != "model-b"]
        drill.failed += len(load.broken) + len(failed)
        drill.wrong += sum(answer.status == 200 and answer.variant != answer.model for _, answer in load.answers)


def flip(path: Path, place: int = -40) -> None:
    """Change one bit of one byte, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


HOLD: Final = """
import fcntl, sys, time
files = [open(path, "a") for path in sys.argv[1:]]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@contextmanager
def holding(*locks: Path) -> Iterator[int]:
    """A process that keeps locks; its id."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, *map(str, locks)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
