"""Who holds the lock of a file, in words for people who have to end it. Linux's ``/proc`` tells; elsewhere nobody does.

Called by :mod:`abmesh.experiment.files` and :mod:`controller.state.locks`.
"""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")

_FLOCK: Final = re.compile(r"\d+: FLOCK +\S+ +\S+ +(\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")
"""A line of ``/proc/locks``: the process that took the lock, then device and inode of the file."""


def holder(path: Path) -> str:
    """Who holds a file's lock: ``process 4711 (flock, user bob)``; or how to find out."""
    unknown = f"another process (`fuser -v {path}`, as root, names it)"
    pid = holder_pid(path)
    if pid is None:
        return unknown
    return _process(pid) or f"a child of process {pid}, which has ended ({unknown})"


def holder_pid(path: Path) -> int | None:
    """The process that took a file's lock; None if nobody holds it, or it cannot be told."""
    try:
        found = path.stat()
        locks = (_PROC / "locks").read_text()
    except OSError:
        return None
    wanted = (os.major(found.st_dev), os.minor(found.st_dev), found.st_ino)
    for line in locks.splitlines():
        match = _FLOCK.match(line)
        if match and (int(match[2], 16), int(match[3], 16), int(match[4])) == wanted and match[1] != "0":
            return int(match[1])
    return None


def _process(pid: int) -> str:
    """A process, its command and its user; no arguments, which may hold secrets. Empty if it has ended."""
    try:
        command = (_PROC / f"{pid}" / "comm").read_text().strip()
        uid = (_PROC / f"{pid}").stat().st_uid
    except OSError:
        return ""
    return f"process {pid} ({command}, user {user_name(uid)})"


def user_name(uid: int) -> str:
    """A user's name; the number if it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
