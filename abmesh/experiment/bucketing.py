"""The assignment: which bucket a unit hashes to, which variant owns the bucket, and which slice it is in.

    bucket = xxh64(salt + ":" + unit, seed 0) mod 10,000        (bytes; text is UTF-8)

Envoy's ``hash_policy`` uses the same hash, so a user gets the same variant from this module, from every replica of the
server, and from Envoy itself. Everything here is pure; published test vectors are in ``docs/assignment.md``.

A *range* is half-open, ``(start, stop)`` in buckets. *Ranges* map every variant's name to its sorted, disjoint ranges,
which together cover all buckets. *Weights* map names to basis points and sum to 10,000, so a weight is the number of
buckets that a variant owns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xxhash

from abmesh.experiment.names import BUCKETS, GROUPS

Ranges = Mapping[str, tuple[tuple[int, int], ...]]
Weights = Mapping[str, int]


def bucket_of(salt: str, unit: bytes) -> int:
    """The bucket, 0 to 9,999, of a unit under an experiment's salt."""
    return xxhash.xxh64_intdigest(salt.encode() + b":" + unit) % BUCKETS


def width(ranges: Sequence[tuple[int, int]]) -> int:
    """Number of buckets in ranges."""
    return sum(stop - start for start, stop in ranges)


def initial_ranges(weights: Weights) -> dict[str, tuple[tuple[int, int], ...]]:
    """One contiguous range per variant, in the order of the weights.

    This is enough for two variants: whichever way the border moves, only users between its old and new cell move.
    """
    ranges: dict[str, tuple[tuple[int, int], ...]] = {}
    start = 0
    for name, weight in weights.items():
        ranges[name] = ((start, start + weight),) if weight else ()
        start += weight
    return ranges


def reallocate(ranges: Ranges, weights: Weights) -> dict[str, tuple[tuple[int, int], ...]]:
    """Fit ranges to new weights with the fewest possible moves.

    Only variants that shrink (or are no longer in the weights) give up buckets, and only variants that grow (or are
    new) take some. A variant gives up its highest buckets, except the last one, which gives up its lowest, so that
    two neighbours move the border between them and stay contiguous. Fitting the result to the same weights again
    changes nothing.

    Args:
        ranges: current ranges, which cover all buckets; names that are not in the weights give up all of theirs.
        weights: basis points by variant, in the document's order, summing to 10,000.
    """
    names = list(weights)
    kept: dict[str, list[tuple[int, int]]] = {}
    free: list[tuple[int, int]] = [part for name, parts in ranges.items() if name not in weights for part in parts]
    for name in names:
        present = list(ranges.get(name, ()))
        excess = max(0, width(present) - weights[name])
        if name == names[-1]:
            given, stays = _split(present, excess)
        else:
            stays, given = _split(present, width(present) - excess)
        kept[name] = stays
        free += given
    free.sort()
    for name in names:
        taken, free = _split(free, weights[name] - width(kept[name]))
        kept[name] += taken
    return {name: _merge(parts) for name, parts in kept.items()}


def _split(parts: list[tuple[int, int]], count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The first ``count`` buckets of sorted parts, and the rest."""
    first: list[tuple[int, int]] = []
    for index, (start, stop) in enumerate(parts):
        if count < stop - start:
            if count:
                first.append((start, start + count))
            return first, [(start + count, stop), *parts[index + 1 :]]
        first.append((start, stop))
        count -= stop - start
    return first, []


def _merge(parts: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(parts):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return tuple(merged)


def slice_at(position: int, variant_width: int, slices: int) -> int:
    """The slice, 0 to ``slices - 1``, of the bucket at ``position`` among the variant's ``variant_width`` buckets."""
    return position * slices // variant_width


def group_of(slice_: int, slices: int) -> int:
    """The group, 0 to 9, of a slice: ten equal groups of slices, in order."""
    return slice_ * GROUPS // slices


@dataclass(frozen=True, slots=True)
class Cell:
    """The variant, slice and group of a bucket."""

    variant: str
    slice: int
    group: int


def cells(ranges: Ranges, slices: int) -> tuple[Cell, ...]:
    """The cell of every bucket; index it with :func:`bucket_of`.

    Args:
        ranges: cover all buckets.
        slices: number of equal slices that each variant's buckets are cut into, in order.
    """
    table: list[Cell | None] = [None] * BUCKETS
    for name, parts in ranges.items():
        total = width(parts)
        shared = [Cell(name, index, group_of(index, slices)) for index in range(slices)]
        position = 0
        for start, stop in parts:
            for bucket in range(start, stop):
                table[bucket] = shared[slice_at(position, total, slices)]
                position += 1
    missing = table.count(None)
    if missing:
        raise ValueError(f"{missing} of {BUCKETS} buckets are in no range")
    return tuple(cell for cell in table if cell is not None)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring buckets, ``start`` up to but not including ``stop``, that share a cell."""

    start: int
    stop: int
    cell: Cell


def runs(ranges: Ranges, slices: int) -> tuple[Run, ...]:
    """The cells of all buckets in order, with neighbours of the same cell joined; arguments as of :func:`cells`.

    The server looks buckets up in these runs, and they become Envoy's weighted clusters.
    """
    table = cells(ranges, slices)
    starts = [bucket for bucket, cell in enumerate(table) if bucket == 0 or cell is not table[bucket - 1]]
    return tuple(Run(start, stop, table[start]) for start, stop in zip(starts, [*starts[1:], BUCKETS], strict=True))
