"""A CSV of results as sums by stage, segment and variant. Pure: lines of text in, records out.

Two forms are read, told apart by the column ``user``:

aggregates  variant, n, sum[, sum_squares][, segment][, stage][, time]    one row each; with ``time``, cumulative rows
users       variant, user, n, sum[, segment][, stage]                     any number of rows; a user may have several

A file of users may have millions of rows: they are added up, while they are read, over groups of users, which are the
independent units. Which group a user is in is said by the law that assigns users to variants, with a salt of its own.
Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import xxhash

from abmesh.analysis import columns
from abmesh.analysis.columns import Where
from abmesh.analysis.records import Kind, Sums
from abmesh.experiment.bucketing import bucket_of, slice_at
from abmesh.experiment.names import BUCKETS
from abmesh.inference.numbers import Slices

KNOWN = ("variant", "user", "n", "sum", "sum_squares", "segment", "stage", "time")
REQUIRED = ("variant", "n", "sum")

MOST_AGGREGATES = 100_000
MOST_USER_ROWS = 20_000_000
MOST_VARIANTS = 20
MOST_CELLS = 2_000

SLICES = 1_000
"""Groups that the users of a file are cut into: many, since here nobody pays for a counter each."""

_SALT = "abmesh-analyze"
_GROUPING = ("segment", "stage", "time")
_USER_COLUMNS = ("variant", "user", "n", "sum", "segment", "stage")

CellKey = tuple[str, str, str]
"""Stage, segment, variant."""


@dataclass(frozen=True, slots=True)
class Table:
    """What a file holds.

    Attributes:
        source: its name.
        kind: what the metric is: ``ratio`` where there are users, ``mean`` where there are squares, otherwise ``rate``.
        share: whether every sum is that of events, at most one a request, so that values are shares.
        variants: names in the order in which they first appear.
        stages: names likewise; one empty name where the file has no such column.
        segments: likewise.
        cells: the final sums.
        history: cumulative sums at each time, rising; empty without a column ``time``.
        dated: whether times are dates, in seconds since 1970.
        users: how many different users each variant has by stage; empty without a column ``user``.
        shared_users: how many users are in more than one variant of a stage.
        ends: the time of each variant's last row; empty without a column ``time``.
    """

    source: str
    kind: Kind
    share: bool
    variants: tuple[str, ...]
    stages: tuple[str, ...]
    segments: tuple[str, ...]
    cells: Mapping[CellKey, Sums]
    history: tuple[tuple[float, Mapping[CellKey, Sums]], ...] = ()
    dated: bool = False
    users: Mapping[tuple[str, str], int] = field(default_factory=dict)
    shared_users: int = 0
    ends: Mapping[str, float] = field(default_factory=dict)

    def part(
        self, stage: str, segment: str | None = None, cells: Mapping[CellKey, Sums] | None = None
    ) -> dict[str, Sums]:
        """Sums of each variant in a stage, of one segment or (None) of all together; variants without any are left out.

        Args:
            stage: its name.
            segment: its name.
            cells: those of a moment of the history; the final ones unless given.
        """
        found: dict[str, Sums] = {}
        for (of_stage, of_segment, variant), sums in (self.cells if cells is None else cells).items():
            if of_stage == stage and segment in (None, of_segment):
                found[variant] = found[variant] + sums if variant in found else sums
        return found

    def arms(
        self, control: str, variant: str, segment: str | None = None, cells: Mapping[CellKey, Sums] | None = None
    ) -> list[tuple[Sums, Sums]]:
        """Sums of the control and of a variant in each stage in which both have requests; see :meth:`part`."""
        parts = [self.part(stage, segment, cells) for stage in self.stages]
        found = [(part.get(control), part.get(variant)) for part in parts]
        return [(a, b) for a, b in found if a is not None and b is not None and a.n > 0 and b.n > 0]


class _Cells:
    """Finds the cell that a row belongs to; names are checked where they are new."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._variant = names.index("variant")
        self._stage = names.index("stage") if "stage" in names else None
        self._segment = names.index("segment") if "segment" in names else None
        self._known: set[CellKey] = set()
        self.variants: dict[str, None] = {}
        self.stages: dict[str, None] = {}
        self.segments: dict[str, None] = {}

    def key(self, row: list[str], where: Where) -> CellKey:
        key = (
            "" if self._stage is None else row[self._stage].strip(),
            "" if self._segment is None else row[self._segment].strip(),
            row[self._variant].strip(),
        )
        if key not in self._known:
            self._add(key, where)
        return key

    def _add(self, key: CellKey, where: Where) -> None:
        stage, segment, variant = key
        self.variants[columns.name(variant, "variant", where)] = None
        self.stages[stage if self._stage is None else columns.name(stage, "stage", where)] = None
        self.segments[segment if self._segment is None else columns.name(segment, "segment", where)] = None
        self._known.add(key)
        if len(self.variants) > MOST_VARIANTS:
            where.refuse("variant", "too many variants", variant, f"at most {MOST_VARIANTS}")
        if len(self._known) > MOST_CELLS:
            allowed = f"at most {MOST_CELLS} combinations of variant, segment and stage"
            where.refuse("", "too many groups", f"{len(self._known)}", allowed)


