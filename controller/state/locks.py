"""The lock files and files of the controller's state folder: :mod:`abmesh.atomic`, with errors in words.

Nobody but the controller's user may touch them, or a group that the folder is shared with: who can open a lock file can
keep its lock. New files get their mode, owner and group from the folder; links in their place are never followed.
Called by the other modules of this folder and by :mod:`controller.wiring`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from abmesh import atomic
from abmesh.atomic import Access
from abmesh.experiment.errors import StateError
from abmesh.holders import holder, user_name

LOCK_SECONDS: Final = 10.0
"""How long to wait for another holder of a lock."""

URGENT_SECONDS: Final = 2.0
"""How long a rollback for harm waits before it goes on without the state."""

_SAFE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def exclusive(path: Path, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
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
            raise StateError(
                f"{path}: {holder(path)} has held this lock for {timeout:g} s; end that process, or wait and try again"
            )
        yield
    finally:
        os.close(descriptor)


def open_lock(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """The descriptor of a lock file, for :func:`try_lock`.

    Raises:
        StateError: it cannot be opened.
    """
    try:
        return private(os.fspath(path), flags)
    except OSError as error:
        raise failure(path, "opened", error) from error


def private(path: str, flags: int) -> int:
    """Open a file of the state folder as only its users may, for the built-in ``open`` as its ``opener``.

    Raises:
        OSError: it cannot be opened, or is a link.
    """
    descriptor = os.open(path, flags | _SAFE, 0o600)
    if flags & (os.O_RDWR | os.O_WRONLY):
        with suppress(OSError):  # somebody else's file, whose mode is theirs to set
            wanted = _access(Path(path).parent)
            if atomic.access_of(os.fstat(descriptor)) != wanted:
                atomic.give(descriptor, wanted)
    return descriptor


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file if it is free; closing the file gives it back.

    Raises:
        StateError: the file system has no locks.
    """
    try:
        return atomic.try_lock(descriptor, shared=shared)
    except OSError as error:
        raise _no_locks(error) from error


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        StateError: it cannot be read.
    """
    try:
        with open(path, "rb", opener=private) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise failure(path, "read", error) from error


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader sees the old content or the new one. Callers hold a lock.

    Args:
        path: of the file.
        content: what it will hold.
        durable: whether it must survive a power failure, not only the death of the process.

    Raises:
        StateError: it cannot be written; the old content is still there.
    """
    copy = path.with_name(path.name + ".tmp")
    try:
        for each in (path, copy):
            _refuse_link(each)
        atomic.replace_file(path, content, path=copy, access=_access(path.parent), durable=durable)
    except OSError as error:
        raise failure(Path(error.filename) if error.errno == errno.ELOOP else path, "written", error) from error


def make_folder(path: Path) -> None:
    """Make a folder for state; one in the state folder has the same users.

    Raises:
        StateError: it cannot be made.
    """
    try:
        if path.is_dir():
            return
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o755, exist_ok=True)  # whatever the umask: who may write there may replace the folder
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0) or f"{error.strerror}; choose another with --state"
        raise StateError(f"{path}: cannot create the folder for the controller's state: {cause}") from error


def make_subfolder(path: Path) -> None:
    """Make a folder in the state folder, for the same users.

    Raises:
        StateError: it cannot be made, or is a link.
    """
    try:
        _refuse_link(path)
        if path.is_dir():
            return
        path.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            atomic.give(descriptor, atomic.access_of(path.parent.stat()))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failure(path, "created", error) from error


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _access(folder: Path) -> Access:
    """What a folder's files get: its owner and group; its users may read and write them."""
    found = folder.stat()
    mode = 0o660 if found.st_mode & stat.S_IWGRP and not found.st_mode & 0o007 else 0o600
    return Access(mode, found.st_uid, found.st_gid)


_CAUSES: Final = {
    errno.EROFS: "the file system is read-only; make it writable, or choose another folder with --state",
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.ELOOP: "it is a symbolic link, which abmesh does not follow here; remove it",
    errno.EISDIR: "a folder is in its place",
}


def failure(path: Path, verb: str, error: OSError) -> StateError:
    """An error of the file system in words: ``PATH: cannot be VERB: CAUSE``."""
    cause = _CAUSES.get(error.errno or 0) or error.strerror or type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM):
        cause = f"permission denied for user {user_name(os.geteuid())}; be the controller's user, or share its folder "
        cause += "with a group (--state-group)"
    return StateError(f"{path}: cannot be {verb}: {cause}")


def trouble(error: OSError) -> str:
    """An error of the system that no other place has put into words: no bug, but nothing that was foreseen either."""
    where = f"{error.filename}: " if error.filename else ""
    return where + (_CAUSES.get(error.errno or 0) or str(error.strerror or error))


def _no_locks(error: OSError) -> StateError:
    return StateError(
        f"a file in the controller's state folder cannot be locked: {error.strerror}; the folder must be on a file "
        f"system with locks, such as a local disk; choose another with --state"
    )
