"""The experiments document and the routes file on disk: whole reads, a lock, atomic replacement.

Called by :mod:`abmesh.experiment.store`, and by the controller for the file that Envoy takes its routes from. It does
not know what the files hold. :mod:`abmesh.atomic` does the work; this module words the errors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from abmesh import atomic
from abmesh.atomic import Signature
from abmesh.experiment.errors import StoreError

LOCK_SECONDS: Final = 10.0
"""How long a writer waits for the others."""

DOCUMENT: Final = "the experiments document"
"""What messages call a file by default."""

_NEW_MODE: Final = 0o644
"""Mode of a new file: its readers, such as Envoy, may run as other users."""

_SECRET_MODE: Final = 0o600
"""Mode of a new file that holds a secret."""


class Put(NamedTuple):
    """What :func:`put` did.

    Attributes:
        written: whether it had to write.
        signature: of the file that holds the content, even if somebody has replaced it since.
    """

    written: bool
    signature: Signature


def read(path: Path, most: int) -> bytes:
    """The content of a regular file, but no more than ``most`` bytes and one, which shows that there are more.

    Raises:
        StoreError: the file is missing, unreadable or not a regular file.
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
    """Hold the lock that every writer of a file takes.

    The lock is a file of its own beside the target, since every write replaces the target. It is never removed: that
    could give two writers two locks.

    Args:
        target: the real file, not a link to it.
        seconds: how long to wait for other writers.
        what: what messages call the file.

    Raises:
        StoreError: the folder is not writable, or another writer held the lock for too long.
    """
    path = target.with_name(f".{target.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _failure(target, "write", error, what) from error
    try:
        try:
            taken = atomic.wait_for_lock(descriptor, seconds)
        except OSError as error:
            raise _failure(target, "lock", error, what) from error
        if not taken:
            raise StoreError(
                f"{target}: another writer has held the lock for {seconds:g} s; find out who has {path} open"
            )
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def prepared(target: Path, content: bytes) -> Iterator[Path]:
    """A complete copy of new content beside the target, on disk, with the target's mode and owner, for :func:`replace`.

    Only under the lock: it first removes the copies that killed writers left.

    Raises:
        StoreError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            atomic.remove_copies(target)
            target.stat()  # never recreate a document that was deleted
            copy = stack.enter_context(atomic.prepared(target, content))
        except OSError as error:
            raise _failure(target, "write", error) from error
        yield copy.path


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
        atomic.flush_folder(target.parent)
    except OSError as error:
        message = f"{target}: written, but its folder could not be flushed to disk: a power failure may undo the write"
        raise StoreError(message) from error


def put(target: Path, content: bytes, what: str, *, secret: bool = False) -> Put:
    """Give a file new content, at once for every reader and for good, unless it already has that content.

    Everybody can read a new file, or only its owner if it is secret; an existing one keeps its mode and owner. A link
    is replaced by a file. Other callers wait.

    Args:
        target: the file.
        content: what it will hold.
        what: what messages call the file.
        secret: whether the content holds a secret.

    Raises:
        StoreError: it cannot be written.
    """
    with locked(target, LOCK_SECONDS, what):
        try:
            with contextlib.suppress(FileNotFoundError), target.open("rb") as present:
                if present.read() == content:
                    return Put(written=False, signature=atomic.signature_of(os.fstat(present.fileno())))
            atomic.remove_copies(target)
            mode = _SECRET_MODE if secret else _NEW_MODE
            return Put(written=True, signature=atomic.replace_file(target, content, mode=mode))
        except OSError as error:
            raise _failure(target, "write", error, what) from error


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
