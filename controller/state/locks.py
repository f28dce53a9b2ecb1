"""The lock files and files of the controller's state folder: :mod:`abmesh.atomic`, with errors in words.

Called by the other modules of this folder and by :mod:`controller.wiring`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abmesh import atomic
from abmesh.experiment.errors import StateError


@contextmanager
def exclusive(path: Path, *, timeout: float = 10.0) -> Iterator[None]:
    """Hold a lock file exclusively.

    Args:
        path: of the lock file, which is made if needed and stays.
        timeout: seconds to wait for another holder.

    Raises:
        StateError: the lock file cannot be used, or another process held it for too long.
    """
    descriptor = open_lock(path)
    try:
        try:
            taken = atomic.wait_for_lock(descriptor, timeout)
        except OSError as error:
            raise _no_locks(error) from error
        if not taken:
            raise StateError(f"{path}: another process has held this lock for {timeout:g} s; try again")
        yield
    finally:
        os.close(descriptor)


def open_lock(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """The descriptor of a lock file, for :func:`try_lock`.

    Raises:
        StateError: it cannot be opened.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateError(f"{path}: cannot be opened: {error.strerror}") from error


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file if it is free; closing the file gives it back.

    Raises:
        StateError: the file system has no locks.
    """
    try:
        return atomic.try_lock(descriptor, shared=shared)
    except OSError as error:
        raise _no_locks(error) from error


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old content or the new one. Callers hold a lock.

    Args:
        path: of the file.
        content: what it will hold.
        durable: whether it must survive a power failure, not only the death of the process.

    Raises:
        StateError: it cannot be written; the old content is still there.
    """
    try:
        atomic.replace_file(path, content, path=path.with_name(path.name + ".tmp"), durable=durable)
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror}") from error


def make_folder(path: Path) -> None:
    """Make a folder for state.

    Raises:
        StateError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(
            f"{path}: cannot create the folder for the controller's state: {error.strerror}; choose another with "
            f"--state"
        ) from error


def _no_locks(error: OSError) -> StateError:
    return StateError(
        f"a file in the controller's state folder cannot be locked: {error.strerror}; the folder must be on a file "
        f"system with locks, such as a local disk; choose another with --state"
    )
