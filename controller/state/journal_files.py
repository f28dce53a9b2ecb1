"""The files of a journal, and their lines in either order with bounded memory.

The controller writes to ``journal.jsonl``. A full file is put aside as ``journal.000001.jsonl``, the next one as
``journal.000002.jsonl`` and so on, by one rename under the writers' lock, so that every entry is in exactly one file at
any moment. Readers take no lock: :class:`OpenJournal` holds all files open, and reads what they were when it opened
them.

Used by :mod:`controller.state.journal`, which knows what a line means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from abmesh import atomic
from abmesh.experiment.errors import StateError

LONGEST_LINE: Final = 32_000_000
"""Bytes; a longer line is no entry but damage, and is not kept in memory."""

_ATTEMPTS: Final = 20
"""How often to open all files, while writers put aside and remove one after the other."""

_BLOCK: Final = 1 << 18
_NUMBER: Final = r"[0-9]{6,}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal.

    Attributes:
        file: index of its file in the open journal.
        offset: of its first byte in that file.
        data: with its line end, unless it is torn; empty if it is too long to be an entry.
        torn: whether its line end is missing.
    """

    file: int
    offset: int
    data: bytes
    torn: bool = False


def rotated(path: Path) -> list[tuple[int, Path]]:
    """The files that were put aside, oldest first, each with its number.

    Raises:
        StateError: the folder cannot be read.
    """
    form = re.compile(rf"{re.escape(path.stem)}\.({_NUMBER}){re.escape(path.suffix)}")
    try:
        found = [(form.fullmatch(each.name), each) for each in path.parent.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError(f"{path.parent}: cannot be read: {error.strerror}") from error
    return sorted((int(match[1]), each) for match, each in found if match)


def rotated_path(path: Path, number: int) -> Path:
    """Where a file is put aside."""
    return path.with_name(f"{path.stem}.{number:06}{path.suffix}")


def last_line_end(descriptor: int, end: int) -> int:
    """Where the last line begins that ends after ``end``: just behind the last line end before it, or 0."""
    while end > 0:
        start = max(0, end - _BLOCK)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    descriptor: int
    size: int


class OpenJournal:
    """All files of a journal as they are now, oldest first; a context manager that closes them.

    Attributes:
        complete: whether no older file was removed.
    """

    def __init__(self, path: Path, *, block: int = _BLOCK) -> None:
        """Open the files; none is no error.

        Args:
            path: of the file that is written to.
            block: bytes that are read at once.

        Raises:
            StateError: one cannot be opened, or one between two others is missing.
        """
        self._size = block
        for attempt in range(_ATTEMPTS):
            files, numbers, sure = _open_all(path)
            if sure or attempt == _ATTEMPTS - 1:
                break
            for file in files:
                os.close(file.descriptor)
        self._files: Sequence[_File] = files
        self.complete = re.fullmatch(rf".*\.{_NUMBER}", path.stem) is None and (not numbers or numbers[-1] == 1)
        gap = next((older + 1 for newer, older in pairwise(numbers) if older + 1 < newer), None)
        if gap is not None:
            self.close()
            raise StateError(
                f"{rotated_path(path, gap)}: missing, although older and newer files of the journal are there; restore "
                f"it, or move the older files away"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __bool__(self) -> bool:
        """Whether there is any file."""
        return bool(self._files)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file.descriptor)
        self._files = ()

    def oldest_first(self, file: int = 0, offset: int = 0) -> Iterator[Line]:
        """Every line from a place on, which must be the beginning of one."""
        for index in range(file, len(self._files)):
            yield from self._forwards(index, offset if index == file else 0)

    def newest_first(self) -> Iterator[Line]:
        """Every line, the last one first."""
        for index in reversed(range(len(self._files))):
            yield from self._backwards(index)

    def read(self, file: int, offset: int) -> bytes:
        """The line that begins at a place."""
        return next(self._forwards(file, offset)).data

    def place(self, file: int, offset: int) -> str:
        """The place of a line as ``FILE:LINE``, numbered from 1."""
        opened = self._files[file]
        blocks = (self._block(opened, start, min(start + self._size, offset)) for start in range(0, offset, self._size))
        number = 1 + sum(block.count(b"\n") for block in blocks)
        return f"{opened.path}:{number}"

    def _forwards(self, index: int, offset: int) -> Iterator[Line]:
        file = self._files[index]
        pieces: list[bytes] = []
        start, gathered = offset, 0
        while offset < file.size:
            block = self._block(file, offset, min(offset + self._size, file.size))
            if not block:
                break  # a torn line was cut off in the meantime
            begin = 0
            while (at := block.find(b"\n", begin)) >= 0:
                data = b"".join([*pieces, block[begin : at + 1]]) if gathered <= LONGEST_LINE else b""
                yield Line(index, start, data)
                begin, start, gathered = at + 1, offset + at + 1, 0
                pieces.clear()
            gathered += len(block) - begin
            pieces.append(block[begin:])
            if gathered > LONGEST_LINE:
                pieces.clear()
            offset += len(block)
        if gathered:
            yield Line(index, start, b"".join(pieces), torn=True)

    def _backwards(self, index: int) -> Iterator[Line]:
        file = self._files[index]
        pieces: list[bytes] = []
        """Parts of a line whose beginning was not reached yet, the last part first."""
        end = position = file.size
        gathered, torn = 0, True
        while position > 0:
            start = max(0, position - self._size)
            block = self._block(file, start, position)
            if len(block) < position - start:  # a torn line was cut off in the meantime
                end, gathered = start + len(block), 0
                pieces.clear()
            stop = len(block)
            if start + stop == end and block.endswith(b"\n"):
                torn = False
            while (at := block.rfind(b"\n", 0, stop - 1 if start + stop == end else stop)) >= 0:
                data = b"".join([block[at + 1 : stop], *reversed(pieces)]) if gathered <= LONGEST_LINE else b""
                yield Line(index, start + at + 1, data, torn)
                end, stop, gathered, torn = start + at + 1, at + 1, 0, False
                pieces.clear()
            gathered += stop
            pieces.append(block[:stop])
            if gathered > LONGEST_LINE:
                pieces.clear()
            position = start
        if end > 0:
            yield Line(index, 0, b"".join(reversed(pieces)) if gathered <= LONGEST_LINE else b"", torn)

    def _block(self, file: _File, start: int, stop: int) -> bytes:
        try:
            return os.pread(file.descriptor, stop - start, start)
        except OSError as error:
            raise StateError(f"{file.path}: cannot be read: {error.strerror}") from error


def _opened(path: Path) -> _File | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    return _File(path, descriptor, os.fstat(descriptor).st_size)


def _open_all(path: Path) -> tuple[list[_File], list[int], bool]:
    """Open the files of a journal, oldest first; with the numbers of those put aside, newest first.

    The one that is written to is opened first, and the others newest first: whatever writers do meanwhile, what is open
    then has no gap. Only if they put it aside and remove it before the others are listed, its place is not known; the
    last value is False then, and it must be tried again.
    """
    current = _opened(path)
    found = current is None
    opened: list[_File] = []
    numbers: list[int] = []
    try:
        for number, each in reversed(rotated(path)):
            file = _opened(each)
            if file is None:
                found = found and bool(opened)
                break
            if current is not None and os.path.sameopenfile(file.descriptor, current.descriptor):
                # It was put aside after it was opened, so whatever was opened before is newer.
                for newer in (file, *opened):
                    os.close(newer.descriptor)
                opened, numbers, found = [], [number], True
                continue
            opened.append(file)
            numbers.append(number)
        if current is not None and not found:
            there = atomic.signature(path)
            found = there is not None and there[:2] == atomic.signature_of(os.fstat(current.descriptor))[:2]
    except BaseException:
        for each_open in (*opened, current):
            if each_open is not None:
                os.close(each_open.descriptor)
        raise
    return [*reversed(opened), *([] if current is None else [current])], numbers, found
