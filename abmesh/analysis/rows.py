"""A CSV with a row for each unit, or for each value of one, as columns of numbers. Pure.

Called by :mod:`abmesh.analysis.results`; :mod:`abmesh.analysis.rows_tables` adds the columns up. A file may have
millions of rows: a row takes 8 bytes for each column that is read, and 4 for its cell.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from abmesh.analysis import columns
from abmesh.analysis.columns import Where
from abmesh.analysis.layout import count as shown
from abmesh.analysis.mapping import Places
from abmesh.analysis.table import CellKey
from abmesh.analysis.table_cells import MOST_CELLS, MOST_VARIANTS
from abmesh.inference.numbers import Floats

MOST_ROWS = 20_000_000

MISSING = frozenset({"", "-", "na", "n/a", "nan", "null", "none"})
"""What stands for a value that is not there, in any case."""

WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
"""What stands for 1 and 0, in any case."""

NO_SEGMENT = "(none)"
"""The segment of rows that name none."""

LONGEST_NAME = 200

_SEED = 0xAB
"""Of the hash that tells units apart: not the one that assigns them, so groups do not depend on variants."""

_REMEMBERED = 100_000
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")


class Numbers:
    """Turns the cells of one column into numbers; a missing value becomes NaN.

    Attributes:
        name: of the column.
        words: whether a cell was ``true``, ``no`` or the like.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.words = False
        self._known: dict[str, float] = {}

    def read(self, text: str, where: Where) -> float:
        """The number in a cell.

        Raises:
            DataError: it holds something else.
        """
        found = self._known.get(text)
        if found is None:
            found = self._parsed(text.strip(), where)
            if len(self._known) < _REMEMBERED:
                self._known[text] = found
        return found

    def _parsed(self, text: str, where: Where) -> float:
        word = text.casefold()
        if word in MISSING:
            return float("nan")
        if word in WORDS:
            self.words = True
            return WORDS[word]
        if _DECIMAL_COMMA.fullmatch(text):
            where.refuse(self.name, "not a number", text, "a number with a decimal point and no commas, such as 1234.5")
        return columns.number(text, self.name, where)


@dataclass(frozen=True, slots=True)
class Rows:
    """The columns of a file.

    Attributes:
        source: its name.
        metrics: names of the metrics, in the order in which they were asked for.
        keys: stage, segment and variant of each cell.
        cells: which cell each row belongs to, shape (rows,).
        values: of each metric, shape (rows,); NaN where there is none.
        words: for each metric, whether it was written in words.
        n: requests of each row; None where every row is one.
        per: what n counts.
        units: a hash of each row's unit; None where no column names it.
        unit: the name of that column.
        covariate: the value from before of each row, NaN where there is none; None without such a column.
        warnings: sentences on rows that were left out.
    """

    source: str
    metrics: tuple[str, ...]
    keys: tuple[CellKey, ...]
    cells: NDArray[np.int32]
    values: tuple[Floats, ...]
    words: tuple[bool, ...]
    n: Floats | None
    per: str
    units: NDArray[np.uint64] | None
    unit: str
    covariate: Floats | None
    warnings: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """Names in the order in which they first appear."""
        return tuple(dict.fromkeys(variant for _, _, variant in self.keys))


class _Keys:
    """Finds the number of a row's cell; names are checked when they first appear."""

    def __init__(self, at: Places) -> None:
        self._at = at
        self._known: dict[tuple[str, ...], int] = {}
        self.keys: dict[CellKey, int] = {}

    def number(self, row: list[str], where: Where) -> int:
        """Of a row's cell; -1 where it has no variant."""
        at = self._at
        raw = (
            "" if at.stage is None else row[at.stage],
            "" if at.segment is None else row[at.segment],
            *[row[index] for index in at.variants],
        )
        found = self._known.get(raw)
        if found is None:
            found = self._add(raw, where)
            if len(self._known) < _REMEMBERED:
                self._known[raw] = found
        return found

    def _add(self, raw: tuple[str, ...], where: Where) -> int:
        stage, segment, *parts = (text.strip() for text in raw)
        if any(part.casefold() in MISSING for part in parts):
            return -1
        key = (
            stage if self._at.stage is None else label(stage, self._at.name(self._at.stage), where),
            segment
            if self._at.segment is None
            else label(segment or NO_SEGMENT, self._at.name(self._at.segment), where),
            label(" / ".join(parts), self._at.name(self._at.variants[0]), where),
        )
        found = self.keys.setdefault(key, len(self.keys))
        variants = {variant for _, _, variant in self.keys}
        if len(variants) > MOST_VARIANTS:
            column = self._at.name(self._at.variants[0])
            where.refuse(column, "too many variants", key[2], f"at most {MOST_VARIANTS}; is it the variant?")
        if len(self.keys) > MOST_CELLS:
            allowed = f"at most {MOST_CELLS} combinations of variant, segment and stage"
            where.refuse("", "too many groups", f"{len(self.keys)}", allowed)
        return found


