"""The journal: every decision with its inputs, one JSON object a line, append-only.

Decisions that change something are written exactly once, before the change counts as done. Holds are written when their
cause changes, and otherwise every ten minutes; see :class:`Pace`. Called by :mod:`controller.rollout` and the CLI.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from abmesh.experiment.errors import StateError
from controller.records import Cause, JournalEntry, Kind, Phase
from controller.settings import JOURNAL_FILE
from controller.state.locks import exclusive, make_folder

LOCK_FILE = "journal.lock"

HOLD_EVERY = timedelta(minutes=10)
"""Time between two entries of a hold whose cause stays the same: an entry takes 10 to 30 kB with its evidence."""


class Journal:
    """The journal of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_FILE
        self._lock = folder / LOCK_FILE

    def append(self, entry: JournalEntry, *, durable: bool) -> None:
        """Write an entry.

        A line that a process died in the middle of writing is completed if only its line end is missing, and cut off
        otherwise.

        Args:
            entry: the entry.
            durable: whether it must survive a power failure.

        Raises:
            StateError: it cannot be written.
        """
        make_folder(self.path.parent)
        line = entry.model_dump_json().encode() + b"\n"
        with exclusive(self._lock):
            try:
                with self.path.open("a+b") as file:
                    _repair(file)
                    file.write(line)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
            except OSError as error:
                raise StateError(f"{self.path}: cannot be written: {error.strerror}") from error

    def holds(self, entry_id: str) -> bool:
        """Whether the journal has a complete entry with this id.

        Raises:
            StateError: the journal cannot be read.
        """
        needle = entry_id.encode()
        return any(
            needle in line and (entry := _parse(line)) is not None and entry.id == entry_id
            for line in _lines(self.path)
        )

    def knows(self, experiment: str) -> bool:
        """Whether the journal has any entry about an experiment.

        Raises:
            StateError: the journal cannot be read.
        """
        needle = experiment.encode()
        return any(
            needle in line and (entry := _parse(line)) is not None and entry.experiment == experiment
            for line in _lines(self.path)
        )


@dataclass(frozen=True, slots=True)
class JournalReading:
    """The readable part of a journal.

    Attributes:
        entries: oldest first.
        damaged: numbers, from 1, of the unreadable lines.
    """

    entries: tuple[JournalEntry, ...]
    damaged: tuple[int, ...]


def read(path: Path, experiment: str | None = None, limit: int | None = None) -> list[JournalEntry]:
    """The entries of a journal, oldest first; none if there is no file.

    A last line without a line end, which a process that died while writing leaves behind, is skipped.

    Args:
        path: of the journal.
        experiment: only entries of this one.
        limit: only this many, the newest.

    Raises:
        StateError: it cannot be read, or a complete line is damaged.
    """
    reading = salvage(path, experiment, limit)
    if reading.damaged:
        raise StateError(f"{path}:{reading.damaged[0]}: damaged; remove the line to read the rest")
    return list(reading.entries)


def salvage(path: Path, experiment: str | None = None, limit: int | None = None) -> JournalReading:
    """Everything readable in a journal, and the numbers of the lines that are not; see :func:`read`.

    Raises:
        StateError: the file cannot be read.
    """
    entries: deque[JournalEntry] = deque(maxlen=limit)
    damaged = []
    for number, line in enumerate(_lines(path), start=1):
        entry = _parse(line)
        if entry is not None:
            if experiment is None or entry.experiment == experiment:
                entries.append(entry)
        elif line.endswith(b"\n"):
            damaged.append(number)
    return JournalReading(tuple(entries), tuple(damaged))


class Pace:
    """Which holds to write: the first, any with another cause, and one every ten minutes."""

    def __init__(self, every: timedelta = HOLD_EVERY) -> None:
        self._every = every
        self._last: dict[str, tuple[Kind, Cause, Phase, datetime]] = {}

    def due(self, experiment: str, kind: Kind, cause: Cause, phase: Phase, now: datetime) -> bool:
        """Whether a hold is due."""
        last = self._last.get(experiment)
        # A negative age means that the clock was set back.
        return last is None or last[:3] != (kind, cause, phase) or not timedelta() <= now - last[3] < self._every

    def written(self, experiment: str, kind: Kind, cause: Cause, phase: Phase, now: datetime) -> None:
        """Remember that an entry was written."""
        self._last[experiment] = (kind, cause, phase, now)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(line: bytes) -> JournalEntry | None:
    try:
        return JournalEntry.model_validate_json(line)
    except ValidationError:
        return None


def _repair(file: BinaryIO) -> None:
    """Make the file end with a line end."""
    end = file.seek(0, os.SEEK_END)
    start = end
    block = 4096
    tail = b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - block)
        file.seek(start)
        tail = file.read(end - start)
        block *= 4
    if not tail or tail.endswith(b"\n"):
        return
    line_start = start + tail.rfind(b"\n") + 1
    if _parse(tail[line_start - start :]) is not None:
        file.write(b"\n")
    else:
        file.truncate(line_start)
