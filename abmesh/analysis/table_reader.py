"""A CSV of results as a :class:`~abmesh.analysis.table.Table`. Pure: lines of text in, records out.

Two forms are read; the one with a column ``user`` is the second:

aggregates  variant, n, sum[, sum_squares][, segment][, stage][, time]    one row each; with ``time``, cumulative rows
users       variant, user, n, sum[, segment][, stage]                     any number of rows; a user may have several

Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from abmesh.analysis import columns
from abmesh.analysis.columns import Where
from abmesh.analysis.records import Kind
from abmesh.analysis.table import CellKey, Table, Totals
from abmesh.analysis.table_cells import Cells
from abmesh.analysis.table_users import read_users

KNOWN = ("variant", "user", "n", "sum", "sum_squares", "segment", "stage", "time")
REQUIRED = ("variant", "n", "sum")

MOST_AGGREGATES = 100_000

_MOST_EMPTY = 100
"""Most empty lines before the first one that is not."""

_GROUPING = ("segment", "stage", "time")


def read_table(lines: Iterable[str], source: str) -> Table:
    """Read a CSV: comma-separated, decimal points, a first line that names the columns.

    Args:
        lines: of the file, each with its end, as a text file opened with ``newline=""`` gives them.
        source: its name, for messages.

    Raises:
        DataError: it cannot be analysed; the message says where and what is allowed.
    """
    return table_of(*opened(lines, source))


def opened(lines: Iterable[str], source: str) -> tuple[list[str], Iterator[list[str]], Where]:
    """The cells of the first line, the rows below it, and where the reader is.

    Args:
        lines: see :func:`read_table`.
        source: its name, for messages.

    Raises:
        DataError: the file is empty or is not text in UTF-8.
    """
    where = Where(source, 1)
    left = columns.bounded(lines, source)
    head: list[str] = []
    for line in left:
        head.append(line)
        if line.strip("\ufeff \t\r\n") or len(head) > _MOST_EMPTY:
            break
    top = head.pop() if head else ""
    if "\0" in top or top.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        where.refuse("", "the file is not text in UTF-8", allowed="a CSV that was saved as UTF-8")
    rows = _rows(chain(head, [top.removeprefix("\ufeff")], left), columns.separator(top), where)
    first = next(rows, None)
    if first is None:
        where.refuse("", "the file is empty", allowed=f"a first line that names columns, such as {', '.join(KNOWN)}")
    return first, rows, where


def table_of(first: list[str], rows: Iterator[list[str]], where: Where) -> Table:
    """Read the rows of a file whose columns have the names of :data:`KNOWN`; see :func:`opened`.

    Raises:
        DataError: see :func:`read_table`.
    """
    names = columns.header(first, KNOWN, REQUIRED, where)
    table = read_users(rows, names, where) if "user" in names else _aggregates(rows, names, where)
    at_least_two(table.variants, where)
    return table


def at_least_two(variants: Iterable[str], where: Where) -> None:
    """Refuse a file that has nothing to compare.

    Raises:
        DataError: it has fewer than two variants.
    """
    names = tuple(variants)
    if len(names) < 2:
        found = ", ".join(names) or "none"
        Where(where.source, 0).refuse("variant", "there is nothing to compare", found, "at least 2 variants")


def _rows(lines: Iterable[str], separator: str, where: Where) -> Iterator[list[str]]:
    """Rows with cells; ``where`` is always at the row that was given last."""
    reader = csv.reader(lines, strict=True, delimiter=separator)
    width = 0
    try:
        for row in reader:
            where.line = reader.line_num
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                where.refuse("", "the row is not as long as the first line", f"{len(row)} cells", f"{width} cells")
            yield row
    except csv.Error as error:
        Where(where.source, reader.line_num).refuse("", f"not a valid CSV: {error}")


def _aggregates(rows: Iterator[list[str]], names: tuple[str, ...], where: Where) -> Table:
    cells, places = Cells(names), {name: index for index, name in enumerate(names)}
    squared, timed = "sum_squares" in places, "time" in places
    kind: Kind = "mean" if squared else "rate"
    history: dict[float, dict[CellKey, Totals]] = {}
    latest: dict[CellKey, tuple[float, Totals, int]] = {}
    broken: dict[tuple[str, ...], str] = {}
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
        totals = _totals(row[places["n"]].strip(), row[places["sum"]].strip(), squares, where)
        before = latest.get(key)
        if key in history.setdefault(at, {}):
            message = "the same variant twice" + (" at one time" if timed else "")
            allowed = "one row for each variant" + "".join(f" and {name}" for name in _GROUPING if name in places)
            where.refuse("variant", message, key[2], allowed)
        if before is not None and (at - before[0]) * (totals.n - before[1].n) < 0:
            stream = key[:2] if any(key[:2]) else key
            broken.setdefault(stream, _contradiction(key, before, totals, where))
        history[at][key] = totals
        if before is None or at > before[0]:
            latest[key] = (at, totals, where.line)
    if broken:
        latest = {key: value for key, value in latest.items() if not _one_of(broken, key)}
        history = {
            at: {key: v for key, v in known.items() if not _one_of(broken, key)} for at, known in history.items()
        }
        if len({variant for _, _, variant in latest}) < 2:
            Where(where.source, 0).refuse("n", next(iter(broken.values())), allowed="n that never falls over time")
    stages, segments, variants = ({key[part]: None for key in latest} for part in range(3))
    return Table(
        source=where.source,
        kind=kind,
        share=not squared,
        variants=tuple(variants),
        stages=tuple(stages),
        segments=tuple(segments),
        cells={key: totals for key, (_, totals, _) in latest.items()},
        history=_cumulative({at: known for at, known in history.items() if known}) if timed else (),
        dated=bool(dated),
        ends=_ends(latest) if timed else {},
        warnings=tuple(f"{problem}; the rest of the file is reported" for problem in broken.values()),
    )


def _one_of(broken: Mapping[tuple[str, ...], str], key: CellKey) -> bool:
    """Whether a cell belongs to a stream that is left out."""
    return key in broken or key[:2] in broken


def _contradiction(key: CellKey, before: tuple[float, Totals, int], totals: Totals, where: Where) -> str:
    """A sentence on a stream whose rows cannot be cumulative."""
    stage, segment, variant = key
    named = [f"stage {stage}"] * bool(stage) + [f"segment {segment}"] * bool(segment)
    stream = " and ".join(named) or f"variant {variant}"
    of = f" of {variant}" if named else ""
    return (
        f"{stream} is left out: rows are cumulative, but n{of} is {before[1].n:.0f} on line {before[2]} and "
        f"{totals.n:.0f} on line {where.line}"
    )


def _ends(latest: Mapping[CellKey, tuple[float, Totals, int]]) -> dict[str, float]:
    ends: dict[str, float] = {}
    for (_, _, variant), (at, _, _) in latest.items():
        ends[variant] = max(at, ends.get(variant, at))
    return ends


def _cumulative(
    history: Mapping[float, Mapping[CellKey, Totals]],
) -> tuple[tuple[float, Mapping[CellKey, Totals]], ...]:
    """What was known at each time: a variant without a row then is as it was before."""
    known: dict[CellKey, Totals] = {}
    moments = []
    for at in sorted(history):
        known = {**known, **history[at]}
        moments.append((at, known))
    return tuple(moments)


def _totals(n: str, total: str, squares: str | None, where: Where) -> Totals:
    """One row of aggregates."""
    count = columns.whole(n, "n", where)
    if squares is None:
        events = columns.whole(total, "sum", where)
        if events > count:
            allowed = f"at most n, {count}; for a mean add a column sum_squares"
            where.refuse("sum", "more events than requests", total, allowed)
        return Totals(count, events)
    y, yy = columns.number(total, "sum", where), columns.number(squares, "sum_squares", where)
    lowest = y * y / count if count else 0.0
    if yy < lowest * (1 - 1e-9) or (count == 0 and (y or yy)):
        allowed = f"at least sum^2/n = {lowest:.6g}" if count else "0 where n is 0"
        where.refuse("sum_squares", "impossible with this n and sum", squares, allowed)
    return Totals(count, y, max(yy, lowest))
