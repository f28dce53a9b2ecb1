"""What every recorded version left behind, taken over by today's processes: they start, tick and serve, and change
nothing that was decided.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from abmesh.experiment.store import FileStore
from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import Stack, fetch
from controller.state.journal import read
from controller.state.states import StateStore
from tests.drills.report import Drill
from tests.e2e.support import abmesh, ask_all, metric, predicted, stack
from tests.ext_proc.programs import program
from tests.paths import ROOT

pytestmark = pytest.mark.envoy

RECORDED: Final = ROOT / "tests" / "recorded"
FOLDERS: Final = sorted(path.parent for path in RECORDED.glob("*/*/journal.jsonl"))
TICKS: Final = 3
USERS: Final = [f"user-{number}" for number in range(100)]


def name_of(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


async def controller_goes_on(running: Stack, recorded: Path, folder: Path, drill: Drill) -> None:
    """Start a controller on a copy of a recorded folder, against the real Envoy, and let it tick."""
    (port,) = free_ports(1)
    before = {name: (folder / name).read_bytes() for name in ("journal.jsonl", "experiments.yaml")}
    state = StateStore(folder).read().experiments["chat"]
    command = [sys.executable, "-m", "abmesh.cli", "controller", "--config", str(folder / "experiments.yaml")]
    command += ["--state", str(folder), "--envoy", running.admin, "--interval", "200ms", "--settle", "500ms"]
    child = Child(name_of(recorded), [*command, "--http", f"127.0.0.1:{port}"], folder / "controller.log")
    await child.start()
    try:

        async def ticked() -> bool:
            text = await fetch(f"http://127.0.0.1:{port}/metrics")
            return text is not None and metric(text, "abmesh_controller_ticks_total") >= TICKS

        await child.wait_until(ticked, 60)
        health = json.loads(await fetch(f"http://127.0.0.1:{port}/healthz") or "{}")
        code, shown, errors = await abmesh(
            "status", "--json", "--state", str(folder), config=folder / "experiments.yaml"
        )
    finally:
        ended = await child.stop()
    drill.operator_reads(
        f"{name_of(recorded)}: /healthz {health['status']}, abmesh status {json.loads(shown)['state']}"
    )
    assert (code, errors, ended) == (0, "", 0)
    assert (health["status"], health["document_error"], health["failures"], health["error"]) == ("leading", "", {}, "")
    assert "Traceback" not in child.log.read_text()
    journal = (folder / "journal.jsonl").read_bytes()
    assert journal.startswith(before["journal.jsonl"]), "a recorded line was changed"
    assert len(list(read(folder / "journal.jsonl"))) >= len(before["journal.jsonl"].splitlines())
    after = StateStore(folder).read().experiments["chat"]
    if state.phase != "progressing":
        assert after.phase == state.phase
        assert (folder / "experiments.yaml").read_bytes() == before["experiments.yaml"], "a finished rollout moved"


async def server_serves(recorded: Path, folder: Path) -> None:
    """Start a server on a recorded document."""
    async with program(folder, "--listen", "127.0.0.1:0") as server:
        await server.ready()
        generation = f"{FileStore(folder / 'experiments.yaml').read().generation:013x}"
        assert f"generation {generation}" in server.text, name_of(recorded)
        assert await server.stop() == 0
        assert "Traceback" not in server.text


async def take_over(folders: list[Path], tmp_path: Path, drill: Drill) -> None:
    document = (folders[0] / "experiments.yaml").read_text()
    async with stack(tmp_path / "stack", document, models=("a", "b")) as running:
        copies = []
        for recorded in folders:
            for process in ("controller", "server"):
                copies.append(tmp_path / process / name_of(recorded))
                shutil.copytree(recorded, copies[-1])
        async with asyncio.TaskGroup() as tasks:
            for recorded, controller, server in zip(folders, copies[::2], copies[1::2], strict=True):
                tasks.create_task(controller_goes_on(running, recorded, controller, drill))
                tasks.create_task(server_serves(recorded, server))
        answers = await ask_all(running.url, USERS)
        expected = await predicted(running.config, USERS)
        drill.sent = len(answers)
        drill.failed = sum(answer.status != 200 for answer in answers.values())
        drill.wrong = sum(answer.variant != expected[user] for user, answer in answers.items())
        assert (drill.failed, drill.wrong) == (0, 0)


async def test_todays_processes_take_over_a_running_and_a_manual_rollout(tmp_path: Path, drill: Drill) -> None:
    chosen = [folder for folder in FOLDERS if folder.name in ("running", "split")]
    assert len(chosen) >= 2
    await take_over(chosen[:2], tmp_path, drill)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_todays_processes_take_over_everything_that_was_recorded(tmp_path: Path, drill: Drill) -> None:
    assert len(FOLDERS) >= 8
    await take_over(FOLDERS, tmp_path, drill)