def label(text: str, column: str, where: Where) -> str:
    """The name of a variant, a segment, a stage or an experiment: any text on one line that is not too long.

    Raises:
        DataError: it is empty, too long or not printable.
    """
    line = " ".join(text.split())
    if not line or len(line) > LONGEST_NAME or not line.isprintable():
        where.refuse(column, "not a name", text or "nothing", f"1 to {LONGEST_NAME} printable characters in UTF-8")
    return line


def read_rows(rows: Iterator[list[str]], at: Places, where: Where) -> Rows:
    """Read the rows of a file.

    Args:
        rows: cells.
        at: where the columns are; there is a variant.
        where: the row that was given last.

    Raises:
        DataError: a cell cannot be read, or there are too many rows.
    """
    keys = _Keys(at)
    metrics = [Numbers(at.name(index)) for index in at.metrics]
    columns_read = [(reader, index, array("d")) for reader, index in zip(metrics, at.metrics, strict=True)]
    amounts, befores, units = array("d"), array("d"), array("Q")
    before = None if at.covariate is None else Numbers(at.name(at.covariate))
    cells, dropped = array("i"), _Dropped()
    for number, row in enumerate(rows, start=1):
        if number > MOST_ROWS:
            where.refuse("", "too many rows", allowed=f"at most {MOST_ROWS}")
        cell = keys.number(row, where)
        if cell < 0:
            dropped.add(at.name(at.variants[0]), where)
            continue
        if at.unit is not None:
            unit = row[at.unit].strip()
            if unit.casefold() in MISSING:
                dropped.add(at.name(at.unit), where)
                continue
            if len(unit) > columns.LONGEST_USER:
                allowed = f"1 to {columns.LONGEST_USER} characters"
                where.refuse(at.name(at.unit), "not a unit", f"{len(unit)} characters", allowed)
            units.append(xxhash.xxh64_intdigest(unit.encode(errors="surrogateescape"), seed=_SEED))
        cells.append(cell)
        if at.n is not None:
            amounts.append(columns.whole(row[at.n].strip(), at.name(at.n), where))
        for reader, index, values in columns_read:
            values.append(reader.read(row[index], where))
        if before is not None and at.covariate is not None:
            befores.append(before.read(row[at.covariate], where))
    return Rows(
        source=where.source,
        metrics=tuple(reader.name for reader in metrics),
        keys=tuple(keys.keys),
        cells=np.array(cells, dtype=np.int32),
        values=tuple(_floats(values) for _, _, values in columns_read),
        words=tuple(reader.words for reader in metrics),
        n=None if at.n is None else _floats(amounts),
        per="rows" if at.n is None else at.name(at.n),
        units=None if at.unit is None else np.array(units, dtype=np.uint64),
        unit="" if at.unit is None else at.name(at.unit),
        covariate=None if before is None else _floats(befores),
        warnings=dropped.sentences(),
    )


class _Dropped:
    """Counts rows that name no variant or no unit."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, int]] = {}

    def add(self, column: str, where: Where) -> None:
        count, line = self._rows.get(column, (0, where.line))
        self._rows[column] = (count + 1, line)

    def sentences(self) -> tuple[str, ...]:
        return tuple(
            f"{shown(count)} {'row has' if count == 1 else 'rows have'} no {column} and "
            f"{'is' if count == 1 else 'are'} left out; the first is on line {line}"
            for column, (count, line) in self._rows.items()
        )


def _floats(values: array[float]) -> Floats:
    return np.frombuffer(values, dtype=np.float64) if values else np.zeros(0)
