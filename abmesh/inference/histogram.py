"""Histograms of bins: merging and quantiles. Pure.

A bin is ``(lower_bound, width)`` in milliseconds and holds a count. Envoy's bins are log-linear with two significant
digits (30 to 31, 120 to 130, 2300 to 2400), so a value is known to 10% at worst and, interpolated, far better.
Values inside a bin are taken to be spread evenly, here and in :mod:`abmesh.inference.cumulative`, which lays histograms
out for many questions.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView

import numpy as np
from numpy.typing import NDArray

from abmesh.inference.numbers import Floats

Bins = Mapping[tuple[float, float], int]


class CompactBins(Mapping[tuple[float, float], int]):
    """A histogram that takes little memory and never changes: a tenth of a dict's, for what is kept for long."""

    __slots__ = ("_bounds", "_counts")

    def __init__(self, bounds: Floats, counts: NDArray[np.int64]) -> None:
        self._bounds = bounds
        self._counts = counts

    @classmethod
    def of(cls, bins: Bins) -> CompactBins:
        """The same bins."""
        keys = sorted(bins)
        bounds = np.array(keys, dtype=np.float64).reshape(len(keys), 2)
        return cls(bounds, np.array([bins[key] for key in keys], dtype=np.int64))

    def __getitem__(self, key: tuple[float, float]) -> int:
        found = np.flatnonzero((self._bounds == key).all(axis=-1))
        if not found.size:
            raise KeyError(key)
        return int(self._counts[found[0]])

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return map(tuple, self._bounds.tolist())

    def __len__(self) -> int:
        return len(self._counts)

    def items(self) -> ItemsView[tuple[float, float], int]:
        """Bins and counts, without looking up each bin."""
        return dict(zip(self, self._counts.tolist(), strict=True)).items()

    def values(self) -> ValuesView[int]:
        """Counts, without looking up each bin."""
        return dict(self.items()).values()


def merge(parts: Iterable[Bins]) -> dict[tuple[float, float], int]:
    """The sum of histograms."""
    total: dict[tuple[float, float], int] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    return total


def without(bins: Bins, part: Bins) -> Bins:
    """A histogram less some of its values, bin by bin; never below 0, since the two may be read a moment apart."""
    if not part:
        return bins
    taken = dict(part.items())
    left = {key: count - taken.get(key, 0) for key, count in bins.items()}
    return {key: count for key, count in left.items() if count > 0}


def size(bins: Bins) -> int:
    """How many values a histogram holds."""
    return sum(bins.values())


def quantile(bins: Bins, share: float) -> float | None:
    """The value that a share of all values does not exceed, in milliseconds; None of an empty histogram.

    With ``F`` the cumulative count before the bin that reaches ``share * n``, and ``c`` its count::

        lower + width * (share * n - F) / c

    Args:
        bins: the histogram.
        share: 0..1; 0.95 is the 95th percentile.
    """
    wanted = share * size(bins)
    before = 0
    value: float | None = None
    for (lower, width), count in sorted(bins.items()):
        if count == 0:
            continue
        value = lower + width
        if before + count >= wanted:
            return lower + width * (wanted - before) / count
        before += count
    return value
