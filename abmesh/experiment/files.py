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
from abmesh.atomic import Access, Signature
from abmesh.experiment.errors import StoreError
from abmesh.holders import holder

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
        raise failure(path, "read", error) from error
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
        raise failure(path, "read", error) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(target: Path, seconds: float, what: str = DOCUMENT) -> Iterator[None]:
    """Hold the lock that every writer of a file takes.

    The lock is a file of its own beside the target, since every write replaces the target. It is never removed: that
    could give two writers two locks. Whoever may write the target may lock it, and nobody else.

    Args:
        target: the real file, not a link to it.
        seconds: how long to wait for other writers.
        what: what messages call the file.

    Raises:
        StoreError: the folder is not writable, or another writer held the lock for too long.
    """
    path = target.with_name(f".{target.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(
                f"{path}: a symbolic link in place of the lock of {what}, which abmesh does not follow; remove it"
            ) from error
        raise failure(target, "write", error, what) from error
    try:
        _let_writers_lock(descriptor, target)
        try:
            taken = atomic.wait_for_lock(descriptor, seconds)
        except OSError as error:
            raise failure(target, "lock", error, what) from error
        if not taken:
            raise StoreError(
                f"{target}: {holder(path)} has held the lock of {what} for {seconds:g} s; end it, or wait. The lock is "
                f"{path}"
            )
        yield
    finally:
        os.close(descriptor)


def _let_writers_lock(descriptor: int, target: Path) -> None:
    """Give a lock the owner of its target, and the mode that lets those take it who may write the target."""
    with contextlib.suppress(OSError):  # somebody else's lock, or there is no target yet
        found = target.stat()
        writers = stat.S_IMODE(found.st_mode) & 0o222 | 0o200
        wanted = Access(writers | writers << 1, found.st_uid, found.st_gid)
        if atomic.access_of(os.fstat(descriptor)) != wanted:
            atomic.give(descriptor, wanted)


@contextlib.contextmanager
def prepared(target: Path, content: bytes) -> Iterator[Path]:
    """A complete copy of new content beside the target, on disk, with the target's mode and owner, for
    :func:`abmesh.experiment.saves.swap`.

    Raises:
        StoreError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            target.stat()  # never recreate a document that was deleted
            copy = stack.enter_context(atomic.prepared(target, content))
        except OSError as error:
            raise failure(target, "write", error) from error
        yield copy.path


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
            raise failure(target, "write", error, what) from error


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


_MISSING = (errno.ENOENT, errno.ENOTDIR)


def failure(path: Path, verb: str, error: OSError, what: str = DOCUMENT) -> StoreError:
    """An error of the file system in words: ``PATH: cannot VERB WHAT: CAUSE``."""
    cause = _CAUSES.get(error.errno or 0) or error.strerror or type(error).__name__
    if error.errno in _MISSING and (verb, what) == ("read", DOCUMENT):
        cause += "; name another with --config or ABMESH_CONFIG"
    if error.errno == errno.EROFS and what != DOCUMENT:
        cause = "the file system is read-only; make it writable, or put the file elsewhere"
    return StoreError(f"{path}: cannot {verb} {what}: {cause}")
