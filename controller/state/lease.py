"""The lease: of several controllers on one state folder, one leads and the others stand by.

The lease is a file lock held for the life of the process, released however that ends. It is never renewed, so a
controller that was suspended for an hour cannot have lost it and act nevertheless. But one that hangs keeps it; so the
leader writes a heartbeat into the same file after every tick, and everybody can see how old that is. Used by
:mod:`controller.loop`; :mod:`controller.rollout.status` reads who leads.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, ConfigDict, Field, ValidationError

from abmesh.experiment.errors import StateError
from abmesh.holders import holder, holder_pid
from controller.records import Record
from controller.state.locks import make_folder, open_lock, try_lock

LOCK_FILE: Final = "leader.lock"

_EVERY: Final = 10.0
"""Seconds that a tick and the wait for the next one take at most by default."""

_SHORTEST: Final = 5.0
"""Seconds without a tick that are never too long."""

_LONGEST_FILE: Final = 65_536
_LONGEST_TEXT: Final = 1000


class Heartbeat(Record):
    """What the leader tells after every tick.

    Attributes:
        at: when the tick ended.
        every: seconds that a tick and the wait for the next one may take, if nothing is wrong.
        error: why the tick failed; empty if it did not.
        failures: why experiments could not be handled, by name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: AwareDatetime
    every: float
    error: str = ""
    failures: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leader:
    """Who has the lease.

    Attributes:
        process: ``PID on HOST``.
        since: when its last tick ended, or before the first, when it began to lead.
        heartbeat: the last one; None before the first.
        intruder: the process that has the lock although it is no controller, in words; empty if there is none.
    """

    process: str
    since: datetime
    heartbeat: Heartbeat | None = None
    intruder: str = ""

    def age(self, now: datetime) -> float:
        """Seconds since its last tick ended, by the wall clock."""
        return max(0.0, (now - self.since).total_seconds())

    def stalled(self, now: datetime) -> bool:
        """Whether no tick has ended for much longer than one should take, or none ever will."""
        return self.stalled_after(self.age(now))

    def stalled_after(self, seconds: float) -> bool:
        """The same, if the last tick ended so many seconds ago."""
        every = self.heartbeat.every if self.heartbeat else _EVERY
        # A heartbeat is a controller's, even if its process has another number where it runs.
        return bool(self.intruder and self.heartbeat is None) or seconds > max(_SHORTEST, 3 * every)


class Lease:
    """The lease of one state folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process leads."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Try to lead.

        Returns:
            Whether this process leads now.

        Raises:
            StateError: the lock file cannot be used.
        """
        if self.held:
            return True
        make_folder(self._path.parent)
        descriptor = open_lock(self._path)
        try:
            locked = try_lock(descriptor)
        except StateError:
            os.close(descriptor)
            raise
        if not locked:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        self._write(None)
        return True

    def beat(self, heartbeat: Heartbeat) -> None:
        """Tell that a tick has ended; nothing if this process does not lead."""
        short = {name: text[:_LONGEST_TEXT] for name, text in list(heartbeat.failures.items())[:20]}
        self._write(heartbeat.model_copy(update={"error": heartbeat.error[:_LONGEST_TEXT], "failures": short}))

    def leader(self) -> Leader:
        """Who leads, as read without the lock; only if it is taken."""
        return _read(self._path)

    def release(self) -> None:
        """Stop leading."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, heartbeat: Heartbeat | None) -> None:
        if self._descriptor is None:
            return
        text = f"{os.getpid()} on {socket.gethostname()}\n"
        if heartbeat is not None:
            text += heartbeat.model_dump_json() + "\n"
        content = text.encode()
        # It is only information; a full disk must not keep a controller from leading.
        with suppress(OSError):
            os.pwrite(self._descriptor, content, 0)
            os.truncate(self._descriptor, len(content))


def leader(folder: Path) -> Leader | None:
    """Who leads; None if nobody does.

    Never waits: it takes a shared lock for an instant. A controller that starts in that instant finds the lock taken,
    and tries again within a second.

    Raises:
        StateError: the lock file cannot be read.
    """
    path = folder / LOCK_FILE
    try:
        if not path.exists():
            return None
    except OSError:  # the folder is not for this user: opening the file says so
        pass
    descriptor = open_lock(path, os.O_RDONLY)
    try:
        return None if try_lock(descriptor, shared=True) else _read(path)
    finally:
        os.close(descriptor)


def _read(path: Path) -> Leader:
    descriptor = open_lock(path, os.O_RDONLY)
    try:
        content = os.pread(descriptor, _LONGEST_FILE, 0).decode(errors="replace")
        since = datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC)
    finally:
        os.close(descriptor)
    process, *rest = content.split("\n")
    heartbeat = None
    with suppress(ValidationError):  # none yet, or another one is being written over it
        heartbeat = Heartbeat.model_validate_json(rest[0]) if rest and rest[0] else None
    pid, _, host = process.partition(" on ")
    taken_by = holder_pid(path)
    known = pid.isdecimal() and (host != socket.gethostname() or taken_by in (None, int(pid)))
    intruder = "" if known or not taken_by else holder(path)
    return Leader(process or "somebody", heartbeat.at if heartbeat else since, heartbeat, intruder)