def read_table(lines: Iterable[str], source: str) -> Table:
    """Read a CSV: comma-separated, decimal points, a first line that names the columns.

    Args:
        lines: of the file, each with its end, as a text file opened with ``newline=""`` gives them.
        source: its name, for messages.

    Raises:
        DataError: it cannot be analysed; the message says where and what is allowed.
    """
    where = Where(source, 1)
    rows = _rows(lines, where)
    first = next(rows, None)
    if first is None:
        where.refuse("", "the file is empty", allowed=f"a first line that names columns: {', '.join(KNOWN)}")
    first[0] = first[0].removeprefix("\ufeff")
    names = columns.header(first, KNOWN, REQUIRED, where)
    table = _users(rows, names, where) if "user" in names else _aggregates(rows, names, where)
    if len(table.variants) < 2:
        Where(source, 0).refuse(
            "variant", "there is nothing to compare", ", ".join(table.variants) or "none", "at least 2 variants"
        )
    return table


def _rows(lines: Iterable[str], where: Where) -> Iterator[list[str]]:
    """Rows with cells; ``where`` always is at the row that was given last."""
    reader = csv.reader(columns.bounded(lines, where.source), strict=True)
    width = 0
    try:
        for row in reader:
            where.line = reader.line_num
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                where.refuse("", "a row of another length than the first line", f"{len(row)} cells", f"{width} cells")
            yield row
    except csv.Error as error:
        Where(where.source, reader.line_num).refuse("", f"not a valid CSV: {error}")


def _aggregates(rows: Iterator[list[str]], names: tuple[str, ...], where: Where) -> Table:
    cells, places = _Cells(names), {name: index for index, name in enumerate(names)}
    squared, timed = "sum_squares" in places, "time" in places
    kind: Kind = "mean" if squared else "rate"
    history: dict[float, dict[CellKey, Sums]] = {}
    latest: dict[CellKey, tuple[float, Sums, int]] = {}
    dated: bool | None = None
    for count, row in enumerate(rows, start=1):
        if count > MOST_AGGREGATES:
            where.refuse("", "too many rows", allowed=f"at most {MOST_AGGREGATES}; for more, write one row a user")
        key = cells.key(row, where)
        at = 0.0
        if timed:
            at, is_date = columns.moment(row[places["time"]].strip(), where)
            if dated not in (None, is_date):
                where.refuse("time", "dates and numbers in one column", row[places["time"]], "either")
            dated = is_date
        squares = row[places["sum_squares"]].strip() if squared else None
        sums = _sums(row[places["n"]].strip(), row[places["sum"]].strip(), squares, where)
        before = latest.get(key)
        if key in history.setdefault(at, {}):
            message = "the same variant twice" + (" at one time" if timed else "")
            allowed = "one row for each variant" + "".join(f" and {name}" for name in _GROUPING if name in places)
            where.refuse("variant", message, key[2], allowed)
        if before is not None and (at - before[0]) * (sums.n - before[1].n) < 0:
            message = f"rows are cumulative, but line {before[2]} of the same variant does not fit"
            where.refuse("n", message, f"{sums.n:.0f} beside {before[1].n:.0f}", "n that never falls over time")
        history[at][key] = sums
        if before is None or at > before[0]:
            latest[key] = (at, sums, where.line)
    return Table(
        source=where.source,
        kind=kind,
        share=not squared,
        variants=tuple(cells.variants),
        stages=tuple(cells.stages),
        segments=tuple(cells.segments),
        cells={key: sums for key, (_, sums, _) in latest.items()},
        history=_cumulative(history) if timed else (),
        dated=bool(dated),
        ends=_ends(latest) if timed else {},
    )


