"""What the service manager is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from controller.watchdog import ALIVE, READY, notify, seconds, too_short


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_reach_the_socket(short_path: Path, abstract: bool) -> None:
    name = f"abmesh-test-{os.getpid()}" if abstract else str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind("\0" + name if abstract else name)
        environment = {"NOTIFY_SOCKET": "@" + name if abstract else name}
        notify(READY, environment)
        notify(ALIVE, environment)
        assert [receiver.recv(100), receiver.recv(100)] == [b"READY=1", b"WATCHDOG=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "@" + "x" * 300}])
def test_without_anybody_to_tell_nothing_happens(environment: dict[str, str]) -> None:
    notify(READY, environment)


def test_the_watchdogs_time_is_that_of_this_process_only() -> None:
    assert seconds({"WATCHDOG_USEC": "30000000"}) == 30
    assert seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 30
    assert seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert seconds({"WATCHDOG_USEC": "soon"}) is None
    assert seconds({}) is None


def test_a_watchdog_that_would_end_a_healthy_controller_is_told_of() -> None:
    environment = {"WATCHDOG_USEC": "10000000"}
    assert "WatchdogSec=10 is too short" in too_short(10, environment)
    assert too_short(10, environment).endswith("set 20 or more")
    assert too_short(5, environment) == too_short(10, {}) == ""
