"""Locks between processes, and files that are replaced as a whole.

Used by :mod:`abmesh.experiment.files` for the document and the routes file, and by :mod:`controller.state.locks` for
the controller's state. Failures are plain ``OSError``; those two modules turn them into messages.

Locks are ``flock(2)``: they belong to an open file, so they go with the process however it dies, and they hold between
threads as well as between processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

Signature = tuple[int, int, int, int, int]
"""Device, inode, size, and times of modification and change in nanoseconds."""

_PRIVATE: Final = 0o600
"""Mode of a copy until it gets its final one: not everybody may be allowed to read it."""

_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags of a file that must be new: never one that somebody planted, nor where a link leads."""


def signature(path: Path) -> Signature | None:
    """What changes when a file's content does, through symbolic links; None if no file can be seen."""
    try:
        return signature_of(path.stat())
    except OSError:
        return None


def signature_of(found: os.stat_result) -> Signature:
    """See :func:`signature`."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file if it is free; closing the file gives it back.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(descriptor: int, seconds: float) -> bool:
    """Like :func:`try_lock`, but wait up to ``seconds`` for another holder; False if it still holds the lock then."""
    limit = time.monotonic() + seconds
    while not try_lock(descriptor):
        if time.monotonic() >= limit:
            return False
        time.sleep(random.uniform(0.001, 0.01))
    return True


class Access(NamedTuple):
    """Mode and owner of a file."""

    mode: int
    uid: int
    gid: int


class Copy(NamedTuple):
    """New content beside the file that it will replace, and a descriptor that reads it."""

    path: Path
    descriptor: int


def unique_copy(target: Path) -> Path:
    """A path for a copy that no other writer uses; :func:`remove_copies` finds those that were left behind."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


def remove_copies(target: Path) -> None:
    """Remove what killed writers left behind; only under the lock."""
    copies = re.compile(rf"{re.escape(f'.{target.name}.')}[0-9a-f]{{16}}\.tmp")
    for path in target.parent.iterdir():
        if copies.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def prepared(
    target: Path,
    content: bytes,
    *,
    path: Path | None = None,
    mode: int | None = None,
    access: Access | None = None,
    durable: bool = True,
) -> Iterator[Copy]:
    """A complete copy of new content with the target's mode and owner, removed afterwards if it is still there.

    Args:
        target: the file to be replaced, which need not exist.
        content: what the copy holds.
        path: of the copy; a name that no other writer uses by default. A fixed one needs no :func:`remove_copies`,
            but every writer must hold a lock.
        mode: of a new file; what the process's umask gives by default. An existing file keeps its own.
        access: mode and owner that the copy gets whatever the target has; as far as this user may give them.
        durable: whether the copy must survive a power failure.
    """
    path = path or unique_copy(target)
    path.unlink(missing_ok=True)
    if access is None:
        with contextlib.suppress(FileNotFoundError):
            access = access_of(target.stat())
    by_umask = access is None and mode is None
    descriptor = os.open(path, _NEW | os.O_WRONLY, 0o666 if by_umask else _PRIVATE)
    try:
        try:
            if access is not None:
                give(descriptor, access)
            elif mode is not None:
                os.fchmod(descriptor, mode)
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
            if durable:
                os.fsync(descriptor)
            reader = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        finally:
            os.close(descriptor)
        try:
            yield Copy(path, reader)
        finally:
            os.close(reader)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def replace_file(
    target: Path,
    content: bytes,
    *,
    path: Path | None = None,
    mode: int | None = None,
    access: Access | None = None,
    durable: bool = True,
) -> Signature:
    """Give a file new content: every reader sees the old one or the new one. Arguments as of :func:`prepared`.

    Returns:
        The signature of the file that was written, even if somebody has replaced it since.
    """
    with prepared(target, content, path=path, mode=mode, access=access, durable=durable) as copy:
        copy.path.replace(target)
        written = signature_of(os.fstat(copy.descriptor))  # after the move, which changes it
    if durable:
        flush_folder(target.parent)
    return written


def flush_folder(path: Path) -> None:
    """Make a folder's entries survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def access_of(found: os.stat_result) -> Access:
    """Mode and owner as they were found."""
    return Access(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def give(descriptor: int, access: Access) -> None:
    """Give an open file mode and owner.

    Only root may give a file away; others keep the group if they may, and own what they write.

    Raises:
        OSError: this user may not set the mode.
    """
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (access.uid, access.gid):
        for owner in (access.uid, -1):
            try:
                os.fchown(descriptor, owner, access.gid)
            except OSError:  # PermissionError, or EINVAL where this user namespace does not know the owner
                continue
            break
    os.fchmod(descriptor, access.mode)
