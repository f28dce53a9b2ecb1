"""Reads entries of a journal one at a time, in either order, so that memory does not grow with the journal.

Called by :mod:`controller.state.journal`, by :mod:`controller.state.lookup` and by the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from abmesh.experiment.errors import StateError
from controller.records import JournalEntry
from controller.state.journal_files import Line, OpenJournal
from controller.state.journal_lines import JournalLines

MOST_DAMAGED: Final = 20
"""Unreadable lines that are named; of others only the number is kept."""

_HEAD: Final = re.compile(rb'\{"id":"([^"\\]*)","at":"[^"\\]*","experiment":"([^"\\]*)"')
"""How every entry of ours begins; a line that begins otherwise is parsed to see what it is."""


class Reader:
    """Entries of a journal, one at a time; a context manager.

    Attributes:
        damaged: how many unreadable lines were met so far.
        complete: whether no older file was removed.
    """

    def __init__(self, journal: Path | JournalLines, experiment: str | None = None) -> None:
        """Open a journal, which need not exist.

        Args:
            journal: its lines, or the path of the file that is written to; those that were put aside lie beside it.
            experiment: only entries of this one.

        Raises:
            StateError: it cannot be opened, or has a gap.
        """
        self.damaged = 0
        self._damaged: list[tuple[int, int]] = []
        self._experiment = experiment
        self._files = OpenJournal(journal) if isinstance(journal, Path) else journal
        self.complete = self._files.complete

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def oldest_first(self, last: int | None = None) -> Iterator[JournalEntry]:
        """Entries in the order in which they were written.

        Args:
            last: only so many, the newest.

        Raises:
            StateError: a file cannot be read.
        """
        if last is None:
            yield from (entry for _, entry in self._entries(self._files.oldest_first()))
            return
        start: tuple[int, int] | None = None
        for found, (line, _) in enumerate(self._entries(self._files.newest_first()), 1):
            if found <= last:
                start = line.file, line.offset
            if found >= last:
                break
        if start is not None and last > 0:
            self.damaged = 0  # they are met again
            self._damaged.clear()
            yield from (entry for _, entry in self._entries(self._files.oldest_first(*start)))

    def newest_first(self, maybe: Callable[[bytes], bool] = lambda _: True) -> Iterator[JournalEntry]:
        """Entries in reverse order.

        Args:
            maybe: whether a line is worth being read, by its bytes.

        Raises:
            StateError: a file cannot be read.
        """
        return (entry for _, entry in self._entries(self._files.newest_first(), maybe))

    def places(self, maybe: Callable[[bytes], bool]) -> Iterator[tuple[int, int]]:
        """Where lines are that begin as the experiment's entries do and may be wanted by their bytes; newest first."""
        wanted = (self._experiment or "").encode()
        for line in self._files.newest_first():
            head = _HEAD.match(line.data)
            if head is not None and head[2] == wanted and maybe(line.data):
                yield line.file, line.offset

    def read(self, place: tuple[int, int]) -> JournalEntry | None:
        """The entry at a place; None if it cannot be read."""
        return parse_entry(self._files.read(*place))

    def damaged_places(self) -> tuple[str, ...]:
        """Where the first :data:`MOST_DAMAGED` of the unreadable lines are, as ``FILE:LINE``, in order."""
        return tuple(self._files.place(*found) for found in sorted(self._damaged))

    def _entries(
        self, lines: Iterator[Line], maybe: Callable[[bytes], bool] = lambda _: True
    ) -> Iterator[tuple[Line, JournalEntry]]:
        wanted = None if self._experiment is None else self._experiment.encode()
        for line in lines:
            head = _HEAD.match(line.data)
            if head is not None and (wanted not in (None, head[2]) or not maybe(line.data)):
                continue
            entry = parse_entry(line.data)
            if entry is not None:
                if self._experiment in (None, entry.experiment):
                    yield line, entry
            elif not line.torn:
                self.damaged += 1
                if len(self._damaged) < MOST_DAMAGED:
                    self._damaged.append((line.file, line.offset))


def damage(place: str) -> StateError:
    """The error for an unreadable line."""
    return StateError(f"{place}: damaged; remove the line to read the rest")


def has_id(*ids: str) -> Callable[[bytes], bool]:
    """Tells by a line's bytes whether its entry may have one of these ids."""
    wanted = frozenset(each.encode() for each in ids)

    def maybe(line: bytes) -> bool:
        head = _HEAD.match(line)
        return head is None or head[1] in wanted

    return maybe


def matching(lines: Iterator[Line], group: int, text: str) -> Iterator[tuple[Line, JournalEntry]]:
    """The entries whose id (group 1 of the head) or experiment (group 2) may be a text."""
    needle = text.encode()
    for line in lines:
        head = _HEAD.match(line.data)
        if (needle in line.data if head is None else head[group] == needle) and (
            entry := parse_entry(line.data)
        ) is not None:
            yield line, entry


def parse_entry(line: bytes) -> JournalEntry | None:
    """The entry of a line; None if it is torn or damaged."""
    try:
        return JournalEntry.model_validate_json(line)
    except ValidationError:
        return None
