"""The lease: of several controllers on one state folder, one leads and the others stand by.

The lease is a file lock held for the life of the process, released however that ends. It is never renewed, so a
controller that was suspended for an hour cannot have lost it and act nevertheless. Used by :mod:`controller.loop`;
:mod:`controller.rollout.status` reads who leads.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from abmesh.experiment.errors import StateError
from controller.state.locks import make_folder, open_lock, try_lock

LOCK_FILE = "leader.lock"


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
        # The name of the leader is only information; a full disk must not keep a controller from leading.
        with suppress(OSError):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Stop leading."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def leader(folder: Path) -> str | None:
    """Who leads, as ``PID on HOST``; None if nobody does.

    Never waits: it takes a shared lock for an instant. A controller that starts in that instant finds the lock taken,
    and tries again within a second.
    """
    path = folder / LOCK_FILE
    if not path.exists():
        return None
    descriptor = open_lock(path, os.O_RDONLY)
    try:
        if try_lock(descriptor, shared=True):
            return None
        return os.pread(descriptor, 300, 0).decode(errors="replace").strip() or "somebody"
    finally:
        os.close(descriptor)
