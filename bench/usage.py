"""What processes have used: CPU time and memory, from the operating system. Called by :mod:`bench.contenders`."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psutil


def cpu_seconds(pid: int) -> dict[int, float]:
    """CPU time, user and system, that a process and its children have used since they started, by process id.

    From each process's own CPU clock, which counts nanoseconds; the times that psutil gives are in steps of 10 ms,
    and so a twentieth of what a fast server uses in a round.
    """
    return {process.pid: time.clock_gettime(_cpu_clock(process.pid)) for process in _family(pid)}


def _cpu_clock(pid: int) -> int:
    """The number of a process's CPU clock, as ``clock_getcpuclockid`` makes it: all threads, those that ended too."""
    return (~pid << 3) | 2


def spent(before: Mapping[int, float], after: Mapping[int, float]) -> dict[int, float]:
    """CPU seconds between two readings of :func:`cpu_seconds`, by process id."""
    return {pid: seconds - before.get(pid, 0.0) for pid, seconds in after.items()}


def worker_pids(pid: int) -> list[int]:
    """The processes of a server that answer requests: its children, or itself if it has none."""
    children = psutil.Process(pid).children(recursive=True)
    return [child.pid for child in children] or [pid]


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in MB (10^6 bytes)."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
