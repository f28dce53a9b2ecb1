"""Tells systemd that the controller is up, and that its ticks still end: ``sd_notify(3)``. Used by the wiring.

With ``Type=notify`` and ``WatchdogSec=`` in its unit, a controller whose ticks have stopped ending is killed and
started again, and so loses a lease that it would keep for ever while it hangs. Without systemd, nothing happens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"


def notify(message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a message to the service manager, if there is one; never fails and never waits."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name without a file
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto(message.encode(), address)


def seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """How long the service manager waits for a sign of life of this process; None if it does not watch it."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None


def too_short(longest: float, environment: Mapping[str, str] = os.environ) -> str:
    """A warning, if the service manager would end a controller that is well; empty otherwise.

    Args:
        longest: seconds that a tick and the wait for the next one take at most.
        environment: of this process.
    """
    watched = seconds(environment)
    if watched is None or watched >= 2 * longest:
        return ""
    return (
        f"WatchdogSec={watched:g} is too short: a tick and the wait for the next one may take {longest:g} s, so "
        f"systemd may end a controller that is well; set {2 * longest:g} or more"
    )
