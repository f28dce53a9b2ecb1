"""Locks and atomic files: the two things that everything on disk here is built on.

The locks are ``flock(2)``: they belong to an open file, so that they go with the process however it dies, and they hold
between threads as well as between processes.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abmesh.experiment.errors import StateError

_POLL = 0.01


@contextmanager
def exclusive(path: Path, *, timeout: float = 10.0) -> Iterator[None]:
    """Hold a lock file exclusively.

    Args:
        path: of the lock file, which is made if needed and stays.
        timeout: seconds to wait for another holder.

    Raises:
        StateError: the lock cannot be had.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        deadline = time.monotonic() + timeout
        while not try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise StateError(f"{path}: another process has held this lock for {timeout:g} s; try again")
            time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take a lock on an open file if it is free; closing the file gives it back.

    Raises:
        StateError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StateError(
            f"a file in the controller's state folder cannot be locked: {error.strerror}; the folder must be on a file "
            f"system with locks, such as a local disk; name another with --state"
        ) from error
    return True


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old content or the new one. Callers hold a lock.

    Args:
        path: of the file; beside it a temporary one is written.
        content: what it will hold.
        durable: whether it must survive a power failure, not only the death of the process.

    Raises:
        StateError: it cannot be written; the old content is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror}") from error


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder for state.

    Raises:
        StateError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"{path}: the folder for the controller's state cannot be made: {error.strerror}; name another with --state"
        ) from error
