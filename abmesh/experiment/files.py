"""The experiments document and the routes file on disk: whole reads, a lock, atomic replacement.

Called by :mod:`abmesh.experiment.store`, and by the controller for the file that Envoy takes its routes from. It does
not know what the files hold. :mod:`abmesh.atomic` does the work; this module words the errors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_hexdigest

from abmesh import atomic, exchange
from abmesh.atomic import Access, Signature
from abmesh.experiment.errors import Conflict, StoreError
from abmesh.holders import holder

LOCK_SECONDS: Final = 10.0
"""How long a writer waits for the others."""

URGENT_SECONDS: Final = 1.0
"""How long a writer waits that goes on without the lock."""

LEFT_SECONDS: Final = 5.0
"""What a writer left aside for longer was left by one that was killed; swapping takes milliseconds."""

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
        raise _failure(target, "write", error, what) from error
    try:
        _let_writers_lock(descriptor, target)
        try:
            taken = atomic.wait_for_lock(descriptor, seconds)
        except OSError as error:
            raise _failure(target, "lock", error, what) from error
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
    """A complete copy of new content beside the target, on disk, with the target's mode and owner, for :func:`swap`.

    Raises:
        StoreError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            target.stat()  # never recreate a document that was deleted
            copy = stack.enter_context(atomic.prepared(target, content))
        except OSError as error:
            raise _failure(target, "write", error) from error
        yield copy.path


def swap(copy: Path, target: Path, *, expected: bytes, ours: bytes, despite_writer: bool = False) -> str:
    """Put a prepared copy in the target's place, at once for every reader and for good, if that is what is expected.

    Where the system can swap two names, nobody who saves the target at the same moment is overwritten. Elsewhere, a
    save between the last look and the rename is, some milliseconds in all.

    Args:
        copy: of :func:`prepared`.
        target: the file.
        expected: what the target must hold.
        ours: what the copy holds.
        despite_writer: whether to do it even if somebody has the target open for writing.

    Returns:
        Where the file is kept that somebody has open for writing; mostly empty.

    Raises:
        Conflict: the target holds something else, or somebody is writing into it; theirs is in place.
        StoreError: it cannot be replaced, or is replaced but perhaps not for good; the message says which.
    """
    aside = _aside(target, expected, ours)
    kept = ""
    try:
        copy.replace(aside)
        try:
            done = exchange.compare_and_swap(aside, target, expected, ours, despite_writer=despite_writer)
        except exchange.Unsupported:
            done = target.read_bytes() == expected
            if done:
                aside.replace(target)
        if _holds_somebodys(aside, expected, ours, late=done and despite_writer):
            kept = _keep(aside, target)
        aside.unlink(missing_ok=True)
    except exchange.Unsettled as error:
        raise Conflict(f"{target} was saved again and again; an earlier save is {_keep(aside, target)}") from error
    except OSError as error:
        with contextlib.suppress(OSError):
            if aside.read_bytes() in (ours, expected):  # otherwise it is somebody's, and the next write puts it back
                aside.unlink()
        raise _failure(target, "write", error) from error
    if not done:
        also = f"; an earlier save is kept in {kept}" if kept else ""
        raise Conflict(f"{target} has changed, or somebody is writing into it{also}; read it again and retry")
    try:
        atomic.flush_folder(target.parent)
    except OSError as error:
        message = f"{target}: written, but its folder could not be flushed to disk: a power failure may undo the write"
        raise StoreError(message) from error
    return kept


def _holds_somebodys(aside: Path, expected: bytes, ours: bytes, *, late: bool) -> bool:
    """Whether what came out must be kept; ``late``: also if somebody has it open and may write into it later."""
    if not aside.exists():  # it became the target, where names cannot be swapped
        return False
    return aside.read_bytes() not in (ours, expected) or (late and exchange.is_being_written(aside))


def recover(target: Path, tell: Callable[[str], None]) -> None:
    """Clear up what killed writers left beside a file; only under the lock.

    One that was killed between a swap and the look at what came out may have left somebody's save under its own name.
    That goes back into place; if the file was saved again since, it is kept beside it.

    Args:
        target: the file.
        tell: called with what was found of other people's.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    try:
        atomic.remove_copies(target)
        for aside, expected, ours in _left_aside(target):
            digest = xxh3_64_hexdigest(aside.read_bytes())
            if digest in (expected, ours):
                aside.unlink()
            elif xxh3_64_hexdigest(target.read_bytes()) == ours:
                exchange.swap_names(aside, target)
                aside.unlink()
                tell(f"{target}: abmesh was killed just when somebody saved the file; their save is in place again")
            else:
                kept = _keep(aside, target)
                tell(f"{target}: abmesh was killed just when somebody saved the file; that save is kept in {kept}")
    except OSError as error:
        raise _failure(target, "write", error) from error


def _aside(target: Path, expected: bytes, ours: bytes) -> Path:
    """Where a copy is while names are swapped: its name tells what it may hold, so that anything else is a person's."""
    digests = f"{xxh3_64_hexdigest(expected)}-{xxh3_64_hexdigest(ours)}"
    return target.with_name(f".{target.name}.{digests}.{secrets.token_hex(4)}.swap")


def _left_aside(target: Path) -> Iterator[tuple[Path, str, str]]:
    """What killed writers left: path, digest of what they expected, and of what they wrote."""
    name = re.compile(rf"{re.escape(f'.{target.name}.')}([0-9a-f]{{16}})-([0-9a-f]{{16}})\.[0-9a-f]{{8}}\.swap")
    for path in list(target.parent.iterdir()):
        match = name.fullmatch(path.name)
        if match and time.time() - path.lstat().st_ctime >= LEFT_SECONDS and not path.is_symlink():
            yield path, match[1], match[2]


def _keep(aside: Path, target: Path) -> str:
    """Keep somebody's content under a name that people see."""
    path = target.with_name(f"{target.name}.kept-{secrets.token_hex(4)}")
    aside.replace(path)
    return str(path)


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
    if error.errno == errno.EROFS and what != DOCUMENT:
        cause = "the file system is read-only; make it writable, or put the file elsewhere"
    return StoreError(f"{path}: cannot {verb} {what}: {cause}")
