"""A small file that several processes read and write: whole reads, a lock, atomic replacement.

Called by :mod:`abmesh.experiment.store`, and by the controller for the file that Envoy takes its routes from. Nothing
here knows what the file holds.
"""

from __future__ import annotations

import contextlib
import errno
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

from abmesh.experiment.errors import StoreError

LOCK_SECONDS: Final = 10.0
"""How long a writer waits for the others."""

_NEW_MODE: Final = 0o644
"""Of a file that was not there: whoever reads it may be another user."""

DOCUMENT: Final = "the experiments document"
"""What a file is, where nobody says otherwise."""

Signature = tuple[int, int, int, int, int]
"""Device, inode, size, and times of modification and change in nanoseconds."""


class Put(NamedTuple):
    """What became of a file that was to hold some content.

    Attributes:
        written: whether it had to be written.
        signature: of the file that holds the content, whatever others have done to it since.
    """

    written: bool
    signature: Signature


def signature(path: Path) -> Signature | None:
    """What changes when a file's content does, through symbolic links; None if there is no file to be seen."""
    try:
        return _signature(path.stat())
    except OSError:
        return None


def _signature(found: os.stat_result) -> Signature:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read(path: Path, most: int) -> bytes:
    """The content of a regular file, of which more than ``most`` bytes are not read: one byte more shows that.

    Raises:
        StoreError: the file is missing, cannot be read or is no regular file.
    """
    try:
        # Not blocking: a pipe with no writer must not stop a server.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _failure(path, "read", error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreError(f"{path}: not a regular file; the experiments document must be one")
        parts: list[bytes] = []
        left = most + 1
        while left and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    except OSError as error:
        raise _failure(path, "read", error) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(target: Path, seconds: float, what: str = DOCUMENT) -> Iterator[None]:
    """Hold the lock that every writer of a file takes; it ends with the process that holds it, however that ends.

    The lock is a file of its own beside the target, since the target is replaced by every write. It stays there: to
    remove it could give two writers two locks.

    Args:
        target: the real file, not a link to it.
        seconds: how long to wait for other writers.
        what: what the file is, for messages.

    Raises:
        StoreError: the folder cannot be written to, or the lock was not to be had in time.
    """
    path = target.with_name(f".{target.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _failure(target, "write", error, what) from error
    try:
        _wait_for_lock(descriptor, target, path, seconds)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, target: Path, path: Path, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= limit:
                raise StoreError(
                    f"{target}: another writer has held the lock for {seconds:g} s; see who has {path} open"
                ) from None
            time.sleep(random.uniform(0.001, 0.01))
        except OSError as error:
            raise _failure(target, "lock", error) from error
        else:
            return


@contextlib.contextmanager
def prepared(target: Path, content: bytes) -> Iterator[Path]:
    """A complete copy of new content beside the target, on disk, with the target's mode and owner.

    It is for :func:`replace`; what is left of it afterwards is removed. To be used under the lock: copies that killed
    writers left behind are removed first.

    Raises:
        StoreError: it cannot be written.
    """
    copy = _copy_of(target)
    try:
        _remove_copies(target)
        present = target.stat()
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _keep_owner(descriptor, present)
            os.fchmod(descriptor, stat.S_IMODE(present.st_mode))
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        copy.unlink(missing_ok=True)
        raise _failure(target, "write", error) from error
    try:
        yield copy
    finally:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)


def put(target: Path, content: bytes, what: str) -> Put:
    """Give a file new content, at once for every reader and for good.

    A file that holds the content already is left alone. Everybody can read a new file; one that is there keeps its
    mode, and its owner. A link is replaced by a file. Other callers wait.

    Args:
        target: the file.
        content: what it is to hold.
        what: what it is, for messages.

    Raises:
        StoreError: it cannot be written.
    """
    with locked(target, LOCK_SECONDS, what):
        try:
            with contextlib.suppress(FileNotFoundError), target.open("rb") as present:
                if present.read() == content:
                    return Put(written=False, signature=_signature(os.fstat(present.fileno())))
            _remove_copies(target)
            return Put(written=True, signature=_put(target, content))
        except OSError as error:
            raise _failure(target, "write", error, what) from error


def _put(target: Path, content: bytes) -> Signature:
    copy = _copy_of(target)
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        mode = _NEW_MODE
        with contextlib.suppress(FileNotFoundError):
            present = target.stat()
            mode = stat.S_IMODE(present.st_mode)
            _keep_owner(descriptor, present)
        os.fchmod(descriptor, mode)
        _write_all(descriptor, content)
        os.fsync(descriptor)
        copy.replace(target)
        # After the move, which is a change of the file, and of this file: somebody may have replaced it already.
        done = _signature(os.fstat(descriptor))
    finally:
        os.close(descriptor)
        copy.unlink(missing_ok=True)
    _flush_folder(target)
    return done


def replace(copy: Path, target: Path) -> None:
    """Put a prepared copy in the target's place, at once for every reader, and for good.

    Raises:
        StoreError: the target cannot be replaced, or is replaced but perhaps not for good; the message says which.
    """
    try:
        copy.replace(target)
    except OSError as error:
        raise _failure(target, "write", error) from error
    try:
        _flush_folder(target)
    except OSError as error:
        message = f"{target}: written, but its folder could not be flushed to disk: a power failure may undo the write"
        raise StoreError(message) from error


def _copy_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


def _remove_copies(target: Path) -> None:
    """What killed writers left behind."""
    copies = re.compile(rf"{re.escape(f'.{target.name}.')}[0-9a-f]{{16}}\.tmp")
    for path in target.parent.iterdir():
        if copies.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _flush_folder(target: Path) -> None:
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_owner(descriptor: int, present: os.stat_result) -> None:
    """Only root may give a file away; others keep the group if they may, and own what they write."""
    for owner in (present.st_uid, -1):
        try:
            os.fchown(descriptor, owner, present.st_gid)
        except PermissionError:
            continue
        return


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


_CAUSES = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EISDIR: "a folder, not a file",
    errno.EROFS: "the file system is read-only, as a mounted ConfigMap is; change the document where it comes from",
    errno.EACCES: "permission denied for the file or its folder",
    errno.EPERM: "permission denied for the file or its folder",
    errno.EBUSY: "a mount point of its own, which cannot be replaced; mount its folder instead",
    errno.ENOSPC: "no space left on the device",
    errno.ELOOP: "a symbolic link that leads back to itself",
}


def _failure(path: Path, verb: str, error: OSError, what: str = DOCUMENT) -> StoreError:
    cause = _CAUSES.get(error.errno or 0) or error.strerror or type(error).__name__
    return StoreError(f"{path}: cannot {verb} {what}: {cause}")
