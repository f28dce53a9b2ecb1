"""Bucket bounds of latency histograms in Prometheus's format: Envoy's and the controller's. Pure.

Envoy's own bins are finer, about 90 per power of ten, but only its admin endpoint shows them. Prometheus histograms can
be compared or added only if their bounds are the same, so there is one list.
"""

from __future__ import annotations

import math
from typing import Final

_SERIES: Final = (10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82)
"""E12, the preferred numbers of IEC 60063: a bucket's middle is within 10% of every value in it."""

_LONGEST_MS: Final = 600_000

BOUNDS_MS: Final = (
    *range(1, 10),  # Envoy's durations are whole milliseconds
    *(bound for power in range(5) for number in _SERIES if (bound := number * 10**power) < _LONGEST_MS),
    _LONGEST_MS,
)
"""Upper bounds in milliseconds, from 1 ms to 10 minutes. Each is also a bound of Envoy's own bins, so that no bin is
split between buckets."""


def bin_width(value: float) -> float:
    """The width of Envoy's bin that begins at a value: bounds have two significant digits, ``10, 11, .. 100, 110``."""
    return float(10 ** (math.floor(math.log10(value)) - 1)) if value > 0 else 0.0


def last_bin(bound: int) -> float:
    """Where the last of Envoy's bins below a bound begins: 110 for 120, and 99 for 100.

    Envoy's bucket holds every bin that begins at or below its configured bound, so configuring this value makes the
    bucket end at ``bound``.
    """
    width = bin_width(bound)
    # Below a power of ten, bins are a tenth as wide as above it.
    return round(bound - (width / 10 if bound == width * 10 else width), 6)
