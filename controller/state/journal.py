"""The journal: every decision with its inputs, one JSON object a line, append-only.

Decisions that change something are written exactly once, before the change counts as done. :mod:`controller.state.pace`
says which holds are written, and :mod:`controller.state.journal_files` how a full file is put aside. Called by
:mod:`controller.rollout` and the CLI.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from abmesh import atomic
from abmesh.experiment.journal_bound import JournalBound
from controller.records import JournalEntry
from controller.settings import JOURNAL_FILE
from controller.state.journal_files import LONGEST_LINE, OpenJournal, last_line_end, rotated, rotated_path
from controller.state.journal_reader import Reader, damage, matching, parse_entry
from controller.state.locks import LOCK_SECONDS, exclusive, failure, make_folder, private

LOCK_FILE = "journal.lock"

log = logging.getLogger("abmesh.controller")

_HOLD_SECONDS = 1.0
"""How long a hold waits for the lock; it is written at a later tick instead."""


class Journal:
    """The journal of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_FILE
        self._lock = folder / LOCK_FILE
        self._bound: JournalBound | None = None

    def keep_within(self, bound: JournalBound) -> None:
        """Bound the journal from now on; before a document was read, nothing is put aside and nothing removed."""
        self._bound = bound

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
        with exclusive(self._lock, timeout=LOCK_SECONDS if durable else _HOLD_SECONDS):
            try:
                self._make_room(len(line))
                new = not self.path.exists()
                with open(self.path, "ab", opener=private) as file:
                    file.write(line)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                if durable and new:
                    atomic.flush_folder(self.path.parent)
            except OSError as error:
                raise failure(self.path, "written", error) from error

    def holds(self, entry_id: str) -> bool:
        """Whether the journal has a complete entry with this id.

        Raises:
            StateError: the journal cannot be read.
        """
        with OpenJournal(self.path) as files:
            return any(entry.id == entry_id for _, entry in matching(files.newest_first(), 1, entry_id))

    def knows(self, experiment: str) -> bool:
        """Whether the journal has any entry about an experiment.

        Raises:
            StateError: the journal cannot be read.
        """
        with OpenJournal(self.path) as files:
            return any(entry.experiment == experiment for _, entry in matching(files.newest_first(), 2, experiment))

    def entry(self, experiment: str, entry_id: str = "") -> JournalEntry | None:
        """The newest entry of an experiment, or the one with an id; None if there is none.

        Raises:
            StateError: the journal cannot be read.
        """
        with OpenJournal(self.path) as files:
            group, text = (1, entry_id) if entry_id else (2, experiment)
            found = (entry for _, entry in matching(files.newest_first(), group, text))
            return next((entry for entry in found if entry.experiment == experiment), None)

    def _make_room(self, length: int) -> None:
        """Make the file end with a line end, and put it aside if a line of this length would be too much for it."""
        try:
            descriptor = private(os.fspath(self.path), os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            _repair(descriptor)
            size = os.fstat(descriptor).st_size
            if self._bound is None or size == 0 or size + length <= self._bound.max_size:
                return
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._put_aside(self._bound.keep)

    def _put_aside(self, keep: int) -> None:
        """Rename the file, and remove those beyond the bound; a decision is recorded even if neither is possible."""
        aside = rotated(self.path)
        number = aside[-1][0] + 1 if aside else 1
        try:
            self.path.rename(rotated_path(self.path, number))
            atomic.flush_folder(self.path.parent)
            for _, oldest in aside[: len(aside) + 1 - keep]:
                oldest.unlink()
                log.info("journal: removed %s, the oldest of more than %d files", oldest.name, keep)
        except OSError as error:
            log.warning("journal: %s could not be put aside or the oldest file not removed: %s", self.path, error)


@dataclass(frozen=True, slots=True)
class JournalReading:
    """The readable part of a journal.

    Attributes:
        entries: oldest first.
        damaged: places of the first unreadable lines, as ``FILE:LINE``.
    """

    entries: tuple[JournalEntry, ...]
    damaged: tuple[str, ...]


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
        raise damage(reading.damaged[0])
    return list(reading.entries)


def salvage(path: Path, experiment: str | None = None, limit: int | None = None) -> JournalReading:
    """Everything readable in a journal, and the places of the lines that are not; see :func:`read`.

    Raises:
        StateError: the file cannot be read.
    """
    with Reader(path, experiment) as reader:
        entries = tuple(reader.oldest_first(limit))
        return JournalReading(entries, reader.damaged_places())


def _repair(descriptor: int) -> None:
    """Make a file end with a line end."""
    end = os.fstat(descriptor).st_size
    if end == 0 or os.pread(descriptor, 1, end - 1) == b"\n":
        return
    start = last_line_end(descriptor, end)
    if end - start <= LONGEST_LINE and parse_entry(os.pread(descriptor, end - start, start)) is not None:
        os.pwrite(descriptor, b"\n", end)
    else:
        os.ftruncate(descriptor, start)
