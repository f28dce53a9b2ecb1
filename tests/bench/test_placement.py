"""Which CPUs run what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.placement import Placement, here, placed, split

REPORT = "import os; print(os.getpid(), sorted(os.sched_getaffinity(0)))"


@pytest.mark.parametrize(
    ("cpus", "load", "tested"),
    [([0, 1], (0,), (1,)), ([2, 5, 7], (2,), (5, 7)), (list(range(8)), (0, 1, 2, 3), (4, 5, 6, 7)), ([3], (), ())],
)
def test_the_load_gets_one_half_and_what_is_tested_the_other(
    cpus: list[int], load: tuple[int, ...], tested: tuple[int, ...]
) -> None:
    assert split(cpus) == Placement(load, tested)


def test_a_placement_says_who_runs_where() -> None:
    assert str(split([0, 1, 2, 3])) == "load and upstream on CPU 0,1, Envoy and server on CPU 2,3"
    assert str(Placement()) == "not pinned"


@pytest.mark.process
def test_a_placed_command_and_its_children_stay_on_their_cpus_under_one_process_id() -> None:
    cpu = min(os.sched_getaffinity(0))
    child = f"{REPORT}; import subprocess, sys; subprocess.run([sys.executable, '-c', {REPORT!r}], check=True)"
    command = placed([cpu], [sys.executable, "-u", "-c", child])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        text, _ = process.communicate(timeout=30)
    first, second = text.splitlines()
    assert first == f"{process.pid} [{cpu}]"
    assert second.endswith(f"[{cpu}]")


def test_without_cpus_a_command_stays_as_it_is() -> None:
    assert placed([], ["envoy", "-c", "x"]) == ["envoy", "-c", "x"]


def test_a_thread_goes_back_to_where_it_was(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    with here([min(before)]):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before
    with here([]):
        assert os.sched_getaffinity(0) == before
