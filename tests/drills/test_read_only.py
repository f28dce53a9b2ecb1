"""State folder and document on a file system that is mounted read-only: every command says so, and what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.drills.report import Drill
from tests.paths import ROOT

RECORDED: Final = ROOT / "tests" / "recorded" / "v0.1.0" / "running"

READ_ONLY: Final = """
set -e
mount -t tmpfs tmpfs "$1"
cp -r "$2"/. "$1"
chmod -R go= "$1"
mount -o remount,ro "$1"
shift 2
exec "$@"
"""
"""In a mount namespace of its own, so that nothing needs to be unmounted."""


async def _start(place: Path, *command: str) -> asyncio.subprocess.Process:
    """Start a command that sees a read-only copy of a recorded rollout at a place."""
    namespace = [] if os.geteuid() == 0 else ["--map-root-user"]
    return await asyncio.create_subprocess_exec(
        *("unshare", "--mount", *namespace, "sh", "-c", READ_ONLY, "sh", str(place), str(RECORDED), *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _run(place: Path, *command: str) -> tuple[int, str]:
    """Run such a command to its end."""
    process = await _start(place, *command)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.fixture
async def place(tmp_path: Path) -> Path:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare program")
    code, _ = await _run(tmp_path, "true")
    if code:
        pytest.skip("this user may not mount anything")
    return tmp_path


def _abmesh(place: Path, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "abmesh.cli", *arguments, "--config", str(place / "experiments.yaml"))


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (("weights", "chat", "model-b=1"), "change the document where it comes from"),
        (("rollback", "chat"), "choose another folder with --state"),
        (("routes", "{}/routes.json"), "put the file elsewhere"),
    ],
    ids=lambda it: it[0] if isinstance(it, tuple) else "",
)
async def test_a_command_says_what_to_do(place: Path, drill: Drill, command: tuple[str, ...], advice: str) -> None:
    state = ("--state", str(place)) if command[0] == "rollback" else ()
    code, output = await _run(place, *_abmesh(place, *(part.format(place) for part in command), *state))
    assert code == 1
    assert "read-only" in output
    assert advice in output
    assert output.count("\n") == 1
    assert "bug" not in output
    drill.operator_reads(output)


async def test_what_only_reads_works(place: Path) -> None:
    for command in ("status", "explain chat"):
        code, output = await _run(place, *_abmesh(place, *command.split(), "--state", str(place)))
        assert code == 0, output


async def test_a_controller_says_what_to_do_and_goes_on_trying(place: Path, drill: Drill) -> None:
    run = _abmesh(place, "controller", "--state", str(place), "--envoy", "http://127.0.0.1:9", "--interval", "100ms")
    process = await _start(place, *run)
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(60):
            while not lines or "read-only" not in lines[-1]:
                lines.append((await process.stdout.readline()).decode())
                assert lines[-1], lines
    finally:
        process.terminate()
        rest, _ = await process.communicate()
    output = "".join(lines) + rest.decode()
    assert "cannot be opened: the file system is read-only; make it writable, or choose another folder" in output
    assert "bug" not in output
    assert "Traceback" not in output
    drill.operator_reads(lines[-1])
