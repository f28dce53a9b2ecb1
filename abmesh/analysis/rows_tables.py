"""The rows of a file as a :class:`~abmesh.analysis.table.Table` for each metric, capped and adjusted as asked. Pure.

Where no unit has two rows, rows are independent and a metric is a rate or a mean of them. Where units have several
rows, rows of one unit are alike, and the sums are taken over groups of units. Called by :mod:`abmesh.analysis.results`.
"""

from __future__ import annotations

import numpy as np

from abmesh.analysis.columns import Where
from abmesh.analysis.layout import count
from abmesh.analysis.records import Kind
from abmesh.analysis.rows import Rows
from abmesh.analysis.rows_treated import Cap, Column, adjusted, capped, sums
from abmesh.analysis.table import Table, Totals
from abmesh.analysis.table_users import SLICES, count_users
from abmesh.inference.numbers import Slices


def tables_of(rows: Rows, control: str, cap: Cap | None) -> tuple[Table, ...]:
    """Add up the rows of a file.

    Args:
        rows: of a file with at least two variants.
        control: the variant that a cap is taken from.
        cap: of metrics that are not shares.

    Raises:
        DataError: a metric's values do not fit together, or the cap leaves nothing of them.
    """
    users, shared, repeated = _units(rows)
    found = []
    for index, name in enumerate(rows.metrics):
        warnings = [*rows.warnings, *_repeats(rows, repeated)]
        known = ~np.isnan(rows.values[index])
        metric = Column(
            name=name,
            cells=rows.cells[known],
            values=rows.values[index][known],
            n=np.ones(int(known.sum())) if rows.n is None else rows.n[known],
            units=None if rows.units is None else rows.units[known],
            covariate=None if rows.covariate is None else rows.covariate[known],
        )
        share = _is_share(rows, index, metric)
        was_share = False
        notes = [] if rows.units is not None or rows.n is not None else ["each row counts as one independent unit"]
        if cap is not None and not share:
            metric, note = capped(rows, metric, control, cap)
            notes.append(note)
        if metric.covariate is not None:
            metric, said, doubts = adjusted(rows, metric, control)
            notes += said
            warnings += doubts
            was_share, share = share, False
        kind: Kind = "ratio" if repeated else "rate" if share else "mean"
        variants = np.array([rows.variants.index(variant) for _, _, variant in rows.keys])
        lost = np.bincount(variants[rows.cells[~known]], minlength=len(rows.variants))
        found.append(
            Table(
                source=rows.source,
                kind=kind,
                share=share,
                variants=rows.variants,
                stages=tuple(dict.fromkeys(stage for stage, _, _ in rows.keys)),
                segments=tuple(dict.fromkeys(segment for _, segment, _ in rows.keys)),
                cells=dict(zip(rows.keys, _totals(metric, len(rows.keys), kind), strict=True)),
                users=users,
                shared_users=shared,
                metric=name,
                per=rows.per if repeated or rows.n is not None or rows.units is None else "units",
                counted=rows.unit if rows.units is not None else "rows",
                adjusted_share=was_share,
                missing={name: int(lost[place]) for place, name in enumerate(rows.variants)},
                warnings=tuple(warnings),
                notes=tuple(notes),
            )
        )
    return tuple(found)


def _units(rows: Rows) -> tuple[dict[tuple[str, str], int], int, bool]:
    """Different units by stage and variant, how many are in several variants, and whether any has several rows."""
    stage_variant: dict[tuple[str, str], list[int]] = {}
    for index, (stage, _, variant) in enumerate(rows.keys):
        stage_variant.setdefault((stage, variant), []).append(index)
    parts = {key: np.isin(rows.cells, indices) for key, indices in stage_variant.items()}
    if rows.units is None:
        if rows.n is not None:
            return {}, 0, False
        return {key: int(part.sum()) for key, part in parts.items()}, 0, False
    users, shared = count_users({key: rows.units[part] for key, part in parts.items()})
    return users, shared, shared > 0 or rows.n is not None or sum(users.values()) < rows.units.size


def _repeats(rows: Rows, repeated: bool) -> list[str]:
    """A sentence on units with several rows, which may be events, or an export that was made twice."""
    if not repeated or rows.units is None or rows.n is not None:
        return []
    _, times = np.unique(rows.units, return_counts=True)
    several = int((times > 1).sum())
    return [
        f"{count(several)} of {count(times.size)} values of {rows.unit} have more than one row, so a value is that of "
        f"a row, and groups of {rows.unit} are compared; if there should be one row each, find out why"
    ]


def _is_share(rows: Rows, index: int, metric: Column) -> bool:
    values, n = metric.values, metric.n
    if rows.n is None:
        share = bool(((values == 0) | (values == 1)).all())
        if rows.words[index] and not share:
            message = "words and numbers in one column"
            Where(rows.source, 0).refuse(metric.name, message, allowed="true and false, yes and no, or numbers")
        return share
    share = bool(((values >= 0) & (values <= n)).all())
    if rows.units is None and not (share and np.equal(np.floor(values), values).all()):
        allowed = f"whole numbers of at most {rows.per}; for a mean, one row for each unit"
        Where(rows.source, 0).refuse(metric.name, "not a count of events", allowed=allowed)
    return share


def _totals(metric: Column, width: int, kind: Kind) -> list[Totals]:
    """The sums of each cell, as its kind needs them."""
    n, y = (sums(metric.cells, values, width) for values in (metric.n, metric.values))
    if kind == "rate":
        return [Totals(float(size), float(total)) for size, total in zip(n, y, strict=True)]
    if kind == "mean":
        squares = sums(metric.cells, metric.values**2, width)
        return [Totals(float(size), float(total), float(yy)) for size, total, yy in zip(n, y, squares, strict=True)]
    assert metric.units is not None
    places = metric.cells.astype(np.int64) * SLICES + (metric.units % np.uint64(SLICES)).astype(np.int64)
    by_n, by_y = (sums(places, values, width * SLICES).reshape(width, SLICES) for values in (metric.n, metric.values))
    cells = zip(n, y, by_n, by_y, strict=True)
    return [Totals(float(size), float(total), None, Slices(mine, values)) for size, total, mine, values in cells]
