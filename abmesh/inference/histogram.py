"""Histograms of bins: merging, quantiles and how many lie above a limit. Pure.

A bin is ``(lower_bound, width)`` in milliseconds and holds a count. Envoy's bins are log-linear with two significant
digits (30 to 31, 120 to 130, 2300 to 2400), so that a value is known to 10% at worst and, interpolated, far better.
Inside a bin values are taken as spread evenly. :func:`quantile` and :func:`exceeding` make the same assumption, so that
one is the inverse of the other.
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


def exceeding(bins: Bins, limit: float) -> float:
    """How many values are above a limit in milliseconds; a fraction of the bin that holds the limit."""
    total = 0.0
    for (lower, width), count in bins.items():
        if lower >= limit and (lower > limit or width > 0):
            total += count
        elif lower + width > limit:
            total += count * (lower + width - limit) / width
    return total
