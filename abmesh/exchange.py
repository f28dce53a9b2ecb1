"""Replace a file only if it still is what it was, so that nobody who saves it at the same moment is overwritten.

A rename cannot tell what it replaces. Linux can swap two names at once (``renameat2(2)`` with ``RENAME_EXCHANGE``), so
whatever was in place comes out whole and can be looked at. If it is not what was expected, somebody saved: it goes back
into place. Called by :mod:`abmesh.experiment.files`.

People save by replacing the file, or by writing into it. A file that comes out is only believed when nobody has it
open for writing, which a lease (``fcntl(2)``, ``F_SETLEASE``) tells; nobody can open it any more, as its name is gone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2

_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
"""What kernels, file systems and sandboxes answer that cannot swap names, or do not let this process."""

_NUMBERS: Final = {"x86_64": 316, "aarch64": 276}
"""The system call's number, where the C library does not know it yet."""

_ATTEMPTS: Final = 100
"""How often somebody may save between two swaps, each within microseconds, before their file is kept beside instead."""

_SETTLE_SECONDS: Final = 0.002
"""An ``open`` that began before the swap has ended by then."""

_BLIND_SECONDS: Final = 0.05
"""How long to wait for a writer where leases do not tell whether there is one."""


class Unsupported(OSError):  # noqa: N818 - says what it is
    """Names cannot be swapped here. Nothing was done."""


class Unsettled(OSError):  # noqa: N818 - says what it is
    """Somebody saved the file again and again. Their file is in place, an earlier one of theirs beside it."""


def swap_names(first: Path, second: Path) -> None:
    """Swap two files' names at once.

    Raises:
        Unsupported: it is not possible here.
        OSError: it failed.
    """
    call = _renameat2()
    if call is None:
        raise Unsupported(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    kind = Unsupported if number in _UNSUPPORTED else OSError
    raise kind(number, os.strerror(number), str(second))


def compare_and_swap(copy: Path, target: Path, expected: bytes, ours: bytes, *, despite_writer: bool = False) -> bool:
    """Put a copy in a file's place if the file holds what is expected.

    Args:
        copy: new content, on disk and open for writing nowhere. Afterwards it is what came out, and may be removed.
        target: the file.
        expected: what it should hold.
        ours: what the copy holds.
        despite_writer: whether to do it even if somebody has the file open for writing, as long as it holds what is
            expected. What they write later goes to ``copy``, which must be kept if :func:`is_being_written`.

    Returns:
        Whether it was done. If not, somebody else's newest content is in place, as if nothing had been tried, and
        ``copy`` is ours again; or an earlier content of theirs, if they saved several times in these microseconds.

    Raises:
        Unsupported: nothing was done.
        Unsettled: see there; ``copy`` must be kept.
        OSError: it failed; ``copy`` may hold somebody's content and must be kept.
    """
    swap_names(copy, target)
    out = _settled(copy)
    if out == expected or (out is None and despite_writer and copy.read_bytes() == expected):
        return True
    # What came out is somebody's. Whatever comes out when it goes back is either what was just put in, or newer.
    inside: bytes | None = ours
    for _ in range(_ATTEMPTS):
        try:
            swap_names(copy, target)
        except Unsupported as error:  # although it was possible a moment ago
            raise OSError(error.errno, error.strerror, str(target)) from error
        inside, before, out = out, inside, _settled(copy)
        if out == before:
            return False
    raise Unsettled(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def is_being_written(path: Path) -> bool:
    """Whether somebody has a file open for writing; false where that cannot be told."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return bool(_has_writer(descriptor))
    finally:
        os.close(descriptor)


def _settled(path: Path) -> bytes | None:
    """The content of a file that has lost its name; None while somebody still writes into it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        known = False
        for pause in (0.0, _SETTLE_SECONDS):
            time.sleep(pause)
            written = _has_writer(descriptor)
            if written:
                return None
            known = written is not None
        if not known:
            time.sleep(_BLIND_SECONDS)
        content = b""
        while part := os.pread(descriptor, 1 << 20, len(content)):
            content += part
        return content
    finally:
        os.close(descriptor)


def _has_writer(descriptor: int) -> bool | None:
    """Whether anybody has an open file open for writing; None where that cannot be told.

    Only the owner and root may take leases, and not every file system has them.
    """
    try:
        # A lease that is broken sends a signal, by default one that ends the process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


@cache
def _renameat2() -> Callable[..., int] | None:
    try:
        library = ctypes.CDLL(None, use_errno=True)
        call = library.renameat2
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    except (OSError, AttributeError):
        number = _NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
        return None if number is None else partial(library.syscall, ctypes.c_long(number))
    return call
