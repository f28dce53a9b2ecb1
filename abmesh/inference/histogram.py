"""Histograms of bins: merging and quantiles. Pure.

A bin is ``(lower_bound, width)`` in milliseconds and holds a count. Envoy's bins are log-linear with two significant
digits (30 to 31, 120 to 130, 2300 to 2400), so a value is known to 10% at worst and, interpolated, far better.
Values inside a bin are taken to be spread evenly, here and in :mod:`abmesh.inference.cumulative`, which lays histograms
out for many questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Bins = Mapping[tuple[float, float], int]


def merge(parts: Iterable[Bins]) -> dict[tuple[float, float], int]:
    """The sum of histograms."""
    total: dict[tuple[float, float], int] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    return total


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
