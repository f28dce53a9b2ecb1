"""A file of results, in whichever form it is, as tables that can be compared. Pure: lines of text in, records out.

Called by :mod:`abmesh.cli.analyze`.
"""

from __future__ import annotations

from collections.abc import Iterable

from abmesh.analysis.mapping import Asked, places
from abmesh.analysis.rows import read_rows
from abmesh.analysis.rows_tables import tables_of
from abmesh.analysis.rows_treated import Cap
from abmesh.analysis.table import Table
from abmesh.analysis.table_question import control_of
from abmesh.analysis.table_reader import REQUIRED, at_least_two, opened, table_of


def read_results(
    lines: Iterable[str], source: str, asked: Asked, control: str | None = None, cap: Cap | None = None
) -> tuple[Table, ...]:
    """Read a file: a table for each metric.

    A file with the columns ``variant``, ``n`` and ``sum`` is read as those say, unless columns are named.

    Args:
        lines: see :func:`abmesh.analysis.table_reader.read_table`.
        source: its name, for messages.
        asked: which column is what.
        control: a variant; the one that is named control if None.
        cap: of values.

    Raises:
        DataError: it cannot be analysed; the message says where and what is allowed.
        UnknownName: the control is not in the file.
    """
    first, rows, where = opened(lines, source)
    names = {cell.strip().lower() for cell in first}
    if names.issuperset(REQUIRED) and not asked.names_columns(first):
        if cap is not None:
            where.refuse("", "sums have no cap", ", ".join(first), "--winsorise with one row for each unit")
        return (table_of(first, rows, where),)
    read = read_rows(rows, places(first, asked, where), where)
    at_least_two(read.variants, where)
    return tables_of(read, control_of(read.variants, control, source), cap)
