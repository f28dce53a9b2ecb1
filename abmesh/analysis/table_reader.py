"""A CSV of results as a :class:`~abmesh.analysis.table.Table`. Pure: lines of text in, records out.

Two forms are read; the one with a column ``user`` is the second:

aggregates  variant, n, sum[, sum_squares][, segment][, stage][, time]    one row each; with ``time``, cumulative rows
users       variant, user, n, sum[, segment][, stage]                     any number of rows; a user may have several

Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping

from abmesh.analysis import columns
from abmesh.analysis.columns import Where
from abmesh.analysis.records import Kind
from abmesh.analysis.table import CellKey, Table, Totals
from abmesh.analysis.table_cells import Cells
from abmesh.analysis.table_users import read_users

KNOWN = ("variant", "user", "n", "sum", "sum_squares", "segment", "stage", "time")
REQUIRED = ("variant", "n", "sum")

MOST_AGGREGATES = 100_000

_GROUPING = ("segment", "stage", "time")


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
    table = read_users(rows, names, where) if "user" in names else _aggregates(rows, names, where)
    if len(table.variants) < 2:
        Where(source, 0).refuse(
            "variant", "there is nothing to compare", ", ".join(table.variants) or "none", "at least 2 variants"
        )
    return table


def _rows(lines: Iterable[str], where: Where) -> Iterator[list[str]]:
    """Rows with cells; ``where`` is always at the row that was given last."""
    reader = csv.reader(columns.bounded(lines, where.source), strict=True)
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
            message = f"rows are cumulative, but line {before[2]} of the same variant contradicts this one"
            where.refuse("n", message, f"{totals.n:.0f} beside {before[1].n:.0f}", "n that never falls over time")
        history[at][key] = totals
        if before is None or at > before[0]:
            latest[key] = (at, totals, where.line)
    return Table(
        source=where.source,
        kind=kind,
        share=not squared,
        variants=tuple(cells.variants),
        stages=tuple(cells.stages),
        segments=tuple(cells.segments),
        cells={key: totals for key, (_, totals, _) in latest.items()},
        history=_cumulative(history) if timed else (),
        dated=bool(dated),
        ends=_ends(latest) if timed else {},
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
