"""A CSV with a row for each user, added up over groups of users. Pure.

A file may have millions of rows. They are added up, while they are read, over groups of users, which are the
independent units. The law that assigns users to variants, with a salt of its own, says which group a user is in.
Called by :mod:`abmesh.analysis.table_reader`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping

import numpy as np
import xxhash
from numpy.typing import NDArray

from abmesh.analysis import columns
from abmesh.analysis.columns import Where
from abmesh.analysis.table import CellKey, Table, Totals
from abmesh.analysis.table_cells import Cells
from abmesh.experiment.bucketing import bucket_of, slice_at
from abmesh.experiment.names import BUCKETS
from abmesh.inference.numbers import Slices

MOST_USER_ROWS = 20_000_000

SLICES = 1_000
"""Groups that the users of a file are cut into: many, since here no group costs a statistic in every Envoy."""

_SALT = "abmesh-analyze"
_USER_COLUMNS = ("variant", "user", "n", "sum", "segment", "stage")


def read_users(rows: Iterator[list[str]], names: tuple[str, ...], where: Where) -> Table:
    """Add up rows of users.

    Args:
        rows: cells.
        names: of the columns, in their order.
        where: the row that was given last.

    Raises:
        DataError: they cannot be analysed.
    """
    cells, places = Cells(names), {name: index for index, name in enumerate(names)}
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
    users, shared = count_users({key: np.frombuffer(each, dtype=np.uint64) for key, each in seen.items()})
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


def _sliced(n: list[float], y: list[float]) -> Totals:
    slices = Slices(np.array(n), np.array(y))
    return Totals(float(slices.total_n), float(slices.total_y), None, slices)


def count_users(seen: Mapping[tuple[str, str], NDArray[np.uint64]]) -> tuple[dict[tuple[str, str], int], int]:
    """How many different users there are by stage and variant, and how many are in several variants of a stage.

    Users are told apart by a 64-bit hash: of 20 million users, two collide in less than one of 90,000 files.
    """
    different = {key: np.unique(digests) for key, digests in seen.items()}
    shared = 0
    for stage in {stage for stage, _ in different}:
        parts = [found for (of_stage, _), found in different.items() if of_stage == stage]
        _, times = np.unique(np.concatenate(parts), return_counts=True)
        shared += int((times > 1).sum())
    return {key: len(found) for key, found in different.items()}, shared