def _ends(latest: Mapping[CellKey, tuple[float, Sums, int]]) -> dict[str, float]:
    ends: dict[str, float] = {}
    for (_, _, variant), (at, _, _) in latest.items():
        ends[variant] = max(at, ends.get(variant, at))
    return ends


def _cumulative(history: Mapping[float, Mapping[CellKey, Sums]]) -> tuple[tuple[float, Mapping[CellKey, Sums]], ...]:
    """What was known at each time: a variant without a row then is as it was before."""
    known: dict[CellKey, Sums] = {}
    moments = []
    for at in sorted(history):
        known = {**known, **history[at]}
        moments.append((at, known))
    return tuple(moments)


def _sums(n: str, total: str, squares: str | None, where: Where) -> Sums:
    """One row of aggregates."""
    count = columns.whole(n, "n", where)
    if squares is None:
        events = columns.whole(total, "sum", where)
        if events > count:
            allowed = f"at most n, {count}; for a mean add a column sum_squares"
            where.refuse("sum", "more events than requests", total, allowed)
        return Sums(count, events)
    y, yy = columns.number(total, "sum", where), columns.number(squares, "sum_squares", where)
    lowest = y * y / count if count else 0.0
    if yy < lowest * (1 - 1e-9) or (count == 0 and (y or yy)):
        allowed = f"at least sum^2/n = {lowest:.6g}" if count else "0 where n is 0"
        where.refuse("sum_squares", "impossible with this n and sum", squares, allowed)
    return Sums(count, y, max(yy, lowest))


def _users(rows: Iterator[list[str]], names: tuple[str, ...], where: Where) -> Table:
    cells, places = _Cells(names), {name: index for index, name in enumerate(names)}
    for column in ("sum_squares", "time"):
        if column in places:
            where.refuse(column, "a file of users has no such column", allowed=", ".join(_USER_COLUMNS))
    user_at, n_at, sum_at = places["user"], places["n"], places["sum"]
    sums: dict[CellKey, tuple[list[float], list[float]]] = {}
    seen: dict[tuple[str, str], array[int]] = {}
    group = [slice_at(bucket, BUCKETS, SLICES) for bucket in range(BUCKETS)]
    share = True
    for count, row in enumerate(rows, start=1):
        if count > MOST_USER_ROWS:
            where.refuse("", "too many rows", allowed=f"at most {MOST_USER_ROWS}")
        key = cells.key(row, where)
        user = row[user_at]
        if not 0 < len(user) <= columns.LONGEST_USER:
            where.refuse("user", "not a user", f"{len(user)} characters", f"1 to {columns.LONGEST_USER} characters")
        identity = user.encode(errors="surrogateescape")
        n, y = columns.whole(row[n_at].strip(), "n", where), columns.number(row[sum_at].strip(), "sum", where)
        if n == 0 and y:
            where.refuse("sum", "a sum of no requests", row[sum_at], "0 where n is 0")
        share = share and 0 <= y <= n
        found = sums.get(key)
        if found is None:
            found = sums[key] = ([0.0] * SLICES, [0.0] * SLICES)
        index = group[bucket_of(_SALT, identity)]
        found[0][index] += n
        found[1][index] += y
        digests = seen.get((key[0], key[2]))
        if digests is None:
            digests = seen[key[0], key[2]] = array("Q")
        digests.append(xxhash.xxh64_intdigest(identity))
    users, shared = _count_users(seen)
    return Table(
        source=where.source,
        kind="ratio",
        share=share,
        variants=tuple(cells.variants),
        stages=tuple(cells.stages),
        segments=tuple(cells.segments),
        cells={key: _sliced(*found) for key, found in sums.items()},
        users=users,
        shared_users=shared,
    )


def _sliced(n: list[float], y: list[float]) -> Sums:
    slices = Slices(np.array(n), np.array(y))
    return Sums(float(slices.total_n), float(slices.total_y), None, slices)


def _count_users(seen: Mapping[tuple[str, str], array[int]]) -> tuple[dict[tuple[str, str], int], int]:
    """How many different users there are by stage and variant, and how many are in several variants of a stage.

    Users are told apart by 64 bits of hash: of 20 million, less than one pair in 90,000 files is taken for one.
    """
    different = {key: np.unique(np.frombuffer(digests, dtype=np.uint64)) for key, digests in seen.items()}
    shared = 0
    for stage in {stage for stage, _ in different}:
        parts = [found for (of_stage, _), found in different.items() if of_stage == stage]
        _, times = np.unique(np.concatenate(parts), return_counts=True)
        shared += int((times > 1).sum())
    return {key: len(found) for key, found in different.items()}, shared
