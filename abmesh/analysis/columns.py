"""The cells of a table of results: what each column may hold, and errors that name the place. Pure.

Called by :mod:`abmesh.analysis.table_reader` and the modules that it calls.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from abmesh.experiment.errors import DataError, Problem
from abmesh.text import shorten

LARGEST = 10**15
"""Most requests in one cell."""

LONGEST_NAME = 63
LONGEST_USER = 1024
LONGEST_LINE = 65_536
"""Most characters of a line, its end included."""

_WHOLE = re.compile(r"[0-9]{1,16}(?:\.0*)?")
_QUOTED = re.compile(r'"[^"]*"')
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


@dataclass(slots=True)
class Where:
    """A line of a source, 1-based, or 0 for all of it."""

    source: str
    line: int

    def refuse(self, column: str, message: str, found: str = "", allowed: str = "", longest: int = 60) -> NoReturn:
        """Raise an error with file, line, column, what was found and what is allowed.

        Raises:
            DataError: always.
        """
        if found:
            found = shorten(found, longest)
            found = found if found.isprintable() else found.encode("unicode_escape").decode()
        raise DataError(Problem(column, self.line, message, found, allowed).describe(self.source))


def whole(text: str, column: str, where: Where) -> int:
    """A whole number of at least 0; also ``12.0``, as some programs write it.

    Raises:
        DataError: it is not one.
    """
    number = int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else LARGEST + 1
    if number > LARGEST:
        where.refuse(column, "not a count", text or "nothing", "a whole number from 0 to 10^15, such as 1200")
    return number


def number(text: str, column: str, where: Where) -> float:
    """A finite number with a decimal point.

    Raises:
        DataError: it is not one.
    """
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    if not abs(value) < 1e150:
        where.refuse(column, "not a number", text or "nothing", "a number with a decimal point, such as 12.5")
    return value


def name(text: str, column: str, where: Where) -> str:
    """The name of a variant, a segment or a stage.

    Raises:
        DataError: it is empty, too long or not printable.
    """
    if not text or len(text) > LONGEST_NAME or not text.isprintable():
        where.refuse(column, "not a name", text or "nothing", f"1 to {LONGEST_NAME} printable characters")
    return text


def moment(text: str, where: Where) -> tuple[float, bool]:
    """A moment, and whether it is a date: a number is kept, a date becomes seconds since 1970.

    A date without a time zone is in UTC.

    Raises:
        DataError: it is neither.
    """
    if _NUMBER.fullmatch(text):
        return number(text, "time", where), False
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        where.refuse(
            "time", "not a time", text or "nothing", "a number, or a date such as 2026-11-22 or 2026-11-22T14:30:00Z"
        )
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp(), True


def bounded(lines: Iterable[str], source: str) -> Iterator[str]:
    """The lines, unless one is too long.

    Raises:
        DataError: one is.
    """
    for count, line in enumerate(lines, start=1):
        if len(line) >= LONGEST_LINE:
            Where(source, count).refuse("", "the line is too long", allowed=f"at most {LONGEST_LINE - 1} characters")
        yield line


def separator(line: str) -> str:
    """What separates the columns of a file: whichever of ``, ; | tab`` its first line has most of."""
    bare = _QUOTED.sub("", line)
    return max(",;\t|", key=bare.count)  # The comma where there are none, or as many of each.


def header(cells: Sequence[str], known: Sequence[str], required: Sequence[str], where: Where) -> tuple[str, ...]:
    """The names of the columns, in the table's order.

    Raises:
        DataError: a column is unknown, named twice or missing.
    """
    names = tuple(cell.strip().lower() for cell in cells)
    allowed = ", ".join(known)
    for column in names:
        if column not in known:
            where.refuse("", "unknown column", column or "nothing", allowed)
        if names.count(column) > 1:
            where.refuse("", "the same column twice", column, "each column once")
    missing = [column for column in required if column not in names]
    if missing:
        where.refuse("", f"missing columns: {', '.join(missing)}", ", ".join(names), allowed)
    return names
