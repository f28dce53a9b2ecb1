"""Nothing that a cluster started outlives it, however its starter ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.__main__ import HANDLE
from tests.cluster.programs.catalogue import Programs
from tests.cluster.waiting import wait_for
from tests.cluster.workloads import model
from tests.paths import ROOT

PODS_AND_PROGRAMS = 9
"""At least: etcd, API server, controller manager, network, and a node with a model's pod."""


@pytest.fixture
def up(built_programs: Programs, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A cluster in another process; its folder is the test's own."""
    command = [sys.executable, "-m", "tests.cluster", "up", "--without-istio", str(tmp_path / "cluster")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_every_process_ends_with_the_one_that_started_it(
    up: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "cluster"
    wait_for(lambda: up.poll() is not None or (folder / HANDLE).exists(), "a cluster that is up", 120)
    assert up.poll() is None, (tmp_path / "log").read_text()
    inside = [sys.executable, "-m", "tests.cluster", "inside", str(folder), "kubectl"]
    objects = json.dumps(model("model-a", {"app": "llm"}))
    subprocess.run([*inside, "apply", "-f", "-"], cwd=ROOT, check=True, input=objects.encode())
    subprocess.run([*inside, "rollout", "status", "deployment/model-a", "--timeout=120s"], cwd=ROOT, check=True)
    started = psutil.Process(up.pid).children(recursive=True)
    assert len(started) >= PODS_AND_PROGRAMS

    os.kill(up.pid, number)
    assert up.wait(30) == (0 if number == signal.SIGTERM else -number)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [process.cmdline() for process in alive if process.is_running()] == []
