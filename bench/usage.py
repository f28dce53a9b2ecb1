"""What processes have used: CPU time and memory, from the operating system. Called by :mod:`bench.contenders`."""

from __future__ import annotations

from collections.abc import Mapping

import psutil


def cpu_seconds(pid: int) -> dict[int, float]:
    """CPU time, user and system, that a process and its children have used since they started, by process id."""
    used: dict[int, float] = {}
    for process in _family(pid):
        times = process.cpu_times()
        used[process.pid] = times.user + times.system
    return used


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
