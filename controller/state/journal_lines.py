"""The lines of a journal, wherever they are kept: in files, or in the objects of a cluster.

:class:`controller.state.journal_files.OpenJournal` has those of files. :class:`KeptLines` has those that were read
already. :class:`controller.state.journal_reader.Reader` knows what a line means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from controller.state.journal_files import Line


class JournalLines(Protocol):
    """Lines in either order.

    Attributes:
        complete: whether nothing older was removed.
    """

    complete: bool

    def oldest_first(self, file: int = 0, offset: int = 0) -> Iterator[Line]:
        """Every line from a place on."""

    def newest_first(self) -> Iterator[Line]:
        """Every line, the last one first."""

    def read(self, file: int, offset: int) -> bytes:
        """The line at a place."""

    def place(self, file: int, offset: int) -> str:
        """The place of a line in words."""

    def close(self) -> None:
        """Give back what it holds open."""


class KeptLines:
    """Lines in memory.

    Args:
        lines: oldest first, each with its place in words.
        complete: whether nothing older was removed.
    """

    def __init__(self, lines: Sequence[tuple[bytes, str]], *, complete: bool = False) -> None:
        self._lines = lines
        self.complete = complete

    def oldest_first(self, file: int = 0, offset: int = 0) -> Iterator[Line]:  # noqa: ARG002 - the interface has it
        """See :meth:`JournalLines.oldest_first`; a place's offset is a line's number."""
        for number in range(offset, len(self._lines)):
            yield Line(0, number, self._lines[number][0])

    def newest_first(self) -> Iterator[Line]:
        """See :meth:`JournalLines.newest_first`."""
        for number in reversed(range(len(self._lines))):
            yield Line(0, number, self._lines[number][0])

    def read(self, file: int, offset: int) -> bytes:  # noqa: ARG002 - the interface has it
        """See :meth:`JournalLines.read`."""
        return self._lines[offset][0]

    def place(self, file: int, offset: int) -> str:  # noqa: ARG002 - the interface has it
        """See :meth:`JournalLines.place`."""
        return self._lines[offset][1]

    def close(self) -> None:
        """Nothing is open."""
