"""CPU time and memory of processes, from the operating system."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench import usage
from bench.running import shares

_BUSY_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: time.time()"])
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """Process ids of an idle parent and of its busy child."""
    command = [sys.executable, "-c", _BUSY_CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            yield parent.pid, int(parent.stdout.readline())
        finally:
            parent.stdin.close()
            parent.wait(10)


@pytest.mark.process
def test_cpu_time_of_children_is_counted(family: tuple[int, int]) -> None:
    parent, child = family
    before = usage.cpu_seconds(parent)
    assert set(before) == {parent, child}
    deadline = time.monotonic() + 30
    while (spent := usage.spent(before, usage.cpu_seconds(parent)))[child] < 0.1:
        assert time.monotonic() < deadline, spent
        time.sleep(0.02)
    assert spent[child] > spent[parent]


@pytest.mark.process
def test_workers_are_the_children_or_the_process_itself(family: tuple[int, int]) -> None:
    parent, child = family
    assert usage.worker_pids(parent) == [child]
    assert usage.worker_pids(child) == [child]


def test_a_process_that_started_meanwhile_counts_from_its_start() -> None:
    assert usage.spent({1: 2.0}, {1: 2.5, 7: 0.25}) == {1: 0.5, 7: 0.25}


def test_memory_is_in_millions_of_bytes() -> None:
    assert 5 < usage.resident_mb(os.getpid()) < 5000


def test_shares_are_sorted_and_sum_to_one() -> None:
    assert shares([1.0, 3.0]) == (0.75, 0.25)
    assert shares([]) == ()
    assert shares([0.0, 0.0]) == ()
