"""Writes to the experiments document that overwrite nobody, and what killed writers leave beside it.

People save the document without taking abmesh's lock. So new content is swapped with what is there, which is looked at
and goes back if it is not what was read; see :mod:`abmesh.exchange`. Called by :mod:`abmesh.experiment.store`.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_hexdigest

from abmesh import atomic, exchange
from abmesh.experiment import files
from abmesh.experiment.errors import Conflict, StoreError

URGENT_SECONDS: Final = 1.0
"""How long a writer waits that goes on without the lock."""

LEFT_SECONDS: Final = 5.0
"""What a writer left aside for longer was left by one that was killed; swapping takes milliseconds."""


@contextlib.contextmanager
def exclusive(target: Path, seconds: float, tell: Callable[[str], None], *, urgent: bool) -> Iterator[None]:
    """Lock every other writer of abmesh out, and clear up after those that were killed.

    Args:
        target: the real file.
        seconds: how long to wait for other writers.
        tell: called with what people should know.
        urgent: whether to go on without the lock if another process does not give it back soon.

    Raises:
        StoreError: the lock cannot be had, or the folder cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(target, min(seconds, URGENT_SECONDS) if urgent else seconds))
            recover(target, tell)
        except StoreError as error:
            if not urgent:
                raise
            tell(f"writing without the lock: {error}")
        yield


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
        raise files.failure(target, "write", error) from error
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
        raise files.failure(target, "write", error) from error


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
